//! The trait of the fused kernels, which a driver may override.

use super::primitives::Primitives;
use super::{call, default};

/// The method of a fused kernel. Those that round what another kernel computes hand their default body the device's
/// own, so that the bits are those of both one after the other.
macro_rules! method {
    (swiglu_quantize $Call:ident) => {
        method!(swiglu_quantize $Call, |device, call| {
            default::swiglu_quantize(device, call, |call| device.swiglu(call), |call| device.quantize_both(call))
        });
    };
    (rmsnorm_quantize $Call:ident) => {
        method!(rmsnorm_quantize $Call, |device, call| {
            default::rmsnorm_quantize(device, call, |call| device.rmsnorm(call), |call| device.quantize_both(call))
        });
    };
    (gather_codes $Call:ident) => {
        method!(gather_codes $Call, |device, call| {
            default::gather_codes(device, call, |call| device.requantize(call))
        });
    };
    ($name:ident $Call:ident) => {
        method!($name $Call, |device, call| default::$name(device, call));
    };
    ($name:ident $Call:ident, |$device:ident, $call:ident| $body:expr) => {
        #[doc = concat!("Runs a [`", stringify!($Call), "`](call::", stringify!($Call), ").")]
        fn $name(&self, call: call::$Call<'_, Self::Buffer>) -> Result<(), Self::Error> {
            let ($device, $call) = (self, call);
            $body
        }
    };
}

macro_rules! declare {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        /// The fused kernels. Every one has a default body written in primitives; a driver overrides what is slow.
        pub trait Kernels: Primitives {
            $(method!($f $F);)*
        }
    };
}
crate::for_each_kernel!(declare);
