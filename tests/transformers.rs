//! Checkpoints are read by transformers, and those of transformers here.
//!
//! Runs if `python3` (or `FATHOM_PYTHON`) has torch and transformers; else says so and passes.

use std::path::{Path, PathBuf};
use std::process::Command;

use fathom::checkpoint::{DISK, Draft, Keep};
use fathom::convert::{Options, convert};
use fathom::hf::{self, DEEPSEEK, Format};
use fathom_core::config::ModelConfig;
use fathom_core::model::{Batch, Model};
use fathom_core::precision::Precision;
use fathom_cpu::Cpu;
use fathom_tests::tensors;

/// The script's exit code where transformers is not installed.
const NO_TRANSFORMERS: i32 = 3;

fn script(arguments: &[&str]) -> Option<()> {
    let python = std::env::var("FATHOM_PYTHON").unwrap_or_else(|_| "python3".into());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/hf_parity.py");
    let output = match Command::new(&python).arg(path).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: {python} does not run ({error})");
            return None;
        }
    };
    if output.status.code() == Some(NO_TRANSFORMERS) {
        println!("skipped: {python} has no transformers");
        return None;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", said.trim_end());
    Some(())
}

fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

fn save(model: &Model<Cpu>, folder: &Path, shard_bytes: u64) -> PathBuf {
    let mut draft = Draft::begin(&DISK, folder, 1).unwrap();
    hf::save_model(&mut draft, model, None, Format::F32, shard_bytes).unwrap();
    draft.commit(Keep::newest(1)).unwrap()
}

/// What is written here opens in transformers, with equal logits.
fn ours_opens_there(config: &ModelConfig, shard_bytes: u64) {
    let folder = tempfile::tempdir().unwrap();
    let device = Cpu::with_threads(2);
    let mut model = Model::new(&device, config, Precision::F32).unwrap();
    model.initialize(11).unwrap();
    for router in &mut model.routers {
        let bias: Vec<f32> = (0..config.n_routed_experts).map(|i| 0.01 * (i as f32).sin()).collect();
        router.bias.upload(&device, &bias).unwrap();
    }
    let tokens: Vec<u32> = (0..34).map(|i| (i * 7 + i * i) % 90).collect();
    let checkpoint = save(&model, folder.path(), shard_bytes);
    let (asked, out) = (folder.path().join("tokens.json"), folder.path().join("out.json"));
    std::fs::write(&asked, serde_json::json!({ "tokens": [tokens] }).to_string()).unwrap();
    if script(&["load", text(&checkpoint), text(&asked), text(&out)]).is_none() {
        return;
    }
    let (floats, _) = tensors(&out.with_extension("safetensors"));
    let batch = Batch::new(&tokens, tokens.len() - 1, None, config.vocab_size).unwrap();
    let logits: Vec<f32> = model.logits(&batch).unwrap().download(&device).unwrap();
    let worst = worst(&logits, &floats["logits"]);
    println!("{}: logits within {worst:.1e} of the largest", config.model_type.model_type());
    assert!(worst < 1e-4, "logits differ by {worst} of the largest");
}

/// What is converted here opens in transformers (FP8 after torch has dequantised it), with the logits it has here.
fn converted_opens_there(to: Format) {
    let (folder, device, config) = (tempfile::tempdir().unwrap(), Cpu::with_threads(2), small());
    let mut model = Model::new(&device, &config, Precision::F32).unwrap();
    model.initialize(12).unwrap();
    let original = save(&model, folder.path(), 50_000);
    let converted = folder.path().join("converted");
    let options = Options { format: to, power_of_two_scales: None, shard_bytes: None, average: false };
    convert(&original, &converted, &options, |_, _| true).unwrap();
    let mut opened = converted.clone();
    if to.quantization().is_some() {
        opened = folder.path().join("plain");
        if script(&["dequantize", text(&converted), text(&opened)]).is_none() {
            return;
        }
    }
    let tokens: Vec<u32> = (0..34).map(|i| (i * 5 + i * i) % 90).collect();
    let (asked, out) = (folder.path().join("tokens.json"), folder.path().join("out.json"));
    std::fs::write(&asked, serde_json::json!({ "tokens": [tokens] }).to_string()).unwrap();
    if script(&["load", text(&opened), text(&asked), text(&out)]).is_none() {
        return;
    }
    let (floats, _) = tensors(&out.with_extension("safetensors"));
    let (model, _) = hf::load_model(&device, &converted, Precision::F32).unwrap();
    let batch = Batch::new(&tokens, tokens.len() - 1, None, config.vocab_size).unwrap();
    let logits: Vec<f32> = model.logits(&batch).unwrap().download(&device).unwrap();
    let worst = worst(&logits, &floats["logits"]);
    println!("converted to {}: logits within {worst:.1e} of the largest", to.name());
    assert!(worst < 1e-4, "logits differ by {worst} of the largest");
}

