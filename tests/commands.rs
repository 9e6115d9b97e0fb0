//! What the programs say to bad input: the exit code, the place, and the remedy. And that their output is what scripts
//! rely on.

use std::path::{Path, PathBuf};
use std::process::Command;

struct World {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl World {
    /// A prepared corpus and a tiny trained model.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        std::fs::write(root.join("text.txt"), "the quick brown fox jumps over the lazy dog. ".repeat(120)).unwrap();
        let world = Self { _folder: folder, root };
        world.ok(
            "prep",
            &["--tokenizer", "bytes", "--input", "text.txt", "--output", "data", "--set", "output.validation_tail=0.2"],
        );
        world.ok("train", &world.training("run", &[]));
        world
    }

    fn training<'a>(&self, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec!["--output", output];
        for set in [
            "data.path=data",
            "model.hidden_size=32",
            "model.num_hidden_layers=2",
            "model.n_routed_experts=8",
            "model.max_position_embeddings=64",
            "train.batch_size=4",
            "train.sequence_length=32",
            "train.steps=2",
        ] {
            arguments.extend(["--set", set]);
        }
        arguments.extend(more);
        arguments
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (i32, String, String) {
        let path = match program {
            "prep" => env!("CARGO_BIN_EXE_prep"),
            "train" => env!("CARGO_BIN_EXE_train"),
            "eval" => env!("CARGO_BIN_EXE_eval"),
            _ => env!("CARGO_BIN_EXE_generate"),
        };
        let output = Command::new(path).args(arguments).current_dir(&self.root).output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("no signal ends a program on bad input");
        (code, text(&output.stdout), text(&output.stderr))
    }

    fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(program, arguments);
        assert_eq!(code, 0, "{program} {arguments:?}\n{err}");
        out
    }

    /// The program must fail with `code` and say all of `words`, without panicking.
    fn fails(&self, program: &str, arguments: &[&str], code: i32, words: &[&str]) {
        let (found, _, err) = self.run(program, arguments);
        assert_eq!(found, code, "{program} {arguments:?}\n{err}");
        assert!(!err.contains("panicked"), "{err}");
        for word in words {
            assert!(err.contains(word), "{program} {arguments:?}\nshould say {word:?}:\n{err}");
        }
    }

    /// Runs `check` while the file holds what `change` makes of it.
    fn damaged(&self, file: &str, change: impl Fn(&mut Vec<u8>), check: impl Fn()) {
        let path = self.root.join(file);
        let good = std::fs::read(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut bad = good.clone();
        change(&mut bad);
        std::fs::write(&path, bad).unwrap();
        check();
        std::fs::write(&path, good).unwrap();
    }
}

#[test]
fn wrong_arguments_and_settings_are_named() {
    let w = World::new();
    w.fails("train", &["--no-such-flag"], 2, &["--no-such-flag"]);
    w.fails("train", &["--set", "train.stepz=3"], 2, &["train.stepz", "train.steps"]);
    w.fails("train", &["--set", "train.steps=many"], 2, &["train.steps", "whole number"]);
    w.fails(
        "train",
        &w.training("x", &["--set", "train.micro_batch_size=3"]),
        2,
        &["train.micro_batch_size", "divide"],
    );
    w.fails("train", &w.training("x", &["--set", "train.sequence_length=65"]), 2, &["max_position_embeddings", "64"]);
    w.fails("train", &w.training("x", &["--set", "model.vocab_size=100"]), 2, &["model.vocab_size", "257"]);
    w.fails("train", &w.training("x", &["--set", "train.precision=fp8"]), 2, &["train.precision", "fp8"]);
    w.fails("train", &w.training("x", &["--device", "cuda"]), 1, &["no CUDA driver"]);
    w.fails("train", &w.training("x", &["--device", "tpu"]), 2, &["auto, cpu, cuda"]);
    w.fails("train", &["--set", "train.steps=2", "--output", "x"], 2, &["data.path"]);
    w.fails("train", &["--config", "nowhere.toml"], 2, &["nowhere.toml"]);
    std::fs::write(w.root.join("bad.toml"), "[train]\nsteps = = 3\n").unwrap();
    w.fails("train", &["--config", "bad.toml"], 2, &["bad.toml", "2"]);
    w.fails("prep", &["--output", "y"], 2, &["--input"]);
    w.fails("prep", &["--input", "nothing-here", "--output", "y"], 1, &["nothing-here"]);
    w.fails("generate", &["--checkpoint", "run", "--top-p", "2"], 2, &["--top-p"]);
    w.fails("eval", &["--checkpoint", "run"], 2, &["--data", "--score"]);
    for program in ["prep", "train", "eval", "generate"] {
        let help = w.ok(program, &["--help"]);
        assert!(help.contains("Examples:") && help.contains("Options:"), "{help}");
    }
}

