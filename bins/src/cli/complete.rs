//! Completion scripts for bash, zsh and fish, from argh's description of the commands.
//!
//! The crate argh_complete completes options and commands only. These scripts also complete values: files, folders, the
//! words that an option takes, and configuration keys behind `--set`.

use std::fmt::Write;
use std::str::FromStr;

use argh::{FlagInfo, FlagInfoKind};

use super::arguments::{HELP, KEYS, VERSION};
use super::{Command, help};
use crate::settings::keys;

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash, 4 or later.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl FromStr for Shell {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "bash" => Ok(Self::Bash),
            "zsh" => Ok(Self::Zsh),
            "fish" => Ok(Self::Fish),
            _ => Err("must be bash, zsh or fish"),
        }
    }
}

/// The script that completes the program `root` in `shell`; the command line `by` prints it, without the shell's name.
pub fn script(root: &'static Command, shell: Shell, by: &str) -> String {
    let tree = tree(root);
    match shell {
        Shell::Bash => bash(root.name, &tree, by),
        Shell::Zsh => zsh(root.name, &tree, by),
        Shell::Fish => fish(root.name, &tree, by),
    }
}

/// What completes a value.
enum Value {
    Nothing,
    File,
    Folder,
    Words(Vec<String>),
    /// A configuration key and `=`.
    Key,
}

/// What completes the value that argh calls `name`.
fn value(name: &str) -> Value {
    match name {
        "file" | "path" | "input" => Value::File,
        "folder" | "run" | "data" => Value::Folder,
        "device" => Value::Words(["auto", "cpu", "cuda"].map(String::from).to_vec()),
        "key=value" => Value::Key,
        name if name.contains('|') => Value::Words(name.split('|').map(String::from).collect()),
        _ => Value::Nothing,
    }
}

/// An option of a command.
struct Opt {
    long: &'static str,
    short: Option<char>,
    about: String,
    value: Option<Value>,
}

/// A command with the words that lead to it, each behind a blank: ` prep inspect`; empty for the program itself.
struct Node {
    path: String,
    command: &'static Command,
    options: Vec<Opt>,
    /// What completes the arguments that are no options.
    arguments: Option<Value>,
}

fn tree(root: &'static Command) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut open = vec![(String::new(), root)];
    while let Some((path, command)) = open.pop() {
        for below in command.commands.iter().rev() {
            open.push((format!("{path} {}", below.name), below));
        }
        let info = command.info();
        let own = info.flags.iter().filter(|flag| flag.long != HELP[1] && !flag.hidden);
        let mut options: Vec<Opt> = own.map(option).collect();
        let plain = |long, short, about: &str| Opt { long, short, about: about.into(), value: None };
        options.extend(command.keys.map(|_| plain(KEYS, None, "list every configuration key")));
        options.push(plain(HELP[1], Some('h'), "print the help text"));
        options.push(plain(VERSION[1], Some('V'), "print the version"));
        let arguments = info.positionals.first().map(|argument| value(argument.name));
        nodes.push(Node { path, command, options, arguments });
    }
    nodes
}

fn option(flag: &FlagInfo<'static>) -> Opt {
    let value = match flag.kind {
        FlagInfoKind::Switch => None,
        FlagInfoKind::Option { arg_name } => Some(value(arg_name)),
    };
    Opt { long: flag.long, short: flag.short, about: brief(flag.description), value }
}

/// The first words of a description, without marks that a shell would take for its own.
fn brief(text: &str) -> String {
    let text = help::sentence(text, "");
    let end = text.find([';', ':', '(', '.', '[', '{']).unwrap_or(text.len());
    text[..end].trim().replace(['\'', '"', '`', '\\', '$'], "")
}

fn configuration_keys() -> Vec<String> {
    keys::names().filter(|name| !name.contains("NAME")).map(|name| format!("{name}=")).collect()
}

/// A `case` pattern of the paths that are commands.
fn paths(tree: &[Node]) -> String {
    let paths = tree.iter().filter(|node| !node.path.is_empty()).map(|node| format!("'{}'", node.path));
    paths.collect::<Vec<_>>().join("|")
}

fn bash(program: &str, tree: &[Node], by: &str) -> String {
    let mut out = format!(
        "# bash completion of {program}: source <({by} bash)\n\
         _{program}() {{\n    \
             local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= i words= files=\n    \
             COMPREPLY=()\n    \
             for ((i = 1; i < COMP_CWORD; i++)); do\n        \
                 case \"$command ${{COMP_WORDS[i]}}\" in\n        \
                 {}) command=\"$command ${{COMP_WORDS[i]}}\" ;;\n        \
                 *) break ;;\n        \
                 esac\n    \
             done\n    \
             case \"$command $previous\" in\n",
        paths(tree)
    );
    for node in tree {
        for option in &node.options {
            let action = match &option.value {
                None => continue,
                Some(Value::Nothing) => "return".into(),
                Some(Value::File) => "files=f".into(),
                Some(Value::Folder) => "files=d".into(),
                Some(Value::Words(words)) => format!("words='{}'", words.join(" ")),
                Some(Value::Key) => format!("words='{}'; compopt -o nospace", configuration_keys().join(" ")),
            };
            let _ = writeln!(out, "    '{} {}') {action} ;;", node.path, option.long);
        }
    }
    out += "    *)\n        case \"$command\" in\n";
    for node in tree {
        let commands = node.command.commands.iter().map(|command| command.name);
        let options = node.options.iter().map(|option| option.long);
        let files = match node.arguments {
            Some(Value::Folder) => "; files=d",
            Some(Value::File) => "; files=f",
            _ => "",
        };
        let mut words = commands.collect::<Vec<_>>().join(" ");
        if let Some(Value::Words(list)) = &node.arguments {
            words = list.join(" ");
        }
        let options = options.collect::<Vec<_>>().join(" ");
        let path = &node.path;
        let _ = writeln!(
            out,
            "        '{path}') if [[ $current == -* ]]; then words='{options}'; else words='{words}'{files}; fi ;;"
        );
    }
    let _ = write!(
        out,
        "        esac ;;\n    \
             esac\n    \
             COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n    \
             if [[ -n $files ]]; then\n        \
                 local IFS=$'\\n'\n        \
                 COMPREPLY+=($(compgen -$files -- \"$current\"))\n        \
                 compopt -o filenames\n    \
             fi\n\
         }}\n\
         complete -F _{program} {program}\n"
    );
    out
}

