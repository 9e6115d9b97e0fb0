//! Kernels on a GPU.
//!
//! Launches are not begun one by one: they are written into a list (a tenth of a microsecond each), which is handed to the
//! GPU when it is long enough or when the host is to wait. A list of a shape that was handed over before becomes a CUDA
//! graph, and from then on costs one launch, plus one small update for each kernel whose argument changed. Layers know
//! nothing of this. Work runs in the order it was asked for on one stream; a second stream carries uploads that come
//! before any other work.

mod commands;
mod driver;
mod functions;
mod options;
mod replay;
mod staging;

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys as cu;
use fathom_core::error::{DeviceError, ErrorKind};

use super::{Engine, Fault, Properties};
use crate::blas::lt::{Lt, Operands, Shape, WORKSPACE};
use crate::compile;
use crate::error::CudaError;
use crate::launch::Launch;
use crate::source::{MODULES, Module};
use commands::{Command, Commands, Product, Recent};
use driver::{Context, Event, Pinned, Stream, check};
use functions::Functions;
pub use options::{GraphUse, Options};
use replay::Replay;
use staging::{PIECE, SMALL, Staging};

/// A list of this many commands is handed over: short enough that the GPU begins a step while the host still writes the
/// rest of it down.
const LONG: usize = 512;
/// Lists shorter than this are not worth a graph.
const SHORT: usize = 4;
/// Graphs kept.
const GRAPHS: usize = 128;
/// Shapes remembered before all are forgotten.
const SHAPES: usize = 1 << 16;

/// How many GPUs can be used.
pub(crate) fn count() -> usize {
    driver::count().unwrap_or(0)
}

/// A GPU.
pub(crate) struct Gpu {
    // Fields are dropped in this order: the context goes last.
    state: Mutex<State>,
    fault: Pinned,
    fault_address: u64,
    properties: Properties,
    description: String,
    context: Context,
}

// SAFETY: the handles in `state` are used by one thread at a time, under its lock, with the context made current in that
// thread first; the driver allows any thread to use them so. The fault word is read through volatile reads of plain numbers.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// The library for dense products.
enum Blas {
    /// Not to be used.
    Off,
    /// Not looked for yet.
    Unknown,
    Missing(CudaError),
    Ready(Box<Lt>),
}

/// What changes.
struct State {
    options: Options,
    commands: Commands,
    functions: Functions,
    graphs: Recent<Replay>,
    /// How often lists of a shape were seen that have no graph, by hash; `u32::MAX` for those that cannot have one.
    seen: HashMap<u64, u32>,
    staging: Staging,
    usage: GraphUse,
    blas: Blas,
    /// Memory of the GPU for `blas`, or 0.
    workspace: u64,
    /// Whether tensor cores multiply codes with scales in tiles of 128: compute capability 9.0 alone.
    codes: bool,
    compute: Stream,
    copy: Stream,
    /// The copies on the copy stream that the compute stream must wait for.
    copied: Event,
    copies: bool,
    /// True where the compute stream may have work.
    running: bool,
    /// Set while a clock runs: its start and end. Graphs are not used meanwhile.
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
                "GPU {ordinal} ({name}) is of compute capability {major}.{minor}; 8.0 (A100) or later is needed"
            );
            return Err(CudaError::new(ErrorKind::Unsupported, message));
        }
        let memory = context.total_memory()?;
        let architecture = compile::architecture(major, minor);
        let gib = memory as f64 / f64::from(1 << 30);
        let description = format!("{name}, {architecture}, {multiprocessors} multiprocessors, {gib:.1} GiB");
        let fault = Pinned::new(size_of::<Fault>())?;
        let state = State {
            options,
            commands: Commands::default(),
            functions: Functions::new(architecture, u32::try_from(shared).unwrap_or(0)),
            graphs: Recent::new(GRAPHS),
            seen: HashMap::new(),
            staging: Staging::default(),
            usage: GraphUse::default(),
            blas: if options.blas { Blas::Unknown } else { Blas::Off },
            workspace: 0,
            codes: (major, minor) == (9, 0),
            compute: Stream::new()?,
            copy: Stream::new()?,
            copied: Event::new(false)?,
            copies: false,
            running: false,
            clock: None,
        };
        Ok(Self {
            state: Mutex::new(state),
            fault_address: fault.device()?,
            fault,
            properties: Properties {
                name: title(ordinal),
                memory: Some(memory),
                multiprocessors: usize::try_from(multiprocessors).unwrap_or(1),
                shared: usize::try_from(shared).unwrap_or(0),
            },
            description,
            context,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves at worst commands behind that were not handed over.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, with the context current in this thread.
    fn bound(&self) -> Result<MutexGuard<'_, State>, CudaError> {
        self.context.bind()?;
        Ok(self.lock())
    }

    /// Compiles all modules on as many threads as there are processors, and loads them. `done` is told how many are
    /// compiled, and of how many.
    pub(crate) fn warm_up(&self, done: &(dyn Fn(usize, usize) + Sync)) -> Result<(), CudaError> {
        let architecture = self.lock().functions.architecture().to_owned();
        compile::all(&architecture, done)?;
        let mut state = self.bound()?;
        MODULES.iter().try_for_each(|&module| state.functions.module(module).map(drop))
    }
}

