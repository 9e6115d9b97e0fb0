//! `compare`: shows training runs side by side.

use std::io::IsTerminal;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use crate::cli::{self, Command, Program};
use crate::error::{Error, Result};
use crate::report::compare::Comparison;
use crate::report::curve::When;

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("compare", "compare training runs: losses, speed, settings");

/// Compare training runs: losses at the end and at equal tokens, tokens per second, and the settings that differ. For a
/// single run: its figures and its loss curve.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} runs/a runs/b",
    example = "{command_name} runs/a runs/b --output compare.html",
    error_code(0, "done"),
    error_code(1, "a run cannot be read, or the page not written"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// output folders of training runs; a run may still be under way
    #[argh(positional, arg_name = "run")]
    runs: Vec<PathBuf>,
    /// HTML page to write, with the curves of all runs in one chart
    #[argh(option, arg_name = "file")]
    output: Option<PathBuf>,
    /// draw the loss curve of a single run: auto is on a terminal only (default: auto)
    #[argh(option, default = "When::Auto", arg_name = "auto|always|never")]
    curve: When,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        let comparison = Comparison::read(&self.runs)?;
        let curve = match comparison.runs() {
            [one] => self.curve.draw(&one.history, std::io::stdout().is_terminal()),
            _ => String::new(),
        };
        cli::print(&format!("{}{curve}", comparison.text()))?;
        if let Some(path) = &self.output {
            std::fs::write(path, comparison.html()).map_err(Error::io("write", path))?;
            eprintln!("curves: {}", path.display());
        }
        Ok(())
    }
}
