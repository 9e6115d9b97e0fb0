//! The GPU engine: launches and copies over NVIDIA's driver.
//!
//! | file | contents |
//! |---|---|
//! | `commands`, `list`, `replay` | queued commands, their submission, and lists as CUDA graphs |
//! | `transfer`, `staging` | copies, and the pinned memory they go through |
//! | `watches` | the host's wait for the GPU |
//! | `product` | dense products by cuBLASLt |
//! | `functions` | kernels, compiled and loaded on first use |
//! | `driver` | handles of the driver API |
//!
//! A launch does not begin at once: it joins a list (a tenth of a microsecond), which is submitted when it is long
//! enough or when the host must wait. A list of a shape that was submitted before becomes a CUDA graph; from then on it
//! costs one launch, plus one small update for each kernel whose argument changed. Layers know nothing of this. Work
//! runs in queue order on one stream; a second stream carries uploads that come before any other work.

mod commands;
mod driver;
mod functions;
mod list;
mod options;
mod product;
mod replay;
mod staging;
mod transfer;
mod watches;

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::sys as cu;
use fathom_core::device::Name;
use fathom_core::error::{DeviceError, ErrorKind};

use super::{Engine, GraphUse, Properties, Watch};
use crate::compile;
use crate::cublaslt::{LEAST_CODES, Operands, Shape};
use crate::error::CudaError;
use crate::launch::Launch;
use crate::memory::Blocks;
use crate::report::KernelReport;
use crate::source::{MODULES, Module};
use crate::tensor_map::{Boxes, TensorMap};
use commands::Product;
use driver::{Context, Event, Pinned, Stream};
use functions::Functions;
use list::{List, Target};
pub use options::Options;
use product::Products;
use transfer::Transfers;
use watches::Watches;

/// The number of usable GPUs.
pub(crate) fn count() -> usize {
    driver::count().unwrap_or(0)
}

/// A GPU.
pub(crate) struct Gpu {
    // Fields are dropped in this order: the context goes last.
    state: Mutex<State>,
    /// The record that kernels report into: pinned host memory that the GPU can write.
    report: Pinned,
    report_address: u64,
    properties: Properties,
    description: String,
    context: Context,
}

// SAFETY: every use of a handle in `state` is under its lock, in a thread that made the context current first; the
// driver allows any thread to use handles in this way. The report record is plain numbers, which the host reads and
// writes under the same lock by volatile accesses.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// The part of a GPU that its lock guards.
struct State {
    options: Options,
    functions: Functions,
    list: List,
    products: Products,
    transfers: Transfers,
    compute: Stream,
    /// What is asked for errors while the host waits.
    watches: Watches,
    /// True if the compute stream may have work.
    running: bool,
    /// Start and end events of a running clock, during which no graphs are used.
    clock: Option<(Event, Event)>,
}

