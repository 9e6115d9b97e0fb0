//! Arbitrary bytes as a safetensors file, and as the weights of a small model.
#![no_main]

use fathom::hf::load_model;
use fathom::hf::safetensors::TensorFile;
use fathom_core::device::Host;
use fathom_core::precision::Precision;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

/// The model that every input is taken for the weights of; see `seeds.py`.
const PLAIN: &str = r#"{"model_type": "deepseek_v3", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4,
    "moe_intermediate_size": 2, "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 1,
    "n_shared_experts": 1, "n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1,
    "q_lora_rank": null, "kv_lora_rank": 4, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 2,
    "max_position_embeddings": 8, "num_nextn_predict_layers": 0, "bos_token_id": 0, "eos_token_id": 1"#;
const QUANTIZED: &str =
    r#", "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}"#;

/// Two folders of this process: a plain model's, and one with FP8 weights.
static FOLDERS: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    [("plain", ""), ("fp8", QUANTIZED)].map(|(name, quantization)| {
        let folder = std::env::temp_dir().join(format!("fathom-fuzz-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        fs::write(folder.join("config.json"), format!("{PLAIN}{quantization}}}")).expect("a small file");
        folder
    })
});

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let folder = &FOLDERS[usize::from(choice & 1)];
    let path = folder.join("model.safetensors");
    fs::write(&path, bytes).expect("a small file");
    if let Ok(mut file) = TensorFile::open(&path) {
        let entries = file.entries().to_vec();
        let covered: u64 = entries.iter().map(|entry| entry.end - entry.begin).sum();
        assert!(covered <= bytes.len() as u64, "tensors of more bytes than the file has");
        let mut values = Vec::new();
        for entry in &entries {
            if file.read_f32(&entry.name, &mut values).is_ok() {
                assert_eq!(values.len(), entry.shape.iter().product::<usize>());
            }
        }
    }
    // Host's buffers are freed with the model; an error is as good as a model.
    let _ = load_model(&Host::new(), folder, Precision::F32);
});
