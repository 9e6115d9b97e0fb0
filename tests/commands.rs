//! The programs answer bad input with an exit code, the place and the remedy, and their output is stable for scripts.

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
            "convert" => env!("CARGO_BIN_EXE_convert"),
            "fathom" => env!("CARGO_BIN_EXE_fathom"),
            _ => env!("CARGO_BIN_EXE_generate"),
        };
        let mut command = Command::new(path);
        // Under cargo, programs name each other as `cargo run`.
        command.args(arguments).current_dir(&self.root).env_remove("CARGO");
        let output = command.output().expect("the program starts");
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
    w.fails("train", &w.training("x", &["--set", "train.precision=fp6"]), 2, &["train.precision", "fp6"]);
    w.fails("train", &["--set", "train.steps=2", "--output", "x"], 2, &["data.path"]);
    w.fails("train", &["--config", "nowhere.toml"], 2, &["nowhere.toml"]);
    std::fs::write(w.root.join("bad.toml"), "[train]\nsteps = = 3\n").unwrap();
    w.fails("train", &["--config", "bad.toml"], 2, &["bad.toml", "2"]);
    w.fails("prep", &["--output", "y"], 2, &["--input"]);
    w.fails("prep", &["--input", "nothing-here", "--output", "y"], 1, &["nothing-here"]);
    w.fails("generate", &["--checkpoint", "run", "--top-p", "2"], 2, &["--top-p"]);
    w.fails("eval", &["--checkpoint", "run"], 2, &["--data", "--score"]);
    for program in ["prep", "train", "eval", "generate", "convert"] {
        let help = w.ok(program, &["--help"]);
        assert!(help.contains("Examples:") && help.contains("Options:"), "{help}");
    }
}

#[test]
fn devices_are_chosen_by_name() {
    let w = World::new();
    let names = ["auto, cpu, cuda", "cuda:emulated"];
    for name in ["tpu", "cuda:", "cuda:one", "cuda:-1", "gpu"] {
        w.fails("train", &w.training("x", &["--device", name]), 2, &[&["--device", name], &names[..]].concat());
    }
    let generate = ["--checkpoint", "run", "--prompt", "the ", "--max-new-tokens", "4", "--device"];
    let eval = ["--checkpoint", "run", "--data", "data", "--device"];
    // No machine has as many, and most that run this test have none.
    let far = "cuda:4096";
    w.fails("train", &w.training("x", &["--device", far]), 1, &[far]);
    w.fails("train", &["--device", far], 1, &[far]);
    w.fails("eval", &[&eval[..], &[far]].concat(), 1, &[far]);
    w.fails("generate", &[&generate[..], &[far]].concat(), 1, &[far]);
    assert!(!w.root.join("x").exists() && !w.root.join("runs").exists(), "the device is looked for first");

    let (code, _, said) = w.run("generate", &[&generate[..], &["auto"]].concat());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("device: "), "auto says what it chose: {said}");
    let (code, _, said) = w.run("generate", &[&generate[..], &["cpu"]].concat());
    assert!(code == 0 && !said.contains("device: "), "{said}");
    let (code, _, said) = w.run("eval", &[&eval[..], &["cuda"]].concat());
    if code != 0 {
        assert!(code == 1 && said.contains("--device cuda: ") && said.contains("NVIDIA driver"), "{said}");
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

/// Tensors of a model folder by name: type, shape, bytes.
type Tensors = std::collections::BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(folder: &Path) -> Tensors {
    let mut all = Tensors::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            all.extend(file.iter().map(|(n, t)| (n.to_string(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))));
        }
    }
    all
}

