//! Gathers and scatters of rows and columns, and the combination of experts' outputs.

use fathom_core::device::{Call, Combine, GatherColumns, GatherRows, ScatterAddColumns, ScatterAddRows};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_gather_rows(&self, _: GatherRows<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(GatherRows::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_scatter_add_rows(&self, _: ScatterAddRows<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(ScatterAddRows::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_gather_columns(&self, _: GatherColumns<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(GatherColumns::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_scatter_add_columns(&self, _: ScatterAddColumns<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(ScatterAddColumns::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_combine(&self, _: Combine<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Combine::<Buffer>::NAME, "is not there yet"))
    }
}
