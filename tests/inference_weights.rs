//! A model for inference holds each matrix once, in the type of its file or the one asked for, and computes what a
//! model of f32 weights does.

use std::path::Path;

use fathom::checkpoint::{DISK, Draft, Keep};
use fathom::hf::{self, DEEPSEEK, Format, Inference, Weights};
use fathom_core::cache::{Cache, CacheFormat, CacheOptions, SCRATCH};
use fathom_core::config::ModelConfig;
use fathom_core::device::{Host, Kernels};
use fathom_core::layer::Phase;
use fathom_core::layer::mla::scratch_numbers;
use fathom_core::model::{Batch, Chunk, Model};
use fathom_core::precision::Precision;
use fathom_core::weights::Storage;
use fathom_cpu::Cpu;
use fathom_tests::{golden_folder, tensors};

fn load<D: Kernels>(device: &D, folder: &Path, weights: Weights) -> Model<D> {
    let options = Inference { weights, ..Inference::default() };
    let (model, warnings) = hf::load_for_inference(device, folder, &options, &mut |_, _| ()).unwrap();
    // The folder holds golden numbers too.
    assert!(warnings.iter().all(|warning| warning.starts_with("not read, since")), "{warnings:?}");
    assert!(model.is_for_inference());
    model
}

/// A checkpoint of the golden model `v3_yarn` in `format`.
fn checkpoint(root: &Path, format: Format) -> std::path::PathBuf {
    copy(&golden_folder().join("v3_yarn"), root, format)
}

/// A checkpoint of the model in `from` in `format`.
fn copy(from: &Path, root: &Path, format: Format) -> std::path::PathBuf {
    let (model, _) = hf::load_model(&Cpu::with_threads(1), from, Precision::F32).unwrap();
    let mut draft = Draft::begin(&DISK, root, 1).unwrap();
    hf::save_model(&mut draft, &model, None, format, 1 << 30).unwrap();
    draft.commit(Keep::newest(1)).unwrap()
}

fn tokens(case: &str) -> (Vec<usize>, Vec<u32>) {
    let (_, mut integers) = tensors(&golden_folder().join(case).join("golden.safetensors"));
    integers.remove("tokens").unwrap()
}

/// Logits of a batch in one pass.
fn logits<D: Kernels>(model: &Model<D>, (shape, tokens): &(Vec<usize>, Vec<u32>)) -> Vec<f32> {
    let batch = Batch::new(tokens, shape[1] - 1, None, model.config().vocab_size).unwrap();
    model.logits(&batch).unwrap().download(model.device()).unwrap()
}

/// Logits of the first sequence, decoded token by token.
fn decoded<D: Kernels>(model: &Model<D>, (shape, tokens): &(Vec<usize>, Vec<u32>)) -> Vec<f32> {
    let options = CacheOptions { format: CacheFormat::F32, page_tokens: 64, pages: 8, mtp: 0 };
    let mut cache = Cache::new(model.device(), model.config(), options).unwrap();
    let pages: Vec<u32> = (0..8).collect();
    let mut all = Vec::new();
    for (start, token) in tokens[..shape[1] - 1].iter().enumerate() {
        let tokens = std::slice::from_ref(token);
        let chunk = Chunk { tokens, start, pages: &pages, phase: Phase::Decode, logits: 1 };
        let extended = model.extend(&mut cache, &[chunk]).unwrap();
        all.extend(extended.logits.download::<D, f32>(model.device()).unwrap());
    }
    all
}

/// The largest difference, over the largest number of `want`.
fn worst(got: &[f32], want: &[f32]) -> f32 {
    let largest = |x: &mut dyn Iterator<Item = f32>| x.fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(got.iter().all(|x| x.is_finite()) && got.len() <= want.len() && !got.is_empty());
    largest(&mut got.iter().zip(want).map(|(a, b)| a - b)) / largest(&mut want.iter().copied())
}

#[test]
fn f32_weights_have_the_bits_of_a_model_that_can_train() {
    for case in ["v3_yarn", "v2_lite", "v3_tied_bias"] {
        let (folder, tokens, cpu) = (golden_folder().join(case), tokens(case), Cpu::with_threads(2));
        let (model, _) = hf::load_model(&cpu, &folder, Precision::F32).unwrap();
        let want = logits(&model, &tokens);
        for weights in [Weights::Stored, Weights::F32] {
            assert_eq!(logits(&load(&cpu, &folder, weights), &tokens), want, "{case}, {weights:?}");
        }
    }
}