fn config(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn conversions_lose_what_they_say_and_no_more() {
    let w = World::new();
    let convert = |from: &str, to: &str, more: &[&str]| {
        let (code, _, said) = w.run("convert", &[&["--checkpoint", from, "--output", to], more].concat());
        assert_eq!(code, 0, "{said}");
        said
    };
    let said = convert("run", "fp8", &["--to", "fp8"]);
    assert!(
        said.contains("quantized to FP8") && said.contains(" -> ") && said.contains("largest relative error"),
        "{said}"
    );
    let (fp8, config_of) = (tensors(&w.root.join("fp8")), |name: &str| config(&w.root.join(name)));
    assert_eq!(config_of("fp8")["quantization_config"]["weight_block_size"], serde_json::json!([128, 128]));
    assert_eq!(config_of("fp8")["torch_dtype"], "bfloat16");
    assert!(w.root.join("fp8/tokenizer.json").is_file() && !w.root.join("fp8/trainer").exists());
    w.ok("eval", &["--checkpoint", "fp8", "--data", "data", "--limit", "200"]);
    w.ok("train", &w.training("tuned", &["--set", "train.init=fp8"]));

    // Through f32 and back, and through other files and back, it is the same to the last bit.
    assert!(convert("fp8", "f32", &["--to", "f32"]).contains("no value changed"));
    assert_eq!(config_of("f32").get("quantization_config"), None);
    convert("f32", "again", &["--to", "fp8"]);
    assert_eq!(tensors(&w.root.join("again")), fp8);
    convert("fp8", "shards", &["--to", "fp8", "--shard-bytes", "60000"]);
    assert!(w.root.join("shards/model.safetensors.index.json").is_file());
    assert_eq!(tensors(&w.root.join("shards")), fp8);
    w.ok("eval", &["--checkpoint", "shards", "--data", "data", "--limit", "200"]);
    convert("shards", "bf16", &["--to", "bf16"]);
    assert!(w.root.join("bf16/model.safetensors.index.json").is_file(), "as many files as before");

    // Powers of two are exact in BF16 too.
    convert("run", "ue8m0", &["--to", "fp8", "--scale", "ue8m0"]);
    assert_eq!(config_of("ue8m0")["quantization_config"]["scale_fmt"], "ue8m0");
    assert!(convert("ue8m0", "bf16-exact", &["--to", "bf16"]).contains("no value changed"));
    let said = convert("fp8", "rescaled", &["--to", "fp8", "--scale", "ue8m0"]);
    assert!(said.contains("largest relative error"), "{said}");

    let tail = ["--checkpoint", "run", "--output"];
    let fails = |more: &[&str], code, words: &[&str]| w.fails("convert", &[&tail, more].concat(), code, words);
    fails(&["fp8", "--to", "f32"], 1, &["fp8", "exists already"]);
    fails(&["x", "--to", "f16"], 2, &["f32, bf16 or fp8"]);
    fails(&["x", "--to", "bf16", "--scale", "ue8m0"], 2, &["--to fp8"]);
    fails(&["x", "--to", "fp8", "--scale", "e8"], 2, &["--scale"]);
    fails(&["x", "--to", "f32", "--ema"], 1, &["train.ema_decay"]);
    w.fails("convert", &["--checkpoint", "data", "--output", "x", "--to", "f32"], 1, &["config.json"]);
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1);
    w.damaged("fp8/model.safetensors", cut, || {
        w.fails(
            "convert",
            &["--checkpoint", "fp8", "--output", "x", "--to", "f32"],
            1,
            &["model.safetensors", "damaged"],
        );
    });
    let codes: Vec<u8> = fp8["model.layers.1.self_attn.o_proj.weight"].2.clone();
    let not_a_number = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(codes.len()).position(|window| window == codes).expect("the codes");
        bytes[at + 5] = 0x7f;
    };
    w.damaged("fp8/model.safetensors", not_a_number, || {
        let words = ["layers.1.self_attn.o_proj.weight", "row 0, column 5", "NaN"];
        w.fails("convert", &["--checkpoint", "fp8", "--output", "x", "--to", "f32"], 1, &words);
    });
    assert!(!w.root.join("x").exists(), "a failure leaves nothing");
    let left = std::fs::read_dir(&w.root)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().display().to_string().contains(".tmp-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn published_codes_survive_and_unknown_models_convert() {
    let w = World::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v3_fp8");
    for (from, to, format) in [(golden.as_path(), "plain", "f32"), (Path::new("plain"), "codes", "fp8")] {
        w.ok("convert", &["--checkpoint", from.to_str().unwrap(), "--output", to, "--to", format]);
    }
    let (before, after) = (tensors(&golden), tensors(&w.root.join("codes")));
    let scaled: Vec<&String> = before.keys().filter(|name| name.ends_with("_scale_inv")).collect();
    assert!(scaled.len() > 10);
    for name in scaled {
        let codes = name.trim_end_matches("_scale_inv");
        assert_eq!((&after[name], &after[codes]), (&before[name], &before[codes]), "{name}");
    }

    // A model of another kind, in one file of an odd name.
    let folder = w.root.join("v32");
    std::fs::create_dir_all(folder.join("encoding")).unwrap();
    std::fs::write(folder.join("config.json"), r#"{"model_type": "deepseek_v32", "dtype": "float32"}"#).unwrap();
    std::fs::write(folder.join("encoding/chat.py"), "pass\n").unwrap();
    let values: Vec<u8> = (0..200 * 130).flat_map(|i| ((i % 251) as f32 * 0.01 - 1.0).to_le_bytes()).collect();
    let shapes: [(&str, Vec<usize>); 3] = [
        ("model.layers.0.self_attn.indexer.wk.weight", vec![200, 130]),
        ("model.layers.0.self_attn.indexer.weights_proj.weight", vec![200, 130]),
        ("model.layers.0.self_attn.indexer.k_norm.bias", vec![26000]),
    ];
    let views = shapes.iter().map(|(name, shape)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), &values).unwrap())
    });
    std::fs::write(folder.join("model-00001-of-000001.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    let map: serde_json::Map<String, serde_json::Value> =
        shapes.iter().map(|(name, _)| (name.to_string(), "model-00001-of-000001.safetensors".into())).collect();
    std::fs::write(folder.join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string())
        .unwrap();
    w.ok("convert", &["--checkpoint", "v32", "--output", "v32-fp8", "--to", "fp8"]);
    let types: Vec<String> =
        tensors(&w.root.join("v32-fp8")).values().map(|t| format!("{:?} {:?}", t.0, t.1)).collect();
    assert_eq!(types, ["BF16 [26000]", "BF16 [200, 130]", "F8_E4M3 [200, 130]", "F32 [2, 2]"]);
    assert_eq!(config(&w.root.join("v32-fp8"))["dtype"], "bfloat16");
    assert!(w.root.join("v32-fp8/encoding/chat.py").is_file());
    assert!(w.root.join("v32-fp8/model-00001-of-000001.safetensors").is_file());
}

#[test]
fn the_average_of_the_weights_is_kept_used_and_exported() {
    let w = World::new();
    let sets = ["--set", "train.ema_decay=0.5", "--set", "checkpoint.format=fp8"];
    w.ok("train", &w.training("averaged", &sets));
    let run = w.root.join("averaged/step-00000002");
    let average = tensors(&run.join("trainer"));
    assert!(run.join("trainer/ema.safetensors").is_file() && run.join("trainer/weights.safetensors").is_file());
    assert_eq!(average["model.norm.weight"].0, safetensors::Dtype::F32);
    w.ok("convert", &["--checkpoint", "averaged", "--output", "exported", "--to", "f32", "--ema"]);
    w.ok("convert", &["--checkpoint", "averaged", "--output", "last", "--to", "f32"]);
    let (exported, last) = (tensors(&w.root.join("exported")), tensors(&w.root.join("last")));
    assert_eq!(exported.keys().collect::<Vec<_>>(), last.keys().collect::<Vec<_>>());
    let ema = std::fs::read(run.join("trainer/ema.safetensors")).unwrap();
    let ema = safetensors::SafeTensors::deserialize(&ema).unwrap();
    for (name, view) in ema.iter() {
        assert_eq!(exported[name].2, view.data(), "{name}");
        assert_ne!(exported[name].2, last[name].2, "{name}: an average of two steps is not the second");
    }
    let copy = "model.layers.2.embed_tokens.weight";
    assert_eq!(exported[copy], exported["model.embed_tokens.weight"]);
    let eval = |arguments: &[&str]| {
        // An exported folder does not say at which length it was trained.
        let text = w.ok("eval", &[arguments, &["--data", "data", "--json", "--sequence-length", "64"]].concat());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["loss"].as_f64().unwrap()
    };
    let used = eval(&["--checkpoint", "averaged", "--ema"]);
    assert_eq!(used, eval(&["--checkpoint", "exported"]));
    assert_ne!(used, eval(&["--checkpoint", "last"]));
    w.ok("generate", &["--checkpoint", "averaged", "--ema", "--max-new-tokens", "4"]);
    w.fails("eval", &["--checkpoint", "run", "--ema", "--data", "data"], 1, &["no average", "train.ema_decay"]);
    // Training goes on with and without it.
    w.ok("train", &w.training("averaged", &["--resume", "--set", "train.steps=3"]));
}

impl World {
    /// `eval --json` with `arguments`, and what was said on stderr.
    fn eval(&self, arguments: &[&str]) -> (serde_json::Value, String) {
        let (code, out, said) = self.run("eval", &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{said}");
        (serde_json::from_str(&out).unwrap(), said)
    }
}

#[test]
fn a_result_names_its_checkpoint_and_a_damaged_one_is_not_replaced_in_silence() {
    let w = World::new();
    let more = ["--set", "train.steps=4", "--set", "checkpoint.every_steps=2", "--set", "schedule.lr=0.01"];
    w.ok("train", &w.training("k", &more));
    let data = ["--data", "data"];
    let (newest, _) = w.eval(&[&["--checkpoint", "k"], &data[..]].concat());
    assert_eq!(newest["checkpoint"], "k/step-00000004");
    assert_eq!(newest.get("passed_over"), None);
    let older = w.eval(&[&["--checkpoint", "k/step-00000002"], &data[..]].concat()).0;
    assert_ne!(newest["loss"], older["loss"]);

    let weights = "k/step-00000004/model.safetensors";
    w.damaged(
        weights,
        |bytes| bytes.truncate(1000),
        || {
            let note = "passing over k/step-00000004: k/step-00000004/model.safetensors: has 1000 bytes";
            let (result, said) = w.eval(&[&["--checkpoint", "k"], &data[..]].concat());
            assert_eq!((&result["checkpoint"], &result["loss"]), (&older["checkpoint"], &older["loss"]));
            assert!(result["passed_over"][0].as_str().unwrap().starts_with(note) && said.contains(note), "{said}");
            let (code, _, said) = w.run("generate", &["--checkpoint", "k", "--max-new-tokens", "1"]);
            assert!(code == 0 && said.contains(note) && said.contains("checkpoint: k/step-00000002"), "{said}");
            let (code, _, said) = w.run("convert", &["--checkpoint", "k", "--output", "from-k", "--to", "bf16"]);
            assert!(code == 0 && said.contains(note) && said.contains("checkpoint: k/step-00000002"), "{said}");
            // A step that is named is that step or an error.
            for program in ["eval", "generate", "convert"] {
                let more: &[&str] = match program {
                    "eval" => &data,
                    "convert" => &["--output", "x", "--to", "f32"],
                    _ => &[],
                };
                let arguments = [&["--checkpoint", "k/step-00000004"], more].concat();
                w.fails(program, &arguments, 1, &["model.safetensors: has 1000 bytes"]);
            }
            w.fails("train", &w.training("x", &["--set", "train.init=k/step-00000004"]), 2, &["has 1000 bytes"]);
        },
    );
    // The same size and other bytes.
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 0x40;
    w.damaged(weights, flip, || {
        for checkpoint in ["k", "k/step-00000004"] {
            let words = ["k/step-00000004/model.safetensors: has SHA-256"];
            w.fails("eval", &[&["--checkpoint", checkpoint], &data[..]].concat(), 1, &words);
            w.fails("generate", &["--checkpoint", checkpoint], 1, &words);
            w.fails("convert", &["--checkpoint", checkpoint, "--output", "x", "--to", "f32"], 1, &words);
        }
    });
}

#[test]
fn a_measurement_says_of_what_and_agrees_with_training() {
    let w = World::new();
    let (code, _, said) = w.run("train", &w.training("v", &["--set", "train.eval_tokens=0"]));
    assert!(code == 0 && !said.contains("no validation split"), "{said}");
    let (result, _) = w.eval(&["--checkpoint", "v", "--data", "data"]);
    assert_eq!((&result["split"], &result["window"]), (&"validation".into(), &32.into()));
    let at_the_end = format!("validation: loss {:.4}, perplexity", result["loss"].as_f64().unwrap());
    assert!(said.contains(&at_the_end), "{at_the_end}\n{said}");
    let text = w.ok("eval", &["--checkpoint", "v", "--data", "data"]);
    for line in ["checkpoint     v/step-00000002", "split          validation", "window         32 tokens"] {
        assert!(text.contains(line), "{text}");
    }
    // Without the mask in training, none in the measurement.
    w.ok("train", &w.training("unmasked", &["--set", "data.document_mask=false"]));
    assert_eq!(w.eval(&["--checkpoint", "unmasked", "--data", "data"]).0["document_mask"], false);

    w.ok(
        "prep",
        &["--tokenizer", "bytes", "--input", "text.txt", "--output", "whole", "--set", "output.validation_fraction=0"],
    );
    let more = ["--set", "data.path=whole"];
    let (code, _, said) = w.run("train", &w.training("nv", &more));
    assert!(code == 0 && said.contains("no validation split"), "{said}");
    let (code, _, said) = w.run("train", &w.training("nv2", &[&more[..], &["--set", "train.eval_every=0"]].concat()));
    assert!(code == 0 && !said.contains("no validation split"), "{said}");
    let (result, _) = w.eval(&["--checkpoint", "nv", "--data", "whole"]);
    assert_eq!(result["split"], "train (no validation split)");
    assert_eq!(w.eval(&["--checkpoint", "nv", "--data", "whole", "--split", "train"]).0["split"], "train");
    w.fails("eval", &["--checkpoint", "nv", "--data", "whole", "--split", "validation"], 1, &["whole"]);
}

#[test]
fn a_plan_is_of_the_data_that_is_named() {
    let w = World::new();
    let plan = |more: &[&str]| {
        let text = w.ok("train", &[&["--plan", "--json", "--device", "cpu"], more].concat());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let (alone, with_data) = (plan(&["--set", "model.preset=tiny"]), plan(&["--set", "data.path=data"]));
    assert_eq!((&alone["vocab_size"], &with_data["vocab_size"]), (&4096.into(), &257.into()));
    assert_eq!(with_data["parameters_by_kind"]["embedding"], 257 * 128);
    assert_eq!(with_data["vocabulary_of"], "data");
    w.fails("train", &["--plan", "--set", "data.path=nowhere"], 1, &["nowhere"]);
    w.fails("train", &["--plan", "--set", "data.sources.a.path=nowhere"], 1, &["nowhere"]);
    let text = w.ok("train", &["--plan", "--device", "cpu", "--set", "data.path=data"]);
    if cfg!(target_os = "linux") {
        assert!(text.contains("\n  fits here: "), "{text}");
        assert_eq!(with_data["fits"], true);
        assert_eq!(plan(&["--set", "model.preset=v3-671b"])["fits"], false);
    }
}

#[test]
fn a_run_that_is_not_there_or_is_finished_says_so() {
    let w = World::new();
    w.fails("train", &["--resume", "--output", "none"], 1, &["none holds no complete checkpoint"]);
    assert!(!w.root.join("none").exists());
    let (code, _, said) = w.run("train", &w.training("run", &["--resume", "--set", "train.steps=1"]));
    assert!(code == 0 && said.contains("2 steps are done and the settings ask for 1: nothing to train"), "{said}");
    // From another folder, with the data where it was.
    let elsewhere = w.root.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mut train = Command::new(env!("CARGO_BIN_EXE_train"));
    train.args(["--resume", "--output", "../run", "--set", "train.steps=3"]).current_dir(&elsewhere);
    let output = train.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let diverging = ["--set", "schedule.lr=1e30", "--set", "train.steps=9"];
    w.fails("train", &w.training("nan", &diverging), 1, &["no checkpoint was written yet"]);
}

#[test]
fn a_context_that_was_cut_is_said_to_be() {
    let w = World::new();
    let long = "the quick brown fox ".repeat(10);
    let line = serde_json::json!({ "context": long, "continuation": " jumps" });
    std::fs::write(w.root.join("in.jsonl"), format!("{line}\n")).unwrap();
    let (code, out, said) = w.run("eval", &["--checkpoint", "run", "--score", "in.jsonl"]);
    let score: serde_json::Value = serde_json::from_str(&out).unwrap();
    // 199 bytes of context without its last space, which goes to the continuation, and 7 of that; 65 tokens fit.
    assert_eq!((code, &score["cut"]), (0, &(199 + 7 - 65).into()), "{said}");
    assert!(said.contains("1 lines are longer than the model's context of 64 tokens"), "{said}");
}

/// Writes tensors as a safetensors file.
fn store(tensors: &Tensors, path: &Path) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A model folder without anything of training, to be changed: a copy of `plain` with the weights in `weights`.
fn folder(w: &World, name: &str, weights: &[(&str, &Tensors)]) -> PathBuf {
    let folder = w.root.join(name);
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(w.root.join("plain").join(file), folder.join(file)).unwrap();
    }
    weights.iter().for_each(|(file, tensors)| store(tensors, &folder.join(file)));
    folder
}

fn write_index(folder: &Path, map: &[(&str, &str)]) {
    let map: serde_json::Map<String, serde_json::Value> =
        map.iter().map(|(tensor, file)| (tensor.to_string(), (*file).into())).collect();
    std::fs::write(folder.join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string())
        .unwrap();
}

#[test]
fn model_folders_as_others_write_them_are_read_as_they_mean_them() {
    let w = World::new();
    w.ok("convert", &["--checkpoint", "run", "--output", "plain", "--to", "f32"]);
    let plain = tensors(&w.root.join("plain"));
    std::fs::write(w.root.join("in.jsonl"), "{\"tokens\": [116, 104, 101, 32, 113]}\n").unwrap();
    let score = |folder: &str| {
        let (code, out, said) = w.run("eval", &["--checkpoint", folder, "--score", "in.jsonl"]);
        assert_eq!(code, 0, "{folder}: {said}");
        (out, said)
    };
    let right = score("plain").0;

    // Experts as transformers 5 holds them: gate and up rows of all experts in one tensor.
    let mut fused = plain.clone();
    for layer in 1..=2 {
        let prefix = format!("model.layers.{layer}.mlp.experts");
        let mut take = |expert: usize, part: &str| fused.remove(&format!("{prefix}.{expert}.{part}.weight")).unwrap();
        let (mut gate_up, mut down, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for expert in 0..8 {
            for part in ["gate_proj", "up_proj"] {
                let (_, shape, bytes) = take(expert, part);
                shapes = shape;
                gate_up.extend(bytes);
            }
            down.extend(take(expert, "down_proj").2);
        }
        let (rows, cols, kind) = (shapes[0], shapes[1], safetensors::Dtype::F32);
        fused.insert(format!("{prefix}.gate_up_proj"), (kind, vec![8, 2 * rows, cols], gate_up));
        fused.insert(format!("{prefix}.down_proj"), (kind, vec![8, cols, rows], down));
    }
    folder(&w, "fused", &[("model.safetensors", &fused)]);
    assert_eq!(score("fused").0, right);
    w.ok("convert", &["--checkpoint", "fused", "--output", "apart", "--to", "f32"]);
    assert_eq!(tensors(&w.root.join("apart")), plain);

    // A tensor in two files: the one counts that the index names.
    let norm = "model.norm.weight";
    let (mut one, mut two) = (plain.clone(), Tensors::new());
    two.insert(norm.into(), plain[norm].clone());
    one.get_mut(norm).unwrap().2.fill(0);
    let place = folder(&w, "twice", &[("one.safetensors", &one), ("two.safetensors", &two)]);
    let map = |in_two: &str| -> Vec<(&str, &str)> {
        let file = |name: &String| if name == in_two { "two.safetensors" } else { "one.safetensors" };
        plain.keys().map(|name| (name.as_str(), file(name))).collect()
    };
    write_index(&place, &map(norm));
    assert_eq!(score("twice").0, right);
    let mut neither = map(norm);
    neither.retain(|(name, _)| *name != norm);
    neither.push(("lm_head.weight", "two.safetensors"));
    two.insert("lm_head.weight".into(), plain["lm_head.weight"].clone());
    store(&two, &place.join("two.safetensors"));
    write_index(&place, &neither);
    w.fails(
        "eval",
        &["--checkpoint", "twice", "--score", "in.jsonl"],
        1,
        &[norm, "one.safetensors", "two.safetensors"],
    );

    // One file beside an index of other files, of another model.
    let mut other = plain.clone();
    other.get_mut(norm).unwrap().2.fill(0);
    let place = folder(&w, "both", &[("model.safetensors", &plain), ("one.safetensors", &other)]);
    write_index(&place, &plain.keys().map(|name| (name.as_str(), "one.safetensors")).collect::<Vec<_>>());
    let (out, said) = score("both");
    assert_eq!(out, right);
    assert!(said.contains("model.safetensors lies beside model.safetensors.index.json"), "{said}");
    let (_, _, said) = w.run("convert", &["--checkpoint", "both", "--output", "one-of-both", "--to", "f32"]);
    assert!(said.contains("model.safetensors lies beside model.safetensors.index.json"), "{said}");
    assert_eq!(tensors(&w.root.join("one-of-both")), plain);

    // A weight that is no number.
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut diverged = plain.clone();
        diverged.get_mut(norm).unwrap().2[8..12].copy_from_slice(&bad.to_le_bytes());
        let place = w.root.join("diverged");
        let _ = std::fs::remove_dir_all(&place);
        folder(&w, "diverged", &[("model.safetensors", &diverged)]);
        let words = [norm, "row 0, column 2", "NaN or infinite"];
        w.fails("eval", &["--checkpoint", "diverged", "--score", "in.jsonl"], 1, &words);
        w.fails("eval", &["--checkpoint", "diverged", "--data", "data"], 1, &words);
        w.fails("generate", &["--checkpoint", "diverged"], 1, &words);
    }
    // Weights that are numbers and give logits that are none.
    let mut large = plain.clone();
    for (name, value) in [("lm_head.weight", 3e38f32), (norm, 1e6)] {
        let bytes = &mut large.get_mut(name).unwrap().2;
        bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&value.to_le_bytes()));
    }
    folder(&w, "large", &[("model.safetensors", &large)]);
    for temperature in ["0", "1"] {
        let arguments = ["--checkpoint", "large", "--prompt", "a", "--temperature", temperature];
        w.fails("generate", &arguments, 1, &["the logits of the model are not finite"]);
    }
    w.fails("eval", &["--checkpoint", "large", "--score", "in.jsonl"], 1, &["log probabilities", "not finite"]);
    w.fails("eval", &["--checkpoint", "large", "--data", "data"], 1, &["log probabilities", "not finite"]);

    // Without a tokenizer token ids are scored as ever, and text says what is missing.
    let place = folder(&w, "mute", &[("model.safetensors", &plain)]);
    std::fs::remove_file(place.join("tokenizer.json")).unwrap();
    assert_eq!(score("mute").0, right);
    w.fails("generate", &["--checkpoint", "mute"], 1, &["mute has no tokenizer.json"]);
    std::fs::write(place.join("tiktoken.model"), "IQ== 0\n").unwrap();
    w.fails("generate", &["--checkpoint", "mute"], 1, &["tiktoken.model", "convert_tiktoken_to_fast"]);
}

