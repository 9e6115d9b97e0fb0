//! Every command of README.md and of docs/guide.md, run by a shell as it is written, one after the other, and the
//! commands that the first of them says to try next. Their other blocks are checked too: settings are accepted, code is
//! that of the library's own example, and the output shown has the headings that the program prints.
//!
//! A folder holds the inputs that the commands name. Stand-ins for `cargo` and `fathom` start the programs that are
//! built already and add settings that keep training to a few steps; stand-ins for `sbatch` and `kubectl` do what those
//! would ask of a cluster.

#![cfg(unix)]

mod corpora;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use corpora::{numbers, sentences, web_page};
use flate2::{Compression, write::GzEncoder};

/// Runs what `cargo` would build first. Every training but the main job, which has a variable for it, is cut to two
/// steps, and to three where it is resumed.
const CARGO: &str = r#"#!/bin/bash
set -euo pipefail
case "$*" in
"run --release --bin "*)
  program=$4
  shift 4
  if [ "${1-}" = -- ]; then shift; fi
  command=$program
  if [ "$program" = fathom ]; then command=$1; fi
  if [ "$command" = train ] && [[ " $* " == *" --output "* && " $* " != *" --plan "* ]]; then
    steps=2
    if [[ " $* " == *" --resume "* ]]; then steps=3; fi
    set -- "$@" --set train.steps=$steps --set train.eval_tokens=1000 --set schedule.warmup_tokens=0
  fi
  exec "$PROGRAMS/$program" "$@"
  ;;
"run --release --example "*)
  if [ -x "$PROGRAMS/examples/$4" ]; then
    program=$4
    shift 4
    if [ "${1-}" = -- ]; then shift; fi
    exec "$PROGRAMS/examples/$program" "$@"
  fi
  exec "$REAL_CARGO" run --manifest-path "$REPOSITORY/Cargo.toml" "${@:2}"
  ;;
"install --locked --path bins --bin fathom") ;; # built already; the stand-in below starts it
"test --release --workspace") ;; # this test is part of it
"build --release") ;; # built already, into what target/release leads to
*)
  echo "the pages' test does not know how to run: cargo $*" >&2
  exit 9
  ;;
esac
"#;

/// The program `fathom` as `cargo install` would leave it.
const FATHOM: &str = r#"#!/bin/bash
exec cargo run --release --bin fathom -- "$@"
"#;

/// An array job of which all elements run at once, as Slurm would run them.
const SBATCH: &str = r#"#!/bin/bash
set -euo pipefail
grep -qx '#SBATCH --array=0-7' "$1"
pids=()
for element in 0 1 2 3 4 5 6 7; do
  SLURM_ARRAY_TASK_ID=$element SLURM_ARRAY_TASK_COUNT=8 SLURM_ARRAY_TASK_MIN=0 SLURM_CPUS_PER_TASK=1 bash "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
exit $status
"#;

/// There is no cluster: the file is there and is a job.
const KUBECTL: &str = r#"#!/bin/bash
set -euo pipefail
[ "$1 $2" = "apply -f" ]
grep -qx 'kind: Job' "$3"
"#;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Where the programs lie.
fn programs() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_train")).parent().expect("a folder")
}

/// A page of this repository.
fn page(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap()
}

/// The lines of the fenced blocks in one language, with their numbers.
fn lines<'a>(text: &'a str, language: &str) -> Vec<(usize, &'a str)> {
    let mut open = None;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(_), Some(_)) => open = None,
            (Some(fence), None) => open = Some(fence),
            (None, Some(fence)) if fence == language => found.push((number + 1, line)),
            (None, _) => {}
        }
    }
    found
}

/// The commands of the shell blocks of a Markdown text, in order, with the line each begins on.
fn commands(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut open) = (Vec::new(), String::new());
    for (number, line) in lines(text, "sh").into_iter().filter(|(_, line)| !line.trim().is_empty()) {
        open += line;
        match open.strip_suffix('\\') {
            Some(part) => open = format!("{part} "),
            None => found.push((number, std::mem::take(&mut open))),
        }
    }
    found
}

