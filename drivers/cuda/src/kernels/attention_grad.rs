//! The gradient of attention.

use fathom_core::device::{AttentionGrad, Call};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_attention_grad(&self, _: AttentionGrad<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(AttentionGrad::<Buffer>::NAME, "is not there yet"))
    }
}