#[test]
fn prompts_and_ends_of_text_are_as_the_folder_says() {
    let w = World::new();
    w.ok("convert", &["--checkpoint", "run", "--output", "plain", "--to", "f32"]);
    let plain = tensors(&w.root.join("plain"));
    let generate = |folder: &str, prompt: &str| {
        let more = ["--temperature", "0", "--max-new-tokens", "16"];
        w.ok("generate", &[&["--checkpoint", folder, "--prompt", prompt], &more[..]].concat()).into_bytes()
    };
    let change = |path: PathBuf, change: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
    };
    // A template that puts a Q before every text, as a list of processors and alone.
    let template = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "Q", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [],
        "special_tokens": { "Q": { "id": "Q", "ids": [u32::from(b'Q')], "tokens": ["Q"] } },
    });
    let right = generate("plain", "Qab");
    for (name, processor) in [
        ("alone", template.clone()),
        ("listed", serde_json::json!({ "type": "Sequence", "processors": [{ "type": "ByteLevel" }, template] })),
    ] {
        let place = folder(&w, name, &[("model.safetensors", &plain)]);
        change(place.join("tokenizer.json"), &|json| json["post_processor"] = processor.clone());
        assert_eq!(generate(name, "ab"), right, "{name}");
        assert_eq!(generate(name, "Qab"), right, "{name}: the token is not put there twice");
        assert_eq!(generate(name, ""), generate("plain", "Q"), "{name}");
    }

    // The first byte that is not the one before it ends the text, if it is named as an end.
    let text = generate("plain", "ab");
    let end = *text.iter().find(|&&byte| byte != text[0]).unwrap_or(&text[0]);
    let before = text.iter().position(|&byte| byte == end).unwrap();
    let mut ended = text[..before].to_vec();
    ended.push(b'\n');
    for (name, ids) in [("ends", serde_json::json!([256, end])), ("end", serde_json::json!(end))] {
        let place = folder(&w, name, &[("model.safetensors", &plain)]);
        change(place.join("generation_config.json"), &|json| json["eos_token_id"] = ids.clone());
        assert_eq!(generate(name, "ab"), ended, "{name}");
    }
    let place = folder(&w, "of-config", &[("model.safetensors", &plain)]);
    std::fs::remove_file(place.join("generation_config.json")).unwrap();
    change(place.join("config.json"), &|json| json["eos_token_id"] = serde_json::json!([256, end]));
    assert_eq!(generate("of-config", "ab"), ended, "config.json speaks where generation_config.json is not there");
}

