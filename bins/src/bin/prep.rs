//! The program `prep`: see [`fathom::programs::prep`].

use std::process::ExitCode;

use fathom::{cli, programs};

fn main() -> ExitCode {
    cli::run(&programs::prep::COMMAND)
}
