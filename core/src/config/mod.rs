//! Model configurations: the fields of DeepSeek's `config.json`, under their own names.
//!
//! [`ModelConfig`] is a plain `Copy` struct that needs neither `alloc` nor serde; everything else about a model follows
//! from it: which layers are mixtures of experts ([`ModelConfig::is_moe_layer`]), the rotary frequencies ([`rope`]),
//! how many values it holds and how much work and cache a token costs ([`count`]). With the feature `serde` it is read
//! from and written to `config.json` (`config::hf`).
//!
//! A configuration built by hand should be [validated](ModelConfig::validate) once; the rest of the crate relies on it.

pub mod count;
#[cfg(feature = "serde")]
pub mod hf;
mod presets;
pub mod rope;
mod validate;

pub use count::{KvCache, ParameterCount};
#[cfg(feature = "serde")]
pub use hf::{FIELDS, HuggingFace};
pub use presets::{PRESETS, Preset};
pub use validate::{ConfigError, Problem};

/// Epsilon of the norms on the compressed query and the compressed key-value latent (`q_a_layernorm`,
/// `kv_a_layernorm`).
///
/// It is 1e-6 whatever `rms_norm_eps` says: every published implementation builds these two norms with their default.
pub const LATENT_NORM_EPS: f64 = 1e-6;

/// A DeepSeek-V2 or V3 model, field names as in DeepSeek's `config.json`.
///
/// Symbols in parentheses are those of the V3 report (arXiv 2412.19437). Sizes count elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family, which fixes how experts are scored and whether there is an expert bias.
    pub model_type: Family,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream (d).
    pub hidden_size: usize,
    /// Inner width of the dense feed-forward layers.
    pub intermediate_size: usize,
    /// Inner width of one expert.
    pub moe_intermediate_size: usize,
    /// Transformer blocks of the main model, without the multi-token-prediction modules (L).
    pub num_hidden_layers: usize,
    /// Number of dense layers at the start.
    pub first_k_dense_replace: usize,
    /// Among the later layers, those whose index is a multiple of this are mixtures of experts. Always 1 in published
    /// models; transformers knows no other value.
    pub moe_layer_freq: usize,
    /// Attention heads (n_h).
    pub num_attention_heads: usize,
    /// Equal to `num_attention_heads`: latent attention has no key-value groups.
    pub num_key_value_heads: usize,
    /// Experts every token passes through, stored as one feed-forward layer this many times as wide (N_s); may be 0.
    pub n_shared_experts: usize,
    /// Experts to choose from (N_r); 0 makes every layer dense.
    pub n_routed_experts: usize,
    /// Experts chosen for a token (K_r).
    pub num_experts_per_tok: usize,
    /// Groups the experts are divided into; 1 where there are none.
    pub n_group: usize,
    /// Groups a token's experts may come from (M).
    pub topk_group: usize,
    /// Factor on the weights of the chosen experts.
    pub routed_scaling_factor: f64,
    /// Scoring function: from router logits to scores.
    pub scoring_func: ScoringFunction,
    /// Method by which experts are chosen from scores.
    pub topk_method: TopkMethod,
    /// Divide the chosen experts' weights by their sum. True in V3, false in V2.
    pub norm_topk_prob: bool,
    /// Rank of the query compression (d_c'); `None` projects queries directly (`q_proj`).
    pub q_lora_rank: Option<usize>,
    /// Rank of the joint key-value compression (d_c).
    pub kv_lora_rank: usize,
    /// Per head, width of the part of query and key that carries no position.
    pub qk_nope_head_dim: usize,
    /// Width of the part that is rotated; one key of this width is shared by all heads (d_h^R).
    pub qk_rope_head_dim: usize,
    /// Per head, width of the value.
    pub v_head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// YaRN context extension, if any.
    pub rope_scaling: Option<Yarn>,
    /// Epsilon of every norm but the two [latent ones](LATENT_NORM_EPS).
    pub rms_norm_eps: f64,
    /// Biases on `q_a_proj`, `kv_a_proj_with_mqa` and `o_proj` (the other projections never have one).
    pub attention_bias: bool,
    /// The head is the embedding, transposed.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Depth of multi-token prediction (D).
    pub num_nextn_predict_layers: usize,
    /// Token id that begins a text, if any.
    pub bos_token_id: Option<u32>,
    /// Token id that ends a text, if any.
    pub eos_token_id: Option<u32>,
    /// Storage format of the checkpoint's weights, if they are not plain floating-point numbers.
    pub quantization_config: Option<Quantization>,
}

/// The two families this crate computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// DeepSeek-V2 (arXiv 2405.04434): softmax scores, no expert bias.
    V2,
    /// DeepSeek-V3 (arXiv 2412.19437) and models of its shape, such as Moonlight: sigmoid scores, expert bias.
    V3,
}

/// Scoring function of the router: from logits to scores, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoringFunction {
    /// Each logit by itself (V3).
    Sigmoid,
    /// Over all experts (V2).
    Softmax,
}