/// `cuda:0`
fn title(ordinal: usize) -> &'static str {
    const TITLES: [&str; 8] = ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7"];
    TITLES.get(ordinal).copied().unwrap_or_else(|| Box::leak(format!("cuda:{ordinal}").into_boxed_str()))
}

impl State {
    /// The place of a kernel in the table.
    fn function(&mut self, context: &Context, module: Module, name: &'static str) -> Result<u32, CudaError> {
        if let Some(place) = self.functions.known(module, name) {
            return Ok(place);
        }
        context.bind()?;
        self.functions.load(module, name)
    }

    /// The library for products, looked for when first asked for. The context must be current.
    fn lt(&mut self) -> Result<&mut Lt, CudaError> {
        if matches!(self.blas, Blas::Unknown) {
            let workspace = &mut self.workspace;
            let found = Lt::new(|| {
                *workspace = driver::alloc(WORKSPACE)?;
                Ok(*workspace)
            });
            self.blas = found.map_or_else(Blas::Missing, |lt| Blas::Ready(Box::new(lt)));
        }
        match &mut self.blas {
            Blas::Ready(lt) => Ok(lt),
            Blas::Missing(error) => Err(error.clone()),
            Blas::Off | Blas::Unknown => Err(CudaError::new(ErrorKind::Unsupported, "cuBLASLt is turned off")),
        }
    }

    /// The place of the plan for a shape of product, if the library can compute it.
    fn plan(&mut self, context: &Context, shape: &Shape) -> Result<Option<u32>, CudaError> {
        match &self.blas {
            Blas::Off | Blas::Missing(_) => return Ok(None),
            Blas::Ready(lt) => {
                if let Some(known) = lt.known(shape) {
                    return Ok(known);
                }
            }
            Blas::Unknown => {}
        }
        context.bind()?;
        let codes = self.codes;
        // Without the library, this driver's own kernels do.
        let Ok(lt) = self.lt() else { return Ok(None) };
        if shape.factors.are_codes() && !(codes && lt.has_codes()) { Ok(None) } else { lt.plan(shape) }
    }

    /// Whether commands begin at once.
    fn direct(&self) -> bool {
        !self.options.graphs || self.options.check || self.clock.is_some()
    }

    /// After a command was added: hands the list over if it is time.
    #[inline]
    fn added(&mut self, context: &Context) -> Result<(), CudaError> {
        if self.commands.len() < LONG && !self.direct() {
            return Ok(());
        }
        context.bind()?;
        self.submit()
    }

    /// Hands all commands over to the GPU. The context must be current here and below.
    fn submit(&mut self) -> Result<(), CudaError> {
        if self.copies {
            self.copy.record(&self.copied)?;
            self.compute.after(&self.copied)?;
            self.copies = false;
            self.running = true;
        }
        if self.commands.is_empty() {
            return Ok(());
        }
        self.running = true;
        let result = self.run();
        self.commands.clear();
        result
    }

