//! Model folders that are damaged, incomplete, or hold something else: what is refused, and what is said.

use crate::World;
use crate::formats::{Tensors, change, folder, store, tensors};

const NORM: &str = "model.norm.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";

/// A copy of `plain`, which is f32, and its tensors.
fn plain() -> (World, Tensors) {
    let w = World::new();
    w.ok("convert", &["--checkpoint", "run", "--output", "plain", "--to", "f32"]);
    std::fs::write(w.root.join("in.jsonl"), "{\"tokens\": [116, 104, 101, 32, 113]}\n").unwrap();
    let plain = tensors(&w.root.join("plain"));
    (w, plain)
}

#[test]
fn weights_that_are_no_numbers_are_not_converted() {
    let (w, plain) = plain();
    let refused = |from: &str, to: &str, words: &[&str]| {
        w.fails("convert", &["--checkpoint", from, "--output", "out", "--to", to], 1, words);
        assert!(!w.root.join("out").exists(), "{from} to {to}");
    };
    for bad in [f32::NAN, f32::INFINITY] {
        let mut diverged = plain.clone();
        diverged.get_mut(NORM).unwrap().2[8..12].copy_from_slice(&bad.to_le_bytes());
        let _ = std::fs::remove_dir_all(w.root.join("diverged"));
        folder(&w, "diverged", &[("model.safetensors", &diverged)]);
        // Passed on as they are, rounded, or beside what is quantized.
        for to in ["f32", "bf16", "fp8"] {
            refused("diverged", to, &["diverged/model.safetensors", NORM, "row 0, column 2", "NaN or infinite"]);
        }
    }
    let mut large = plain.clone();
    large.get_mut(NORM).unwrap().2[..4].copy_from_slice(&f32::MAX.to_le_bytes());
    folder(&w, "large", &[("model.safetensors", &large)]);
    refused("large", "bf16", &[NORM, "too large for the format"]);

    w.ok("convert", &["--checkpoint", "run", "--output", "bf16", "--to", "bf16"]);
    w.ok("convert", &["--checkpoint", "run", "--output", "fp8", "--to", "fp8"]);
    let shift = |folder: &str, tensor: &str, bytes: &[u8]| {
        let mut all = tensors(&w.root.join(folder));
        all.get_mut(tensor).unwrap().2[..bytes.len()].copy_from_slice(bytes);
        store(&all, &w.root.join(folder).join("model.safetensors"));
    };
    shift("bf16", NORM, &0x7f80_u16.to_le_bytes());
    refused("bf16", "bf16", &[NORM, "row 0, column 0"]);
    w.fails("eval", &["--checkpoint", "bf16", "--score", "in.jsonl"], 1, &[NORM, "row 0, column 0"]);
    shift("fp8", UP, &[0x30, 0x7f]);
    refused("fp8", "fp8", &[UP, "row 0, column 1"]);
    refused("fp8", "f32", &[UP, "row 0, column 1"]);
    w.fails("eval", &["--checkpoint", "fp8", "--score", "in.jsonl"], 1, &[UP, "row 0, column 1"]);
    shift("fp8", UP, &[0x30, 0x30]);
    let scales = format!("{UP}_scale_inv");
    shift("fp8", &scales, &f32::INFINITY.to_le_bytes());
    refused("fp8", "fp8", &[&scales]);
    w.fails("generate", &["--checkpoint", "fp8"], 1, &[&scales]);
    // A finite scale under which a code is too large for f32.
    shift("fp8", UP, &[0x7e]);
    shift("fp8", &scales, &1e37_f32.to_le_bytes());
    refused("fp8", "f32", &[UP, "row 0, column 0", "NaN or infinite"]);
    // Training begins with no such weights either.
    w.fails("train", &w.training("tuned", &["--set", "train.init=diverged"]), 1, &[NORM, "row 0, column 2"]);
}

