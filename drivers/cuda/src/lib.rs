//! The CUDA driver: [`Cuda`] runs the kernels of the core on an NVIDIA GPU, or emulated on the CPU.
//!
//! | file | what |
//! |---|---|
//! | `engine` | what runs launches: `gpu`, `emulator` |
//! | `memory` | device memory and its pool |
//! | `launch` | a kernel, its grid, its argument |
//! | `source`, `cache` | the kernels' texts, and what was compiled from them |
//! | `kernels/*.rs` | calls of core turned into launches, one file a subject |
//! | `../kernels/*.cu` | the kernels, one file a subject; `fathom.cuh` is the language they are written in |
//!
//! Kernels report what they cannot return (an index out of range, a number that is not finite) in one place, which is
//! read whenever the host waits for the device; [`Device::flush`] and [`Device::download`] turn it into an error.

mod cache;
mod engine;
mod error;
mod kernels;
mod launch;
mod memory;
mod source;

use std::sync::Arc;

use bytemuck::Pod;
use fathom_core::device::{Capabilities, Device, MemoryUse};
use fathom_core::error::{ErrorKind, InvalidOp};

pub use engine::emulator::Emulation;
use engine::emulator::Emulator;
use engine::{Engine, Fault};
pub use error::CudaError;
use launch::Launch;
pub use memory::Buffer;
use memory::Memory;
use source::Module;

/// One GPU. Clones share it.
#[derive(Clone)]
pub struct Cuda(Arc<Memory>);

impl Cuda {
    /// How many GPUs this machine has; none where there is no NVIDIA driver.
    pub fn count() -> usize {
        0
    }

    /// GPU number `ordinal`, counted from 0.
    ///
    /// # Errors
    /// Where there is no such GPU, or it cannot be used.
    pub fn new(ordinal: usize) -> Result<Self, CudaError> {
        Err(CudaError::new(ErrorKind::Unsupported, format!("GPU {ordinal}: no NVIDIA driver on this machine")))
    }

    /// The kernels of the GPU, run on the CPU: slow, and checked at every access. For tests.
    ///
    /// # Errors
    /// Where there is no C++ compiler.
    pub fn emulated(options: Emulation) -> Result<Self, CudaError> {
        Ok(Self::with(Arc::new(Emulator::new(options)?)))
    }

    fn with(engine: Arc<dyn Engine>) -> Self {
        Self(Arc::new(Memory::new(engine)))
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.0.engine
    }

    /// Runs kernel `name` of `module` with argument `args`; nothing where the grid has no blocks.
    pub(crate) fn launch<A: Pod>(
        &self,
        module: Module,
        name: &'static str,
        grid: [usize; 3],
        threads: u32,
        shared: usize,
        args: &A,
    ) -> Result<(), CudaError> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.engine().launch(&Launch { module, name, grid, threads, shared, args: bytemuck::bytes_of(args) })
    }

    /// Scratch of `bytes` bytes with undefined contents.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Buffer, CudaError> {
        self.0.alloc(bytes)
    }

    /// Where kernels report faults.
    pub(crate) fn fault(&self) -> u64 {
        self.engine().fault()
    }

    /// The error that a kernel reported, of work that was waited for.
    fn check_fault(&self) -> Result<(), CudaError> {
        let Some(Fault { code, site, value, limit }) = self.engine().take_fault() else { return Ok(()) };
        let kernel = kernels::NAMES.get(site as usize).copied().unwrap_or("a kernel");
        Err(match code {
            1 => {
                let message = format!("{kernel}: index {value} is out of range (must be below {limit})");
                CudaError::new(ErrorKind::Shape, message)
            }
            _ => CudaError::new(ErrorKind::NonFinite, format!("{kernel}: NaN or infinity cannot be quantised")),
        })
    }
}

impl Device for Cuda {
    type Error = CudaError;
    type Buffer = Buffer;

    fn capabilities(&self) -> Capabilities {
        let properties = self.engine().properties();
        let mut capabilities = Capabilities::new(properties.name);
        capabilities.memory = properties.memory;
        capabilities
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, CudaError> {
        self.0.alloc(bytes)
    }

    fn upload(&self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let address = inside("upload", buffer, offset, bytes.len())?;
        if bytes.is_empty() { Ok(()) } else { self.engine().upload(address, bytes) }
    }

    fn download(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let address = inside("download", buffer, offset, bytes.len())?;
        if !bytes.is_empty() {
            self.engine().download(address, bytes)?;
        }
        self.check_fault()
    }

    fn flush(&self) -> Result<(), CudaError> {
        self.engine().wait()?;
        self.check_fault()
    }

    fn memory(&self) -> MemoryUse {
        self.0.usage()
    }
}

/// The address of byte `offset` of a buffer, from which `bytes` bytes lie inside it.
fn inside(op: &'static str, buffer: &Buffer, offset: usize, bytes: usize) -> Result<u64, CudaError> {
    match offset.checked_add(bytes) {
        Some(end) if end <= buffer.len() => Ok(buffer.address() + offset as u64),
        end => {
            let end = end.unwrap_or(usize::MAX);
            Err(InvalidOp::new(op, "reaches past the end of the buffer", end, buffer.len()).into())
        }
    }
}