/// What transformers writes opens here, with equal logits.
fn theirs_opens_here(case: &str, extra: &[&str], tolerance: f32) {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["make", text(folder.path()), "--case", case];
    arguments.extend(extra);
    if script(&arguments).is_none() {
        return;
    }
    let (floats, tokens) = tensors(&folder.path().join("expected/expected.safetensors"));
    let device = Cpu::with_threads(2);
    let (model, warnings) = hf::load_model(&device, folder.path(), Precision::F32).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let (shape, ids) = &tokens["tokens"];
    let batch = Batch::new(ids, shape[1] - 1, None, model.config().vocab_size).unwrap();
    let logits: Vec<f32> = model.logits(&batch).unwrap().download(&device).unwrap();
    let worst = worst(&logits, &floats["logits"]);
    println!("{case} {extra:?}: logits within {worst:.1e} of the largest");
    assert!(worst < tolerance, "{case}: logits differ by {worst} of the largest");
}

fn small() -> ModelConfig {
    ModelConfig {
        vocab_size: 96,
        hidden_size: 40,
        intermediate_size: 88,
        moe_intermediate_size: 24,
        n_routed_experts: 8,
        num_experts_per_tok: 3,
        q_lora_rank: Some(20),
        kv_lora_rank: 16,
        qk_nope_head_dim: 12,
        qk_rope_head_dim: 8,
        v_head_dim: 10,
        max_position_embeddings: 256,
        initializer_range: 0.08,
        num_nextn_predict_layers: 0,
        ..ModelConfig::tiny()
    }
}

#[test]
fn checkpoints_open_in_transformers() {
    let yarn = fathom_core::config::Yarn { factor: 4.0, original_max_position_embeddings: 64, ..yarn() };
    ours_opens_there(&ModelConfig { rope_scaling: Some(yarn), ..small() }, u64::MAX);
    ours_opens_there(&ModelConfig { tie_word_embeddings: true, attention_bias: true, ..small() }, 50_000);
    let v2 = ModelConfig::v2_lite();
    ours_opens_there(
        &ModelConfig {
            model_type: v2.model_type,
            scoring_func: v2.scoring_func,
            topk_method: v2.topk_method,
            norm_topk_prob: v2.norm_topk_prob,
            routed_scaling_factor: v2.routed_scaling_factor,
            n_group: 1,
            topk_group: 1,
            q_lora_rank: None,
            ..small()
        },
        u64::MAX,
    );
}

fn yarn() -> fathom_core::config::Yarn {
    ModelConfig::v3_671b().rope_scaling.expect("V3 scales its positions")
}

#[test]
fn converted_checkpoints_open_in_transformers() {
    converted_opens_there(Format::Bf16);
    converted_opens_there(Format::Fp8(DEEPSEEK));
}

#[test]
fn transformers_checkpoints_open_here() {
    theirs_opens_here("v3", &[], 1e-4);
    theirs_opens_here("v3", &["--dtype", "bfloat16", "--shards", "3"], 1e-4);
    theirs_opens_here("moonlight", &["--dtype", "float16"], 1e-4);
    theirs_opens_here("v2", &[], 1e-4);
    theirs_opens_here("v2-lite", &[], 1e-4);
    theirs_opens_here("tied-bias", &["--shards", "2"], 1e-4);
}
