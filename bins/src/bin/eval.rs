//! The program `eval`: see [`fathom::programs::eval`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fathom::programs::eval::main()
}
