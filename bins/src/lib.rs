//! DeepSeek-V3-style language models: prepare text, train, evaluate, generate and convert, as programs and as a
//! library.
//!
//! The example loads a checkpoint, a Hugging Face model folder or the folder of a run, and continues a text:
//!
//! ```no_run
//! use fathom::infer::Sampling;
//! use fathom::session::Session;
//!
//! # fn main() -> fathom::error::Result<()> {
//! let device = fathom_cpu::Cpu::new();
//! let session = Session::load(&device, "runs/quickstart".as_ref())?;
//! let text = session.generate("ROMEO:", &Sampling::default(), |_| true)?.text;
//! # Ok(())
//! # }
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`session`] | a trained model in memory; start here to use a model from another program |
//! | [`codec`] | a model's text as tokens |
//! | [`infer`] | the engine that generates: requests, samplers, chat templates, speculative decoding |
//! | `serve` | the server with OpenAI's protocol (feature `serve`) |
//! | [`evaluate`] | losses and scores of texts |
//! | [`tasks`] | benchmark tasks, with the numbers of lm-evaluation-harness |
//! | [`run`] | a training run with its data, [metrics](run::metrics) and [settings](run::resolved) on disk |
//! | [`checkpoint`] | training checkpoints: atomic commit, search, verification, resuming |
//! | [`hf`], [`mod@convert`] | Hugging Face model folders, and their conversion between f32, BF16 and FP8 |
//! | [`settings`] | TOML files and `--set key=value`, with [every key](settings::keys::KEYS) in one table |
//! | [`mod@plan`] | parameters, memory and work of a run, before it is run |
//! | [`prepare`] | data preparation with progress, over `fathom-dataprep` |
//! | [`report`] | curves, pages and TensorBoard events of a run |
//! | [`doctor`] | what a machine and a configuration lack for a run, before it is run |
//! | [`device`] | from the name in `--device` to a CPU or a GPU |
//! | [`programs`], [`cli`], [`quickstart`] | the programs themselves, and what they share |
//!
//! Everything that computes is generic over the device ([`Kernels`](fathom_core::device::Kernels)); the model and its
//! training step are in [`fathom_core`], which needs no `std`.
#![forbid(unsafe_code)]

#[macro_use]
mod stderr;

pub mod checkpoint;
pub mod cli;
pub mod codec;
pub mod convert;
pub mod counter;
pub mod device;
pub mod doctor;
pub mod error;
pub mod evaluate;
pub mod hf;
pub mod infer;
pub mod launch;
pub mod plan;
pub mod prepare;
pub mod programs;
pub mod quickstart;
pub mod report;
pub mod run;
pub mod scored;
#[cfg(feature = "serve")]
pub mod serve;
pub mod session;
pub mod settings;
pub mod tasks;
mod units;
mod uptime;
