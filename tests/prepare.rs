//! Preparation as processes do it: the same bytes for any number of threads and ranks, and after any number of kills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Documents that differ, some of them often repeated words, in `.jsonl` files and plain ones.
fn corpus(folder: &Path) -> PathBuf {
    let text = folder.join("text");
    std::fs::create_dir(&text).unwrap();
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for file in 0..8 {
        let mut lines = String::new();
        for document in 0..200 {
            let words: Vec<String> = (0..20 + random(150)).map(|_| format!("w{}", random(40) * random(40))).collect();
            let record = serde_json::json!({ "id": format!("{file}-{document}"), "text": words.join(" ") });
            lines += &format!("{record}\n");
        }
        std::fs::write(text.join(format!("{file}.jsonl")), lines).unwrap();
        std::fs::write(
            text.join(format!("{file}.txt")),
            format!("file number {file}, a document of its own. ").repeat(50),
        )
        .unwrap();
    }
    text
}

/// A preparation with all stages that a plain run has, in small tasks and small shards.
fn prep(text: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prep"));
    command.arg("--input").arg(text).arg("--output").arg(output).args(["--vocab-size", "600"]);
    for set in ["prep.split_bytes=60000", "output.shard_bytes=100000", "output.validation_fraction=0.1"] {
        command.args(["--set", set]);
    }
    for launcher in ["SLURM_PROCID", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]
    {
        command.env_remove(launcher);
    }
    command.args(more).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every file below a folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn threads_and_ranks_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = corpus(folder.path());
    let make = |name: &str, threads: &str, world: usize| {
        let output = folder.path().join(name);
        let (threads, world_text) = (format!("prep.threads={threads}"), world.to_string());
        let children: Vec<Child> = (0..world)
            .map(|rank| {
                let rank = rank.to_string();
                let ranks = ["--rank", &rank, "--world", &world_text];
                let ranks = if world == 1 { &ranks[..0] } else { &ranks[..] };
                prep(&text, &output, &[&["--set", threads.as_str()], ranks].concat()).spawn().unwrap()
            })
            .collect();
        children.into_iter().for_each(finish);
        contents(&output)
    };
    let one = make("one", "1", 1);
    assert!(one.contains_key(Path::new("train-00003.bin")) && one.contains_key(Path::new("manifest.json")));
    assert_eq!(one, make("two", "2", 1));
    assert_eq!(one, make("five", "5", 1));
    assert_eq!(one, make("ranks", "1", 3));
}

#[test]
fn kills_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = corpus(folder.path());
    let (whole, output) = (folder.path().join("whole"), folder.path().join("killed"));
    let start = Instant::now();
    finish(prep(&text, &whole, &[]).spawn().unwrap());
    let (whole, length) = (contents(&whole), start.elapsed());

    // A run that comes to its end is compared and another begun, until twenty were killed.
    let (mut kills, mut ends, mut state) = (0, 0, 88_172_645_463_325_252u64);
    while kills < 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let share = (state >> 11) as f64 / (1u64 << 53) as f64;
        let mut child = prep(&text, &output, &[]).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(length.as_secs_f64() * share * 0.7));
        if child.try_wait().unwrap().is_some() {
            finish(child);
            assert_eq!(contents(&output), whole, "after {kills} kills");
            std::fs::remove_dir_all(&output).unwrap();
            ends += 1;
            assert!(ends < 200, "hardly a run could be killed");
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    finish(prep(&text, &output, &[]).spawn().unwrap());
    assert_eq!(contents(&output), whole);
}

#[test]
fn ranks_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = corpus(folder.path());
    let refused = |arguments: &[&str], environment: &[(&str, &str)], code: i32, words: &[&str]| {
        let mut command = prep(&text, &folder.path().join("out"), arguments);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    refused(&["--rank", "2", "--world", "2"], &[], 2, &["--rank", "below"]);
    refused(&["--rank", "0"], &[], 2, &["--world"]);
    refused(&["--world", "2"], &[], 2, &["--rank"]);
    refused(&[], &[("JOB_COMPLETION_INDEX", "1")], 2, &["--world"]);
    refused(&["--world", "3"], &[("PMI_RANK", "1"), ("PMI_SIZE", "2")], 2, &["--world 3", "MPI says 2"]);
    let alone = ["--rank", "1", "--world", "2", "--set", "prep.wait_seconds=0"];
    refused(&alone, &[], 1, &["rank 0", "not done"]);
}
