//! The program `generate`: see [`fathom::programs::generate`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fathom::programs::generate::main()
}
