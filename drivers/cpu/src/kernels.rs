//! The kernel traits: each method is the inherent method of the same name in the file of its subject.

use fathom_core::device::{self, Kernels, Primitives};

use crate::Cpu;
use crate::error::CpuError;
use crate::memory::Buffer;

/// Each method of the traits runs the inherent method of the same name.
macro_rules! forward {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl Primitives for Cpu {
            $(
                fn $p(&self, call: device::$P<'_, Buffer>) -> Result<(), CpuError> {
                    Self::$p(self, call)
                }
            )*
        }

        impl Kernels for Cpu {
            $(
                fn $f(&self, call: device::$F<'_, Buffer>) -> Result<(), CpuError> {
                    Self::$f(self, call)
                }
            )*
        }
    };
}
fathom_core::for_each_kernel!(forward);
