//! Codes with scales: encoding, decoding, and encoding anew.

use fathom_core::device::{Call, Dequantize, Quantize, Requantize};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::unsupported;
use crate::memory::Buffer;

impl Cuda {
    pub(super) fn run_quantize(&self, _: Quantize<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Quantize::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_dequantize(&self, _: Dequantize<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Dequantize::<Buffer>::NAME, "is not there yet"))
    }

    pub(super) fn run_requantize(&self, _: Requantize<'_, Buffer>) -> Result<(), CudaError> {
        Err(unsupported(Requantize::<Buffer>::NAME, "is not there yet"))
    }
}
