//! The command line: commands and their arguments, exit codes, and progress on a terminal.
//!
//! A [`Command`] is one node of the tree of commands in [`programs`](crate::programs). [`run`] walks the tree with the
//! arguments of this process. argh parses the options of a command; [`arguments`] brings them into the form that argh
//! takes (`--option=value`, `-h`), and [`help`], [`complete`] and [`man`] write texts from
//! argh's description of them.

pub mod arguments;
pub mod complete;
pub mod help;
pub mod man;
pub mod signals;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use argh::{ArgsInfo, CommandInfoWithArgs, EarlyExit, FromArgs};
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};
use arguments::Request;

/// The name of the program that holds all commands.
pub const FATHOM: &str = "fathom";

/// A program: the arguments of a command, and its body.
pub trait Program: FromArgs + ArgsInfo {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the work it does; a usage error for arguments that do not go together.
    fn run(self) -> Result<()>;
}

/// A command: a program, or a subcommand of one.
pub struct Command {
    /// The word that calls it.
    pub name: &'static str,
    /// Summary in a few words, for lists of commands.
    pub summary: &'static str,
    /// Commands below it.
    pub commands: &'static [Command],
    /// Prints the configuration keys it reads (`--keys`).
    pub keys: Option<fn() -> String>,
    info: fn() -> CommandInfoWithArgs,
    run: Body,
}

/// Parses the arguments of a command, after the words that called it, and runs the command.
type Body = fn(&[&str], &[&str]) -> Result<Result<()>, EarlyExit>;

impl Command {
    /// A command with the arguments `P`.
    pub const fn new<P: Program>(name: &'static str, summary: &'static str) -> Self {
        fn run<P: Program>(names: &[&str], arguments: &[&str]) -> Result<Result<()>, EarlyExit> {
            P::from_args(names, arguments).map(P::run)
        }
        Self { name, summary, commands: &[], keys: None, info: P::get_args_info, run: run::<P> }
    }

    /// Adds `--keys`, which prints `keys()`.
    #[must_use]
    pub const fn with_keys(mut self, keys: fn() -> String) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Adds commands below it.
    #[must_use]
    pub const fn with_commands(mut self, commands: &'static [Command]) -> Self {
        self.commands = commands;
        self
    }

    /// argh's description of its arguments.
    pub fn info(&self) -> CommandInfoWithArgs {
        (self.info)()
    }

    /// The command below it that `name` calls.
    pub fn find(&self, name: &str) -> Option<&'static Command> {
        self.commands.iter().find(|command| command.name == name)
    }
}

/// How the user called this program: `None` outside of [`run`].
static CALLED: OnceLock<&'static str> = OnceLock::new();

/// Runs `root` with the arguments of this process. Gives the exit code: 0 done, 1 failed, 2 wrong arguments, 130
/// stopped by a signal.
pub fn run(root: &'static Command) -> ExitCode {
    let _ = CALLED.set(root.name);
    // The time of a run with a limit counts from here.
    crate::uptime::elapsed();
    let mut rest: Vec<_> = std::env::args_os().skip(1).collect();
    let (mut command, mut names) = (root, vec![itself(root.name)]);
    while let Some(next) = rest.first().and_then(|word| command.find(word.to_str()?)) {
        names.push(next.name.into());
        command = next;
        rest.remove(0);
    }
    let info = command.info();
    match arguments::read(command, &info, &rest) {
        Ok(Request::Help(path)) => {
            for name in &path {
                let Some(next) = command.find(name) else { break };
                command = next;
                names.push(next.name.into());
            }
            shown(print(&help::text(command, &names.join(" "))))
        }
        Ok(Request::Version) => shown(print(&version(root.name))),
        Ok(Request::Keys(text)) => shown(print(&text)),
        Err(problem) => refused(&problem, &names),
        Ok(Request::Run(arguments)) => {
            let (words, arguments) = (borrowed(&names), borrowed(&arguments));
            match (command.run)(&words, &arguments) {
                Err(exit) => refused(&arguments::plain(&exit.output), &names),
                Ok(done) => shown(done),
            }
        }
    }
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn shown(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn refused(problem: &str, names: &[String]) -> ExitCode {
    eprintln!("error: {problem}\nSee {} --help.", names.join(" "));
    ExitCode::from(2)
}

/// The line that `--version` prints.
pub fn version(name: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if name == FATHOM { format!("{FATHOM} {version}") } else { format!("{name} ({FATHOM}) {version}") }
}

/// Command line that calls `fathom`, as the user called it.
pub fn called() -> String {
    itself(FATHOM)
}

/// This program as the user called it.
fn itself(name: &str) -> String {
    if through_cargo() {
        return format!("cargo run --release --bin {name} --");
    }
    std::env::args_os()
        .next()
        .filter(|called| !called.is_empty())
        .map_or(name.into(), |called| quoted(Path::new(&called)))
}

fn through_cargo() -> bool {
    std::env::var_os("CARGO").is_some()
}

/// Command line that calls another program of this package, by the way in which this one was called: as a command of
/// `fathom`, through cargo, or from the folder that holds the programs.
pub fn program(name: &str) -> String {
    if CALLED.get() == Some(&FATHOM) {
        return format!("{} {name}", itself(FATHOM));
    }
    if through_cargo() {
        return format!("cargo run --release --bin {name} --");
    }
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    // A program found on the PATH is named by its file: shells have a builtin `eval`.
    let bare = called.parent().is_none_or(|folder| folder.as_os_str().is_empty());
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let beside = called.with_file_name(&file);
    if !bare && beside.is_file() {
        return quoted(&beside);
    }
    // Through a link or the PATH: beside the program itself.
    quoted(&std::env::current_exe().unwrap_or(called).with_file_name(file))
}

/// Escapes the control characters of `text`, except line ends. A terminal would obey them, and models that are little
/// trained generate them.
pub fn visible(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Quotes a path for a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Writes a result and a line end to stdout. A closed pipe (`| head`) is no failure.
///
/// # Errors
/// Where stdout cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Run(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// A progress bar on stderr, drawn on a terminal only.
pub fn progress_bar(total: u64, unit: &str) -> ProgressBar {
    let template = format!("{{wide_bar}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(visible("a\n\u{1b}[2J\u{7}é"), "a\n\\u{1b}[2J\\u{7}é");
    }

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(quoted(Path::new("runs/a-1.x")), "runs/a-1.x");
        assert_eq!(quoted(Path::new("my runs")), "'my runs'");
        assert_eq!(quoted(Path::new("it's $HOME")), r"'it'\''s $HOME'");
    }
}
