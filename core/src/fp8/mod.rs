//! FP8 formats: codes, scales per tile, and the sums of Hopper's tensor cores.
//!
//! A matrix in FP8 is a matrix of codes and a smaller one of scales; an element is `code · scale`. Activations and
//! gradients share a scale by 1×128 tiles along the inner dimension of their product, weights by 128×128 blocks
//! (V3 report §3.3.2). Which product of a model runs in what is [`recipe`]'s.
//!
//! Everything here works on slices, needs no allocator, and is the definition that every device matches bit for bit.

pub mod accumulate;
mod codes;
pub mod recipe;
mod scale;
pub mod ue8m0;
mod weight;

pub use codes::{Code, E4M3, E5M2, E5M6, NonFinite, pack_pair, unpack_pair};
pub use recipe::Recipe;
pub use scale::{TILE, quantize, scale_of};
pub use weight::{Blocks, NotANumber, block_scale};
