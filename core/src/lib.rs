#![no_std]
#![forbid(unsafe_code)]
//! DeepSeek-style language models over an abstract device.

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "alloc")]
pub mod comm;
pub mod config;
#[cfg(feature = "alloc")]
pub mod device;
pub mod dtype;
pub mod error;
pub mod layer;
pub mod math;
#[cfg(feature = "alloc")]
pub mod model;
pub mod rng;
#[cfg(feature = "alloc")]
pub mod tensor;
pub mod train;

pub use dtype::DType;
