//! The trait of the fused kernels, which a driver may override.

use super::primitives::Primitives;
use super::{call, default};

macro_rules! declare {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        /// The fused kernels. Every one has a default body written in primitives; a driver overrides what is slow.
        pub trait Kernels: Primitives {
            $(
                #[doc = concat!("Runs a [`", stringify!($F), "`](call::", stringify!($F), ").")]
                fn $f(&self, call: call::$F<'_, Self::Buffer>) -> Result<(), Self::Error> {
                    default::$f(self, call)
                }
            )*
        }
    };
}
crate::for_each_kernel!(declare);
