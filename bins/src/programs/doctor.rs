//! `doctor`: reports the machine, as far as it matters to the other programs.

use argh::{ArgsInfo, FromArgs};

use crate::cli::{self, Command, Program};
use crate::doctor::{self, Finding};
use crate::error::{Error, Result};

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("doctor", "report versions, device, memory and libraries");

/// Report this machine: versions, device, instruction set, memory, limits, MPI and NCCL; one line for each. `train
/// --check` also looks whether a run fits it.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name}",
    example = "{command_name} --device cuda --json",
    error_code(0, "nothing is missing"),
    error_code(1, "the device cannot be used, or something else is missing"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// auto, cpu, cuda, cuda:N, or cuda:emulated (default: auto)
    #[argh(option, default = "String::from(\"auto\")", arg_name = "device")]
    device: String,
    /// threads of the CPU device; 0 for all cores (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    threads: usize,
    /// print the findings as JSON
    #[argh(switch)]
    json: bool,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        crate::device::check_name(&self.device)?;
        show(&doctor::machine(&self.device, self.threads, 1, None), self.json)
    }
}

/// Prints findings.
///
/// # Errors
/// Names what does not fit.
pub(super) fn show(findings: &[Finding], json: bool) -> Result<()> {
    cli::print(&if json { format!("{:#}\n", doctor::json(findings)) } else { doctor::text(findings) })?;
    match &doctor::misfits(findings)[..] {
        [] => Ok(()),
        misfits => Err(Error::Run(format!("does not fit: {}", misfits.join(", ")))),
    }
}
