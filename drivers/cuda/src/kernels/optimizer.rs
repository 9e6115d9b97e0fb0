//! AdamW, and the bias update that balances experts.

use fathom_core::device::{AdamW, Call, UpdateBias};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_adamw(&self, _: AdamW<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(AdamW::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_update_bias(&self, _: UpdateBias<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(UpdateBias::<Buffer>::NAME, "is not there yet"))
    }
}
