//! `train` without arguments, with an interrupted run, a finished run, or a run of other settings in its folder.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn train(folder: &Path, steps: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.current_dir(folder).env("FATHOM_QUICKSTART_STEPS", steps).env_remove("CARGO");
    command.args(["--device", "cpu"]);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it to a good end; its results and what it said.
fn succeeds(command: &mut Command) -> (String, String) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}\n{}", said(&output));
    (String::from_utf8_lossy(&output.stdout).into_owned(), said(&output))
}

fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    text.lines().map(loss).collect()
}

#[test]
fn a_run_goes_on_after_a_stop_and_is_measured_again_when_it_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (whole, next) = succeeds(train(here, "30").args(["--output", "my runs/whole"]));
    assert!(whole.contains("validation loss ") && whole.contains("ROMEO:"), "{whole}");
    // Called by its path it names programs by theirs; blanks in the folder's name survive the shell.
    let commands: Vec<&str> = next.split_once("Next:\n").expect("next commands").1.lines().collect();
    assert_eq!(commands.len(), 3, "{next}");
    for command in commands {
        let output = Command::new("sh").args(["-c", command]).current_dir(here).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{command}\n{}", said(&output));
    }

    let mut child = train(here, "30").stderr(Stdio::piped()).spawn().unwrap();
    let run = here.join("runs/quickstart");
    while std::fs::metadata(run.join("metrics.jsonl")).map_or(0, |m| m.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let done = losses(&run).len();
    if done < 30 {
        assert!(said(&output).contains(&format!("stopped after step {done} and saved")), "{}", said(&output));
    }

    let (again, err) = succeeds(&mut train(here, "30"));
    assert!(err.contains(&format!("holds {done} of 30 steps already")), "{err}");
    assert_eq!(again, whole, "a stop changes nothing");
    assert_eq!(losses(&run), losses(&here.join("my runs/whole")));
    let (finished, err) = succeeds(&mut train(here, "30"));
    assert!(finished == whole && err.contains("holds 30 of 30 steps already"), "{err}");
}

#[test]
fn fp8_weights_and_an_fp8_cache_cost_less_than_half_a_percent_of_perplexity() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeeds(train(here, "150").args(["--output", "run"]));
    let perplexity = |weights: &str, cache: &str| -> f64 {
        let mut eval = Command::new(env!("CARGO_BIN_EXE_eval"));
        eval.current_dir(here).args(["--checkpoint", "run", "--data", "run/data", "--device", "cpu", "--json"]);
        let (out, _) = succeeds(eval.args(["--limit", "8192", "--weights", weights, "--cache", cache]));
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["perplexity"].as_f64().unwrap()
    };
    let reference = perplexity("bf16", "bf16");
    assert!(reference < 20.0, "150 steps learn something: {reference}");
    for (weights, cache) in [("bf16", "fp8"), ("fp8", "bf16"), ("fp8", "fp8")] {
        let found = perplexity(weights, cache);
        println!("weights {weights}, cache {cache}: perplexity {found:.4}, {reference:.4} in BF16");
        assert!(found != reference && (found / reference - 1.0).abs() < 5e-3, "{weights}, {cache}: {found}");
    }
}

#[test]
fn fathom_names_the_next_commands_as_it_was_called() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
    command.current_dir(here).env("FATHOM_QUICKSTART_STEPS", "2").env_remove("CARGO");
    let (_, said) = succeeds(command.args(["train", "--device=cpu", "--output=run", "--curve=always"]));
    assert!(
        said.contains("training loss") && said.contains("run/report.html") && here.join("run/report.html").is_file()
    );
    let commands: Vec<&str> = said.split_once("Next:\n").expect("next commands").1.lines().map(str::trim).collect();
    let called = format!("{} ", env!("CARGO_BIN_EXE_fathom"));
    assert!(commands.len() == 3 && commands.iter().all(|command| command.starts_with(&called)), "{said}");
    for command in commands {
        let output = Command::new("sh").args(["-c", command]).current_dir(here).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{command}\n{}", self::said(&output));
    }
}

/// The text of every file below a folder that a refusal must not touch.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(next) = open.pop() {
        for path in std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => open.push(path),
                false => drop(found.insert(path.clone(), std::fs::read(path).unwrap())),
            }
        }
    }
    found
}

