//! The program `prep`: see [`fathom::programs::prep`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fathom::programs::prep::main()
}
