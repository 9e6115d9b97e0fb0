#![no_std]
#![forbid(unsafe_code)]
//! DeepSeek-style language models over an abstract device: all of the mathematics, no hardware, no input or output.
//!
//! From the bottom up:
//!
//! - [`dtype`], [`math`], [`rng`]: element types; the one exponential whose bits every device agrees on; random numbers
//!   that are a function of a seed, a name and a place.
//! - [`sampling`]: from logits to a token, by whole numbers, so that every device chooses the same one.
//! - [`tensor`]: buffers with a shape, and matrix views that cannot leave their buffer.
//! - [`fp8`]: eight-bit codes, the tiles that share a scale, and the recipe of mixed precision.
//! - [`device`]: the ladder. A device has memory and order; *primitives* are the fourteen kernels that a driver must
//!   write; *fused* kernels have default bodies in primitives, for a driver to override. A kernel is handed a call that
//!   was checked when it was made. [`device::Host`] is the scalar reference, [`device::Dry`] only counts,
//!   [`device::Trace`] and [`device::Fault`] wrap another device.
//! - [`cache`]: what decoding keeps of past tokens, in pages that sequences share.
//! - [`layer`]: latent attention, experts, router, norms, embedding, head and the MTP modules, one file each, with
//!   an explicit backward pass.
//! - [`model`]: which layers a [configuration](config::ModelConfig) asks for, where every parameter lies under its
//!   published name, and the passes through all of them.
//! - [`train`]: a step of the recipe of the V3 report, its schedules by tokens, its collectives ([`comm`]), and plans
//!   of what a run will cost.
//!
//! ```
//! use fathom_core::comm::Solo;
//! use fathom_core::config::ModelConfig;
//! use fathom_core::device::Host;
//! use fathom_core::precision::Precision;
//! use fathom_core::model::{Batch, Model};
//! use fathom_core::train::{Hyperparameters, Trainer, schedule::Rates};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ModelConfig { vocab_size: 32, hidden_size: 16, n_routed_experts: 8, ..ModelConfig::tiny() };
//! config.validate()?;
//! let mut model = Model::new(&Host::new(), &config, Precision::F32)?;
//! model.initialize(42)?;
//!
//! let tokens: Vec<u32> = (0..9).map(|i| i % 3).collect(); // one sequence: 8 inputs, each with the next as target
//! let batch = Batch::new(&tokens, 8, None, 32)?;
//! let mut trainer = Trainer::new(model, Solo, Hyperparameters::default())?;
//! let rates = Rates { lr: 3e-3, batch_size: 1, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
//! let first = trainer.step(&batch, 1, &rates)?;
//! let second = trainer.step(&batch, 1, &rates)?;
//! assert!(second.loss < first.loss);
//! # Ok(())
//! # }
//! ```
//!
//! Features: `alloc` (default) for everything over a device; without it, configuration, router rule, schedules, random
//! numbers and mathematics remain. `serde` reads and writes `config.json`. `std` is never needed.

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "alloc")]
pub mod cache;
#[cfg(feature = "alloc")]
pub mod comm;
pub mod config;
#[cfg(feature = "alloc")]
pub mod device;
pub mod dtype;
pub mod error;
pub mod fp8;
pub mod layer;
pub mod math;
#[cfg(feature = "alloc")]
pub mod model;
pub mod precision;
#[cfg(feature = "alloc")]
pub mod quantized;
pub mod rng;
pub mod routing;
#[cfg(feature = "alloc")]
pub mod sampling;
#[cfg(feature = "alloc")]
pub mod tensor;
pub mod train;
#[cfg(feature = "alloc")]
pub mod weights;

pub use dtype::DType;