#[test]
fn every_type_computes_what_its_numbers_say() {
    let (root, tokens, cpu) = (tempfile::tempdir().unwrap(), tokens("v3_yarn"), Cpu::with_threads(2));
    for (name, format, rounded) in [("bf16", Format::Bf16, 2e-2), ("fp8", Format::Fp8(DEEPSEEK), 2e-2)] {
        let folder = checkpoint(&root.path().join(name), format);
        // The same numbers in f32.
        let (model, _) = hf::load_model(&cpu, &folder, Precision::F32).unwrap();
        let want = logits(&model, &tokens);
        let stored = load(&cpu, &folder, Weights::Stored);
        let (prefill, decode) = (worst(&logits(&stored, &tokens), &want), worst(&decoded(&stored, &tokens), &want));
        let reference = load(&Host::new(), &folder, Weights::Stored);
        let host = worst(&decoded(&reference, &tokens), &want);
        println!("{name}: prefill within {prefill:.1e}, decode within {decode:.1e}, {host:.1e} on the reference");
        assert!(prefill < rounded, "{name}: prefill is off by {prefill}, more than rounding activations costs");
        assert!(decode < 2e-5 && host < 2e-5, "{name}: decode rounds nothing, and is off by {decode} and {host}");
    }
}

#[test]
fn quantizing_while_loading_gives_the_model_of_the_converted_file() {
    let (root, tokens, cpu) = (tempfile::tempdir().unwrap(), tokens("v3_yarn"), Cpu::with_threads(2));
    // All numbers are BF16 ones, so that vectors and routers, which are f32 here, are those of every file.
    let rounded = checkpoint(&root.path().join("rounded"), Format::Bf16);
    let wide = copy(&rounded, &root.path().join("wide"), Format::F32);
    for (name, format, weights) in [("bf16", Format::Bf16, Weights::Bf16), ("fp8", Format::Fp8(DEEPSEEK), Weights::Fp8)]
    {
        let folder = copy(&rounded, &root.path().join(name), format);
        let (file, quantized) = (load(&cpu, &folder, Weights::Stored), load(&cpu, &wide, weights));
        assert_eq!(decoded(&quantized, &tokens), decoded(&file, &tokens), "{name}");
        assert_eq!(quantized.copied_bytes(), file.copied_bytes());
    }
}

#[test]
fn each_matrix_is_held_once_in_its_type() {
    let (root, cpu) = (tempfile::tempdir().unwrap(), Cpu::with_threads(1));
    for (name, format, narrow) in [("bf16", Format::Bf16, Storage::Bf16), ("fp8", Format::Fp8(DEEPSEEK), Storage::Fp8)]
    {
        let folder = checkpoint(&root.path().join(name), format);
        let mut read = (0, 0);
        let note = &mut |done, total| read = (done, total);
        let (model, _) = hf::load_for_inference(&cpu, &folder, &Inference::default(), note).unwrap();
        let layout = model.architecture().layout();
        let file: u64 = std::fs::metadata(folder.join("model.safetensors")).unwrap().len();
        let held = (model.copied_bytes() + model.weights().bytes()) as u64;
        // Vectors and routers are f32 here.
        let wide: usize = layout
            .parameters()
            .iter()
            .filter(|p| model.storage(&p.slot).is_none_or(|storage| storage == Storage::F32))
            .map(|p| 4 * p.elements() + 64)
            .sum();
        assert!(held < file + wide as u64, "{name}: {held} bytes held of a file of {file}");
        assert_eq!(read.0, read.1, "all is read, and said to be");
        let experts = layout.parameters().iter().filter(|p| p.name.contains(".mlp.experts."));
        assert!(experts.clone().count() > 0);
        assert!(experts.into_iter().all(|p| model.storage(&p.slot) == Some(narrow)), "{name}");
        let gate = layout.parameters().iter().find(|p| p.name.ends_with("mlp.gate.weight")).unwrap();
        assert_eq!(model.storage(&gate.slot), Some(Storage::F32), "the router's choices hang on its last bits");
        let error = model.weights().view(&gate.slot).map(drop).unwrap_err();
        assert!(error.to_string().contains("inference"), "{error}");
    }
}

