//! Matrix products of F32 and BF16, plain and grouped.

use fathom_core::device::{Call, Gemm, GroupedGemm};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_gemm(&self, _: Gemm<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Gemm::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_grouped_gemm(&self, _: GroupedGemm<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(GroupedGemm::<Buffer>::NAME, "is not there yet"))
    }
}
