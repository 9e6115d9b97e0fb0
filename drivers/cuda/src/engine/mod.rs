//! Engines that run launches and copies in order: a GPU, or the emulator on the CPU.

pub(crate) mod emulator;
pub(crate) mod gpu;
#[cfg(test)]
mod planted;

use std::ffi::c_void;
use std::sync::Weak;

use fathom_core::device::Name;
use fathom_core::error::ErrorKind;

use crate::cublaslt::{Operands, Shape};
use crate::error::CudaError;
use crate::launch::Launch;
use crate::memory::Blocks;
use crate::report::KernelReport;
use crate::tensor_map::{Boxes, TensorMap};

/// Properties of an engine's machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    /// `cuda:0`, or `cuda (emulated)`.
    pub(crate) name: Name,
    /// Bytes of memory, if known.
    pub(crate) memory: Option<u64>,
    /// Number of multiprocessors; a grid fills the GPU with a few blocks for each.
    pub(crate) multiprocessors: usize,
    /// Bytes of shared memory that a block may use.
    pub(crate) shared: usize,
    /// Shortest inner dimension of FP8 products by kernels of warpgroups; `None` if these must not be used.
    pub(crate) warpgroups: Option<usize>,
}

/// Counts of the work done so far, and how much of it ran as CUDA graphs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphUse {
    /// Commands (launches, products, small uploads) that were issued one by one.
    pub issued: u64,
    /// Commands that ran as part of a graph.
    pub replayed: u64,
    /// Graphs captured.
    pub captured: u64,
    /// Launches of graphs.
    pub launches: u64,
    /// Kernel nodes whose arguments were updated before a launch.
    pub updated: u64,
    /// The reason of the last failed capture, if one failed.
    pub refused: Option<String>,
}

/// Work on the device that can fail without an end, such as a collective whose other ranks are gone.
pub(crate) trait Watch: Send + Sync {
    /// An error ends the wait of the host for the device.
    fn check(&self) -> Result<(), CudaError>;
}

/// An ordered queue of launches and copies on one machine.
///
/// Every call but [`wait`](Engine::wait) and [`download`](Engine::download) may return before its work is done; errors
/// of earlier work surface at those two.
pub(crate) trait Engine: Blocks {
    /// The machine's properties.
    fn properties(&self) -> Properties;

    /// Queues a kernel.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError>;

    /// Makes a matrix known to bulk copies, for kernels of warpgroups.
    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap, CudaError>;

    /// Queues a dense product by the vendor's library; false if the library is missing or has no such product.
    fn product(&self, _: &Shape, _: &Operands) -> Result<bool, CudaError> {
        Ok(false)
    }

    /// Whether [`product`](Engine::product) computes products of this shape.
    fn has_product(&self, _: &Shape) -> Result<bool, CudaError> {
        Ok(false)
    }

    /// The name and version of the vendor's library for dense products; an error says why there is none.
    fn blas(&self) -> Result<String, CudaError> {
        Err(CudaError::new(ErrorKind::Unsupported, "the emulator uses no library for matrix products"))
    }

    /// Copies `bytes` to the device address `to`; the caller may change `bytes` as soon as the call returns.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError>;

    /// Copies from the device address `from` into `bytes`, after all earlier work.
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Makes the GPU that of this thread, for libraries that act on the current one.
    fn bind(&self) -> Result<(), CudaError> {
        Err(no_stream())
    }

    /// Submits all earlier commands and calls `work` with the stream that runs them (a `CUstream`). All later commands
    /// come after what it queues there.
    fn queue(&self, _: &mut dyn FnMut(*mut c_void) -> Result<(), CudaError>) -> Result<(), CudaError> {
        Err(no_stream())
    }

    /// Copies `bytes` bytes from device address `from` to `to`, which do not overlap.
    fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<(), CudaError> {
        Err(no_stream())
    }

    /// Asks `watch` for errors whenever the host waits for the device, until it is dropped.
    fn watch(&self, _: Weak<dyn Watch>) {}

    /// The device address of the record that kernels report into.
    fn report(&self) -> u64;

    /// Takes the report of work that was waited for, if there is one, and clears the record.
    fn take_report(&self) -> Option<KernelReport>;

    /// A line that describes the machine to people.
    fn description(&self) -> String {
        self.properties().name.to_string()
    }

    /// Counts of the work done so far.
    fn graph_use(&self) -> GraphUse {
        GraphUse::default()
    }

    /// Waits for all work and starts a clock on the device; false if the device has no clock.
    fn start_clock(&self) -> Result<bool, CudaError> {
        Ok(false)
    }

    /// Waits for all work and returns the seconds since [`start_clock`](Engine::start_clock).
    fn stop_clock(&self) -> Result<f64, CudaError> {
        Ok(0.0)
    }

    /// Compiles all kernels. Calls `done(compiled, total)` after each module.
    fn warm_up(&self, done: &(dyn Fn(usize, usize) + Sync)) -> Result<(), CudaError>;
}

/// The error of an engine without streams.
fn no_stream() -> CudaError {
    let message = "an emulated GPU has no collectives by NCCL: use GPUs, or ranks with the CPU device";
    CudaError::new(ErrorKind::Unsupported, message)
}
