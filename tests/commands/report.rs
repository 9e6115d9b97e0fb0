//! The report of a run, its event files, and comparisons of runs.

use std::path::{Path, PathBuf};

use crate::World;

/// The event files in a folder.
fn event_files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains(".tfevents.")).collect()
}

#[test]
fn a_run_leaves_a_report_and_runs_are_compared() {
    let w = World::new();
    let run = w.root.join("run");
    let html = std::fs::read_to_string(run.join("report.html")).unwrap();
    for part in ["Learning rate", "step-00000002", "hidden_size = 32", "<title>run</title>"] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(event_files(&run).len(), 1);
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    let before = size(&event_files(&run)[0]);
    let more = ["--resume", "--set", "train.steps=6", "--set", "train.sample_every=3", "--curve", "always"];
    let (code, _, said) = w.run("train", &w.training("run", &more));
    assert!(code == 0 && said.contains("training loss") && said.contains("run/report.html"), "{said}");
    let files = event_files(&run);
    assert!(files.len() == 1 && size(&files[0]) > 2 * before, "one file, with the steps of both sessions: {files:?}");
    let html = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(html.contains("Samples") && html.contains("step 6"));

    let quiet = ["--set", "train.tensorboard=false", "--set", "schedule.lr=1e-3"];
    let (code, _, said) = w.run("train", &w.training("quiet", &quiet));
    assert!(code == 0 && !said.contains("training loss"), "no curve in a pipe: {said}");
    assert!(event_files(&w.root.join("quiet")).is_empty());
    let table = w.ok("fathom", &["compare", "run", "quiet", "--output", "both.html"]);
    let row =
        |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {table}"));
    assert!(row("steps").ends_with("2") && row("steps").contains('6'), "{table}");
    assert!(row("schedule.lr").ends_with("0.001"), "{table}");
    assert!(std::fs::read_to_string(w.root.join("both.html")).unwrap().contains("\"name\":\"quiet\""));
    assert_eq!(w.ok("train", &["compare", "run", "quiet"]), table);
    assert!(w.ok("fathom", &["compare", "run", "--curve=always"]).contains("training loss"));
    w.fails("fathom", &["compare", "data"], 1, &["data holds no metrics.jsonl"]);
    w.fails("fathom", &["compare"], 2, &["nothing to compare"]);
}

#[test]
fn a_report_that_cannot_be_written_does_not_end_a_run() {
    let w = World::new();
    std::fs::create_dir_all(w.root.join("blocked/report.html")).unwrap();
    let (code, _, said) = w.run("train", &w.training("blocked", &[]));
    assert!(code == 0 && said.contains("no report: ") && said.contains("report.html"), "{said}");
    assert!(w.root.join("blocked/step-00000002").is_dir());
}
