//! Rotary position embedding with interleaved pairs.

use fathom_core::device::{Call, Rope};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_rope(&self, _: Rope<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Rope::<Buffer>::NAME, "is not there yet"))
    }
}