/// Method by which a token's experts are chosen from the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopkMethod {
    /// Score plus expert bias; groups ranked by the sum of their two best (V3 report, §2.1.2).
    NoAuxTc,
    /// The highest scores.
    Greedy,
    /// Groups ranked by their best score, then the highest scores in the kept groups (V2 paper, §2.2.2).
    GroupLimitedGreedy,
}

/// YaRN context extension (arXiv 2309.00071) as DeepSeek parameterises it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Context extension factor.
    pub factor: f64,
    /// Context length before the extension, in tokens.
    pub original_max_position_embeddings: usize,
    /// Dimensions that turn more often than this over the original context keep their frequency.
    pub beta_fast: f64,
    /// Dimensions that turn less often than this over the original context are interpolated.
    pub beta_slow: f64,
    /// Numerator of the factor on cosine and sine; see [`rope::attention_factor`].
    pub mscale: f64,
    /// Its denominator, and the factor on the softmax scale; 0 where there is none.
    pub mscale_all_dim: f64,
}

/// Block-scaled FP8 weights, the only stored quantisation that is read: E4M3 codes, one scale a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// Rows and columns of a block that shares a scale; `[128, 128]` in every published checkpoint.
    pub weight_block_size: [usize; 2],
    /// Scales are powers of two (`scale_fmt: "ue8m0"`, V3.1 and later).
    pub power_of_two_scales: bool,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 2] = [Family::V2, Family::V3];

    /// The `model_type` in `config.json`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Family::V2 => "deepseek_v2",
            Family::V3 => "deepseek_v3",
        }
    }

    /// The class in `architectures` that transformers and vLLM look up.
    pub const fn architecture(self) -> &'static str {
        match self {
            Family::V2 => "DeepseekV2ForCausalLM",
            Family::V3 => "DeepseekV3ForCausalLM",
        }
    }

    /// The family of a `model_type`, if it is one of ours.
    pub fn from_model_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.model_type() == name)
    }

    /// The family of a class in `architectures`, if it is one of ours.
    pub fn from_architecture(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.architecture() == name)
    }
}

impl ScoringFunction {
    /// The value of `scoring_func` in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            ScoringFunction::Sigmoid => "sigmoid",
            ScoringFunction::Softmax => "softmax",
        }
    }

    /// The function of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        [ScoringFunction::Sigmoid, ScoringFunction::Softmax].into_iter().find(|f| f.name() == name)
    }
}

impl TopkMethod {
    /// The value of `topk_method` in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            TopkMethod::NoAuxTc => "noaux_tc",
            TopkMethod::Greedy => "greedy",
            TopkMethod::GroupLimitedGreedy => "group_limited_greedy",
        }
    }

    /// The method of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        [TopkMethod::NoAuxTc, TopkMethod::Greedy, TopkMethod::GroupLimitedGreedy]
            .into_iter()
            .find(|method| method.name() == name)
    }
}

impl ModelConfig {
    /// Width of a query or key head: `qk_nope_head_dim + qk_rope_head_dim`.
    pub const fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Width of what is cached for a token in a layer: the latent and the shared rotary key,
    /// `kv_lora_rank + qk_rope_head_dim`. Also the output width of `kv_a_proj_with_mqa`.
    pub const fn latent_dim(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Whether layer `index` is a mixture of experts. Multi-token-prediction modules have the indices from
    /// `num_hidden_layers` on and follow the same rule, as in vLLM.
    pub const fn is_moe_layer(&self, index: usize) -> bool {
        self.n_routed_experts > 0 && index >= self.first_k_dense_replace && index.is_multiple_of(self.moe_layer_freq)
    }

    /// Whether any layer, of the main model or of multi-token prediction, is a mixture of experts.
    pub fn has_moe_layers(&self) -> bool {
        (0..self.num_hidden_layers + self.num_nextn_predict_layers).any(|i| self.is_moe_layer(i))
    }

    /// Whether routers carry `e_score_correction_bias`.
    pub fn has_expert_bias(&self) -> bool {
        self.topk_method == TopkMethod::NoAuxTc
    }

    /// Whether experts are first limited to `topk_group` of `n_group` groups.
    pub fn limits_groups(&self) -> bool {
        self.topk_method != TopkMethod::Greedy && self.n_group > 1
    }

    /// Experts in a group.
    pub const fn experts_per_group(&self) -> usize {
        self.n_routed_experts / self.n_group
    }

    /// Factor on `q·k` before the softmax: `qk_head_dim^-½ · m²` with `m = 0.1 · mscale_all_dim · ln(factor) + 1` where
    /// YaRN is on, `m = 1` elsewhere.
    ///
    /// This is what DeepSeek's published code does for both families. Early transformers releases left `m²` out for V2;
    /// later ones apply it too.
    pub fn softmax_scale(&self) -> f64 {
        let m = match &self.rope_scaling {
            Some(yarn) => rope::mscale(yarn.factor, yarn.mscale_all_dim),
            None => 1.0,
        };
        m * m / libm::sqrt(self.qk_head_dim() as f64)
    }
}

#[cfg(test)]
mod tests;
