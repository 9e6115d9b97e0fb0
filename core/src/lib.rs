#![no_std]
#![forbid(unsafe_code)]
//! DeepSeek-style language models: configuration, tensors, layers and the training step over an abstract device.

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod config;
pub mod rng;
/// The training step and what steers it.
pub mod train {
    pub mod schedule;
}
