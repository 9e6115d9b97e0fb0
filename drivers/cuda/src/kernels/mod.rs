//! Kernels by subject: each method of the core's kernel traits is an inherent method of `Cuda` in one of these files.

/// For each `name: Call`: the method of that name, which runs the core's default body.
macro_rules! in_primitives {
    ($($name:ident: $Call:ident,)*) => {
        impl $crate::Cuda {
            $(
                pub(crate) fn $name(
                    &self,
                    call: fathom_core::device::$Call<'_, $crate::memory::Buffer>,
                ) -> Result<(), $crate::error::CudaError> {
                    fathom_core::device::default::$name(self, call)
                }
            )*
        }
    };
}

mod attention;
mod attention_grad;
mod decode;
mod elementwise;
mod gemm;
mod gemm_fp8;
mod gemv;
mod index;
mod latent_attention;
mod loss;
mod norm;
mod optimizer;
mod quantize;
mod reduce;
mod rope;
mod router;
mod sample;
mod scores;
mod sort;
mod swiglu;

use fathom_core::device::{self, Kernels, Primitives};

use crate::Cuda;
use crate::error::CudaError;
use crate::memory::Buffer;
use crate::report::site;

/// Implements the traits: each method calls the inherent method of the same name.
macro_rules! forward {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl Primitives for Cuda {
            $(
                fn $p(&self, call: device::$P<'_, Buffer>) -> Result<(), CudaError> {
                    Self::$p(self, call)
                }
            )*
        }

        impl Kernels for Cuda {
            $(
                fn $f(&self, call: device::$F<'_, Buffer>) -> Result<(), CudaError> {
                    Self::$f(self, call)
                }
            )*
        }
    };
}
fathom_core::for_each_kernel!(forward);
