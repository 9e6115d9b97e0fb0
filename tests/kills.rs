//! Programs that are killed inside a commit, or stopped by a signal, lose nothing that counted and say what they did.
//!
//! A few of each; `tests/python/kills.py` does thousands. Kills at named points need strace, which kills a program
//! right before a chosen system call; without it they are passed over, with a message.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const STEPS: usize = 12;

fn program(name: &str) -> &'static str {
    match name {
        "prep" => env!("CARGO_BIN_EXE_prep"),
        "train" => env!("CARGO_BIN_EXE_train"),
        "convert" => env!("CARGO_BIN_EXE_convert"),
        "eval" => env!("CARGO_BIN_EXE_eval"),
        other => panic!("no program {other}"),
    }
}

/// A folder with a prepared corpus.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("text")).unwrap();
        for i in 0..12u32 {
            let words: Vec<String> = (0..300u32).map(|j| format!("word{}", (i * 31 + j * j) % 97)).collect();
            std::fs::write(place.path(&format!("text/{i}.txt")), words.join(" ")).unwrap();
        }
        ok(&mut place.prep("data", &["--tokenizer", "bytes"]));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program_name: &str) -> Command {
        let mut command = Command::new(program(program_name));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn prep(&self, output: &str, more: &[&str]) -> Command {
        let mut command = self.command("prep");
        command.args(["--input", "text", "--output", output, "--set", "output.validation_fraction=0.3"]).args(more);
        command
    }

    fn train(&self, output: &str, sets: &[&str]) -> Command {
        let mut command = self.command("train");
        let steps = format!("train.steps={STEPS}");
        let small = [
            steps.as_str(),
            "schedule.decay_tokens=100000",
            "schedule.decay=cosine",
            "model.hidden_size=32",
            "model.num_hidden_layers=2",
            "model.n_routed_experts=8",
            "train.batch_size=4",
            "train.micro_batch_size=2",
            "train.sequence_length=48",
            "train.eval_every=5",
            "train.eval_tokens=500",
            "checkpoint.every_steps=2",
        ];
        command.args(["data", "--output", output, "--resume"]);
        for set in small.iter().chain(sets) {
            command.args(["--set", set]);
        }
        command
    }

    /// What must be equal of two runs: files of the last checkpoint, and the metrics without times.
    fn result(&self, run: &str) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<serde_json::Value>) {
        let mut files = contents(&self.path(run).join(format!("step-{STEPS:08}")));
        // They hold seconds, and a hash of these.
        files.retain(|name, _| name != Path::new("trainer/state.json") && name != Path::new("manifest.json"));
        assert!(files.len() > 4, "{:?}", files.keys());
        (files, self.metrics(run))
    }

    fn metrics(&self, run: &str) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap_or_default();
        let row = |line: &str| {
            let mut row: serde_json::Value = serde_json::from_str(line).ok()?;
            ["seconds", "tokens_per_second"].iter().for_each(|key| drop(row.as_object_mut().unwrap().remove(*key)));
            Some(row)
        };
        text.lines().filter_map(row).collect()
    }

    /// Steps of the complete checkpoints.
    fn checkpoints(&self, run: &str) -> Vec<usize> {
        let names = std::fs::read_dir(self.path(run)).into_iter().flatten().flatten();
        let step = |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<usize> = names.filter_map(|entry| step(entry.file_name())).collect();
        steps.sort_unstable();
        steps
    }

    fn until(&self, child: &mut Child, what: &str, there: impl Fn() -> bool) {
        let start = Instant::now();
        while !there() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself before {what}");
            assert!(start.elapsed() < Duration::from_secs(120), "no {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{command:?}\n{said}");
    said
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The signals that stop a program. Under `nohup` the third is none: it is ignored by these tests, and so by what they
/// start.
fn stops() -> impl Iterator<Item = &'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ["INT", "TERM", "HUP"].into_iter().filter(move |&signal| signal != "HUP" || ignored & 1 == 0)
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => drop(files.insert(path.strip_prefix(folder).unwrap().into(), std::fs::read(&path).unwrap())),
            }
        }
    }
    files
}

/// Whether strace is there and may trace.
fn strace() -> bool {
    let found = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("no strace: not killed at named points");
    }
    found
}

/// A command under strace, with these options.
fn under_strace(command: &Command, log: &Path, options: &[&str]) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-y", "-qq", "-s", "0", "-o"]).arg(log).args(options);
    traced.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    command.get_current_dir().map(|folder| traced.current_dir(folder));
    traced
}

