//! What every program does alike: arguments, exit codes, progress on a terminal.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use argh::FromArgs;
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

/// Parses the arguments, runs `body`, prints its error, and gives the exit code: 0 done, 1 failed, 2 usage.
pub fn run<A: FromArgs>(body: impl FnOnce(A) -> Result<()>) -> ExitCode {
    let (name, rest) = arguments();
    run_with(&[&name], &rest, body)
}

/// The program's name and its arguments.
pub fn arguments() -> (String, Vec<String>) {
    let mut arguments = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let path = arguments.next().unwrap_or_default();
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("fathom");
    (name.to_owned(), arguments.collect())
}

/// As [`run`], for the command that `names` spell (`prep inspect`) with arguments of its own.
pub fn run_with<A: FromArgs>(names: &[&str], rest: &[String], body: impl FnOnce(A) -> Result<()>) -> ExitCode {
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    match A::from_args(names, &rest) {
        Err(exit) if exit.status.is_ok() => {
            println!("{}", exit.output.trim_end());
            ExitCode::SUCCESS
        }
        Err(exit) => {
            eprintln!("{}\nSee {} --help.", exit.output.trim_end(), names.join(" "));
            ExitCode::from(2)
        }
        Ok(parsed) => match body(parsed) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(error.exit_code())
            }
        },
    }
}

/// How the user calls another program of this package, as far as can be told from how this one was called: through cargo,
/// or from the folder in which they lie.
pub fn program(name: &str) -> String {
    if std::env::var_os("CARGO").is_some() {
        return format!("cargo run --release --bin {name} --");
    }
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    // A program found on the PATH is named by its file: a shell has an `eval` of its own.
    let bare = called.parent().is_none_or(|folder| folder.as_os_str().is_empty());
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let beside = called.with_file_name(&file);
    if !bare && beside.is_file() {
        return quoted(&beside);
    }
    // Through a link or the PATH: beside the program itself.
    quoted(&std::env::current_exe().unwrap_or(called).with_file_name(file))
}

/// `text` with its control characters, line ends aside, shown as escapes: a terminal would obey them, and a model that has
/// not learnt much writes them.
pub fn visible(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Writes a result and a line's end to stdout. Whoever reads may have had enough (`| head`): that is no failure.
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

/// A bar on stderr, drawn on a terminal only.
pub fn progress_bar(total: u64, unit: &str) -> ProgressBar {
    let template = format!("{{wide_bar}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

/// A flag that the first Ctrl-C (or SIGTERM) raises, so that work can be finished and saved. The second ends the program
/// at once, with exit code 130.
///
/// # Errors
/// Where the system does not let signals be handled.
pub fn interrupts() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing the step and saving; once more to leave at once");
    })
    .map_err(|e| Error::Run(format!("cannot handle Ctrl-C: {e}")))?;
    Ok(flag)
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
