//! Matrix products of E4M3 codes with scales, plain and grouped.

use fathom_core::device::{Call, GemmFp8, GroupedGemmFp8};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_gemm_fp8(&self, _: GemmFp8<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(GemmFp8::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_grouped_gemm_fp8(&self, _: GroupedGemmFp8<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(GroupedGemmFp8::<Buffer>::NAME, "is not there yet"))
    }
}