#[test]
fn damaged_files_are_named() {
    let w = World::new();
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 0x40;
    let train = || w.training("again", &[]);
    for (file, name) in
        [("data/train-00000.bin", ".bin"), ("data/train-00000.idx", ".idx"), ("data/manifest.json", "manifest.json")]
    {
        w.damaged(file, half, || w.fails("train", &train(), 1, &[name]));
    }
    w.damaged("data/train-00000.idx", flip(2), || w.fails("train", &train(), 1, &[".idx"]));
    w.damaged("data/tokenizer.json", half, || w.fails("train", &train(), 1, &["tokenizer.json"]));

    let step = "run/step-00000002";
    let eval = ["--checkpoint", "run/step-00000002", "--data", "data"];
    w.damaged(&format!("{step}/model.safetensors"), half, || w.fails("eval", &eval, 1, &["model.safetensors"]));
    w.damaged(&format!("{step}/model.safetensors"), flip(3), || w.fails("eval", &eval, 1, &["model.safetensors"]));
    w.damaged(&format!("{step}/config.json"), half, || w.fails("eval", &eval, 1, &["config.json"]));
    w.damaged(&format!("{step}/tokenizer.json"), half, || w.fails("eval", &eval, 1, &["tokenizer.json"]));
    let wrong = |bytes: &mut Vec<u8>| {
        *bytes = String::from_utf8_lossy(bytes).replace("\"hidden_size\": 32", "\"hidden_size\": 48").into_bytes();
    };
    w.damaged(&format!("{step}/config.json"), wrong, || w.fails("eval", &eval, 1, &["shape"]));

    let resume = w.training("run", &["--resume", "--set", "train.steps=4"]);
    for file in ["trainer/m.safetensors", "trainer/state.json", "model.safetensors"] {
        w.damaged(&format!("{step}/{file}"), flip(20), || w.fails("train", &resume, 1, &["step-00000002"]));
    }
    w.fails("generate", &["--checkpoint", "data"], 1, &["config.json"]);
    w.ok("train", &resume);
}

#[test]
fn scores_come_line_by_line() {
    let w = World::new();
    let lines = "{\"tokens\": [116, 104, 101]}\n\n{\"context\": \"the quick \", \"continuation\": \"brown\"}\n";
    std::fs::write(w.root.join("in.jsonl"), lines).unwrap();
    w.ok("eval", &["--checkpoint", "run", "--score", "in.jsonl", "--output", "out.jsonl"]);
    let out = std::fs::read_to_string(w.root.join("out.jsonl")).unwrap();
    let scores: Vec<serde_json::Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let counts: Vec<usize> = scores.iter().map(|s| s["logprobs"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [2, 6], "one for each token after the first; the context's last space is the continuation's");
    for s in &scores {
        let sum: f64 = s["logprobs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum();
        assert!((sum - s["sum_logprob"].as_f64().unwrap()).abs() < 1e-4);
        assert_eq!(s["greedy"].as_array().unwrap().len(), s["logprobs"].as_array().unwrap().len());
    }
    for (line, words) in [
        ("{\"tokens\": [1]}", "at least 2"),
        ("{\"tokens\": [1, 999]}", "999"),
        ("{}", "must be"),
        ("nonsense", "is not"),
    ] {
        std::fs::write(w.root.join("bad.jsonl"), format!("{{\"tokens\": [1, 2]}}\n{line}\n")).unwrap();
        w.fails("eval", &["--checkpoint", "run", "--score", "bad.jsonl"], 1, &["bad.jsonl:2", words]);
    }
}

#[test]
fn generation_is_repeatable_and_evaluation_is_json() {
    let w = World::new();
    let arguments = ["--checkpoint", "run", "--prompt", "the ", "--max-new-tokens", "12", "--seed", "5"];
    assert_eq!(w.ok("generate", &arguments), w.ok("generate", &arguments));
    let long = "x".repeat(70);
    w.fails("generate", &["--checkpoint", "run", "--prompt", &long], 1, &["70", "64"]);
    let result: serde_json::Value =
        serde_json::from_str(&w.ok("eval", &["--checkpoint", "run", "--data", "data", "--json"])).unwrap();
    let (loss, bits) = (result["loss"].as_f64().unwrap(), result["bits_per_byte"].as_f64().unwrap());
    assert!((loss / std::f64::consts::LN_2 - bits).abs() < 0.05 * bits, "a byte a token: {result}");
    let plan = w.ok("train", &["--plan", "--json", "--set", "model.preset=v3-671b"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["parameters"], 671_026_419_200u64);
    assert_eq!(plan["parameters_with_mtp"], 684_489_845_504u64);
    let said = w
        .run(
            "prep",
            &["--tokenizer", "bytes", "--input", "text.txt", "--output", "data", "--set", "output.validation_tail=0.2"],
        )
        .2;
    assert!(said.contains("already"), "{said}");
    assert!(Path::new(&w.root.join("run/config.resolved.toml")).is_file());
}
