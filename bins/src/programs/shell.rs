//! `completions` and `man`: what a shell and a manual reader install of the program `fathom`.

use argh::{ArgsInfo, FromArgs};

use crate::cli::complete::{self, Shell};
use crate::cli::{self, Command, Program, man};
use crate::error::{Error, Result};

/// The command `completions`.
pub const COMPLETIONS: Command = Command::new::<Completions>("completions", "print a completion script for a shell");
/// The command `man`.
pub const MAN: Command = Command::new::<Man>("man", "print the man page");

/// The commands of `fathom` that are single programs too.
const SINGLE: [&str; 6] = ["prep", "train", "eval", "generate", "serve", "convert"];
/// Variables that the programs read.
const ENVIRONMENT: &[(&str, &str)] = &[
    (crate::quickstart::STEPS, "number of steps of `train` without arguments"),
    ("FATHOM_API_KEY", "key that clients of `serve` must send, where --api-key is not given"),
    ("FATHOM_MAX_CPU_ISA", "newest instruction set that the CPU device uses: portable, avx2, avx512, avx512_bf16, amx"),
    ("RAYON_NUM_THREADS", "number of threads where no option or key sets it"),
];

/// Print a completion script for a shell.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "source <({command_name} bash)",
    example = "{command_name} bash > ~/.local/share/bash-completion/completions/fathom",
    example = "{command_name} zsh > ~/.zfunc/_fathom",
    example = "source <({command_name} bash --program train)",
    example = "{command_name} fish > ~/.config/fish/completions/fathom.fish",
    note = "zsh finds the script if ~/.zfunc is in $fpath before compinit runs.",
    error_code(0, "done"),
    error_code(2, "wrong arguments")
)]
struct Completions {
    /// the shell
    #[argh(positional, arg_name = "bash|zsh|fish")]
    shell: Shell,
    /// the program to complete (default: fathom)
    #[argh(
        option,
        arg_name = "fathom|prep|train|eval|generate|serve|convert",
        default = "String::from(super::ALL.name)"
    )]
    program: String,
}

/// Print the man page of fathom and all of its commands.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} > ~/.local/share/man/man1/fathom.1",
    error_code(0, "done"),
    error_code(2, "wrong arguments")
)]
struct Man {}

impl Program for Completions {
    fn run(self) -> Result<()> {
        let mut by = format!("{} {}", super::ALL.name, COMPLETIONS.name);
        let program = match self.program.as_str() {
            name if name == super::ALL.name => &super::ALL,
            name => {
                by += &format!(" --program {name}");
                let single = super::ALL.commands.iter().find(|command| command.name == name && SINGLE.contains(&name));
                let names = SINGLE.join(", ");
                single.ok_or_else(|| Error::Usage(format!("--program {name}: must be fathom or one of {names}")))?
            }
        };
        cli::print(&complete::script(program, self.shell, &by))
    }
}

impl Program for Man {
    fn run(self) -> Result<()> {
        cli::print(&man::page(&super::ALL, ENVIRONMENT))
    }
}
