//! A list of commands as a CUDA graph with kernel arguments that can be updated.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys as cu;

use super::commands::{Commands, Kernel};
use super::driver::{Executable, Graph};
use super::functions::Functions;
use crate::error::CudaError;

/// A captured list of commands.
pub(super) struct Replay {
    pub(super) executable: Executable,
    /// The graph, which owns the nodes.
    pub(super) _graph: Graph,
    /// A node per command; null for commands that are not kernels.
    pub(super) nodes: Vec<cu::CUgraphNode>,
    /// The commands with the arguments that the graph has.
    pub(super) commands: Commands,
}

impl Replay {
    /// Updates the kernels' arguments to those of a list of the same shape; returns the number of changed kernels.
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