#[test]
fn experts_stored_together_are_read_in_fp8_too() {
    let (w, plain) = plain();
    let block = |json: &mut serde_json::Value| {
        json["quantization_config"] = serde_json::json!({
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [8, 8],
        });
    };
    change(folder(&w, "blocks", &[("model.safetensors", &plain)]).join("config.json"), &block);
    w.ok("convert", &["--checkpoint", "blocks", "--output", "fp8", "--to", "fp8"]);
    let apart = tensors(&w.root.join("fp8"));
    let score = |folder: &str| w.ok("eval", &["--checkpoint", folder, "--score", "in.jsonl"]);
    let mut fused = apart.clone();
    for (layer, suffix) in [(1, ""), (1, "_scale_inv"), (2, ""), (2, "_scale_inv")] {
        let prefix = format!("model.layers.{layer}.mlp.experts");
        for (name, parts) in [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"])] {
            let (mut all, mut of) = (Vec::new(), None);
            for (expert, part) in (0..8).flat_map(|expert| parts.iter().map(move |part| (expert, part))) {
                let (dtype, shape, bytes) = fused.remove(&format!("{prefix}.{expert}.{part}.weight{suffix}")).unwrap();
                all.extend(bytes);
                of = Some((dtype, vec![8, shape[0] * parts.len(), shape[1]]));
            }
            let (dtype, shape) = of.unwrap();
            fused.insert(format!("{prefix}.{name}{suffix}"), (dtype, shape, all));
        }
    }
    change(folder(&w, "fused", &[("model.safetensors", &fused)]).join("config.json"), &block);
    assert_eq!(score("fused"), score("fp8"));
    w.ok("convert", &["--checkpoint", "fused", "--output", "again", "--to", "fp8"]);
    assert_eq!(tensors(&w.root.join("again")), apart);
    w.ok("train", &w.training("tuned", &["--set", "train.init=fused"]));
}

#[test]
fn folders_that_hold_something_else_say_what_to_do() {
    let (w, plain) = plain();
    let place = folder(&w, "other", &[]);
    let says = |words: &[&str]| {
        let words = [&["model.safetensors is missing"], words].concat();
        w.fails("eval", &["--checkpoint", "other", "--score", "in.jsonl"], 1, &words);
        w.fails("convert", &["--checkpoint", "other", "--output", "out", "--to", "bf16"], 1, &words);
    };
    for (file, words) in [
        ("pytorch_model.bin", "save_pretrained"),
        ("consolidated.safetensors", "publisher's own names"),
        ("adapter_model.safetensors", "merge_and_unload"),
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
    ] {
        std::fs::write(place.join(file), "x").unwrap();
        says(&[file, words]);
        std::fs::remove_file(place.join(file)).unwrap();
    }
    store(&plain, &place.join("weights.safetensors"));
    says(&["name it model.safetensors"]);
    std::fs::rename(place.join("weights.safetensors"), place.join("model.safetensors")).unwrap();
    std::fs::write(place.join("adapter_model.safetensors"), "x").unwrap();
    let (code, _, said) = w.run("eval", &["--checkpoint", "other", "--score", "in.jsonl"]);
    assert!(code == 0 && said.contains("not read") && said.contains("adapter_model.safetensors"), "{said}");
    w.fails("eval", &["--checkpoint", "gone", "--score", "in.jsonl"], 1, &["gone holds no model", "no such folder"]);
    w.fails("eval", &["--checkpoint", "other/config.json", "--score", "in.jsonl"], 1, &["it is a file"]);
}

