//! `fathom` without a command: where to start.

use argh::{ArgsInfo, FromArgs};

use crate::cli::{self, Program, help, program};
use crate::error::Result;

/// Train and run DeepSeek-V3-style language models: from raw text to tokens, a trained model, its measure, and its
/// text.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    example = "{command_name} train",
    example = "{command_name} prep notes/",
    example = "{command_name} train data/notes",
    note = "`{command_name} help COMMAND` explains a command. prep, train, eval, generate, serve and \
            convert are separate programs too.",
    help_triggers("--help"),
    error_code(0, "done"),
    error_code(1, "the work failed"),
    error_code(2, "wrong arguments or settings")
)]
pub(super) struct Arguments {}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        cli::print(&text())
    }
}

/// Five commands for a start.
fn text() -> String {
    let commands = [
        (program("train"), "train a small model on tiny Shakespeare (one minute)"),
        (format!("{} --checkpoint runs/quickstart --prompt ROMEO:", program("generate")), "let it write"),
        (format!("{} notes/", program("prep")), "turn a folder of text into tokens: data/notes"),
        (format!("{} data/notes --output runs/notes", program("train")), "train on them"),
        (format!("{} --checkpoint runs/notes --data data/notes", program("eval")), "measure the model"),
    ];
    let lines: String = commands.iter().map(|(command, about)| format!("  {command}\n      {about}\n")).collect();
    format!(
        "{}\n\n{}\n\nFor a start:\n{lines}\n`{}` lists every command.",
        cli::version(cli::FATHOM),
        help::wrapped("DeepSeek-V3-style language models, from raw text to a model that writes.", 0),
        format_args!("{} --help", cli::called()),
    )
}
