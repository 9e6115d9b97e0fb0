//! The man page of a program with all of its commands, from argh's description of them.

use std::fmt::Write;

use super::{Command, help};

/// The man page of `root` in roff, with the macros of man(7). `environment` lists the variables that the programs read.
pub fn page(root: &'static Command, environment: &[(&str, &str)]) -> String {
    let (name, version) = (root.name, env!("CARGO_PKG_VERSION"));
    let mut out = format!(".TH {} 1 \"\" \"{name} {version}\" \"User Commands\"\n", name.to_uppercase());
    let _ = writeln!(out, ".SH NAME\n{} \\- {}", text(name), text(root.summary));
    out += ".SH SYNOPSIS\n";
    for (words, command) in tree(root) {
        for usage in help::usage(command, &command.info(), &words).lines() {
            let usage = usage.trim_start_matches("Usage:").trim();
            let rest = usage.strip_prefix(&words).unwrap_or(usage);
            let _ = writeln!(out, ".B {}\n{}\n.br", text(&words), text(rest.trim()));
        }
    }
    let _ = writeln!(out, ".SH DESCRIPTION\n{}", text(&help::sentence(root.info().description, name)));
    out += ".SH COMMANDS\n";
    for (words, command) in tree(root) {
        let info = command.info();
        if words == name {
            continue;
        }
        let _ = writeln!(out, ".SS {}\n{}", text(&words), text(&help::sentence(info.description, &words)));
        for argument in info.positionals {
            let about = text(&help::sentence(argument.description, &words));
            let _ = writeln!(out, ".TP\n.I {}\n{about}", text(&help::shouted(argument.name)));
        }
        for (option, about) in help::options(command, &info) {
            let _ = writeln!(out, ".TP\n.B {}\n{}", text(&option), text(&help::sentence(&about, &words)));
        }
        for note in info.notes {
            let _ = writeln!(out, ".PP\n{}", text(&help::sentence(note, &words)));
        }
    }
    out += ".SH EXAMPLES\n";
    for (words, command) in tree(root) {
        for example in command.info().examples {
            let _ = writeln!(out, ".PP\n.EX\n{}\n.EE", text(&help::sentence(example, &words)));
        }
    }
    out += ".SH EXIT STATUS\n";
    for code in root.info().error_codes {
        let _ = writeln!(out, ".TP\n{}\n{}", code.code, text(code.description));
    }
    out += ".SH ENVIRONMENT\n";
    for (variable, about) in environment {
        let _ = writeln!(out, ".TP\n.B {variable}\n{}", text(about));
    }
    out
}

/// Every command with the words that call it, in order.
fn tree(root: &'static Command) -> Vec<(String, &'static Command)> {
    let (mut found, mut open) = (Vec::new(), vec![(root.name.to_owned(), root)]);
    while let Some((words, command)) = open.pop() {
        open.extend(command.commands.iter().rev().map(|below| (format!("{words} {}", below.name), below)));
        found.push((words, command));
    }
    found
}

/// Text as roff takes it, in one line.
fn text(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs;

    #[test]
    fn the_page_has_every_command_and_option() {
        let page = page(&programs::ALL, &[("NAME", "a variable")]);
        for (words, command) in tree(&programs::ALL) {
            assert!(page.contains(&format!(".B {words}")), "{words}");
            for flag in command.info().flags {
                assert!(page.contains(&flag.long.replace('-', "\\-")), "{words} {}", flag.long);
            }
        }
        assert!(!page.contains("{{") && !page.contains("{command_name}"));
        assert_eq!(text(".x -- 'y'"), "\\&.x \\-\\- 'y'");
    }
}
