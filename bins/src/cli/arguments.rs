//! Arguments of a command in the form that argh takes: `--option=value` split, `-h` and `--version` answered, unknown
//! options refused with the nearest known one.

use std::ffi::OsString;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::Command;

/// Request of a command line: help, version, keys, or a run.
#[derive(Debug, PartialEq)]
pub enum Request {
    /// The help text of the command, or of one below it.
    Help(Vec<String>),
    /// The version.
    Version,
    /// The table of configuration keys.
    Keys(String),
    /// The command itself, with arguments for argh.
    Run(Vec<String>),
}

/// Names of the help option, which every command has.
pub const HELP: [&str; 2] = ["-h", "--help"];
/// Names of the version option, which every command has.
pub const VERSION: [&str; 2] = ["-V", "--version"];
/// Name of the option that lists configuration keys, for commands that read a configuration.
pub const KEYS: &str = "--keys";

/// Reads the arguments after the name of `command`, whose options `info` describes.
///
/// # Errors
/// A text for the user: an unknown option or command, an option without a value, bytes that are not UTF-8.
pub fn read(command: &Command, info: &CommandInfoWithArgs, words: &[OsString]) -> Result<Request, String> {
    let first = words.first().and_then(|word| word.to_str());
    if first == Some("help") {
        return help_of(command, &words[1..]);
    }
    if let (Some(first), true, true) = (first, info.positionals.is_empty(), !command.commands.is_empty())
        && !first.starts_with('-')
    {
        return Err(unknown_command(command, first));
    }
    let (mut out, mut request, mut wrong) = (Vec::new(), None, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            return Err(format!("argument `{}` is not UTF-8", word.to_string_lossy()));
        };
        if text == "--" {
            out.push(text.to_owned());
            for rest in words.by_ref() {
                out.push(utf8(rest, "argument")?);
            }
        } else if !text.starts_with('-') || text == "-" {
            out.push(text.to_owned());
        } else if HELP.contains(&text) {
            request = Some(Request::Help(Vec::new()));
        } else if VERSION.contains(&text) {
            request.get_or_insert(Request::Version);
        } else if let (KEYS, Some(keys)) = (text, command.keys) {
            request.get_or_insert_with(|| Request::Keys(keys()));
        } else if let Err(problem) = option(info, text, &mut words, &mut out, command.keys.is_some()) {
            wrong.get_or_insert(problem);
        }
    }
    match (request, wrong) {
        (Some(request), _) => Ok(request),
        (None, Some(problem)) => Err(problem),
        (None, None) => Ok(Request::Run(out)),
    }
}

/// Appends the option `text`, with its value if it takes one, to `out`.
fn option<'a>(
    info: &CommandInfoWithArgs,
    text: &str,
    words: &mut impl Iterator<Item = &'a OsString>,
    out: &mut Vec<String>,
    keys: bool,
) -> Result<(), String> {
    let (name, joined) = match text.split_once('=') {
        Some((name, value)) if name.starts_with("--") => (name, Some(value)),
        _ => (text, None),
    };
    let Some(flag) = find(info, name) else { return Err(unknown_option(info, name, keys)) };
    out.push(name.to_owned());
    let FlagInfoKind::Option { arg_name } = flag.kind else {
        return joined.map_or(Ok(()), |value| Err(format!("{name} takes no value, found `{value}`")));
    };
    let value = match joined {
        Some(value) => value.to_owned(),
        None => {
            let missing = || format!("{name} needs a value: {name} {arg_name}");
            let value = utf8(words.next().ok_or_else(missing)?, name)?;
            if find(info, &value).is_some() {
                return Err(format!("{}, but {value} follows; if that is its value, write {name}={value}", missing()));
            }
            value
        }
    };
    out.push(value);
    Ok(())
}

fn utf8(word: &OsString, what: &str) -> Result<String, String> {
    let text = word.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{what}: `{}` is not UTF-8", word.to_string_lossy()))
}

