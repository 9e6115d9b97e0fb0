//! The program `convert`: see [`fathom::programs::convert`].

use std::process::ExitCode;

use fathom::{cli, programs};

fn main() -> ExitCode {
    cli::run(&programs::convert::COMMAND)
}
