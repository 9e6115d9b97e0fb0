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
//! `drivers/cuda/check.sh` runs them all. Results go to stdout, one line as soon as it is known; exit code 1 where
//! anything failed, 2 for wrong arguments.

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

use argh::FromArgs;
use fathom::cli;

/// Check a device: whether it computes what it should, and how fast.
#[derive(FromArgs)]
#[argh(
    example = "gpu_check suite --device cuda:0",
    example = "gpu_check curve --precision fp8 --device cpu --save fp8.json",
    example = "gpu_check curve --precision fp8 --against fp8.json",
    error_code(0, "all is well"),
    error_code(1, "something failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Suite(suite::Arguments),
    Golden(golden::Arguments),
    Curve(curve::Arguments),
    Bench(bench::Arguments),
    Train(train::Arguments),
}

fn main() -> ExitCode {
    cli::run(|arguments: Arguments| match arguments.command {
        Command::Suite(arguments) => suite::run(&arguments),
        Command::Golden(arguments) => golden::run(&arguments),
        Command::Curve(arguments) => curve::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
    })
}