impl Gpu {
    pub(crate) fn new(ordinal: usize, options: Options) -> Result<Self, CudaError> {
        use cu::CUdevice_attribute as A;
        let context = Context::new(ordinal)?;
        let major = context.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = context.attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = context.attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = context.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let name = context.name()?;
        if major < 8 {
            let message = format!(
                "GPU {ordinal} ({name}) has compute capability {major}.{minor}; this driver needs 8.0 (A100) or later"
            );
            return Err(CudaError::new(ErrorKind::Unsupported, message));
        }
        let memory = context.total_memory()?;
        let architecture = compile::architecture(major, minor);
        let gib = memory as f64 / f64::from(1 << 30);
        let description = format!("{name}, {architecture}, {multiprocessors} multiprocessors, {gib:.1} GiB");
        let report = Pinned::new(size_of::<KernelReport>())?;
        let state = State {
            options,
            functions: Functions::new(architecture, u32::try_from(shared).unwrap_or(0)),
            list: List::new(),
            products: Products::new(options.blas, (major, minor) == (9, 0)),
            transfers: Transfers::new()?,
            compute: Stream::new()?,
            watches: Watches::default(),
            running: false,
            clock: None,
        };
        Ok(Self {
            state: Mutex::new(state),
            report_address: report.device()?,
            report,
            properties: Properties {
                name: Name::new(&format!("cuda:{ordinal}")),
                memory: Some(memory),
                multiprocessors: usize::try_from(multiprocessors).unwrap_or(1),
                shared: usize::try_from(shared).unwrap_or(0),
                warpgroups: (options.hopper && (major, minor) == (9, 0)).then_some(LEAST_CODES),
            },
            description,
            context,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves at worst commands that were not submitted.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, with the context current in this thread.
    fn bound(&self) -> Result<MutexGuard<'_, State>, CudaError> {
        self.context.bind()?;
        Ok(self.lock())
    }
}

impl State {
    /// The index of a kernel in the table, compiled and loaded on first use.
    fn function(&mut self, context: &Context, module: Module, name: &'static str) -> Result<u32, CudaError> {
        if let Some(place) = self.functions.known(module, name) {
            return Ok(place);
        }
        context.bind()?;
        self.functions.load(module, name)
    }

    /// Whether commands are issued at once, without graphs.
    fn direct(&self) -> bool {
        !self.options.graphs || self.options.check || self.clock.is_some()
    }

    /// Submits the list after a command was added, if it is time.
    #[inline]
    fn added(&mut self, context: &Context) -> Result<(), CudaError> {
        if !self.list.is_long() && !self.direct() {
            return Ok(());
        }
        context.bind()?;
        self.submit()
    }

    /// Submits all commands to the GPU. The context must be current here and below.
    fn submit(&mut self) -> Result<(), CudaError> {
        self.running |= self.transfers.join(&self.compute)?;
        if self.list.commands.is_empty() {
            return Ok(());
        }
        self.running = true;
        let target = Target {
            functions: &self.functions,
            products: &self.products,
            stream: &self.compute,
            direct: self.direct(),
            check: self.options.check,
        };
        self.list.submit(&target)
    }

    /// Waits until all work is done.
    fn settle(&mut self) -> Result<(), CudaError> {
        self.submit()?;
        if self.running {
            let waited = self.watches.wait(&self.compute);
            waited.map_err(|e| match e.kind() {
                ErrorKind::DeviceLost if !self.options.check => {
                    let hint = "set FATHOM_CUDA_CHECK=1 to learn which kernel failed";
                    CudaError::new(ErrorKind::DeviceLost, format!("{e}: {hint}"))
                }
                _ => e,
            })?;
        }
        self.running = false;
        self.transfers.staging.reset();
        Ok(())
    }
}

impl Blocks for Gpu {
    fn alloc(&self, bytes: usize) -> Result<u64, CudaError> {
        self.context.bind()?;
        driver::alloc(bytes)
    }

    fn free(&self, address: u64) {
        if self.context.bind().is_ok() {
            driver::free(address);
        }
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.bound()?.settle()
    }
}

impl Engine for Gpu {
    fn properties(&self) -> Properties {
        self.properties
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let grid = launch.grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        if grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 || launch.threads > 1024 {
            let (grid, threads) = (launch.grid, launch.threads);
            let message = format!("{}: a grid of {grid:?} blocks of {threads} threads is too large", launch.name);
            return Err(CudaError::new(ErrorKind::Unsupported, message));
        }
        let state = &mut *self.lock();
        let function = state.function(&self.context, launch.module, launch.name)?;
        if launch.shared > 48 << 10 {
            // `admit` may have to raise the kernel's limit of shared memory.
            self.context.bind()?;
        }
        state.functions.admit(function, launch.shared, launch.args.len())?;
        state.list.commands.kernel(function, grid, launch.threads, launch.shared as u32, launch.args);
        state.added(&self.context)
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap, CudaError> {
        // It may be this thread's first call that needs one.
        self.context.bind()?;
        driver::tensor_map(boxes)
    }

    fn product(&self, shape: &Shape, operands: &Operands) -> Result<bool, CudaError> {
        let state = &mut *self.lock();
        let Some(plan) = state.products.plan(&self.context, shape)? else { return Ok(false) };
        let Operands { a, b, c, scales, alpha, beta } = *operands;
        let (alpha, beta) = (alpha.to_bits(), beta.to_bits());
        state.list.commands.product(Product { plan, a, b, c, scales, alpha, beta });
        state.added(&self.context)?;
        Ok(true)
    }

    fn has_product(&self, shape: &Shape) -> Result<bool, CudaError> {
        Ok(self.lock().products.plan(&self.context, shape)?.is_some())
    }

    fn blas(&self) -> Result<String, CudaError> {
        let version = self.bound()?.products.lt()?.version();
        Ok(format!("cuBLASLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100))
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        let mut state = self.bound()?;
        state.upload(to, bytes)?;
        state.added(&self.context)
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.bound()?.download(from, bytes)
    }

    fn bind(&self) -> Result<(), CudaError> {
        self.context.bind()
    }

    fn queue(&self, work: &mut dyn FnMut(*mut c_void) -> Result<(), CudaError>) -> Result<(), CudaError> {
        let mut state = self.bound()?;
        state.submit()?;
        state.running = true;
        work(state.compute.raw().cast())?;
        if state.options.check { state.settle() } else { Ok(()) }
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        let mut state = self.bound()?;
        state.submit()?;
        state.running = true;
        // SAFETY: the caller's views lie in device memory, which is freed only after a wait, and do not overlap.
        unsafe { state.compute.copy(to, from, bytes) }
    }

    fn watch(&self, watch: Weak<dyn Watch>) {
        self.lock().watches.add(watch);
    }

    fn report(&self) -> u64 {
        self.report_address
    }

    fn take_report(&self) -> Option<KernelReport> {
        let _state = self.lock();
        let words = self.report.host().cast::<u32>();
        // SAFETY: four numbers in pinned memory; the lock keeps other threads of the host away.
        let [code, site, value, limit] = std::array::from_fn(|i| unsafe { words.add(i).read_volatile() });
        // u32::MAX: a kernel that another thread queued is about to write its report.
        if matches!(code, 0 | u32::MAX) {
            return None;
        }
        for i in 0..4 {
            // SAFETY: as above.
            unsafe { words.add(i).write_volatile(0) };
        }
        Some(KernelReport { code, site, value, limit })
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn graph_use(&self) -> GraphUse {
        self.lock().list.usage().clone()
    }

    fn start_clock(&self) -> Result<bool, CudaError> {
        let mut state = self.bound()?;
        state.settle()?;
        let (start, end) = (Event::new(true)?, Event::new(true)?);
        state.compute.record(&start)?;
        state.clock = Some((start, end));
        Ok(true)
    }

    fn stop_clock(&self) -> Result<f64, CudaError> {
        let mut state = self.bound()?;
        let submitted = state.submit();
        let Some((start, end)) = state.clock.take() else { return Ok(0.0) };
        submitted?;
        state.compute.record(&end)?;
        state.running = true;
        state.settle()?;
        start.seconds_to(&end)
    }

    fn warm_up(&self, done: &(dyn Fn(usize, usize) + Sync)) -> Result<(), CudaError> {
        let architecture = self.lock().functions.architecture().to_owned();
        compile::all(&architecture, done)?;
        let mut state = self.bound()?;
        MODULES.iter().try_for_each(|&module| state.functions.module(module).map(drop))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // The calls below need the context; an error was reported, or will be, by the next call that waits for results.
        let _ = self.context.bind();
        let mut state = self.lock();
        let _ = state.settle();
        state.list.clear_graphs();
        state.products.close();
    }
}