#[test]
fn the_program_fathom_holds_every_command() {
    let w = World::new();
    let welcome = w.ok("fathom", &[]);
    let fathom = env!("CARGO_BIN_EXE_fathom");
    let called = format!("  {fathom} ");
    assert_eq!(welcome.lines().filter(|line| line.starts_with(&called)).count(), 5, "{welcome}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(w.ok("fathom", &["--version"]).trim(), format!("fathom {version}"));
    assert_eq!(w.ok("fathom", &["train", "-V"]).trim(), format!("fathom {version}"));
    for program in ["prep", "train", "eval", "generate", "convert"] {
        assert_eq!(w.ok(program, &["--version"]).trim(), format!("{program} (fathom) {version}"));
        let help = w.ok("fathom", &["help", program]);
        assert!(help.contains(&format!("Usage: {fathom} {program} ")), "{help}");
        for arguments in [&[program, "--help"][..], &[program, "-h"], &[program, "help"]] {
            assert_eq!(w.ok("fathom", arguments), help);
        }
        assert!(!help.contains("{{") && help.contains("-h, --help"), "{help}");
    }
    assert_eq!(w.ok("fathom", &["help", "prep", "inspect"]), w.ok("fathom", &["prep", "inspect", "--help"]));
    w.fails("fathom", &["trian"], 2, &["did you mean `train`?", "--help"]);
    w.fails("fathom", &["train", "--ouput", "x"], 2, &["did you mean --output?", &format!("{fathom} train --help")]);

    let arguments = ["--checkpoint", "run", "--data", "data", "--json"];
    assert_eq!(w.ok("fathom", &[&["eval"], &arguments[..]].concat()), w.ok("eval", &arguments));
    // Keys stand among the options, and are listed whole.
    for program in ["prep", "train"] {
        assert!(w.ok(program, &["--help"]).contains("  --keys "));
        assert_eq!(w.ok(program, &["--keys"]), w.ok("fathom", &[program, "--keys"]));
    }
    let keys = w.ok("train", &["--keys"]);
    for key in ["train.steps", "precision.fp8_dispatch", "schedule.lr", "model.FIELD"] {
        assert!(keys.contains(key), "{key}: {keys}");
    }
}

#[test]
fn arguments_may_be_written_as_elsewhere() {
    let w = World::new();
    let apart =
        w.ok("generate", &["--checkpoint", "run", "--prompt", "the ", "--max-new-tokens", "6", "--threads", "1"]);
    let joined = w.ok("generate", &["--checkpoint=run", "--prompt=the ", "--max-new-tokens=6", "--threads=1"]);
    assert_eq!(apart, joined);
    w.fails("generate", &["--checkpoint", "run", "--prompt"], 2, &["--prompt needs a value"]);
    w.fails("generate", &["--checkpoint", "run", "--ema=yes"], 2, &["--ema takes no value"]);
    w.fails("prep", &["--tokenizer", "bytes", "--vocab-size", "1000", "text.txt"], 2, &["--tokenizer", "--vocab-size"]);
    w.fails("prep", &["text.txt", "data"], 2, &["--output"]);

    // Text and data need no option.
    let said = w.run("fathom", &["prep", "text.txt", "--set=output.validation_tail=0.2"]).2;
    assert!(said.contains("data/text: prepared"), "{said}");
    let mut arguments: Vec<&str> = w.training("positional", &["data/text", "--threads=1"]);
    arguments.retain(|&argument| argument != "data.path=data");
    arguments.remove(2);
    w.ok("train", &arguments);
    let config = std::fs::read_to_string(w.root.join("positional/config.resolved.toml")).unwrap();
    assert!(config.contains("/data/text\"\n") && config.contains("threads = 1"), "{config}");
    w.fails("train", &w.training("x", &["data/text"]), 2, &["data/text", "data.path"]);
}

#[cfg(unix)]
#[test]
fn bytes_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let w = World::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_generate"));
    command.args(["--checkpoint", "run", "--prompt"]).arg(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    let output = command.current_dir(&w.root).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("--prompt") && said.contains("not UTF-8"), "{said}");
}

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

/// What bash offers for the last of `words`, after the completions of `fathom` were read.
#[cfg(unix)]
fn bash_completes(folder: &Path, words: &[&str]) -> Vec<String> {
    const SCRIPT: &str = r#"
        source <("$FATHOM" completions bash) || exit 1
        complete -p fathom > /dev/null || exit 1
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        _fathom 2> /dev/null # compopt works only while the shell completes
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
