//! Conversions between formats, and model folders that other programs wrote.

use std::path::{Path, PathBuf};

use crate::World;

/// Tensors of a model folder by name: type, shape, bytes.
pub(crate) type Tensors = std::collections::BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

pub(crate) fn tensors(folder: &Path) -> Tensors {
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
    // Training goes on with it, in either memory, and without it; the average has the same bits wherever it is kept.
    let file = |run: &str, step: u32| {
        std::fs::read(w.root.join(format!("{run}/step-{step:08}/trainer/ema.safetensors"))).unwrap()
    };
    let host = ["--set", "train.ema_memory=host"];
    w.ok("train", &w.training("on-host", &[&sets[..], &host[..]].concat()));
    assert!(file("on-host", 2) == file("averaged", 2));
    let three = ["--resume", "--set", "train.steps=3", "--set", "train.ema_decay=0.5"];
    w.ok("train", &w.training("averaged", &[&three[..], &host[..]].concat()));
    w.ok("train", &w.training("on-host", &three));
    assert!(file("on-host", 3) == file("averaged", 3) && file("averaged", 3) != file("averaged", 2));
    w.ok("train", &w.training("averaged", &["--resume", "--set", "train.steps=4"]));
}

/// Writes tensors as a safetensors file.
pub(crate) fn store(tensors: &Tensors, path: &Path) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A model folder without anything of training, to be changed: a copy of `plain` with the weights in `weights`.
pub(crate) fn folder(w: &World, name: &str, weights: &[(&str, &Tensors)]) -> PathBuf {
    let folder = w.root.join(name);
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(w.root.join("plain").join(file), folder.join(file)).unwrap();
    }
    weights.iter().for_each(|(file, tensors)| store(tensors, &folder.join(file)));
    folder
}

/// Changes a JSON file.
pub(crate) fn change(path: PathBuf, change: &dyn Fn(&mut serde_json::Value)) {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
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

#[cfg(unix)]
#[test]
fn models_in_the_hub_s_cache_are_found() {
    use std::os::unix::fs::symlink;
    let w = World::new();
    w.ok("convert", &["--checkpoint", "run", "--output", "plain", "--to", "f32", "--shard-bytes", "60000"]);
    std::fs::write(w.root.join("in.jsonl"), "{\"tokens\": [116, 104, 101, 32, 113]}\n").unwrap();
    let score = |folder: &str| w.ok("eval", &["--checkpoint", folder, "--score", "in.jsonl"]);
    let right = score("plain");
    // As huggingface_hub lays it out: every file of a snapshot leads to a blob that is named by its hash.
    let model = w.root.join("hub/models--someone--some-model");
    let snapshot = |hash: &str| {
        let folder = model.join("snapshots").join(hash);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(model.join("blobs")).unwrap();
        for (i, entry) in std::fs::read_dir(w.root.join("plain")).unwrap().enumerate() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), model.join(format!("blobs/{i:040x}"))).unwrap();
            symlink(format!("../../blobs/{i:040x}"), folder.join(entry.file_name())).unwrap();
        }
    };
    snapshot("aaaa");
    assert_eq!(score("hub/models--someone--some-model/snapshots/aaaa"), right);
    assert_eq!(score("hub/models--someone--some-model"), right, "the only snapshot");
    assert!(w.ok("generate", &["--checkpoint", "hub/models--someone--some-model", "--max-new-tokens", "3"]).len() > 1);
    // An older snapshot of which only a file was fetched, and an older one that is whole.
    std::fs::create_dir_all(model.join("snapshots/bbbb")).unwrap();
    assert_eq!(score("hub/models--someone--some-model"), right);
    snapshot("cccc");
    let several = ["--checkpoint", "hub/models--someone--some-model", "--score", "in.jsonl"];
    w.fails("eval", &several, 1, &["models--someone--some-model", "config.json"]);
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), "aaaa").unwrap();
    let (code, out, said) = w.run("eval", &several);
    assert!(code == 0 && out == right && said.contains("snapshots/aaaa"), "{said}");
    for outside in ["../../../../plain", "", "dddd"] {
        std::fs::write(model.join("refs/main"), outside).unwrap();
        w.fails("eval", &several, 1, &["config.json"]);
    }
}

#[test]
fn fp8_files_that_transformers_misreads_are_warned_of() {
    let w = World::new();
    let warned = |from: &str, to: &str, format: &str| {
        let (code, _, said) = w.run("convert", &["--checkpoint", from, "--output", to, "--to", format]);
        assert_eq!(code, 0, "{said}");
        said.contains("not multiples of 128x128") && said.contains("transformers without a GPU")
    };
    // The model's width is 32.
    assert!(warned("run", "fp8", "fp8") && warned("fp8", "again", "fp8"));
    assert!(!warned("run", "bf16", "bf16") && !warned("fp8", "decoded", "f32"));
    // Sides of whole blocks.
    w.ok("convert", &["--checkpoint", "run", "--output", "plain", "--to", "f32"]);
    let mut whole = Tensors::new();
    whole.insert(
        "model.layers.0.self_attn.o_proj.weight".into(),
        (safetensors::Dtype::F32, vec![256, 128], vec![0; 4 * 256 * 128]),
    );
    folder(&w, "whole", &[("model.safetensors", &whole)]);
    assert!(!warned("whole", "whole-fp8", "fp8"));
    let shape = vec![256, 192];
    let entry = (safetensors::Dtype::F32, shape, vec![0; 4 * 256 * 192]);
    whole.insert("model.layers.0.mlp.down_proj.weight".into(), entry);
    folder(&w, "ragged", &[("model.safetensors", &whole)]);
    assert!(warned("ragged", "ragged-fp8", "fp8"));
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
