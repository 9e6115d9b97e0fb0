//! The gated product of a feed-forward network and its gradient.

use fathom_core::device::{Call, Swiglu, SwigluGrad};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_swiglu(&self, _: Swiglu<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Swiglu::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_swiglu_grad(&self, _: SwigluGrad<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(SwigluGrad::<Buffer>::NAME, "is not there yet"))
    }
}
