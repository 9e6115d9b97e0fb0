//! Sums and maxima of rows, sums of columns.

use fathom_core::device::{Call, ReduceRows, SumColumns};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_reduce_rows(&self, _: ReduceRows<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(ReduceRows::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_sum_columns(&self, _: SumColumns<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(SumColumns::<Buffer>::NAME, "is not there yet"))
    }
}