struct World {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { root: folder.path().to_path_buf(), _folder: folder };
        world.stand_in("cargo", CARGO);
        world.stand_in("fathom", FATHOM);
        world.stand_in("sbatch", SBATCH);
        world.stand_in("kubectl", KUBECTL);
        std::os::unix::fs::symlink(repository().join("configs"), world.root.join("configs")).unwrap();
        std::fs::create_dir(world.root.join("target")).unwrap();
        std::os::unix::fs::symlink(programs(), world.root.join("target/release")).unwrap();
        world.add_text();
        world.add_crawl();
        world.add_model();
        world
    }

    fn stand_in(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.root.join("stand-ins");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `corpus/`, `notes/`, `notes.txt`, and the `tokenizer.json` of somebody else.
    fn add_text(&self) {
        let (mut random, corpus) = (numbers(3), self.root.join("corpus"));
        std::fs::create_dir(&corpus).unwrap();
        for file in 0..40 {
            std::fs::write(corpus.join(format!("{file}.txt")), sentences(&mut random, 60).join("\n")).unwrap();
        }
        std::fs::create_dir(self.root.join("notes")).unwrap();
        for file in 0..4 {
            let text = sentences(&mut random, 60).join("\n");
            std::fs::write(self.root.join(format!("notes/{file}.md")), text).unwrap();
        }
        std::fs::write(self.root.join("notes.txt"), sentences(&mut random, 60).join("\n")).unwrap();
        self.succeeds("cargo run --release --bin prep -- --input corpus/ --vocab-size 400 --output other");
        std::fs::rename(self.root.join("other/tokenizer.json"), self.root.join("tokenizer.json")).unwrap();
    }

    /// `crawl/`: web pages, no two alike.
    fn add_crawl(&self) {
        let (mut random, crawl) = (numbers(5), self.root.join("crawl"));
        std::fs::create_dir(&crawl).unwrap();
        for file in 0..3 {
            let pages =
                (0..12).map(|page| web_page(&format!("http://host{file}.example/{page}"), &sentences(&mut random, 20)));
            let out = std::fs::File::create(crawl.join(format!("{file}.warc.gz"))).unwrap();
            let mut out = GzEncoder::new(out, Compression::fast());
            out.write_all(pages.collect::<String>().as_bytes()).unwrap();
            out.finish().unwrap();
        }
    }

    /// `DeepSeek-V3/`, a small one of the same make, `requests.jsonl` to score, `prompts.jsonl` to continue, and
    /// `data/eval/` with items of a benchmark.
    fn add_model(&self) {
        let (from, to) = (repository().join("tests/golden/v3_fp8"), self.root.join("DeepSeek-V3"));
        std::fs::create_dir(&to).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
        let requests = "{\"context\": \"the people\", \"continuation\": \" of the house\"}\n{\"tokens\": [5, 6, 7]}\n";
        std::fs::write(self.root.join("requests.jsonl"), requests).unwrap();
        std::fs::create_dir_all(self.root.join("data/eval")).unwrap();
        let choices = r#"{"text": ["a horse", "a crown"], "label": ["A", "B"]}"#;
        let item = format!(
            "{{\"question\": \"What would he give his kingdom for?\", \"choices\": {choices}, \"answerKey\": \"A\"}}\n"
        );
        std::fs::write(self.root.join("data/eval/arc_easy_val.jsonl"), item.repeat(2)).unwrap();
        let prompts = "{\"prompt\": \"the people\", \"max_new_tokens\": 4}\n{\"tokens\": [5, 6], \"logprobs\": 2}\n";
        std::fs::write(self.root.join("prompts.jsonl"), prompts).unwrap();
    }

    /// What a shell makes of a command.
    fn shell(&self, command: &str) -> Output {
        let path = format!("{}:{}", self.root.join("stand-ins").display(), std::env::var("PATH").unwrap());
        // One of several processes that fails leaves the others waiting.
        let mut shell = Command::new("timeout");
        shell
            .args(["300", "bash", "-c", command])
            .current_dir(&self.root)
            .env("PATH", path)
            .env("PROGRAMS", programs());
        shell.env("REPOSITORY", repository()).env("FATHOM_QUICKSTART_STEPS", "12");
        // Cargo's tests have this set; programs that are called through cargo see it and name commands that way.
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        shell.env("CARGO", &cargo).env("REAL_CARGO", &cargo);
        for launcher in
            ["SLURM_PROCID", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "OMPI_COMM_WORLD_RANK", "PMI_RANK"]
        {
            shell.env_remove(launcher);
        }
        shell.output().expect("there is a bash")
    }

    /// What the command said: its results, and its messages.
    fn succeeds(&self, command: &str) -> (String, String) {
        let output = self.shell(command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{command}\n{}\n{out}{err}", output.status);
        assert!(!err.contains("panicked"), "{command}\n{err}");
        (out, err)
    }
}

#[test]
fn every_command_of_the_pages_runs_as_it_stands_there() {
    let readme = page("README.md");
    assert_eq!(
        commands(&readme)[0].1.split('#').next().unwrap().trim(),
        "cargo run --release --bin train",
        "the main job first"
    );
    let world = World::new();
    for name in ["README.md", "docs/guide.md"] {
        let commands = commands(&page(name));
        assert!(commands.len() > 5, "{name}: {commands:?}");
        for (index, (line, command)) in commands.iter().enumerate() {
            let start = std::time::Instant::now();
            let (_, said) = world.succeeds(command);
            println!("{name}:{line}: {:.1} s: {command}", start.elapsed().as_secs_f64());
            if (name, index) == ("README.md", 0) {
                assert_has_headings(&said, &readme);
                follow(&world, &said);
            }
            if command.contains("train --resume") {
                let goes_on = said.contains("2 of 3 steps done") || said.contains("3 steps are done");
                assert!(goes_on, "{said}");
            }
        }
    }
    let tokens = |folder: &str| std::fs::read(world.root.join(folder).join("train-00000.bin")).unwrap();
    assert!(
        tokens("data/web") == tokens("data/two") && tokens("data/web") == tokens("data/slurm"),
        "the guide says so"
    );
}

/// The numbered headings of the output that the README shows are those that the program prints.
fn assert_has_headings(said: &str, readme: &str) {
    let shown = lines(readme, "text").into_iter().map(|(_, line)| line);
    let headings: Vec<&str> = shown.filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!(headings.len() > 3, "{headings:?}");
    for heading in headings {
        assert!(said.lines().any(|line| line == heading), "the README shows `{heading}`:\n{said}");
    }
}

#[test]
fn every_other_block_of_the_pages_is_true() {
    for name in ["README.md", "docs/guide.md"] {
        let text = page(name);
        for fence in text.lines().filter(|line| line.trim_start().starts_with("```") && line.len() > 3) {
            let known = ["```sh", "```toml", "```rust", "```text", "```python", "```json"];
            assert!(known.contains(&fence), "{name}: a block that is not looked at: {fence}");
        }
        for (number, line) in lines(&text, "json") {
            let value: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert!(value.is_ok(), "{name}:{number}: not JSON: {value:?}");
        }
        let toml: Vec<&str> = lines(&text, "toml").into_iter().map(|(_, line)| line).collect();
        let mut source = fathom::settings::Source::default();
        source.add_file(Path::new(name), &toml.join("\n")).unwrap();
        fathom::settings::Settings::new(source).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // Code is taken from the library's own example, which is compiled as documentation.
    let library = page("bins/src/lib.rs");
    let code = lines(&page("README.md"), "rust").into_iter().map(|(_, line)| line.to_string()).collect::<Vec<_>>();
    assert!(code.len() > 3, "{code:?}");
    for line in code.iter().filter(|line| !line.trim().is_empty()) {
        assert!(library.lines().any(|there| there == format!("//! {line}")), "not in bins/src/lib.rs: {line}");
    }
}

/// Runs the commands that the main job names at its end. The figure that `eval` then prints is the one it printed.
fn follow(world: &World, said: &str) {
    let (_, next) = said.split_once("Next:\n").unwrap_or_else(|| panic!("no next commands:\n{said}"));
    let next: Vec<&str> = next.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(next.len(), 3, "{next:?}");
    let mut measured = String::new();
    for command in next {
        assert!(command.starts_with("cargo run --release --bin "), "as the main job was called: {command}");
        let (out, _) = world.succeeds(command);
        assert!(!out.trim().is_empty(), "{command} prints nothing");
        if command.contains("--bin eval") {
            measured = out;
        }
    }
    // Again, it finds its run finished and measures it once more.
    let (out, err) = world.succeeds("cargo run --release --bin train");
    assert!(err.contains("12 of 12 steps"), "{err}");
    let loss = out.split("validation loss ").nth(1).and_then(|rest| rest.split(',').next()).expect("a loss");
    assert!(measured.contains(loss), "{loss} in training, and by eval:\n{measured}");
}

#[test]
fn commands_are_found_in_shell_blocks_only() {
    let text = "a\n```sh\none  # why\n\ntwo \\\n  three\n```\n```toml\nfour = 4\n```\n```sh\nfive\n```\n";
    let found = commands(text);
    assert_eq!(found, [(3, "one  # why".into()), (6, "two    three".into()), (12, "five".into())]);
}