fn find<'a>(info: &'a CommandInfoWithArgs, name: &str) -> Option<&'a FlagInfo<'a>> {
    info.flags.iter().find(|flag| flag.long == name)
}

/// The command whose help `help WORD...` asks for.
fn help_of(command: &Command, words: &[OsString]) -> Result<Request, String> {
    let (mut at, mut path, mut commands) = (None, Vec::new(), command.commands);
    for word in words {
        let name = utf8(word, "help")?;
        let found = commands.iter().find(|command| command.name == name);
        let Some(found) = found else { return Err(unknown_command(at.unwrap_or(command), &name)) };
        (at, commands) = (Some(found), found.commands);
        path.push(name);
    }
    Ok(Request::Help(path))
}

fn unknown_command(command: &Command, word: &str) -> String {
    let names = command.commands.iter().map(|command| command.name);
    match nearest(word, names.clone()) {
        Some(near) => format!("there is no command `{word}`; did you mean `{near}`?"),
        None if command.commands.is_empty() => format!("`{}` has no command `{word}`", command.name),
        None => format!("there is no command `{word}`; there are {}", names.collect::<Vec<_>>().join(", ")),
    }
}

fn unknown_option(info: &CommandInfoWithArgs, name: &str, keys: bool) -> String {
    let known = info.flags.iter().map(|flag| flag.long);
    let known = known.chain([VERSION[1]]).chain(keys.then_some(KEYS));
    match nearest(name, known) {
        Some(near) => format!("unknown option {name}; did you mean {near}?"),
        None => format!("unknown option {name}"),
    }
}

/// The name that `word` most likely was to be: at most a third of its letters differ, or it is the name's beginning.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |text: &str| text.trim_start_matches('-').replace('_', "-").to_lowercase();
    let word = bare(word);
    let distance = |name: &str| match bare(name) {
        name if word.len() >= 2 && name.starts_with(&word) => 0,
        name => strsim::damerau_levenshtein(&name, &word),
    };
    let near = names.map(|name| (distance(name), name)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, _)| *distance <= word.chars().count().div_ceil(3)).map(|(_, name)| name)
}