#[test]
fn text_after_a_context_is_scored_with_the_tokens_of_the_template() {
    let (w, plain) = plain();
    let place = folder(&w, "begun", &[("model.safetensors", &plain)]);
    change(place.join("tokenizer.json"), &|json| {
        json["post_processor"] = serde_json::json!({
            "type": "RobertaProcessing", "cls": ["Q", u32::from(b'Q')], "sep": ["Z", u32::from(b'Z')],
            "trim_offsets": true, "add_prefix_space": false,
        });
    });
    let score = |folder: &str, context: &str, continuation: &str| -> serde_json::Value {
        let line = serde_json::json!({ "context": context, "continuation": continuation });
        std::fs::write(w.root.join("text.jsonl"), format!("{line}\n")).unwrap();
        let out = w.ok("eval", &["--checkpoint", folder, "--score", "text.jsonl"]);
        serde_json::from_str(&out).unwrap()
    };
    assert_eq!(score("begun", "the", " fox"), score("plain", "Qthe", " fox"));
    assert_eq!(score("begun", "Qthe", " fox"), score("plain", "Qthe", " fox"), "not twice");
    assert_eq!(score("begun", "", "fox"), score("plain", "Q", "fox"));
    assert_eq!(score("begun", "", "Qfox"), score("plain", "Q", "fox"));
    let generate = |folder: &str, prompt: &str| {
        w.ok("generate", &["--checkpoint", folder, "--prompt", prompt, "--temperature", "0", "--max-new-tokens", "8"])
    };
    assert_eq!(generate("begun", "ab"), generate("plain", "QabZ"));
    assert_eq!(generate("begun", "QabZ"), generate("plain", "QabZ"));
}

#[test]
fn ends_of_text_outside_the_vocabulary_are_named() {
    let (w, plain) = plain();
    let place = folder(&w, "ends", &[("model.safetensors", &plain)]);
    let with =
        |id: serde_json::Value| change(place.join("generation_config.json"), &|json| json["eos_token_id"] = id.clone());
    with(serde_json::json!([256, 70_000]));
    let (code, _, said) = w.run("generate", &["--checkpoint", "ends", "--max-new-tokens", "2"]);
    assert!(code == 0 && said.contains("eos_token_id 70000 is not below the vocabulary size"), "{said}");
    for (id, words) in [(serde_json::json!(-7), "-7 is no token id"), (serde_json::json!("</s>"), "</s>")] {
        with(id);
        w.fails("generate", &["--checkpoint", "ends"], 1, &["generation_config.json: eos_token_id", words]);
    }
}

#[test]
fn a_vocabulary_of_tiktoken_is_read_where_its_pattern_is_known() {
    let (w, plain) = plain();
    let place = folder(&w, "ranks", &[("model.safetensors", &plain)]);
    std::fs::remove_file(place.join("tokenizer.json")).unwrap();
    // The bytes, and none of the tokens made of them.
    let vocabulary = include_str!("../../dataprep/src/tokenizer/testdata/tiktoken.model");
    let bytes: Vec<&str> = vocabulary.lines().take(256).collect();
    std::fs::write(place.join("tiktoken.model"), bytes.join("\n")).unwrap();
    let config = |class: &str| {
        let json = serde_json::json!({ "tokenizer_class": class, "eos_token": "[EOS]", "bos_token": "[BOS]" });
        std::fs::write(place.join("tokenizer_config.json"), json.to_string()).unwrap();
    };
    config("TikTokenTokenizer");
    let generate = |folder: &str| {
        w.ok("generate", &["--checkpoint", folder, "--prompt", "the f", "--temperature", "0", "--max-new-tokens", "8"])
    };
    let score = |folder: &str| w.ok("eval", &["--checkpoint", folder, "--score", "in.jsonl"]);
    assert_eq!((generate("ranks"), score("ranks")), (generate("plain"), score("plain")));
    // A pattern that is not known, or a damaged file: token ids are scored as ever.
    config("OtherTokenizer");
    assert_eq!(score("ranks"), score("plain"));
    let words = ["tiktoken.model", "OtherTokenizer", "convert_tiktoken_to_fast"];
    w.fails("generate", &["--checkpoint", "ranks", "--prompt", "a"], 1, &words);
    config("TikTokenTokenizer");
    std::fs::write(place.join("tiktoken.model"), "AA==\n").unwrap();
    assert_eq!(score("ranks"), score("plain"));
    w.fails(
        "generate",
        &["--checkpoint", "ranks", "--prompt", "a"],
        1,
        &["ranks/tiktoken.model: not a usable tokenizer: line 1: has no rank"],
    );
    w.ok("convert", &["--checkpoint", "ranks", "--output", "bf16", "--to", "bf16"]);
    assert!(w.root.join("bf16/tiktoken.model").is_file());
}
