//! RMS norm and its gradient.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, RmsNorm, RmsNormGrad};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut, typed, unsupported};
use crate::memory::Buffer;
use crate::source::NORM;

const THREADS: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Forward {
    x: Mat,
    weight: Mat,
    y: Mat,
    rstd: Mat,
    eps: f32,
    reserved: u32,
}

impl Cuda {
    pub(super) fn run_rmsnorm(&self, call: RmsNorm<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = RmsNorm::<Buffer>::NAME;
        let args = Forward {
            x: mat(OP, &call.x)?,
            weight: mat(OP, &call.weight)?,
            y: mat_mut(OP, &call.y)?,
            rstd: mat_mut(OP, &call.rstd)?,
            eps: call.eps as f32,
            reserved: 0,
        };
        let name = typed!("rmsnorm", OP, call.x.dtype());
        self.launch(NORM, name, [call.x.rows(), 1, 1], THREADS, 32 * 4, &args)
    }

    pub(super) fn run_rmsnorm_grad(&self, _: RmsNormGrad<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(RmsNormGrad::<Buffer>::NAME, "is not there yet"))
    }
}