/// Rewrites an error of argh as this crate writes errors: one line, lower case.
pub fn plain(text: &str) -> String {
    let text = text.trim().split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    let text = text.strip_prefix("Error parsing option ").map_or(text.clone(), |rest| format!("cannot read {rest}"));
    let text = text.strip_prefix("Error parsing ").map_or(text.clone(), |rest| format!("cannot read {rest}"));
    let text = number(&text);
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

/// Replaces what Rust's parser says of a number by what was expected.
fn number(text: &str) -> String {
    const WHOLE: &str = "must be a whole number, 0 or more";
    const SAID: [(&str, &str); 7] = [
        ("invalid digit found in string", WHOLE),
        ("cannot parse integer from empty string", WHOLE),
        ("number too large to fit in target type", "is too large a number"),
        ("number too small to fit in target type", "is too small a number"),
        ("number would be zero for non-zero type", "must be a whole number, 1 or more"),
        ("invalid float literal", "must be a number"),
        ("cannot parse float from empty string", "must be a number"),
    ];
    let said = SAID.iter().find_map(|(said, means)| Some((text.strip_suffix(said)?, means)));
    said.map_or(text.into(), |(before, means)| format!("{before}{means}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs;

    #[test]
    fn a_number_that_cannot_be_read_says_what_is_expected() {
        // The texts are those of this version of Rust and argh.
        let said = |name: &str, option: &str, value: &str| {
            let command = programs::ALL.find(name).expect("a command");
            let exit = (command.run)(&[name], &[option, value]).expect_err("it is refused");
            plain(&exit.output)
        };
        for value in ["-3", "x", "", "1.5", "0x2"] {
            let text = said("train", "--ranks", value);
            assert!(text.contains("--ranks") && text.ends_with("must be a whole number, 0 or more"), "{text}");
        }
        let text = said("train", "--threads", "99999999999999999999999");
        assert!(text.ends_with("is too large a number"), "{text}");
        for value in ["warm", ""] {
            let text = said("generate", "--temperature", value);
            assert!(text.contains("--temperature") && text.ends_with("must be a number"), "{text}");
        }
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn read(name: &str, arguments: &[&str]) -> Result<Request, String> {
        let command = programs::ALL.find(name).expect("a command");
        super::read(command, &command.info(), &words(arguments))
    }

    fn run(arguments: &[&str]) -> Request {
        Request::Run(arguments.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn a_value_may_stand_behind_an_equals_sign() {
        let apart = run(&["--prompt", "a=b", "--threads", "2"]);
        assert_eq!(read("generate", &["--prompt=a=b", "--threads=2"]), Ok(apart));
        assert_eq!(read("train", &["--set=train.steps=3"]), Ok(run(&["--set", "train.steps=3"])));
        assert_eq!(read("generate", &["--prompt="]), Ok(run(&["--prompt", ""])));
        assert_eq!(read("generate", &["--prompt", "--a=b"]), Ok(run(&["--prompt", "--a=b"])), "a value is left alone");
        assert!(read("train", &["--resume=yes"]).unwrap_err().contains("--resume takes no value"));
    }

    #[test]
    fn options_without_a_value_are_named() {
        assert!(read("train", &["--output"]).unwrap_err().contains("--output needs a value"));
        let error = read("train", &["--output", "--resume"]).unwrap_err();
        assert!(error.contains("--resume follows") && error.contains("--output=--resume"), "{error}");
        assert_eq!(read("train", &["--output=--resume"]), Ok(run(&["--output", "--resume"])));
    }

    #[test]
    fn help_version_and_keys_are_answered_wherever_they_stand() {
        for arguments in [&["-h"][..], &["--help"], &["help"], &["--no-such-option", "--help"], &["--keys", "-h"]] {
            assert_eq!(read("train", arguments), Ok(Request::Help(Vec::new())), "{arguments:?}");
        }
        assert_eq!(read("train", &["--version"]), Ok(Request::Version));
        assert_eq!(read("convert", &["-V"]), Ok(Request::Version));
        assert!(matches!(read("prep", &["--keys"]), Ok(Request::Keys(text)) if text.contains("filter.preset")));
        assert!(read("convert", &["--keys"]).is_err());
        assert_eq!(read("prep", &["help", "inspect"]), Ok(Request::Help(vec!["inspect".into()])));
        assert!(read("generate", &["--prompt", "--help"]).unwrap_err().contains("--prompt=--help"));
    }

    #[test]
    fn the_nearest_option_or_command_is_suggested() {
        for (wrong, right) in
            [("--ouput", "--output"), ("--resme", "--resume"), ("-output", "--output"), ("--out", "--output")]
        {
            let error = read("train", &[wrong]).unwrap_err();
            assert!(error.contains(&format!("did you mean {right}?")), "{error}");
        }
        assert!(!read("train", &["--no-such-flag"]).unwrap_err().contains("did you mean"));
        let error = super::read(&programs::ALL, &programs::ALL.info(), &words(&["trian"])).unwrap_err();
        assert!(error.contains("did you mean `train`?"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_text_are_refused_by_the_option_they_belong_to() {
        use std::os::unix::ffi::OsStringExt;
        let command = programs::ALL.find("generate").unwrap();
        let arguments = [OsString::from("--prompt"), OsString::from_vec(vec![0xff, 0xfe])];
        let error = super::read(command, &command.info(), &arguments).unwrap_err();
        assert!(error.contains("--prompt") && error.contains("not UTF-8"), "{error}");
    }

    #[test]
    fn the_errors_of_argh_are_one_line() {
        assert_eq!(
            plain("Required options not provided:\n    --output\n    --to\n"),
            "required options not provided: --output --to"
        );
        let bad = plain("Error parsing option '--threads' with value 'x': invalid digit found in string\n");
        assert_eq!(bad, "cannot read '--threads' with value 'x': must be a whole number, 0 or more");
    }
}
