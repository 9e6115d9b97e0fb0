//! `train` without arguments, where things are not as on the first day: a run that was stopped, one that is finished, one
//! of other settings, and what it says to numbers that are none.

use std::path::Path;
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
    let (whole, _) = succeeds(train(here, "30").args(["--output", "my runs/whole"]));
    assert!(whole.contains("validation loss ") && whole.contains("ROMEO:"), "{whole}");

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
fn another_run_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let run = here.join("runs/quickstart");
    succeeds(&mut train(here, "2"));
    let before = losses(&run);
    // In the default folder it makes room; in a folder that was named it refuses.
    let (_, err) = succeeds(&mut train(here, "3"));
    assert!(err.contains("runs/quickstart-1"), "{err}");
    assert!(losses(&here.join("runs/quickstart-1")) == before && losses(&run).len() == 3);
    let output = train(here, "4").args(["--output", "runs/quickstart"]).output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("runs/quickstart/step-"), "{}", said(&output));
    assert_eq!(losses(&run).len(), 3);
    // Files of somebody else where the run is to go: named, and left alone.
    std::fs::create_dir_all(here.join("mine")).unwrap();
    std::fs::write(here.join("mine/data"), "my notes").unwrap();
    let output = train(here, "2").args(["--output", "mine"]).output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("mine/data"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(here.join("mine/data")).unwrap(), "my notes");
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
    assert!(!folder.path().join("runs").exists(), "nothing was written");
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
