//! Fills, conversions, maps of one and two operands, window masks and random numbers.

use fathom_core::device::{Binary, Call, Cast, Fill, MaskWindow, RandomNormal, Unary};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_fill(&self, _: Fill<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Fill::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_cast(&self, _: Cast<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Cast::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_unary(&self, _: Unary<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Unary::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_binary(&self, _: Binary<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Binary::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_mask_window(&self, _: MaskWindow<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(MaskWindow::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_random_normal(&self, _: RandomNormal<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(RandomNormal::<Buffer>::NAME, "is not there yet"))
    }
}
