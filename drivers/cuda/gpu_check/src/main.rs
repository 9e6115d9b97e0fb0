//! Checks a device against the reference, transformers and the CPU, and times its kernels; one file to carry to a GPU.
//!
//! ```text
//! gpu_check suite                        # every kernel against the reference device
//! gpu_check golden                       # small models against transformers, codes against PyTorch
//! gpu_check curve --precision bf16       # a training run's losses against the CPU's
//! gpu_check bench                        # every kernel at the shapes of training, against its floor
//! gpu_check train                        # tokens per second of a 1 B-parameter model
//! ```
//!
//! `drivers/cuda/check.sh` runs them all. Results go to stdout, a line as soon as it is known; the exit code is 1 if a
//! check failed and 2 for wrong arguments.

/// Prints a line of the result. A reader that closes the pipe early (`| head`) is no failure.
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

/// The program and its commands.
static GPU_CHECK: Command = Command::new::<Arguments>("gpu_check", "check a device").with_commands(&[
    suite::COMMAND,
    golden::COMMAND,
    curve::COMMAND,
    bench::COMMAND,
    train::COMMAND,
]);

/// Check a device: correctness against the reference, transformers and the CPU, and the speed of its kernels.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} suite --device cuda:0",
    example = "{command_name} curve --precision fp8 --device cpu --save fp8.json",
    example = "{command_name} curve --precision fp8 --against fp8.json",
    error_code(0, "all is well"),
    error_code(1, "a check failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        let names: Vec<&str> = GPU_CHECK.commands.iter().map(|command| command.name).collect();
        Err(Error::Usage(format!("no command; choose one of {}", names.join(", "))))
    }
}

fn main() -> ExitCode {
    cli::run(&GPU_CHECK)
}
