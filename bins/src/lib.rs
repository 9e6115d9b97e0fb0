//! The `std` runtime: everything between the core and a user, to embed or to run.
//!
//! - [`session`]: a trained model in memory, with [`generate`] and [`evaluate`]. Start here to embed a model.
//! - [`run`]: a training run with its data, checkpoints ([`checkpoint`]), record ([`run::metrics`]) and display
//!   ([`run::progress`]); [`plan`] says what it will cost; [`quickstart`] is the whole way in one call, on text that
//!   the program carries.
//! - [`hf`]: Hugging Face model folders; [`convert`]: such a folder from one format into another.
//! - [`settings`]: TOML and `--set`, the same keys for every program; [`run::resolved`] keeps what a run used.
//! - [`device`]: from `--device` to a CPU or a GPU. [`cli`]: what else the programs share.
//! - [`programs`]: the programs themselves.
//!
//! ```no_run
//! use fathom::generate::Sampling;
//! use fathom::session::Session;
//!
//! # fn main() -> fathom::error::Result<()> {
//! let device = fathom_cpu::Cpu::new();
//! let session = Session::load(&device, "runs/quickstart".as_ref())?;
//! let text = session.generate("ROMEO:", &Sampling::default(), |_| true)?.text;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod cli;
pub mod convert;
pub mod counter;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod generate;
pub mod hf;
pub mod plan;
pub mod prepare;
pub mod programs;
pub mod quickstart;
pub mod report;
pub mod run;
pub mod session;
pub mod settings;
