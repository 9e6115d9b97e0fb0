//! [`Cuda`], the device: memory, copies, and the launch of a kernel on its engine.

use std::sync::Arc;

use bytemuck::Pod;
use fathom_core::device::{Capabilities, Device, MemoryUse};
use fathom_core::error::InvalidOp;

use crate::engine::emulator::{Emulation, Emulator};
use crate::engine::gpu::{self, Gpu, Options};
use crate::engine::{Engine, GraphUse};
use crate::error::CudaError;
use crate::launch::Launch;
use crate::memory::{Buffer, Memory};
use crate::source::Module;

/// Elements that a chunked layer computes at once: with a vocabulary of 32,768, the logits of 2,048 tokens fill a GPU.
const CHUNK: usize = 64 << 20;

/// One GPU, or one emulator; clones share its queue and its memory.
///
/// `Cuda` and [`Buffer`] are `Send` and `Sync`. All clones append to one queue under one lock, and every call makes the
/// GPU's context current in its own thread first. A returned block is handed out again in queue order, so a buffer may
/// be dropped in any thread. A late error (see [`Device::flush`]) is returned once, to the first thread that waits,
/// whichever thread queued the work.
#[derive(Clone)]
pub struct Cuda {
    memory: Arc<Memory>,
    engine: Arc<dyn Engine>,
}

impl Cuda {
    /// The number of usable GPUs: 0 without an NVIDIA driver, or with one that is too old. The error of
    /// [`new`](Cuda::new) then says why.
    pub fn count() -> usize {
        gpu::count()
    }

    /// Opens GPU `ordinal`, counted from 0, with [`Options::default`].
    ///
    /// # Errors
    /// No such GPU, no driver, or a driver or GPU that is too old; the message says what to install.
    pub fn new(ordinal: usize) -> Result<Self, CudaError> {
        Self::with_options(ordinal, Options::default())
    }

    /// Opens GPU `ordinal`, counted from 0, with `options`.
    ///
    /// # Errors
    /// As [`new`](Cuda::new).
    pub fn with_options(ordinal: usize, options: Options) -> Result<Self, CudaError> {
        Ok(Self::with(Arc::new(Gpu::new(ordinal, options)?)))
    }

    /// Opens an emulator that runs the GPU kernels on the CPU and checks every access: slow, for tests.
    ///
    /// # Errors
    /// No C++ compiler is installed.
    pub fn emulated(options: Emulation) -> Result<Self, CudaError> {
        Ok(Self::with(Arc::new(Emulator::new(options)?)))
    }

    pub(crate) fn with(engine: Arc<dyn Engine>) -> Self {
        Self { memory: Arc::new(Memory::new(engine.clone())), engine }
    }

    /// What a device of that name can do as far as every one does, for a plan that is made where there is no GPU: its
    /// memory is not known.
    pub fn unopened(name: &str) -> Capabilities {
        let mut capabilities = Capabilities::new(name);
        capabilities.chunk = CHUNK;
        capabilities.replays = true;
        capabilities
    }

    /// A line for people, such as `NVIDIA H100 80GB HBM3, sm_90a, 132 multiprocessors, 79.2 GiB`.
    pub fn description(&self) -> String {
        self.engine.description()
    }

    /// Compiles and loads all kernels, on all processors, and keeps the results on disk. Without this call each kernel
    /// file is compiled when it is first used. Calls `done(compiled, total)` after each file.
    ///
    /// # Errors
    /// NVRTC is not installed, or a kernel does not compile.
    pub fn warm_up(&self, done: impl Fn(usize, usize) + Sync) -> Result<(), CudaError> {
        self.engine.warm_up(&done)
    }