    fn run(&mut self) -> Result<(), CudaError> {
        let count = self.commands.len() as u64;
        if self.direct() || self.commands.len() < SHORT {
            return self.issue_all();
        }
        let hash = self.commands.hash();
        let commands = &self.commands;
        if let Some(replay) = self.graphs.get(hash, |replay| replay.commands.same_shape(commands)) {
            self.usage.updated += replay.update(commands, &self.functions)?;
            self.compute.launch(&replay.executable)?;
            self.usage.launches += 1;
            self.usage.replayed += count;
            return Ok(());
        }
        if self.seen.len() >= SHAPES {
            self.seen.clear();
        }
        let times = self.seen.entry(hash).or_insert(0);
        if *times == 0 {
            *times = 1;
            return self.issue_all();
        }
        if *times == u32::MAX {
            return self.issue_all();
        }
        match self.capture() {
            Ok(replay) => {
                self.compute.launch(&replay.executable)?;
                self.usage.captured += 1;
                self.usage.launches += 1;
                self.usage.replayed += count;
                // One that makes room is destroyed once its launches are done.
                self.graphs.put(hash, replay);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::DeviceLost => Err(error),
            Err(error) => {
                self.usage.refused = Some(error.to_string());
                self.seen.insert(hash, u32::MAX);
                self.issue_all()
            }
        }
    }

    /// Writes the commands down as a graph.
    fn capture(&self) -> Result<Replay, CudaError> {
        self.compute.begin_capture()?;
        let nodes: Result<Vec<_>, CudaError> = self
            .commands
            .list()
            .iter()
            .map(|command| {
                self.issue(command)?;
                if matches!(command, Command::Kernel(_)) { self.compute.last_node() } else { Ok(ptr::null_mut()) }
            })
            .collect();
        // Ends the capture whatever happened.
        let graph = self.compute.end_capture();
        let (nodes, graph) = (nodes?, graph?);
        Ok(Replay { executable: graph.instantiate()?, _graph: graph, nodes, commands: self.commands.clone() })
    }

    /// Begins the commands one by one.
    fn issue_all(&mut self) -> Result<(), CudaError> {
        for command in self.commands.list() {
            let result = self.issue(command);
            let result = if self.options.check { result.and_then(|()| self.compute.wait()) } else { result };
            result.map_err(|e| CudaError::new(e.kind(), format!("{}: {e}", self.describe(command))))?;
        }
        self.usage.issued += self.commands.len() as u64;
        Ok(())
    }

    fn describe(&self, command: &Command) -> String {
        match command {
            Command::Kernel(k) => {
                let title = self.functions.get(k.function).title();
                format!("{title}, grid {:?} of {} threads, {} bytes of shared memory", k.grid, k.threads, k.shared)
            }
            Command::Product(_) => "a product by cuBLASLt".into(),
            Command::Upload { bytes, .. } => format!("an upload of {bytes} bytes"),
        }
    }

    /// Begins a command on the compute stream.
    fn issue(&self, command: &Command) -> Result<(), CudaError> {
        match command {
            Command::Kernel(kernel) => {
                let mut argument = self.commands.argument(kernel).as_ptr().cast_mut().cast::<c_void>();
                let [x, y, z] = kernel.grid;
                // SAFETY: the function is of a loaded module; it takes one parameter, of the size that `admit` compared with
                // that of the argument, which the driver copies before it returns. Addresses in it come from views, which
                // lie in memory that is given back to the system only after a wait.
                let code = unsafe {
                    cu::cuLaunchKernel(
                        self.functions.get(kernel.function).raw(),
                        x,
                        y,
                        z,
                        kernel.threads,
                        1,
                        1,
                        kernel.shared,
                        self.compute.raw(),
                        &raw mut argument,
                        ptr::null_mut(),
                    )
                };
                check("cuLaunchKernel", code)
            }
            Command::Product(product) => {
                let Blas::Ready(lt) = &self.blas else {
                    return Err(CudaError::new(ErrorKind::Other, "a product without cuBLASLt"));
                };
                let Product { plan, a, b, c, scales, alpha, beta } = *product;
                let (alpha, beta) = (f32::from_bits(alpha), f32::from_bits(beta));
                // SAFETY: `blas::Matmul` made the plan's shape of the operands' views, which lie in memory of the device,
                // and looked at their alignment. Only this stream uses the workspace, in order.
                unsafe { lt.run(plan, &Operands { a, b, c, scales, alpha, beta }, self.compute.raw().cast()) }
            }
            // SAFETY: `from` is a piece of the arena, which is not used again before a wait; the caller of `upload` checked
            // that `to` lies in memory of the device.
            Command::Upload { to, from, bytes } => unsafe {
                self.compute.upload(*to, *from as *const u8, *bytes as usize)
            },
        }
    }

    /// Waits until all work is done.
    fn settle(&mut self) -> Result<(), CudaError> {
        self.submit()?;
        if self.running {
            self.compute.wait().map_err(|e| match e.kind() {
                ErrorKind::DeviceLost if !self.options.check => {
                    let hint = "set FATHOM_CUDA_CHECK=1 to learn which kernel failed";
                    CudaError::new(ErrorKind::DeviceLost, format!("{e}: {hint}"))
                }
                _ => e,
            })?;
        }
        self.running = false;
        self.staging.reset();
        Ok(())
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        // Where no work is waiting or running, none can be using the destination: the copy may begin at once.
        let idle = self.commands.is_empty() && !self.running;
        if bytes.len() > SMALL {
            return self.upload_large(to, bytes, idle);
        }
        let kept = match self.staging.keep(bytes)? {
            Some(kept) => Some(kept),
            None => {
                self.settle()?;
                self.staging.keep(bytes)?
            }
        };
        let Some(from) = kept else { return self.upload_large(to, bytes, false) };
        if idle {
            // SAFETY: `from` is a piece of the arena, which is not used again before a wait; the caller checked `to`.
            unsafe { self.copy.upload(to, from, bytes.len()) }?;
            self.copies = true;
        } else {
            self.commands.upload(to, from as u64, bytes.len() as u64);
        }
        Ok(())
    }

    fn upload_large(&mut self, to: u64, bytes: &[u8], idle: bool) -> Result<(), CudaError> {
        if !idle {
            self.submit()?;
            self.running = true;
        }
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let place = self.staging.slot()?;
            let slot = self.staging.at(place);
            let stream = if idle { &self.copy } else { &self.compute };
            // SAFETY: the slot is free and as large as a piece; it is not used again before its event. The caller checked
            // that the whole destination lies in memory of the device.
            unsafe {
                ptr::copy_nonoverlapping(piece.as_ptr(), slot.memory.host(), piece.len());
                stream.upload(to + (i * PIECE) as u64, slot.memory.host(), piece.len())?;
            }
            self.copies |= idle;
            stream.record(&slot.event)?;
        }
        Ok(())
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.submit()?;
        self.running = true;
        // The host copies one piece while the GPU copies the next.
        let mut last: Option<(usize, &mut [u8])> = None;
        for (i, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let place = self.staging.slot()?;
            let slot = self.staging.at(place);
            // SAFETY: the slot is free and as large as a piece; the caller checked that the source lies in memory of the
            // device.
            unsafe { self.compute.download(slot.memory.host(), from + (i * PIECE) as u64, piece.len()) }?;
            self.compute.record(&slot.event)?;
            if let Some((place, piece)) = last.replace((place, piece)) {
                self.staging.at(place).event.wait()?;
                self.take(place, piece);
            }
        }
        self.settle()?;
        if let Some((place, piece)) = last {
            self.take(place, piece);
        }
        Ok(())
    }

