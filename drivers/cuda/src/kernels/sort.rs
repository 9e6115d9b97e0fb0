//! The largest of a row, and the stable counting sort of small keys.

use fathom_core::device::{Call, SortByKey, TopK};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_top_k(&self, _: TopK<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(TopK::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_sort_by_key(&self, _: SortByKey<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(SortByKey::<Buffer>::NAME, "is not there yet"))
    }
}