    /// Seconds that the device takes for the calls that `work` makes, from an idle device until it is idle again.
    ///
    /// Meanwhile every launch is issued at once, without graphs, so for many small kernels this is the time that the
    /// host takes to issue them. Only one clock runs on a device: calls in two threads at once give wrong times.
    ///
    /// # Errors
    /// Those of `work`, and of the device.
    pub fn elapsed<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
        let clock = self.engine.start_clock()?;
        let begin = std::time::Instant::now();
        let result = work();
        let seconds = if clock {
            self.engine.stop_clock()?
        } else {
            self.engine.wait()?;
            begin.elapsed().as_secs_f64()
        };
        result?;
        self.check_report()?;
        Ok(seconds)
    }

    /// The library that computes dense products, such as `cuBLASLt 13.1.0`.
    ///
    /// # Errors
    /// It is turned off or not found (the message says what to install), so the driver's own kernels compute them.
    pub fn blas(&self) -> Result<String, CudaError> {
        self.engine.blas()
    }

    /// Counts of the work done so far, and how much of it ran as CUDA graphs.
    pub fn graph_use(&self) -> GraphUse {
        self.engine.graph_use()
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Whether two clones are of one device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.engine, &other.engine)
    }

    /// Queues kernel `name` of `module` with argument `args`; a grid without blocks does nothing.
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
        self.engine.launch(&Launch { module, name, grid, threads, shared, args: bytemuck::bytes_of(args) })
    }

    /// Scratch memory of `bytes` bytes with undefined contents.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Buffer, CudaError> {
        self.memory.alloc(bytes)
    }

    /// The device address of the record that kernels report into.
    pub(crate) fn report(&self) -> u64 {
        self.engine.report()
    }

    /// Returns the report of work that was waited for, as an error.
    fn check_report(&self) -> Result<(), CudaError> {
        self.engine.take_report().map_or(Ok(()), |report| Err(report.into()))
    }
}

impl Device for Cuda {
    type Error = CudaError;
    type Buffer = Buffer;

    fn capabilities(&self) -> Capabilities {
        let properties = self.engine.properties();
        let mut capabilities = Self::unopened(&properties.name);
        capabilities.memory = properties.memory;
        capabilities
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, CudaError> {
        self.memory.alloc(bytes)
    }

    fn upload(&self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let address = inside("upload", buffer, offset, bytes.len())?;
        if bytes.is_empty() { Ok(()) } else { self.engine.upload(address, bytes) }
    }

    fn download(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        let address = inside("download", buffer, offset, bytes.len())?;
        if !bytes.is_empty() {
            self.engine.download(address, bytes)?;
        }
        self.check_report()
    }

    fn flush(&self) -> Result<(), CudaError> {
        self.engine.wait()?;
        self.check_report()
    }

    fn memory(&self) -> MemoryUse {
        self.memory.usage()
    }
}

/// The address of byte `offset` of a buffer, if the `bytes` bytes from there lie inside it.
fn inside(op: &'static str, buffer: &Buffer, offset: usize, bytes: usize) -> Result<u64, CudaError> {
    match offset.checked_add(bytes) {
        Some(end) if end <= buffer.len() => Ok(buffer.address() + offset as u64),
        end => {
            let end = end.unwrap_or(usize::MAX);
            Err(InvalidOp::above(op, "the end of the transfer", end, "the size of the buffer", buffer.len()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use fathom_core::dtype::DType;
    use fathom_core::tensor::Tensor;

    use super::*;

    const fn is_send_and_sync<T: Send + Sync>() {}
    const _: () = is_send_and_sync::<Cuda>();
    const _: () = is_send_and_sync::<Buffer>();

    #[test]
    fn threads_share_one_device() {
        let device = match Cuda::emulated(Emulation::default()) {
            Ok(device) => device,
            Err(error) if std::env::var_os("CI").is_none() => return eprintln!("not tested: {error}"),
            Err(error) => panic!("{error}"),
        };
        // Buffers made in one thread are read and dropped in another.
        let tensors: Vec<Tensor<Cuda>> = std::thread::scope(|scope| {
            let make = |i: u32| {
                let device = device.clone();
                move || Tensor::<Cuda>::from_slice(&device, &[8, 64], DType::U32, &[i; 512]).unwrap()
            };
            let handles: Vec<_> = (0..4).map(|i| scope.spawn(make(i))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        });
        assert_eq!(device.memory().in_use, 4 * 2048);
        for (i, tensor) in tensors.into_iter().enumerate() {
            let device = device.clone();
            let values = std::thread::spawn(move || tensor.download::<Cuda, u32>(&device).unwrap()).join().unwrap();
            assert_eq!(values, [i as u32; 512]);
        }
        assert_eq!(device.memory().in_use, 0);
    }
}
