//! A list of commands as a CUDA graph, whose kernels' arguments can be brought up to date.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys as cu;

use super::commands::{Commands, Kernel};
use super::driver::{Executable, Graph};
use super::functions::Functions;
use crate::error::CudaError;

/// A list of commands as a graph.
pub(super) struct Replay {
    pub(super) executable: Executable,
    /// Owns the nodes.
    pub(super) _graph: Graph,
    /// One for each command; null for those that are not kernels.
    pub(super) nodes: Vec<cu::CUgraphNode>,
    /// The commands as they are in the graph.
    pub(super) commands: Commands,
}

impl Replay {
    /// Brings the kernels' arguments up to date with a list of the same shape; how many changed.
    pub(super) fn update(&mut self, commands: &Commands, functions: &Functions) -> Result<u64, CudaError> {
        let mut changed = 0;
        for (i, kernel) in commands.changed(&self.commands) {
            let mut argument = commands.argument(kernel).as_ptr().cast_mut().cast::<c_void>();
            let Kernel { grid: [x, y, z], threads, shared, .. } = *kernel;
            let params = cu::CUDA_KERNEL_NODE_PARAMS {
                func: functions.get(kernel.function).raw(),
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: shared,
                kernelParams: &raw mut argument,
                extra: ptr::null_mut(),
                kern: ptr::null_mut(),
                ctx: ptr::null_mut(),
            };
            // SAFETY: the node is of the graph kept beside, and of a kernel, as the shapes are the same; the argument
            // is that kernel's, which the driver copies before it returns.
            unsafe { self.executable.set(self.nodes[i], &params) }?;
            changed += 1;
        }
        if changed > 0 {
            self.commands.adopt(commands);
        }
        Ok(changed)
    }
}
