//! The program `train`: see [`fathom::programs::train`].

use std::process::ExitCode;

use fathom::{cli, programs};

fn main() -> ExitCode {
    cli::run(&programs::train::COMMAND)
}
