//! `config.json`, read and written (feature `serde`; the caller brings the format).
//!
//! Reading accepts what DeepSeek published (`rope_theta`, `rope_scaling {"type": "yarn"}`) and what transformers 5
//! writes (`rope_parameters`, `num_mtp_layers`). Fields left out take the family's transformers default; keys that do
//! not concern the model (`torch_dtype`, `auto_map`, ...) are passed over; a key that asks for something this crate
//! does not compute is refused. What comes out is [valid](ModelConfig::validate).
//!
//! Writing has two forms. `ModelConfig` itself serialises to exactly the keys in [`FIELDS`] and no nulls (`0` for no
//! query compression, `-1` for no token id), so that a settings file can hold it and a single key can be overridden
//! before it is read back. [`ModelConfig::hugging_face`] is the `config.json` of a checkpoint.

mod read;
mod write;

use super::ModelConfig;

/// The keys a model is described by, in the order they are written. A settings file may set any of them.
pub const FIELDS: &[&str] = &[
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "first_k_dense_replace",
    "moe_layer_freq",
    "num_attention_heads",
    "num_key_value_heads",
    "n_shared_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "routed_scaling_factor",
    "scoring_func",
    "topk_method",
    "norm_topk_prob",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rms_norm_eps",
    "attention_bias",
    "tie_word_embeddings",
    "initializer_range",
    "num_nextn_predict_layers",
    "bos_token_id",
    "eos_token_id",
    "quantization_config",
];

/// A model as the `config.json` of a checkpoint; see [`ModelConfig::hugging_face`].
#[derive(Clone, Copy, Debug)]
pub struct HuggingFace<'a> {
    config: &'a ModelConfig,
    dtype: &'a str,
}

impl ModelConfig {
    /// This model as `config.json`, to be serialised beside weights of type `dtype` ("float32", "bfloat16", ...).
    ///
    /// The keys are the ones DeepSeek's own files have, which transformers 4 and 5, vLLM and llama.cpp's converter all
    /// read.
    pub fn hugging_face<'a>(&'a self, dtype: &'a str) -> HuggingFace<'a> {
        HuggingFace { config: self, dtype }
    }
}

#[cfg(test)]
mod tests;
