//! A run is watched from outside, and ends in time.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::World;

fn heartbeat(w: &World, run: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(w.root.join(run).join("ranks/00000")).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

#[test]
fn one_rank_leaves_a_record_too() {
    let w = World::new();
    let record = heartbeat(&w, "run");
    assert_eq!((&record["rank"], &record["world"], &record["step"]), (&0.into(), &1.into(), &2.into()));
    assert_eq!(record["state"], "left", "{record}");
    let metrics = std::fs::read_to_string(w.root.join("run/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert_eq!(record["loss"], last["loss"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let time = record["time"].as_u64().unwrap();
    assert!((now - 600..=now).contains(&time), "{time} at {now}");
}

#[test]
fn a_run_that_fails_says_so_in_its_record() {
    let w = World::new();
    let (code, _, err) = w.run("train", &w.training("bad", &["--set", "schedule.lr=1e30", "--set", "train.steps=50"]));
    assert_eq!(code, 1, "{err}");
    let record = heartbeat(&w, "bad");
    assert_eq!(record["state"], "failed", "{record}");
    assert!(record["doing"].as_str().unwrap().contains("training step"), "{record}");
    // The next start tells it, once.
    let again = w.training("bad", &["--resume", "--set", "schedule.lr=0.001"]);
    let (code, _, err) = w.run("train", &again);
    assert!(code == 0 && err.contains("the run before did not end well: rank 0") && err.contains("failed at"), "{err}");
    assert!(!w.run("train", &again).2.contains("did not end well"));
}

#[test]
fn a_run_ends_in_time_with_a_checkpoint_and_goes_on_with_the_same_bits() {
    let w = World::new();
    // Two seconds are kept for a save: there is time for some steps of many, or for none.
    let many = ["--set", "train.steps=100000", "--set", "schedule.decay=constant", "--max-hours", "0.0006"];
    let (code, _, err) = w.run("train", &w.training("cut", &many));
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("train.max_hours = 0.0006") && err.contains("stopped early; go on with"), "{err}");
    let kept = std::fs::read_to_string(w.root.join("cut/config.resolved.toml")).unwrap();
    assert!(kept.contains("max_hours = 0.0006"), "{kept}");
    let saved = std::fs::read_dir(w.root.join("cut")).unwrap().map(|entry| entry.unwrap().file_name());
    let step = saved.filter_map(|name| name.to_str()?.strip_prefix("step-")?.parse::<u64>().ok()).max().unwrap();
    let steps = format!("train.steps={}", step + 2);
    let more = ["--set", &steps, "--set", "schedule.decay=constant"];
    w.ok("train", &w.training("whole", &more));
    let resumed = [&["--resume", "--output", "cut", "--max-hours", "0"], &more[..2]].concat();
    let (code, _, err) = w.run("train", &resumed);
    assert!(code == 0 && err.contains(&format!("step {},", step + 2)) && !err.contains("stopped early"), "{err}");
    let name = format!("step-{:08}/model.safetensors", step + 2);
    let weights = |run: &str| std::fs::read(w.root.join(run).join(&name)).unwrap();
    assert!(weights("whole") == weights("cut"));

    w.fails("train", &w.training("x", &["--max-hours=-1"]), 2, &["--max-hours -1", "0 or more"]);
    w.fails("train", &w.training("x", &["--max-hours", "nan"]), 2, &["--max-hours", "0 or more"]);
    w.fails("train", &w.training("x", &["--max-hours", "soon"]), 2, &["--max-hours", "must be a number"]);
    w.fails("train", &["--max-hours", "1"], 2, &["--max-hours needs data"]);
}

#[test]
fn numbers_that_are_none_are_refused_in_words() {
    let w = World::new();
    let whole = "must be a whole number, 0 or more";
    w.fails("train", &w.training("x", &["--ranks=-3"]), 2, &["--ranks", "-3", whole]);
    w.fails("train", &w.training("x", &["--threads", "two"]), 2, &["--threads", "two", whole]);
    w.fails("generate", &["--checkpoint", "run", "--temperature", "hot"], 2, &["--temperature", "must be a number"]);
}
