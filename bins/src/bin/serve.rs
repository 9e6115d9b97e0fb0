//! The program `serve`: see [`fathom::programs::serve`].

use std::process::ExitCode;

use fathom::{cli, programs};

fn main() -> ExitCode {
    cli::run(&programs::serve::COMMAND)
}
