//! Completion scripts and the man page.

use std::path::Path;
use std::process::Command;

/// What bash offers for the last of `words`, after the completions of the program that they begin with were read.
#[cfg(unix)]
fn bash_completes(folder: &Path, words: &[&str]) -> Vec<String> {
    const SCRIPT: &str = r#"
        source <("$FATHOM" completions bash --program "$1") || exit 1
        complete -p "$1" > /dev/null || exit 1
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        "_$1" 2> /dev/null # compopt works only while the shell completes
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = Command::new("bash");
    command.args(["-c", SCRIPT, "bash"]);
    let output = command.args(words).current_dir(folder).env("FATHOM", env!("CARGO_BIN_EXE_fathom")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let offered = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut offered: Vec<String> = offered.lines().filter(|line| !line.is_empty()).map(String::from).collect();
    offered.sort();
    offered
}

#[cfg(unix)]
#[test]
fn bash_completes_commands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("my runs")).unwrap();
    std::fs::write(folder.path().join("my.toml"), "").unwrap();
    let completes = |words: &[&str]| bash_completes(folder.path(), words);
    assert_eq!(completes(&["fathom", "tr"]), ["train"]);
    assert_eq!(completes(&["fathom", "prep", "ins"]), ["inspect"]);
    assert_eq!(completes(&["fathom", "train", "--re"]), ["--resume"]);
    assert_eq!(completes(&["fathom", "train", "--output", "x", "--pl"]), ["--plan"]);
    assert_eq!(completes(&["fathom", "train", "--output", "compare", "--pl"]), ["--plan"], "a value is no command");
    assert_eq!(completes(&["fathom", "convert", "--to", ""]), ["bf16", "f32", "fp8"]);
    assert_eq!(completes(&["fathom", "train", "--set", "train.step"]), ["train.steps="]);
    assert_eq!(completes(&["fathom", "train", "--config", "my"]), ["my runs", "my.toml"]);
    assert_eq!(completes(&["fathom", "eval", "--checkpoint", "my"]), ["my runs"]);
    assert_eq!(completes(&["fathom", "generate", "--seed", ""]), Vec::<String>::new());
    assert_eq!(completes(&["fathom", "completions", "z"]), ["zsh"]);
    assert_eq!(completes(&["train", "--set", "train.step"]), ["train.steps="]);
    assert_eq!(completes(&["prep", "ins"]), ["inspect"]);
    let refused = Command::new(env!("CARGO_BIN_EXE_fathom")).args(["completions", "bash", "--program", "man"]).output();
    let refused = refused.unwrap();
    assert!(
        refused.status.code() == Some(2) && String::from_utf8_lossy(&refused.stderr).contains("one of prep, train")
    );
}

#[test]
fn the_man_page_is_formatted_without_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let page = Command::new(env!("CARGO_BIN_EXE_fathom")).arg("man").output().unwrap().stdout;
    let path = folder.path().join("fathom.1");
    std::fs::write(&path, &page).unwrap();
    let text = String::from_utf8(page).unwrap();
    assert!(text.starts_with(".TH FATHOM 1") && text.contains(".SS fathom train"), "{text}");
    let Ok(output) = Command::new("groff").args(["-man", "-Tascii", "-ww", "-P-cbou"]).arg(&path).output() else {
        return; // no groff on this machine
    };
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && warnings.is_empty(), "{warnings}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("EXIT STATUS"));
}