    /// Copies a piece out of its slot, after the copy into it.
    fn take(&self, slot: usize, piece: &mut [u8]) {
        // SAFETY: the slot is as large as a piece, and the copy into it is done.
        unsafe {
            ptr::copy_nonoverlapping(self.staging.at(slot).memory.host(), piece.as_mut_ptr(), piece.len());
        }
    }
}

impl Engine for Gpu {
    fn properties(&self) -> Properties {
        self.properties
    }

    fn alloc(&self, bytes: usize) -> Result<u64, CudaError> {
        self.context.bind()?;
        driver::alloc(bytes)
    }

    fn free(&self, address: u64) {
        if self.context.bind().is_ok() {
            driver::free(address);
        }
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
            // For `admit`, which may have to ask for it.
            self.context.bind()?;
        }
        state.functions.admit(function, launch.shared, launch.args.len())?;
        state.commands.kernel(function, grid, launch.threads, launch.shared as u32, launch.args);
        state.added(&self.context)
    }

    fn product(&self, shape: &Shape, operands: &Operands) -> Result<bool, CudaError> {
        let state = &mut *self.lock();
        let Some(plan) = state.plan(&self.context, shape)? else { return Ok(false) };
        let Operands { a, b, c, scales, alpha, beta } = *operands;
        let (alpha, beta) = (alpha.to_bits(), beta.to_bits());
        state.commands.product(Product { plan, a, b, c, scales, alpha, beta });
        state.added(&self.context)?;
        Ok(true)
    }

    fn has_product(&self, shape: &Shape) -> Result<bool, CudaError> {
        Ok(self.lock().plan(&self.context, shape)?.is_some())
    }

    fn blas(&self) -> Result<String, CudaError> {
        let version = self.bound()?.lt()?.version();
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

    fn wait(&self) -> Result<(), CudaError> {
        self.bound()?.settle()
    }

    fn fault(&self) -> u64 {
        self.fault_address
    }

    fn take_fault(&self) -> Option<Fault> {
        let words = self.fault.host().cast::<u32>();
        // SAFETY: four numbers in pinned memory; all work was waited for, so no kernel writes them now.
        let [code, site, value, limit] = std::array::from_fn(|i| unsafe { words.add(i).read_volatile() });
        if code == 0 {
            return None;
        }
        for i in 0..4 {
            // SAFETY: as above.
            unsafe { words.add(i).write_volatile(0) };
        }
        Some(Fault { code, site, value, limit })
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn graph_use(&self) -> GraphUse {
        self.lock().usage.clone()
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
        Gpu::warm_up(self, done)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // What follows needs the context; errors were or will be reported by what waits for results.
        let _ = self.context.bind();
        let mut state = self.lock();
        let _ = state.settle();
        state.graphs.clear();
        state.blas = Blas::Off;
        if state.workspace != 0 {
            driver::free(state.workspace);
        }
    }
}
