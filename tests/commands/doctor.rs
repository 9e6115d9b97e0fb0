//! `fathom doctor` and `train --check`: what is found, and that nothing is changed.

use serde_json::Value;

use crate::World;

/// The findings that a command prints, with its exit code.
fn findings(w: &World, program: &str, arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = w.run(program, &[arguments, &["--json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|problem| panic!("{problem}: {out}{err}")))
}

fn of<'a>(found: &'a Value, subject: &str) -> &'a Value {
    let all = found["findings"].as_array().expect("a list");
    all.iter().find(|finding| finding["subject"] == subject).unwrap_or_else(|| panic!("no {subject}: {found}"))
}

#[test]
fn the_machine_is_reported() {
    let w = World::new();
    let text = w.ok("fathom", &["doctor", "--device", "cpu", "--threads", "1"]);
    for word in ["ok       version", "rustc 1.", "ok       device        cpu, 1 threads of ", "MPI"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let (code, found) = findings(&w, "fathom", &["doctor", "--device", "cpu"]);
    assert_eq!((code, &found["fits"]), (0, &true.into()), "{found}");
    let (code, found) = findings(&w, "fathom", &["doctor", "--device", "cuda:4096"]);
    assert_eq!((code, &found["fits"], &of(&found, "device")["verdict"]), (1, &false.into(), &"fails".into()));
    w.fails("fathom", &["doctor", "--device", "tpu"], 2, &["--device tpu", "cuda:emulated"]);
}

#[test]
fn a_run_that_fits_is_said_to_fit_and_nothing_is_written() {
    let w = World::new();
    let check = w.training("new/run", &["--check", "--device", "cpu"]);
    let (code, found) = findings(&w, "train", &check);
    assert_eq!((code, &found["fits"]), (0, &true.into()), "{found}");
    for subject in ["version", "device", "data", "run's memory", "file system", "disk", "checkpoint"] {
        assert_eq!(of(&found, subject)["verdict"], "ok", "{found}");
    }
    assert!(of(&found, "data")["text"].as_str().unwrap().contains("a vocabulary of 257"), "{found}");
    assert!(!w.root.join("new").exists(), "nothing is made");
    let there = std::fs::read_dir(&w.root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(there.into_iter().all(|name| !name.starts_with('.')), "nothing is left");
    assert!(w.ok("train", &check).contains("ok       data "));
}

#[test]
fn what_does_not_fit_is_named() {
    let w = World::new();
    let check = |more: &[&str], output: &str| {
        let (code, found) =
            findings(&w, "train", &w.training(output, &[&["--check", "--device", "cpu"], more].concat()));
        assert_eq!(code == 0, found["fits"] == true);
        found
    };
    let found = check(&[], "run");
    let text = of(&found, "checkpoint")["text"].as_str().unwrap();
    assert!(found["fits"] == false && text.contains("already holds a run") && text.contains("--resume"), "{found}");
    let found = check(&["--resume"], "run");
    assert!(of(&found, "checkpoint")["text"].as_str().unwrap().contains("step 2 of 2"), "{found}");
    let found = check(&["--resume", "--set", "train.weight_decay=0.5"], "run");
    assert!(of(&found, "checkpoint")["text"].as_str().unwrap().contains("train.weight_decay"), "{found}");
    let found = check(&["--set", "train.micro_batch_size=4", "--ranks", "3"], "x");
    assert!(of(&found, "data")["text"].as_str().unwrap().contains("3 ranks"), "{found}");

    let (code, found) = findings(&w, "train", &["--check", "--device", "cpu", "nowhere"]);
    assert!(code == 1 && of(&found, "data")["text"].as_str().unwrap().contains("nowhere"), "{found}");
    let (code, found) = findings(&w, "train", &["--check", "--device", "cpu", "--set", "model.preset=v3-671b"]);
    assert!(code == 1 && of(&found, "data")["verdict"] == "fails", "{found}");
    if cfg!(target_os = "linux") {
        assert_eq!(of(&found, "disk")["verdict"], "fails", "{found}");
        assert_eq!(of(&found, "run's memory")["verdict"], "fails", "{found}");
    }
    w.fails("train", &["--check", "--plan", "data"], 2, &["--plan", "--check"]);
    w.fails("train", &["--json", "data"], 2, &["--check"]);
}