/// A long prompt's keys and values are made for some heads at a time, from the latents of some tokens at a time.
#[test]
fn prompts_have_the_same_bits_in_any_scratch() {
    // Seven heads of 40 + 24 rows, two of which fill a block of FP8; latents past the first 512 are a second part.
    let config = ModelConfig {
        num_hidden_layers: 2,
        first_k_dense_replace: 2,
        num_attention_heads: 7,
        num_key_value_heads: 7,
        kv_lora_rank: 20,
        qk_nope_head_dim: 40,
        qk_rope_head_dim: 8,
        v_head_dim: 24,
        max_position_embeddings: 1024,
        num_nextn_predict_layers: 0,
        vocab_size: 300,
        ..ModelConfig::tiny()
    };
    let (root, device) = (tempfile::tempdir().unwrap(), Cpu::with_threads(2));
    let mut model = Model::new(&device, &config, Precision::F32).unwrap();
    model.initialize(3).unwrap();
    let mut draft = Draft::begin(&DISK, root.path(), 1).unwrap();
    hf::save_model(&mut draft, &model, None, Format::F32, 1 << 30).unwrap();
    let folder = draft.commit(Keep::newest(1)).unwrap();
    let tokens: Vec<u32> = (0..700).map(|i| (i * 7919 + 3) % 300).collect();
    let pages: Vec<u32> = (0..11).collect();
    for weights in [Weights::F32, Weights::Bf16, Weights::Fp8] {
        let model = load(&device, &folder, weights);
        let logits = |scratch: usize, cut: usize| -> Vec<u32> {
            let mut cache = Cache::new(&device, &config, CacheOptions::new(11)).unwrap().with_scratch(scratch);
            let mut last = Vec::new();
            for (start, end) in [(0, cut), (cut, 700)] {
                let tokens = &tokens[start..end];
                let chunk = Chunk { tokens, start, pages: &pages, phase: Phase::Prefill, logits: 1 };
                last = model.extend(&mut cache, &[chunk]).unwrap().logits.download::<Cpu, f32>(&device).unwrap();
            }
            assert!(last.iter().all(|x| x.is_finite()));
            last.iter().map(|x| x.to_bits()).collect()
        };
        let want = logits(SCRATCH, 600);
        for scratch in [0, 3 * 700 * 64, 5 * 700 * 64] {
            for cut in [1, 600] {
                assert_eq!(logits(scratch, cut), want, "{weights:?}, {scratch} numbers, cut at {cut}");
            }
        }
    }
    let numbers = |scratch| scratch_numbers(&config, 700, scratch);
    assert_eq!(numbers(SCRATCH), 700 * (7 * 64 + 8) + 700 * 20, "all at once");
    assert_eq!(numbers(3 * 700 * 64), 700 * (2 * 64 + 8) + 700 * 20, "a pair of heads");
    assert_eq!(numbers(0), 700 * (2 * 64 + 8) + 512 * 20, "no less than a pair, and 512 tokens");
}

#[test]
fn every_tensor_that_does_not_fit_is_named_at_once() {
    let from = golden_folder().join("v3_yarn");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut views: Vec<_> = file.iter().map(|(name, view)| (name.to_string(), view)).collect();
    for (name, _) in &mut views {
        match name.as_str() {
            "model.norm.weight" => *name = "model.norm.scale".into(),
            "model.layers.0.self_attn.o_proj.weight" => *name = "model.layers.0.self_attn.o.weight".into(),
            _ => {}
        }
    }
    // Each has the other's shape.
    let at = |wanted: &str, views: &[(String, _)]| views.iter().position(|(name, _)| name == wanted).unwrap();
    let (a, b) = ("model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.kv_a_layernorm.weight");
    let (at_a, at_b) = (at(a, &views), at(b, &views));
    (views[at_a].0, views[at_b].0) = (b.into(), a.into());
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let cpu = Cpu::with_threads(1);
    let inference = hf::load_for_inference(&cpu, folder.path(), &Inference::default(), &mut |_, _| ());
    let training = hf::load_model(&cpu, folder.path(), Precision::F32);
    for error in [inference.map(drop).unwrap_err(), training.map(drop).unwrap_err()] {
        let text = error.to_string();
        for name in ["model.norm.weight", "model.norm.scale", "self_attn.o_proj.weight", "self_attn.o.weight", a, b] {
            assert!(text.contains(name), "{name} is not in: {text}");
        }
    }
}
