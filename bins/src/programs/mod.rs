//! The command-line programs: the arguments and the body of each.
//!
//! Each is a program (`train`) and a command of the program `fathom` (`fathom train`). [`ALL`] is the tree.

pub mod compare;
pub mod convert;
pub mod doctor;
pub mod eval;
pub mod generate;
#[cfg(feature = "serve")]
pub mod health;
pub mod prep;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shell;
pub mod train;
pub mod welcome;

use crate::cli::{Command, FATHOM};
use crate::error::{Error, Result};
use crate::hf::Weights;
use fathom_core::cache::CacheFormat;

/// The program `fathom` with every command.
pub static ALL: Command = Command::new::<welcome::Arguments>(FATHOM, "train and run DeepSeek-V3-style language models")
    .with_commands(&[
        prep::COMMAND,
        train::COMMAND,
        eval::COMMAND,
        generate::COMMAND,
        #[cfg(feature = "serve")]
        serve::COMMAND,
        #[cfg(feature = "serve")]
        health::COMMAND,
        convert::COMMAND,
        compare::COMMAND,
        doctor::COMMAND,
        shell::COMPLETIONS,
        shell::MAN,
    ]);

/// What `--weights` names.
fn weights(name: &str) -> Result<Weights> {
    let wrong = || Error::Usage(format!("--weights {name}: must be one of {}", Weights::NAMES.join(", ")));
    Weights::parse(name).ok_or_else(wrong)
}

/// What `--cache` names.
fn cache_format(text: &str) -> Result<CacheFormat, String> {
    CacheFormat::parse(text).ok_or_else(|| format!("{text}: must be f32, bf16 or fp8"))
}