fn zsh(program: &str, tree: &[Node], by: &str) -> String {
    let mut out = format!(
        "#compdef {program}\n\
         # zsh completion of {program}: {by} zsh > ~/.zfunc/_{program}, with ~/.zfunc in $fpath\n\
         _{program}() {{\n  \
             local command= i=2\n  \
             while (( i < CURRENT )); do\n    \
                 case \"$command ${{words[i]}}\" in\n      \
                 ({}) command=\"$command ${{words[i]}}\" ;;\n      \
                 (*) break ;;\n    \
                 esac\n    \
                 (( i++ ))\n  \
             done\n  \
             # What follows sees the last command as the program.\n  \
             words=(\"${{(@)words[i-1,-1]}}\")\n  \
             (( CURRENT -= i - 2 ))\n  \
             case \"$command\" in\n",
        paths(tree)
    );
    for node in tree {
        let _ = writeln!(out, "  ('{}')\n    _arguments \\", node.path);
        for option in &node.options {
            let about = &option.about;
            let repeated = if matches!(option.value, Some(Value::Key | Value::File)) { "*" } else { "" };
            let action = match &option.value {
                None => String::new(),
                Some(value) => format!(":value:{}", zsh_action(value)),
            };
            let _ = writeln!(out, "      '{repeated}{}[{about}]{action}' \\", option.long);
            if let Some(short) = option.short {
                let _ = writeln!(out, "      '-{short}[{about}]' \\");
            }
        }
        if !node.command.commands.is_empty() {
            let commands = node.command.commands.iter();
            let commands = commands.map(|below| format!("{}\\:\"{}\"", below.name, brief(below.summary)));
            let _ = writeln!(out, "      '1:command:(({}))' \\", commands.collect::<Vec<_>>().join(" "));
        }
        match &node.arguments {
            Some(value) => drop(writeln!(out, "      '*:argument:{}' ;;", zsh_action(value))),
            None => drop(writeln!(out, "      '*::nothing:' ;;")),
        }
    }
    let _ = write!(
        out,
        "  esac\n}}\n\
         if [[ $funcstack[1] == _{program} ]]; then _{program} \"$@\"; else compdef _{program} {program}; fi\n"
    );
    out
}

fn zsh_action(value: &Value) -> String {
    match value {
        Value::Nothing => " ".into(),
        Value::File => "_files".into(),
        Value::Folder => "_files -/".into(),
        Value::Words(words) => format!("({})", words.join(" ")),
        Value::Key => format!("{{compadd -S \"\" -- {}}}", configuration_keys().join(" ")),
    }
}

fn fish(program: &str, tree: &[Node], by: &str) -> String {
    let known: Vec<String> =
        tree.iter().filter(|node| !node.path.is_empty()).map(|n| format!("'{}'", n.path)).collect();
    let mut out = format!(
        "# fish completion of {program}: {by} fish | source\n\
         function __{program}_at\n    \
             set -l path ''\n    \
             for word in (commandline -opc)[2..-1]\n        \
                 contains -- \"$path $word\" {}; or break\n        \
                 set path \"$path $word\"\n    \
             end\n    \
             test \"$path\" = \"$argv[1]\"\n\
         end\n\
         complete -c {program} -f\n",
        known.join(" ")
    );
    for node in tree {
        let at = format!("complete -c {program} -n '__{program}_at \"{}\"'", node.path);
        for below in node.command.commands {
            let _ = writeln!(out, "{at} -a {} -d '{}'", below.name, brief(below.summary));
        }
        for option in &node.options {
            let short = option.short.map_or(String::new(), |short| format!(" -s {short}"));
            let action = option.value.as_ref().map_or(String::new(), |value| {
                // -x: nothing but what is listed.
                let kind = if matches!(value, Value::File) { " -r" } else { " -x" };
                format!("{kind}{}", fish_action(value))
            });
            let _ = writeln!(out, "{at} -l {}{short}{action} -d '{}'", &option.long[2..], option.about);
        }
        if let Some(value) = &node.arguments {
            let _ = writeln!(out, "{at}{}", fish_action(value));
        }
    }
    out
}

fn fish_action(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::File => " -F".into(),
        Value::Folder => " -a '(__fish_complete_directories)'".into(),
        Value::Words(words) => format!(" -a '{}'", words.join(" ")),
        Value::Key => format!(" -a '{}'", configuration_keys().join(" ")),
    }
}
