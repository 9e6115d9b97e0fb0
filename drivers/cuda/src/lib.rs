//! The CUDA driver: [`Cuda`] runs the kernels of the core on an NVIDIA GPU, or emulated on the CPU.
//!
//! | file | what |
//! |---|---|
//! | `engine` | what runs launches: `gpu`, `emulator` |
//! | `memory` | device memory and its pool |
//! | `launch` | a kernel, its grid, its argument |
//! | `source`, `cache` | the kernels' texts, and what was compiled from them |
//! | `compile`, `library` | NVRTC, and how the vendor's libraries are found |
//! | `check` | what the compiler makes of the kernels, without a GPU |
//! | `blas` | dense products by cuBLASLt |
//! | `kernels/*.rs` | calls of core turned into launches, one file a subject |
//! | `../kernels/*.cu` | the kernels, one file a subject; `fathom.cuh` is the language they are written in |
//!
//! Nothing of CUDA is needed to build this crate, nor to start a program that uses it: [`Cuda::count`] is 0 where there is
//! no NVIDIA driver. On a machine with a GPU it takes NVIDIA's driver (580 or later) and, unless all kernels are in the
//! cache, NVRTC 13; cuBLASLt 13 is used where it is found.
//!
//! | variable | what |
//! |---|---|
//! | `FATHOM_CUDA_LIBRARIES` | folders with NVRTC and cuBLASLt, looked into first |
//! | `FATHOM_CUDA_CACHE` | the folder of compiled kernels |
//! | `FATHOM_CUDA_GRAPHS` | 0: every launch begins at once, no CUDA graphs |
//! | `FATHOM_CUDA_BLAS` | 0: no cuBLASLt, every product by the driver's own kernels |
//! | `FATHOM_CUDA_CHECK` | 1: waits after every launch, so that an error names its kernel |
//!
//! Kernels report what they cannot return (an index out of range, a number that is not finite) in one place, which is
//! read whenever the host waits for the device; [`Device::flush`] and [`Device::download`] turn it into an error.

mod blas;
mod cache;
pub mod check;
mod compile;
mod engine;
mod error;
mod kernels;
mod launch;
mod library;
mod memory;
mod source;

use std::sync::Arc;

use bytemuck::Pod;
use fathom_core::device::{Capabilities, Device, MemoryUse};
use fathom_core::error::{ErrorKind, InvalidOp};

pub use engine::emulator::Emulation;
use engine::emulator::Emulator;
use engine::gpu::Gpu;
pub use engine::gpu::{GraphUse, Options};
use engine::{Engine, Fault};
pub use error::CudaError;
use launch::Launch;
pub use memory::Buffer;
use memory::Memory;
use source::Module;

/// Elements of a piece of work: at a vocabulary of 32,768 the logits of 2,048 tokens, whose products fill a GPU.
const CHUNK: usize = 64 << 20;

/// One GPU. Clones share it.
#[derive(Clone)]
pub struct Cuda(Arc<Memory>);

impl Cuda {
    /// How many GPUs can be used: 0 where there is no NVIDIA driver, or too old a one. Where it is 0, the error of
    /// [`new`](Cuda::new) says why.
    pub fn count() -> usize {
        engine::gpu::count()
    }

    /// GPU `ordinal`, counted from 0, with [`Options::default`].
    ///
    /// # Errors
    /// Where there is no such GPU, no driver, or too old a one; says which, and what to do.
    pub fn new(ordinal: usize) -> Result<Self, CudaError> {
        Self::with_options(ordinal, Options::default())
    }

    /// GPU `ordinal`, counted from 0.
    ///
    /// # Errors
    /// As of [`new`](Cuda::new).
    pub fn with_options(ordinal: usize, options: Options) -> Result<Self, CudaError> {
        Ok(Self::with(Arc::new(Gpu::new(ordinal, options)?)))
    }

    /// What the device is, for people: `NVIDIA H100 80GB HBM3, sm_90a, 132 multiprocessors, 79.2 GiB`.
    pub fn description(&self) -> String {
        self.engine().description()
    }

    /// Compiles and loads all kernels, on all processors; otherwise each file of kernels is compiled when it is first
    /// needed. `done` is told how many files are compiled, and of how many. What was compiled is kept on disk.
    ///
    /// # Errors
    /// Where the compiler is not installed, or refuses a kernel.
    pub fn warm_up(&self, done: impl Fn(usize, usize) + Sync) -> Result<(), CudaError> {
        self.engine().warm_up(&done)
    }

    /// Seconds that the device takes for what `work` asks of it: from when it begins with it until it is done with it, all
    /// else having been waited for. Launches begin at once meanwhile, without graphs. For work of many small kernels that
    /// is the time the host takes to ask for it.
    ///
    /// # Errors
    /// Those of `work`, and of the device.
    pub fn elapsed<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
        let clock = self.engine().start_clock()?;
        let begin = std::time::Instant::now();
        let result = work();
        let seconds = if clock {
            self.engine().stop_clock()?
        } else {
            self.engine().wait()?;
            begin.elapsed().as_secs_f64()
        };
        result?;
        self.check_fault()?;
        Ok(seconds)
    }

    /// The library that dense products are left to, `cuBLASLt 13.1.0`; or why there is none, in which case the driver's own
    /// kernels compute them.
    ///
    /// # Errors
    /// Where it is turned off or not found; says what to install.
    pub fn blas(&self) -> Result<String, CudaError> {
        self.engine().blas()
    }

    /// How much of the work so far ran as CUDA graphs.
    pub fn graph_use(&self) -> GraphUse {
        self.engine().graph_use()
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
        capabilities.chunk = CHUNK;
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
