//! The list of queued commands, and its submission: command by command, or as a CUDA graph if the list comes again.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys as cu;
use fathom_core::error::{DeviceError, ErrorKind};

use super::commands::{Command, Commands, Recent};
use super::driver::{Pending as _, Stream, check};
use super::functions::Functions;
use super::product::Products;
use super::replay::Replay;
use crate::engine::GraphUse;
use crate::error::CudaError;

/// Length at which a list is submitted: short enough that the GPU begins a step while the host still queues the rest.
const LONG: usize = 512;
/// Shortest list that is made a graph.
const SHORT: usize = 4;
/// Number of graphs kept.
const GRAPHS: usize = 128;
/// Number of list shapes remembered before all are forgotten.
const SHAPES: usize = 1 << 16;
/// Count in [`List::seen`] of a list that cannot be captured.
const REFUSED: u32 = u32::MAX;

/// What a command needs to run: kernels, the product library, and the stream.
pub(super) struct Target<'a> {
    pub(super) functions: &'a Functions,
    pub(super) products: &'a Products,
    pub(super) stream: &'a Stream,
    /// Issues commands one by one, without graphs.
    pub(super) direct: bool,
    /// Waits after every command, so that an error names it.
    pub(super) check: bool,
}

/// Commands that were queued and not yet submitted, and the graphs of earlier lists.
pub(super) struct List {
    pub(super) commands: Commands,
    graphs: Recent<Replay>,
    /// How often a list without a graph was submitted, by the hash of its shape; [`REFUSED`] if it cannot be captured.
    seen: HashMap<u64, u32>,
    usage: GraphUse,
}

impl List {
    pub(super) fn new() -> Self {
        Self {
            commands: Commands::default(),
            graphs: Recent::new(GRAPHS),
            seen: HashMap::new(),
            usage: GraphUse::default(),
        }
    }

    pub(super) fn usage(&self) -> &GraphUse {
        &self.usage
    }

    /// Whether the list is long enough to be submitted.
    #[inline]
    pub(super) fn is_long(&self) -> bool {
        self.commands.len() >= LONG
    }

    /// Destroys all graphs, none of which may be running.
    pub(super) fn clear_graphs(&mut self) {
        self.graphs.clear();
    }

    /// Submits all commands and empties the list. The context must be current.
    pub(super) fn submit(&mut self, target: &Target<'_>) -> Result<(), CudaError> {
        let result = self.run(target);
        self.commands.clear();
        result
    }

    fn run(&mut self, target: &Target<'_>) -> Result<(), CudaError> {
        let count = self.commands.len() as u64;
        if target.direct || self.commands.len() < SHORT {
            return self.issue_all(target);
        }
        let hash = self.commands.hash();
        let commands = &self.commands;
        if let Some(replay) = self.graphs.get(hash, |replay| replay.commands.same_shape(commands)) {
            self.usage.updated += replay.update(commands, target.functions)?;
            target.stream.launch(&replay.executable)?;
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
            return self.issue_all(target);
        }
        if *times == REFUSED {
            return self.issue_all(target);
        }
        match self.capture(target) {
            Ok(replay) => {
                target.stream.launch(&replay.executable)?;
                self.usage.captured += 1;
                self.usage.launches += 1;
                self.usage.replayed += count;
                // The driver destroys an evicted graph once its launches are done.
                self.graphs.put(hash, replay);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::DeviceLost => Err(error),
            Err(error) => {
                self.usage.refused = Some(error.to_string());
                self.seen.insert(hash, REFUSED);
                self.issue_all(target)
            }
        }
    }

    /// Captures the commands as a graph.
    fn capture(&self, target: &Target<'_>) -> Result<Replay, CudaError> {
        let stream = target.stream;
        stream.begin_capture()?;
        let node = |command| {
            self.issue(command, target)?;
            if matches!(command, Command::Kernel(_)) { stream.last_node() } else { Ok(ptr::null_mut()) }
        };
        let nodes: Result<Vec<_>, CudaError> = self.commands.list().iter().map(node).collect();
        // The capture must end even if a command failed.
        let graph = stream.end_capture();
        let (nodes, graph) = (nodes?, graph?);
        Ok(Replay { executable: graph.instantiate()?, _graph: graph, nodes, commands: self.commands.clone() })
    }

    /// Issues the commands one by one.
    fn issue_all(&mut self, target: &Target<'_>) -> Result<(), CudaError> {
        for command in self.commands.list() {
            let result = self.issue(command, target);
            let result = if target.check { result.and_then(|()| target.stream.wait()) } else { result };
            result.map_err(|e| CudaError::new(e.kind(), format!("{}: {e}", describe(command, target.functions))))?;
        }
        self.usage.issued += self.commands.len() as u64;
        Ok(())
    }

    /// Issues a command on the compute stream.
    fn issue(&self, command: &Command, target: &Target<'_>) -> Result<(), CudaError> {
        match command {
            Command::Kernel(kernel) => {
                let mut argument = self.commands.argument(kernel).as_ptr().cast_mut().cast::<c_void>();
                let [x, y, z] = kernel.grid;
                // SAFETY: the function belongs to a loaded module. It takes one parameter; `admit` compared its size
                // with the argument's, and the driver copies it before it returns. Addresses in it come from views,
                // which lie in memory that is freed only after a wait.
                let code = unsafe {
                    cu::cuLaunchKernel(
                        target.functions.get(kernel.function).raw(),
                        x,
                        y,
                        z,
                        kernel.threads,
                        1,
                        1,
                        kernel.shared,
                        target.stream.raw(),
                        &raw mut argument,
                        ptr::null_mut(),
                    )
                };
                check("cuLaunchKernel", code)
            }
            // SAFETY: `blas::Matmul` derived the plan's shape from the operands' views, which lie in device memory, and
            // checked their alignment. All products are issued on the compute stream.
            Command::Product(product) => unsafe { target.products.issue(product, target.stream) },
            // SAFETY: `from` is a piece of the arena, which is not reused before a wait; the caller of `upload` checked
            // that `to` lies in device memory.
            Command::Upload { to, from, bytes } => unsafe {
                target.stream.upload(*to, *from as *const u8, *bytes as usize)
            },
        }
    }
}

fn describe(command: &Command, functions: &Functions) -> String {
    match command {
        Command::Kernel(k) => {
            let title = functions.get(k.function).title();
            format!("{title}, grid {:?} of {} threads, {} bytes of shared memory", k.grid, k.threads, k.shared)
        }
        Command::Product(_) => "a product by cuBLASLt".into(),
        Command::Upload { bytes, .. } => format!("an upload of {bytes} bytes"),
    }
}
