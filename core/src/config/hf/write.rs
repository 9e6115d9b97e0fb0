//! Writing `config.json`: a model configuration to keys.

use super::{FIELDS, HuggingFace};
use crate::config::{ModelConfig, Quantization, Yarn};
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// How an absent value is written.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// Without nulls, for settings files.
    Settings,
    /// With nulls, for `config.json`.
    Json,
}

impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys = serializer.serialize_struct("ModelConfig", FIELDS.len())?;
        write_fields(self, Form::Settings, &mut keys)?;
        keys.end()
    }
}

impl Serialize for HuggingFace<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let config = self.config;
        let mut keys = serializer.serialize_struct("HuggingFace", FIELDS.len() + 9)?;
        keys.serialize_field("architectures", &[config.model_type.architecture()])?;
        write_fields(config, Form::Json, &mut keys)?;
        // transformers takes the width of the rotary embedding from here.
        keys.serialize_field("head_dim", &config.qk_rope_head_dim)?;
        keys.serialize_field("hidden_act", "silu")?;
        keys.serialize_field("attention_dropout", &0.0)?;
        keys.serialize_field("ep_size", &1)?;
        keys.serialize_field("pretraining_tp", &1)?;
        keys.serialize_field("seq_aux", &true)?;
        keys.serialize_field("torch_dtype", self.dtype)?;
        keys.serialize_field("use_cache", &true)?;
        keys.end()
    }
}

/// Writes every key of [`FIELDS`], in that order.
fn write_fields<S: SerializeStruct>(config: &ModelConfig, form: Form, keys: &mut S) -> Result<(), S::Error> {
    let c = config;
    keys.serialize_field("model_type", c.model_type.model_type())?;
    keys.serialize_field("vocab_size", &c.vocab_size)?;
    keys.serialize_field("hidden_size", &c.hidden_size)?;
    keys.serialize_field("intermediate_size", &c.intermediate_size)?;
    keys.serialize_field("moe_intermediate_size", &c.moe_intermediate_size)?;
    keys.serialize_field("num_hidden_layers", &c.num_hidden_layers)?;
    keys.serialize_field("first_k_dense_replace", &c.first_k_dense_replace)?;
    keys.serialize_field("moe_layer_freq", &c.moe_layer_freq)?;
    keys.serialize_field("num_attention_heads", &c.num_attention_heads)?;
    keys.serialize_field("num_key_value_heads", &c.num_key_value_heads)?;
    keys.serialize_field("n_shared_experts", &c.n_shared_experts)?;
    keys.serialize_field("n_routed_experts", &c.n_routed_experts)?;
    keys.serialize_field("num_experts_per_tok", &c.num_experts_per_tok)?;
    keys.serialize_field("n_group", &c.n_group)?;
    keys.serialize_field("topk_group", &c.topk_group)?;
    keys.serialize_field("routed_scaling_factor", &c.routed_scaling_factor)?;
    keys.serialize_field("scoring_func", c.scoring_func.name())?;
    keys.serialize_field("topk_method", c.topk_method.name())?;
    keys.serialize_field("norm_topk_prob", &c.norm_topk_prob)?;
    optional(keys, "q_lora_rank", c.q_lora_rank.as_ref(), &0, form)?;
    keys.serialize_field("kv_lora_rank", &c.kv_lora_rank)?;
    keys.serialize_field("qk_nope_head_dim", &c.qk_nope_head_dim)?;
    keys.serialize_field("qk_rope_head_dim", &c.qk_rope_head_dim)?;
    keys.serialize_field("v_head_dim", &c.v_head_dim)?;
    keys.serialize_field("max_position_embeddings", &c.max_position_embeddings)?;
    keys.serialize_field("rope_theta", &c.rope_theta)?;
    match (&c.rope_scaling, form) {
        (Some(yarn), _) => keys.serialize_field("rope_scaling", &YarnKeys(yarn))?,
        (None, Form::Json) => keys.serialize_field("rope_scaling", &None::<()>)?,
        (None, Form::Settings) => keys.skip_field("rope_scaling")?,
    }
    keys.serialize_field("rms_norm_eps", &c.rms_norm_eps)?;
    keys.serialize_field("attention_bias", &c.attention_bias)?;
    keys.serialize_field("tie_word_embeddings", &c.tie_word_embeddings)?;
    keys.serialize_field("initializer_range", &c.initializer_range)?;
    keys.serialize_field("num_nextn_predict_layers", &c.num_nextn_predict_layers)?;
    optional(keys, "bos_token_id", c.bos_token_id.as_ref(), &-1, form)?;
    optional(keys, "eos_token_id", c.eos_token_id.as_ref(), &-1, form)?;
    match &c.quantization_config {
        Some(quantization) => keys.serialize_field("quantization_config", &QuantizationKeys(quantization)),
        None => keys.skip_field("quantization_config"),
    }
}

/// Writes a value that may be absent: as null, or as `absent` where there are no nulls.
fn optional<S: SerializeStruct>(
    keys: &mut S,
    key: &'static str,
    value: Option<&impl Serialize>,
    absent: &impl Serialize,
    form: Form,
) -> Result<(), S::Error> {
    match value {
        None if form == Form::Settings => keys.serialize_field(key, absent),
        value => keys.serialize_field(key, &value),
    }
}

struct YarnKeys<'a>(&'a Yarn);

impl Serialize for YarnKeys<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let yarn = self.0;
        let mut keys = serializer.serialize_struct("rope_scaling", 8)?;
        // DeepSeek's code and llama.cpp read the first, transformers and vLLM the second.
        keys.serialize_field("type", "yarn")?;
        keys.serialize_field("rope_type", "yarn")?;
        keys.serialize_field("factor", &yarn.factor)?;
        keys.serialize_field("original_max_position_embeddings", &yarn.original_max_position_embeddings)?;
        keys.serialize_field("beta_fast", &yarn.beta_fast)?;
        keys.serialize_field("beta_slow", &yarn.beta_slow)?;
        keys.serialize_field("mscale", &yarn.mscale)?;
        keys.serialize_field("mscale_all_dim", &yarn.mscale_all_dim)?;
        keys.end()
    }
}

struct QuantizationKeys<'a>(&'a Quantization);

impl Serialize for QuantizationKeys<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys = serializer.serialize_struct("quantization_config", 5)?;
        keys.serialize_field("quant_method", "fp8")?;
        keys.serialize_field("fmt", "e4m3")?;
        keys.serialize_field("activation_scheme", "dynamic")?;
        keys.serialize_field("weight_block_size", &self.0.weight_block_size)?;
        if self.0.power_of_two_scales {
            keys.serialize_field("scale_fmt", "ue8m0")?;
        } else {
            keys.skip_field("scale_fmt")?;
        }
        keys.end()
    }
}
