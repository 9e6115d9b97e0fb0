//! The program `generate`: see [`fathom::programs::generate`].

use std::process::ExitCode;

use fathom::{cli, programs};

fn main() -> ExitCode {
    cli::run(&programs::generate::COMMAND)
}