/// Runs `whole` to its end and counts its calls of `call`; then kills `command`, right before the first that has all
/// `words` in its line. Both must be starts of the same kind.
fn kill_at(whole: &Command, command: &Command, log: &Path, call: &str, words: &[&str]) {
    let trace = format!("trace={call}");
    ok(&mut under_strace(whole, log, &["-e", &trace]));
    let lines = std::fs::read_to_string(log).unwrap();
    let thread = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let found = lines.lines().position(|line| words.iter().all(|word| line.contains(word)));
    let found = found.unwrap_or_else(|| panic!("no {call} of {words:?} in\n{lines}"));
    let of = thread(lines.lines().nth(found).unwrap());
    let when = lines.lines().take(found + 1).filter(|line| thread(line) == of).count();
    let inject = format!("inject={call}:signal=SIGKILL:when={when}");
    let status = under_strace(command, log, &["-e", &trace, "-e", &inject]).output().unwrap().status;
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(9), "{call} number {when} was to kill it");
}

#[test]
fn training_that_is_killed_inside_a_save_equals_a_run_never_stopped() {
    let place = Place::new();
    ok(&mut place.train("whole", &[]));
    if strace() {
        // The checkpoint is complete but for its name; its manifest is not on the disk yet.
        for (round, (call, words)) in [("rename", "/step-00000002\""), ("fsync", "/manifest.json>")].iter().enumerate()
        {
            let (whole, run) = (format!("traced-{round}"), format!("run-{round}"));
            let words = [*words];
            kill_at(&place.train(&whole, &[]), &place.train(&run, &[]), &place.path("log"), call, &words);
            assert_eq!(place.checkpoints(&run), [0; 0], "{call}");
            let left = std::fs::read_dir(place.path(&run)).unwrap().flatten();
            let drafts = left.filter(|entry| entry.file_name().to_string_lossy().contains(".tmp-")).count();
            assert_eq!(drafts, 1, "{call}");
            ok(&mut place.train(&run, &[]));
            assert!(place.result(&run) == place.result("whole"), "{call}");
            assert!(!contents(&place.path(&run)).keys().any(|name| name.to_string_lossy().contains(".tmp")), "{call}");
        }
    }
    // The checkpoint of these steps is written while training waits, or while it goes on.
    for (run, sets) in [("killed", &[][..]), ("killed-behind", &["checkpoint.async=true"])] {
        for _ in 0..4 {
            let mut child = place.train(run, sets).spawn().unwrap();
            let wanted = place.checkpoints(run).last().copied().unwrap_or(0) + 2;
            place.until(&mut child, "a save", || place.metrics(run).len() >= wanted);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        ok(&mut place.train(run, sets));
        assert!(place.result(run) == place.result("whole"), "{run} at random");
    }
}

#[test]
fn preparation_that_is_killed_inside_a_commit_equals_one_never_stopped() {
    let place = Place::new();
    let more = ["--vocab-size", "300", "--set", "prep.threads=1", "--set", "prep.split_bytes=5000"];
    ok(&mut place.prep("whole", &more));
    let whole = contents(&place.path("whole"));
    if strace() {
        let points =
            [("rename", "receipt\""), ("fsync", ".tmp>"), ("rename", "/manifest.json\""), ("unlink", "/probe.tmp\"")];
        for (round, (call, words)) in points.iter().enumerate() {
            let (traced, run) = (format!("traced-{round}"), format!("run-{round}"));
            let words = [*words];
            kill_at(&place.prep(&traced, &more), &place.prep(&run, &more), &place.path("log"), call, &words);
            assert!(!place.path(&run).join("manifest.json").exists(), "{call}");
            ok(&mut place.prep(&run, &more));
            assert!(contents(&place.path(&run)) == whole, "{call} of {words:?}");
        }
    }
}

#[test]
fn a_killed_conversion_leaves_no_target_and_the_next_one_takes_its_rest_away() {
    let place = Place::new();
    ok(place.train("run", &["train.steps=2"]).stdout(Stdio::null()));
    let convert = |output: &str| {
        let mut command = place.command("convert");
        command.args(["--checkpoint", "run", "--to", "bf16", "--output", output]);
        command
    };
    ok(&mut convert("whole"));
    if !strace() {
        return;
    }
    std::fs::create_dir(place.path("out")).unwrap();
    std::fs::create_dir(place.path("out/target.tmp-other")).unwrap();
    kill_at(&convert("traced"), &convert("out/target"), &place.path("log"), "rename", &["traced\""]);
    assert!(!place.path("out/target").exists());
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(place.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names().len(), 2, "{:?}", names());
    let draft = names()[0].clone();
    // A draft that a process holds is not touched.
    let held = std::fs::File::open(place.path("out").join(&draft)).unwrap();
    held.try_lock().unwrap();
    ok(&mut convert("out/target"));
    assert_eq!(names(), ["target", draft.as_str(), "target.tmp-other"]);
    std::fs::remove_dir_all(place.path("out/target")).unwrap();
    drop(held);
    let said = ok(&mut convert("out/target"));
    assert!(said.contains("removed out/target.tmp-"), "{said}");
    assert_eq!(names(), ["target", "target.tmp-other"]);
    assert!(contents(&place.path("out/target")) == contents(&place.path("whole")));
}

/// After Ctrl-C in `train 2>&1 | tee log`, `tee` is gone first.
#[test]
fn training_saves_though_nobody_reads_what_it_says() {
    let place = Place::new();
    let sets = ["train.steps=100000", "checkpoint.every_steps=0", "train.report_seconds=0"];
    for signal in stops() {
        let mut child = place.train(signal, &sets).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_exact(&mut [0; 64]).unwrap();
        drop(stderr);
        let before = place.metrics(signal).len();
        place.until(&mut child, "further steps", || place.metrics(signal).len() > before + 2);
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
        assert_eq!(place.checkpoints(signal), [place.metrics(signal).len()], "{signal}");
    }
}

#[test]
fn a_second_signal_ends_training_at_once() {
    let place = Place::new();
    // Steps that take long enough for a second signal to come.
    let sets = ["train.steps=100000", "train.batch_size=128", "train.micro_batch_size=64"];
    let mut child = place.train("run", &sets).spawn().unwrap();
    place.until(&mut child, "two steps", || place.metrics("run").len() >= 2);
    send("TERM", &child);
    std::thread::sleep(Duration::from_millis(20));
    send("TERM", &child);
    let output = child.wait_with_output().unwrap();
    // Where the step came to its end between the two, the run was saved.
    let code = output.status.code();
    assert!(code == Some(130) || code == Some(0) && said(&output).contains("--resume"), "{}", said(&output));
    ok(&mut place.train("run", &["train.steps=4", "train.batch_size=128", "train.micro_batch_size=64"]));
    assert_eq!(place.metrics("run").len(), 4);
}

#[test]
fn nohup_keeps_training() {
    let place = Place::new();
    let command = place.train("run", &["train.steps=100000", "checkpoint.every_steps=0"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    let mut child = shell.current_dir(place.folder.path()).stderr(Stdio::piped()).spawn().unwrap();
    place.until(&mut child, "a step", || place.metrics("run").len() > 1);
    send("HUP", &child);
    let before = place.metrics("run").len();
    place.until(&mut child, "further steps", || place.metrics("run").len() > before + 4);
    send("TERM", &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(place.checkpoints("run"), [place.metrics("run").len()]);
}

#[test]
fn a_sample_that_a_signal_cuts_off_is_written_by_the_next_start() {
    let place = Place::new();
    // Step 5's sample is long enough to be met: its prompt is, since a text may end soon.
    let prompt = format!("train.sample_prompt={}", "x".repeat(8000));
    let sets = ["train.sample_every=5", "model.max_position_embeddings=9000", prompt.as_str()];
    let mut child = place.train("run", &sets).spawn().unwrap();
    place.until(&mut child, "the step before the sample", || place.metrics("run").len() == 4);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(place.metrics("run").len(), 4, "the sample is being written");
    send("TERM", &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("--resume"), "{}", said(&output));
    assert_eq!(place.checkpoints("run").last(), Some(&5));
    assert!(place.metrics("run")[4].get("sample").is_none());
    let mut child = place.train("run", &sets[..2]).spawn().unwrap();
    place.until(&mut child, "the sample", || place.metrics("run")[4].get("sample").is_some());
    send("TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_interrupted_measurement_says_how_far_it_came() {
    let place = Place::new();
    std::fs::write(place.path("text/long.txt"), "the quick brown fox jumps over the lazy dog. ".repeat(20_000))
        .unwrap();
    ok(&mut place.prep("long", &["--tokenizer", "bytes", "--set", "output.validation_fraction=0"]));
    ok(&mut place.train("run", &["train.steps=2"]));
    for signal in ["INT", "TERM"] {
        // Token by token: slow.
        let mut command = place.command("eval");
        command.args(["--checkpoint", "run", "--data", "long", "--cache", "f32", "--threads", "1"]);
        let mut child = command.spawn().unwrap();
        let (mut stderr, mut text) = (BufReader::new(child.stderr.take().unwrap()), String::new());
        while !text.contains("checkpoint:") {
            assert!(stderr.read_line(&mut text).unwrap() > 0, "it ended by itself: {text}");
        }
        std::thread::sleep(Duration::from_millis(500));
        send(signal, &child);
        stderr.read_to_string(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}\n{text}");
        assert!(text.contains("error: interrupted after ") && text.contains("loss  "), "{signal}\n{text}");
        assert!(output.stdout.is_empty(), "no figures that could be taken for those of all data");
    }
}

#[test]
fn an_interrupted_preparation_says_so_and_goes_on() {
    let place = Place::new();
    std::fs::write(place.path("text/long.txt"), "the quick brown fox jumps over a dog. ".repeat(200_000)).unwrap();
    let more = ["--vocab-size", "300", "--set", "prep.split_bytes=50000", "--threads", "1"];
    for signal in stops() {
        let mut child = place.prep(signal, &more).spawn().unwrap();
        place.until(&mut child, "a task", || place.path(signal).join("work").exists());
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}\n{}", said(&output));
        assert!(said(&output).contains("run the same command again"), "{signal}\n{}", said(&output));
        ok(&mut place.prep(signal, &more));
    }
    assert!(contents(&place.path("INT")) == contents(&place.path("TERM")));
}
