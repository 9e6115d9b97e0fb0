//! Causal attention over decompressed latent keys and values.

use fathom_core::device::{Attention, Call};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_attention(&self, _: Attention<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Attention::<Buffer>::NAME, "is not there yet"))
    }
}
