//! Checks a device, in minutes and from one file that can be carried to the machine which has it.
//!
//! ```text
//! gpu_check suite                        # every kernel against the reference device
//! gpu_check golden                       # small models against transformers, codes against PyTorch
//! gpu_check curve --precision bf16       # a training run's losses against the CPU's
//! gpu_check bench                        # every kernel at the shapes of training, against its floor
//! gpu_check train                        # tokens a second of a 1 B-parameter model
//! ```
//!
//! `drivers/cuda/check.sh` runs them all. Results go to stdout, one line as soon as it is known; exit code 1 where anything
//! failed, 2 for wrong arguments.

/// Writes a line of the result. Whoever reads may have had enough (`| head`): that is no failure.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($text)*);
    }};
}

mod bench;
mod curve;
mod golden;
mod products;
mod suite;
mod timer;
mod train;

use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use fathom::cli::{self, Command, Program};
use fathom::error::{Error, Result};

/// Check a device: whether it computes correctly, and how fast.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} suite --device cuda:0",
    example = "{command_name} curve --precision fp8 --device cpu --save fp8.json",
    example = "{command_name} curve --precision fp8 --against fp8.json",
    error_code(0, "every check passed"),
    error_code(1, "a check failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {}

static PROGRAM: Command = Command::new::<Arguments>("gpu_check", "check a device").with_commands(&[
    Command::new::<suite::Arguments>("suite", "every kernel against the reference device"),
    Command::new::<golden::Arguments>("golden", "small models against transformers, codes against PyTorch"),
    Command::new::<curve::Arguments>("curve", "the losses of a training run against the CPU's"),
    Command::new::<bench::Arguments>("bench", "every kernel at the shapes of training, against its floor"),
    Command::new::<train::Arguments>("train", "tokens per second of a 1 B-parameter model"),
]);

impl Program for Arguments {
    fn run(self) -> Result<()> {
        Err(Error::Usage("name a check: suite, golden, curve, bench or train".into()))
    }
}

macro_rules! programs {
    ($($name:ident),*) => {
        $(impl Program for $name::Arguments {
            fn run(self) -> Result<()> {
                $name::run(&self)
            }
        })*
    };
}

programs!(suite, golden, curve, bench, train);

fn main() -> ExitCode {
    cli::run(&PROGRAM)
}
