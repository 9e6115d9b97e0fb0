//! The layers of the model, one file each.
//!
//! Every file has the same shape: the layer's description, made of [`Slot`](crate::weights::Slot)s by `declare`; what
//! its forward pass keeps (`Saved`); `forward`; and the backward pass, in which the input's gradient and the weights'
//! gradients can be called apart, as pipeline schedules want. Parameter gradients add up, the first replacing what lay
//! there ([`accumulator`](crate::weights::Parameters::accumulator)); activation gradients are returned, and the
//! gradient of a residual stream is added to in place.

#[cfg(feature = "alloc")]
pub mod block;
#[cfg(feature = "alloc")]
pub mod embedding;
#[cfg(feature = "alloc")]
pub mod ffn;
#[cfg(feature = "alloc")]
pub(crate) mod finite;
#[cfg(feature = "alloc")]
pub mod head;
#[cfg(feature = "alloc")]
pub mod linear;
#[cfg(feature = "alloc")]
pub mod mla;
#[cfg(feature = "alloc")]
pub mod moe;
#[cfg(feature = "alloc")]
pub mod mtp;
#[cfg(feature = "alloc")]
pub mod operand;
#[cfg(feature = "alloc")]
mod pass;
#[cfg(feature = "alloc")]
pub mod rmsnorm;
#[cfg(feature = "alloc")]
pub mod rope;

#[cfg(feature = "alloc")]
pub use pass::{Pass, Phase, Sequences};
