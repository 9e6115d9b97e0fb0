//! Presets: published models exactly as published, and two small ones to work with.

use super::{Family, ModelConfig, ScoringFunction, TopkMethod, Yarn};

/// A name and the model it stands for.
pub type Preset = (&'static str, fn() -> ModelConfig);

/// Every preset.
pub const PRESETS: &[Preset] = &[
    ("tiny", ModelConfig::tiny),
    ("small", ModelConfig::small),
    ("v2-lite", ModelConfig::v2_lite),
    ("v2-236b", ModelConfig::v2_236b),
    ("moonlight-16b", ModelConfig::moonlight_16b),
    ("v3-671b", ModelConfig::v3_671b),
];

impl ModelConfig {
    /// The preset of that name, if there is one; [`PRESETS`] lists them.
    pub fn preset(name: &str) -> Option<Self> {
        PRESETS.iter().find(|(known, _)| *known == name).map(|(_, build)| build())
    }

    /// The V3 recipe in miniature: about 3 M parameters, one dense layer and three of 16 experts, with everything the
    /// large model has (query compression, expert groups, a shared expert, one MTP module). Two processor cores
    /// train it to something readable in minutes.
    pub fn tiny() -> Self {
        ModelConfig {
            vocab_size: 4096,
            hidden_size: 128,
            intermediate_size: 384,
            moe_intermediate_size: 64,
            num_hidden_layers: 4,
            first_k_dense_replace: 1,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            n_routed_experts: 16,
            num_experts_per_tok: 4,
            n_group: 4,
            topk_group: 2,
            q_lora_rank: Some(96),
            kv_lora_rank: 64,
            qk_nope_head_dim: 32,
            qk_rope_head_dim: 16,
            v_head_dim: 32,
            max_position_embeddings: 512,
            rope_scaling: None,
            // 0.006 suits a width of 7168; a narrow model that is trained for minutes needs a louder start.
            initializer_range: 0.04,
            ..Self::v3_671b()
        }
    }

    /// About 100 M parameters, 30 M of them active: an experiment for one GPU.
    pub fn small() -> Self {
        ModelConfig {
            vocab_size: 16384,
            hidden_size: 512,
            intermediate_size: 1536,
            moe_intermediate_size: 128,
            num_hidden_layers: 12,
            first_k_dense_replace: 1,
            num_attention_heads: 8,
            num_key_value_heads: 8,
            n_routed_experts: 32,
            num_experts_per_tok: 4,
            n_group: 4,
            topk_group: 2,
            q_lora_rank: Some(192),
            kv_lora_rank: 128,
            qk_nope_head_dim: 64,
            qk_rope_head_dim: 32,
            v_head_dim: 64,
            max_position_embeddings: 2048,
            rope_scaling: None,
            ..Self::v3_671b()
        }
    }

    /// DeepSeek-V2-Lite, 15.7 B parameters (V2 paper, appendix B).
    pub fn v2_lite() -> Self {
        ModelConfig {
            hidden_size: 2048,
            intermediate_size: 10944,
            moe_intermediate_size: 1408,
            num_hidden_layers: 27,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            n_routed_experts: 64,
            n_group: 1,
            topk_group: 1,
            routed_scaling_factor: 1.0,
            topk_method: TopkMethod::Greedy,
            q_lora_rank: None,
            rope_scaling: Some(Yarn { mscale: 0.707, mscale_all_dim: 0.707, ..YARN }),
            ..Self::v2_236b()
        }
    }

    /// DeepSeek-V2, 236 B parameters (V2 paper, §3.1.2).
    pub fn v2_236b() -> Self {
        ModelConfig {
            model_type: Family::V2,
            vocab_size: 102400,
            hidden_size: 5120,
            intermediate_size: 12288,
            moe_intermediate_size: 1536,
            num_hidden_layers: 60,
            first_k_dense_replace: 1,
            n_shared_experts: 2,
            n_routed_experts: 160,
            num_experts_per_tok: 6,
            topk_group: 3,
            routed_scaling_factor: 16.0,
            scoring_func: ScoringFunction::Softmax,
            topk_method: TopkMethod::GroupLimitedGreedy,
            norm_topk_prob: false,
            num_nextn_predict_layers: 0,
            bos_token_id: Some(100000),
            eos_token_id: Some(100001),
            ..Self::v3_671b()
        }
    }

    /// Moonlight-16B-A3B: the V3 architecture at V2-Lite's size (arXiv 2502.16982).
    pub fn moonlight_16b() -> Self {
        ModelConfig {
            vocab_size: 163840,
            hidden_size: 2048,
            intermediate_size: 11264,
            moe_intermediate_size: 1408,
            num_hidden_layers: 27,
            first_k_dense_replace: 1,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            n_shared_experts: 2,
            n_routed_experts: 64,
            num_experts_per_tok: 6,
            n_group: 1,
            topk_group: 1,
            routed_scaling_factor: 2.446,
            q_lora_rank: None,
            max_position_embeddings: 8192,
            rope_theta: 50000.0,
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            num_nextn_predict_layers: 0,
            bos_token_id: Some(163584),
            eos_token_id: Some(163585),
            ..Self::v3_671b()
        }
    }

    /// DeepSeek-V3, 671 B parameters (V3 report, §4.2). Its published weights are FP8, but that is how a file is
    /// stored, not what the model is, so `quantization_config` is left out.
    pub fn v3_671b() -> Self {
        ModelConfig {
            model_type: Family::V3,
            vocab_size: 129280,
            hidden_size: 7168,
            intermediate_size: 18432,
            moe_intermediate_size: 2048,
            num_hidden_layers: 61,
            first_k_dense_replace: 3,
            moe_layer_freq: 1,
            num_attention_heads: 128,
            num_key_value_heads: 128,
            n_shared_experts: 1,
            n_routed_experts: 256,
            num_experts_per_tok: 8,
            n_group: 8,
            topk_group: 4,
            routed_scaling_factor: 2.5,
            scoring_func: ScoringFunction::Sigmoid,
            topk_method: TopkMethod::NoAuxTc,
            norm_topk_prob: true,
            q_lora_rank: Some(1536),
            kv_lora_rank: 512,
            qk_nope_head_dim: 128,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
            max_position_embeddings: 163840,
            rope_theta: 10000.0,
            rope_scaling: Some(YARN),
            rms_norm_eps: 1e-6,
            attention_bias: false,
            tie_word_embeddings: false,
            // What the V3 report trains from (§4.2). The published config.json says 0.02, which is only the library's
            // default.
            initializer_range: 0.006,
            num_nextn_predict_layers: 1,
            bos_token_id: Some(0),
            eos_token_id: Some(1),
            quantization_config: None,
        }
    }
}

/// The extension from 4K to 160K that V2 and V3 were published with.
const YARN: Yarn = Yarn {
    factor: 40.0,
    original_max_position_embeddings: 4096,
    beta_fast: 32.0,
    beta_slow: 1.0,
    mscale: 1.0,
    mscale_all_dim: 1.0,
};