#[test]
fn another_run_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let run = here.join("runs/quickstart");
    succeeds(&mut train(here, "2"));
    let before = losses(&run);
    // In the default folder it makes room.
    let (_, err) = succeeds(&mut train(here, "3"));
    assert!(err.contains("it is runs/quickstart-1 now"), "{err}");
    assert!(losses(&here.join("runs/quickstart-1")) == before && losses(&run).len() == 3);

    let refused = |output: &str, words: &[&str]| {
        let before = files(&here.join(output));
        let result = train(here, "4").args(["--output", output]).output().unwrap();
        let said = said(&result);
        assert!(result.status.code() == Some(1) && words.iter().all(|word| said.contains(word)), "{said}");
        assert!(files(&here.join(output)) == before, "{output} was changed");
    };
    // In a folder that was named it refuses, and changes nothing.
    refused("runs/quickstart", &["holds another run", "its `", "--resume --output runs/quickstart"]);
    // A run of the same settings on other data.
    std::fs::create_dir_all(here.join("other")).unwrap();
    let config = std::fs::read_to_string(run.join("config.resolved.toml")).unwrap();
    std::fs::write(here.join("other/config.resolved.toml"), config.replace("steps = 3", "steps = 4")).unwrap();
    refused("other", &["holds another run"]);
    // Somebody's own text under that name, in the default folder too.
    std::fs::create_dir_all(here.join("mine")).unwrap();
    std::fs::write(here.join("mine/tinyshakespeare.txt"), "my notes").unwrap();
    refused("mine", &["mine/tinyshakespeare.txt is another text"]);
    std::fs::write(run.join("tinyshakespeare.txt"), "edited").unwrap();
    succeeds(&mut train(here, "3"));
    assert_eq!(std::fs::read_to_string(here.join("runs/quickstart-2/tinyshakespeare.txt")).unwrap(), "edited");
}

#[test]
fn a_run_that_is_refused_other_data_goes_on_with_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeeds(train(here, "2").args(["--output", "run"]));
    std::fs::write(here.join("notes.txt"), "some notes of mine. ".repeat(200)).unwrap();
    let prep = ["--tokenizer", "bytes", "--input", "notes.txt", "--output", "notes"];
    assert!(Command::new(env!("CARGO_BIN_EXE_prep")).current_dir(here).args(prep).output().unwrap().status.success());
    let before = std::fs::read(here.join("run/config.resolved.toml")).unwrap();
    let resume = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.current_dir(here).args(["--device", "cpu", "--resume", "--output", "run"]).args(more);
        command.output().unwrap()
    };
    let refused = resume(&["--set", "data.path=notes"]);
    let text = said(&refused);
    let words = ["cannot resume", "was trained on", "run/data, and this command names notes"];
    assert!(refused.status.code() == Some(1) && words.iter().all(|word| text.contains(word)), "{text}");
    assert_eq!(std::fs::read(here.join("run/config.resolved.toml")).unwrap(), before);
    let plain = resume(&[]);
    assert!(plain.status.success(), "{}", said(&plain));
}

#[test]
fn variables_that_make_no_sense_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for steps in ["", "0", "many"] {
        let output = train(folder.path(), steps).output().unwrap();
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains("FATHOM_QUICKSTART_STEPS"), "{said}");
    }
    let output = train(folder.path(), "1").env("FATHOM_MAX_CPU_ISA", "mmx").output().unwrap();
    let text = said(&output);
    assert!(
        output.status.code() == Some(2) && text.contains("FATHOM_MAX_CPU_ISA=mmx: must be one of portable"),
        "{text}"
    );
    let output = train(folder.path(), "1").arg("--json").output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("--plan"), "{}", said(&output));
    let output = train(folder.path(), "1").args(["--output", ""]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("--output is empty"), "{}", said(&output));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing was written");
}

#[test]
fn the_driver_says_which_instructions_it_uses_and_samples_change_no_step() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut auto = Command::new(env!("CARGO_BIN_EXE_train"));
    auto.current_dir(here).env("FATHOM_QUICKSTART_STEPS", "4").env("FATHOM_MAX_CPU_ISA", "portable");
    let (_, err) = succeeds(auto.args(["--output", "first"]));
    // Where there is a GPU, that is what is used.
    assert!(err.contains("threads, portable") || err.contains("device: cuda"), "{err}");

    let run = |name: &str, every: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.current_dir(here).args(["--device", "cpu", "--config"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml"));
        for set in ["data.path=first/data", "train.steps=4", "schedule.warmup_tokens=0", "train.sample_tokens=5", every]
        {
            command.args(["--set", set]);
        }
        succeeds(command.args(["--output", name])).1
    };
    let with = run("with", "train.sample_every=2");
    assert!(with.contains("sample after step 2:\n  | ROMEO:") && with.contains("sample after step 4:"), "{with}");
    assert!(!run("without", "train.sample_every=0").contains("sample after"));
    assert_eq!(losses(&here.join("with")), losses(&here.join("without")));
}
