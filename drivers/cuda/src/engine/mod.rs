//! What runs launches: a GPU, or the emulator on the CPU.

pub(crate) mod emulator;
#[cfg(test)]
mod faults;
pub(crate) mod gpu;

use fathom_core::error::ErrorKind;

use crate::blas::lt::{Operands, Shape};
use crate::error::CudaError;
use crate::launch::Launch;
use gpu::GraphUse;

/// What a kernel reported that it could not return: `Fault` of `fathom.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: u32,
    pub(crate) site: u32,
    pub(crate) value: u32,
    pub(crate) limit: u32,
}

/// What an engine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    /// `cuda:0`, or `cuda (emulated)`.
    pub(crate) name: &'static str,
    /// Bytes of memory, if known.
    pub(crate) memory: Option<u64>,
    /// Multiprocessors: how many blocks fill it, times a few.
    pub(crate) multiprocessors: usize,
    /// Bytes of shared memory that a block may have.
    pub(crate) shared: usize,
}

/// Runs launches and copies in the order they are asked for. Every call but those that wait may return before the work is
/// done; errors of earlier work surface at [`wait`](Engine::wait) or [`download`](Engine::download).
pub(crate) trait Engine: Send + Sync {
    fn properties(&self) -> Properties;

    /// `bytes` bytes of memory aligned to 256, `bytes` not being zero.
    fn alloc(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Gives memory of [`alloc`](Engine::alloc) back, which no work uses any more.
    fn free(&self, address: u64);

    /// Runs a kernel.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError>;

    /// Computes a dense product with the vendor's library; false where it cannot, or is not there.
    fn product(&self, _: &Shape, _: &Operands) -> Result<bool, CudaError> {
        Ok(false)
    }

    /// Whether [`product`](Engine::product) computes products of a shape.
    fn has_product(&self, _: &Shape) -> Result<bool, CudaError> {
        Ok(false)
    }

    /// The vendor's library for dense products, or why there is none.
    fn blas(&self) -> Result<String, CudaError> {
        Err(CudaError::new(ErrorKind::Unsupported, "products are not left to a library here"))
    }

    /// Copies `bytes` to the device; they may be changed as soon as the call returns.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError>;

    /// Copies from the device, after all earlier work.
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Waits for all work.
    fn wait(&self) -> Result<(), CudaError>;

    /// Where kernels report faults, as they know the address.
    fn fault(&self) -> u64;

    /// The report, if there is one, of work that was waited for; and makes room for the next.
    fn take_fault(&self) -> Option<Fault>;

    /// What it is, for people.
    fn description(&self) -> String {
        self.properties().name.into()
    }

    /// What became of the work so far.
    fn graph_use(&self) -> GraphUse {
        GraphUse::default()
    }

    /// Waits for all work, and starts a clock on the device; false where it has none.
    fn start_clock(&self) -> Result<bool, CudaError> {
        Ok(false)
    }

    /// Waits for all work, and the seconds it took since the clock was started.
    fn stop_clock(&self) -> Result<f64, CudaError> {
        Ok(0.0)
    }

    /// Compiles all kernels. `done` is told how many modules are compiled, and of how many.
    fn warm_up(&self, done: &(dyn Fn(usize, usize) + Sync)) -> Result<(), CudaError>;
}
