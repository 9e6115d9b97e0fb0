//! The program `eval`: see [`fathom::programs::eval`].

use std::process::ExitCode;

use fathom::{cli, programs};

fn main() -> ExitCode {
    cli::run(&programs::eval::COMMAND)
}
