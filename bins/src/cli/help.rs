//! The text that `--help` prints, from argh's description of a command.

use std::fmt::Write;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, PositionalInfo};

use super::Command;
use super::arguments::{HELP, KEYS, VERSION};

/// Columns of a line.
const WIDTH: usize = 80;
/// Columns in front of an explanation.
const INDENT: usize = 26;

/// Help text of `command`, which the user calls `name`.
pub fn text(command: &Command, name: &str) -> String {
    let info = command.info();
    let mut out = wrapped(&sentence(info.description, name), 0);
    out += "\n\n";
    out += &usage(command, &info, name);
    if !command.commands.is_empty() {
        out += "\nCommands:\n";
        let rows = command.commands.iter().map(|below| (below.name.to_owned(), below.summary.to_owned()));
        rows.for_each(|(name, about)| row(&mut out, &name, &about));
    }
    if !info.positionals.is_empty() {
        out += "\nArguments:\n";
        for argument in info.positionals {
            row(&mut out, &shouted(argument.name), &sentence(argument.description, name));
        }
    }
    out += "\nOptions:\n";
    for (option, about) in options(command, &info) {
        row(&mut out, &option, &sentence(&about, name));
    }
    section(&mut out, "Examples", info.examples, |example| format!("  {}\n", sentence(example, name)));
    section(&mut out, "Notes", info.notes, |note| format!("  {}\n", wrapped(&sentence(note, name), 2)));
    section(&mut out, "Exit codes", info.error_codes, |code| format!("  {}  {}\n", code.code, code.description));
    out
}

/// Options of a command, with values and descriptions, in the order of the help text.
pub fn options(command: &Command, info: &CommandInfoWithArgs) -> Vec<(String, String)> {
    let own = info.flags.iter().filter(|flag| flag.long != HELP[1] && !flag.hidden);
    let mut rows: Vec<_> = own.map(|flag| (written(flag), flag.description.to_owned())).collect();
    if command.keys.is_some() {
        rows.push((KEYS.into(), "list every configuration key with its default, and exit".into()));
    }
    rows.push((HELP.join(", "), "print this text, and exit".into()));
    rows.push((VERSION.join(", "), "print the version, and exit".into()));
    rows
}

/// An option as it is written: `--output FOLDER`.
fn written(flag: &FlagInfo<'_>) -> String {
    match flag.kind {
        FlagInfoKind::Switch => flag.long.to_owned(),
        FlagInfoKind::Option { arg_name } => format!("{} {}", flag.long, shouted(arg_name)),
    }
}

/// Placeholder of a value: `FOLDER`. A list of choices (`f32|bf16`) stays as it is.
pub fn shouted(name: &str) -> String {
    if name.contains('|') { name.to_owned() } else { name.to_uppercase().replace('_', "-") }
}

/// Usage lines of a command.
pub fn usage(command: &Command, info: &CommandInfoWithArgs, name: &str) -> String {
    let required = info.flags.iter().filter(|flag| flag.optionality == Optionality::Required && flag.long != HELP[1]);
    let words = required.map(written).chain(info.positionals.iter().map(place));
    let own = std::iter::once("[OPTIONS]".to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    let mut out = format!("Usage: {name} {own}\n");
    if !command.commands.is_empty() {
        let below = format!("{name} COMMAND [OPTIONS]\n");
        // A command without arguments is called by way of the commands below it.
        let bare = info.positionals.is_empty() && info.flags.len() <= 1;
        out = if bare { format!("Usage: {below}") } else { format!("{out}       {below}") };
    }
    out
}

fn place(argument: &PositionalInfo<'_>) -> String {
    let name = shouted(argument.name);
    match argument.optionality {
        Optionality::Required => name,
        Optionality::Optional => format!("[{name}]"),
        _ => format!("[{name}...]"),
    }
}

fn section<T>(out: &mut String, title: &str, items: &[T], line: impl Fn(&T) -> String) {
    if !items.is_empty() {
        let _ = write!(out, "\n{title}:\n{}", items.iter().map(line).collect::<String>());
    }
}

/// Unescapes a text of argh's: its braces are doubled, and `{command_name}` becomes the command as the user called it.
pub fn sentence(text: &str, name: &str) -> String {
    text.trim().replace("{{", "{").replace("}}", "}").replace("{command_name}", name)
}

fn row(out: &mut String, name: &str, about: &str) {
    let start = format!("  {name}");
    if start.chars().count() + 2 > INDENT {
        let _ = writeln!(out, "{start}\n{:INDENT$}{}", "", wrapped(about, INDENT));
    } else {
        let _ = writeln!(out, "{start:INDENT$}{}", wrapped(about, INDENT));
    }
}

/// Wraps `text` at `WIDTH` columns; all lines but the first begin with `indent` blanks.
pub fn wrapped(text: &str, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), indent);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            out += "\n";
            out += &" ".repeat(indent);
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs;

    /// Every command of the tree with the words that call it.
    fn all() -> Vec<(String, &'static Command)> {
        let mut open = vec![(programs::ALL.name.to_owned(), &programs::ALL)];
        let mut found = Vec::new();
        while let Some((name, command)) = open.pop() {
            open.extend(command.commands.iter().map(|below| (format!("{name} {}", below.name), below)));
            found.push((name, command));
        }
        found
    }

    #[test]
    fn every_help_text_fits_a_terminal_and_has_no_marks_of_its_making() {
        for (name, command) in all() {
            let text = text(command, &name);
            assert!(text.contains("Options:") && text.contains(&format!("Usage: {name}")), "{text}");
            for mark in ["{{", "}}", "{command_name}"] {
                assert!(!text.contains(mark), "{mark} in {text}");
            }
            let shown = |line: &&str| !line.starts_with("  fathom") && !line.starts_with("Usage:");
            for line in text.lines().filter(shown) {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
            for option in ["-h, --help", "-V, --version"] {
                assert!(text.contains(option), "{name}: {option}");
            }
        }
    }

    #[test]
    fn words_move_to_the_next_line_whole() {
        assert_eq!(wrapped("a b", 2), "a b");
        let text = wrapped(&"word ".repeat(30), 10);
        assert!(text.lines().all(|line| line.len() <= WIDTH) && text.contains("\n          word"), "{text}");
        assert_eq!(wrapped(&"x".repeat(100), 0).len(), 100);
    }

    #[test]
    fn braces_are_those_of_the_source() {
        assert_eq!(sentence(r#" {{"tokens": [...]}} of {command_name}"#, "x"), r#"{"tokens": [...]} of x"#);
    }
}
