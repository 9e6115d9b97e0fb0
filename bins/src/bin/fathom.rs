//! The program `fathom`, which holds every other program as a command.

use std::process::ExitCode;

use fathom::{cli, programs};

fn main() -> ExitCode {
    cli::run(&programs::ALL)
}
