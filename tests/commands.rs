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
            "convert" => env!("CARGO_BIN_EXE_convert"),
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
    assert!(said.contains("in FP8") && said.contains(" -> ") && said.contains("largest relative error"), "{said}");
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
    let eval = |arguments: &[&str]| w.ok("eval", &[arguments, &["--data", "data", "--json"]].concat());
    let used = eval(&["--checkpoint", "averaged", "--ema"]);
    assert_eq!(used, eval(&["--checkpoint", "exported"]));
    assert_ne!(used, eval(&["--checkpoint", "last"]));
    w.ok("generate", &["--checkpoint", "averaged", "--ema", "--max-new-tokens", "4"]);
    w.fails("eval", &["--checkpoint", "run", "--ema", "--data", "data"], 1, &["no average", "train.ema_decay"]);
    // Training goes on with and without it.
    w.ok("train", &w.training("averaged", &["--resume", "--set", "train.steps=3"]));
}
