//! What the tests share: golden files, and a model loaded from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::layer::Precision;
use fathom_core::model::Model;
use safetensors::{Dtype, SafeTensors};

/// One case of the golden references: a checkpoint, and numbers that transformers computed from it.
pub struct Golden {
    /// The model's configuration.
    pub config: ModelConfig,
    /// The checkpoint's tensors.
    pub weights: BTreeMap<String, Vec<f32>>,
    /// Golden tensors.
    pub floats: BTreeMap<String, Vec<f32>>,
    /// Golden token ids, with their shape.
    pub tokens: BTreeMap<String, (Vec<usize>, Vec<u32>)>,
}

impl Golden {
    /// Reads `tests/golden/CASE`.
    ///
    /// # Panics
    /// Where a file is missing or not what it should be.
    pub fn load(case: &str) -> Self {
        let folder = golden_folder().join(case);
        let (weights, _) = tensors(&folder.join("model.safetensors"));
        let (floats, tokens) = tensors(&folder.join("golden.safetensors"));
        let text = std::fs::read_to_string(folder.join("config.json")).expect("a config.json");
        Self { config: config(&text), weights, floats, tokens }
    }

    /// The model of this case on `device`.
    ///
    /// # Panics
    /// Where a parameter is missing.
    pub fn model<D: Kernels>(&self, device: &D, precision: Precision) -> Model<D> {
        let mut model = Model::new(device, &self.config, precision).expect("a model");
        let layout = model.architecture().layout().clone();
        for parameter in layout.parameters() {
            let values = &self.weights[&parameter.name];
            let mut bytes = Vec::new();
            for &x in values {
                match precision {
                    Precision::F64 => bytes.extend(f64::from(x).to_le_bytes()),
                    _ => bytes.extend(x.to_le_bytes()),
                }
            }
            model.weights.write(device, parameter, &bytes).expect("a parameter of the right size");
        }
        for router in &mut model.routers {
            if let Some(name) = &router.bias_name {
                router.bias.upload(device, &self.weights[name]).expect("a bias of the right size");
            }
        }
        model
    }
}

/// Where the golden files are.
pub fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

type Floats = BTreeMap<String, Vec<f32>>;
type Tokens = BTreeMap<String, (Vec<usize>, Vec<u32>)>;

fn tensors(path: &Path) -> (Floats, Tokens) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let (mut floats, mut tokens) = (BTreeMap::new(), BTreeMap::new());
    for (name, view) in file.iter() {
        match view.dtype() {
            Dtype::F32 => {
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                floats.insert(name.to_string(), values.collect());
            }
            Dtype::I64 => {
                let values = view.data().chunks_exact(8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                tokens.insert(name.to_string(), (view.shape().to_vec(), values.collect()));
            }
            other => panic!("{name}: unexpected type {other:?}"),
        }
    }
    (floats, tokens)
}

fn config(text: &str) -> ModelConfig {
    use fathom_core::config::{Family, ScoringFunction, TopkMethod, Yarn};
    let v: serde_json::Value = serde_json::from_str(text).expect("json");
    let n = |k: &str| v[k].as_u64().unwrap_or(0) as usize;
    let f = |k: &str| v[k].as_f64().unwrap_or(0.0);
    let b = |k: &str| v[k].as_bool().unwrap_or(false);
    let r = &v["rope_parameters"];
    let v2 = v["model_type"] == "deepseek_v2";
    ModelConfig {
        model_type: if v2 { Family::V2 } else { Family::V3 },
        vocab_size: n("vocab_size"),
        hidden_size: n("hidden_size"),
        intermediate_size: n("intermediate_size"),
        moe_intermediate_size: n("moe_intermediate_size"),
        num_hidden_layers: n("num_hidden_layers"),
        first_k_dense_replace: n("first_k_dense_replace"),
        moe_layer_freq: 1,
        num_attention_heads: n("num_attention_heads"),
        num_key_value_heads: n("num_key_value_heads"),
        n_shared_experts: n("n_shared_experts"),
        n_routed_experts: n("n_routed_experts"),
        num_experts_per_tok: n("num_experts_per_tok"),
        n_group: n("n_group"),
        topk_group: n("topk_group"),
        routed_scaling_factor: f("routed_scaling_factor"),
        scoring_func: if v2 { ScoringFunction::Softmax } else { ScoringFunction::Sigmoid },
        topk_method: if v2 { TopkMethod::Greedy } else { TopkMethod::NoAuxTc },
        norm_topk_prob: b("norm_topk_prob"),
        q_lora_rank: v["q_lora_rank"].as_u64().map(|x| x as usize),
        kv_lora_rank: n("kv_lora_rank"),
        qk_nope_head_dim: n("qk_nope_head_dim"),
        qk_rope_head_dim: n("qk_rope_head_dim"),
        v_head_dim: n("v_head_dim"),
        max_position_embeddings: n("max_position_embeddings"),
        rope_theta: r["rope_theta"].as_f64().unwrap_or(10000.0),
        rope_scaling: (r["rope_type"] == "yarn").then(|| Yarn {
            factor: r["factor"].as_f64().unwrap(),
            original_max_position_embeddings: r["original_max_position_embeddings"].as_u64().unwrap() as usize,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: 1.0,
            mscale_all_dim: 1.0,
        }),
        rms_norm_eps: f("rms_norm_eps"),
        attention_bias: b("attention_bias"),
        tie_word_embeddings: b("tie_word_embeddings"),
        initializer_range: f("initializer_range"),
        num_nextn_predict_layers: n("num_nextn_predict_layers"),
        bos_token_id: None,
        eos_token_id: None,
        quantization_config: None,
    }
}
