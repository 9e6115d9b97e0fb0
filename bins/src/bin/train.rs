//! The program `train`: see [`fathom::programs::train`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fathom::programs::train::main()
}
