//! The program `convert`: see [`fathom::programs::convert`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fathom::programs::convert::main()
}
