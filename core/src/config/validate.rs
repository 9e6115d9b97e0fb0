//! Validation of model configurations; an error names the field.

use super::{Family, ModelConfig, ParameterCount, ScoringFunction, TopkMethod, Yarn};
use core::fmt;

/// A configuration that cannot be built: the field, what is wrong with it, and what to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfigError {
    /// The field's name, as in `config.json`; dotted for a nested one (`rope_scaling.factor`).
    pub field: &'static str,
    /// Problem with its value.
    pub problem: Problem,
}

/// Problem with a field of the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Problem {
    /// A size that must be at least 1 is 0.
    Zero,
    /// A width that is split into pairs is odd.
    Odd {
        /// The width.
        value: usize,
    },
    /// Larger than any model could be: most likely a slip of the keyboard.
    TooLarge {
        /// The value.
        value: usize,
        /// The largest accepted.
        limit: usize,
    },
    /// Larger than another field allows.
    Exceeds {
        /// The value.
        value: usize,
        /// The largest value allowed.
        limit: usize,
        /// Name of the limit.
        what: &'static str,
    },
    /// A field that must be a multiple of another, and is not.
    NotDivisible {
        /// The value.
        value: usize,
        /// The divisor's value.
        by: usize,
        /// The divisor's name.
        divisor: &'static str,
    },
    /// A field that must equal another, and does not.
    Differs {
        /// The value.
        value: usize,
        /// The value it must have.
        expected: usize,
        /// The field that fixes it.
        other: &'static str,
    },
    /// A number outside its range, or not a number.
    Number {
        /// The value.
        value: f64,
        /// The range, in words.
        rule: &'static str,
    },
    /// A combination that no published model has and that implementations do not agree on.
    Unsupported {
        /// Why it is refused.
        why: &'static str,
        /// Remedy: what to write instead.
        remedy: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        match self.problem {
            Problem::Zero => write!(f, " = 0: must be at least 1"),
            Problem::Odd { value } => {
                write!(f, " = {value}: must be even, since it is rotated in pairs; use {} or {}", value - 1, value + 1)
            }
            Problem::TooLarge { value, limit } => {
                write!(f, " = {value}: more than {limit}, the most that is accepted; check the number")
            }
            Problem::Exceeds { value, limit, what } => {
                write!(f, " = {value}: more than {what}, {limit}; lower it or raise the other")
            }
            Problem::NotDivisible { value, by, divisor } => {
                write!(f, " = {value}: must be a multiple of {divisor} = {by}; change one of the two")
            }
            Problem::Differs { value, expected, other } => {
                write!(f, " = {value}: must equal {other}; set it to {expected} or leave it out")
            }
            Problem::Number { value, rule } => write!(f, " = {value}: must be {rule}"),
            Problem::Unsupported { why, remedy } => write!(f, ": {why}; {remedy}"),
        }
    }
}

impl core::error::Error for ConfigError {}

/// The largest width, vocabulary or number of experts accepted: far beyond any model, small enough that products of two
/// fit a 64-bit count.
const MAX_SIZE: usize = 1 << 24;
/// The largest number of layers accepted.
const MAX_LAYERS: usize = 1 << 12;
/// The largest number of tensors accepted, so that a few words of configuration cannot ask for a table without end:
/// five times those of any published model.
const MAX_TENSORS: usize = 1 << 19;
/// Tensors of a layer beside those of its routed experts, at most.
const LAYER_TENSORS: usize = 16;
/// Tensors of an expert.
const EXPERT_TENSORS: usize = 3;
/// The largest number of parameters accepted, so that byte counts fit 64 bits.
const MAX_PARAMETERS: u64 = 1 << 58;

type Check = Result<(), ConfigError>;

fn fail(field: &'static str, problem: Problem) -> Check {
    Err(ConfigError { field, problem })
}

fn size(field: &'static str, value: usize, limit: usize) -> Check {
    match value {
        0 => fail(field, Problem::Zero),
        _ if value > limit => fail(field, Problem::TooLarge { value, limit }),
        _ => Ok(()),
    }
}

fn number(field: &'static str, value: f64, valid: bool, rule: &'static str) -> Check {
    if valid && value.is_finite() { Ok(()) } else { fail(field, Problem::Number { value, rule }) }
}

impl ModelConfig {
    /// Checks that the model can be built: the first field found wrong, why, and what to do about it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_attention()?;
        self.check_numbers()?;
        if self.has_moe_layers() {
            self.check_router()?;
            self.check_experts()?;
        }
        self.check_tokens()?;
        if let Some(yarn) = &self.rope_scaling {
            yarn.check()?;
        }
        if let Some(quantization) = &self.quantization_config {
            for block in quantization.weight_block_size {
                size("quantization_config.weight_block_size", block, MAX_SIZE)?;
            }
        }
        self.check_tensors()?;
        if ParameterCount::of(self).parameters_with_mtp() > MAX_PARAMETERS {
            return fail(
                "num_hidden_layers",
                Problem::Unsupported {
                    why: "layers, widths and experts together make more than 2^58 parameters",
                    remedy: "check the sizes",
                },
            );
        }
        Ok(())
    }

    fn check_sizes(&self) -> Check {
        size("vocab_size", self.vocab_size, MAX_SIZE)?;
        size("hidden_size", self.hidden_size, MAX_SIZE)?;
        size("intermediate_size", self.intermediate_size, MAX_SIZE)?;
        size("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        size("max_position_embeddings", self.max_position_embeddings, 1 << 30)?;
        // first_k_dense_replace may exceed the number of layers: the model is then dense.
        size("moe_layer_freq", self.moe_layer_freq, MAX_LAYERS)?;
        if self.num_nextn_predict_layers > MAX_LAYERS {
            size("num_nextn_predict_layers", self.num_nextn_predict_layers, MAX_LAYERS)?;
        }
        Ok(())
    }

    fn check_tensors(&self) -> Check {
        let experts = if self.has_moe_layers() { self.n_routed_experts } else { 0 };
        let layers = self.num_hidden_layers + self.num_nextn_predict_layers;
        if layers * (experts * EXPERT_TENSORS + LAYER_TENSORS) > MAX_TENSORS {
            let why = "layers and experts together make more than 2^19 tensors";
            return fail("n_routed_experts", Problem::Unsupported { why, remedy: "check both numbers" });
        }
        Ok(())
    }

    fn check_attention(&self) -> Check {
        let (heads, key_value_heads) = (self.num_attention_heads, self.num_key_value_heads);
        size("num_attention_heads", heads, MAX_SIZE)?;
        if key_value_heads != heads {
            let problem = Problem::Differs { value: key_value_heads, expected: heads, other: "num_attention_heads" };
            return fail("num_key_value_heads", problem);
        }
        if let Some(rank) = self.q_lora_rank {
            size("q_lora_rank", rank, MAX_SIZE)?;
        }
        size("kv_lora_rank", self.kv_lora_rank, MAX_SIZE)?;
        size("qk_nope_head_dim", self.qk_nope_head_dim, MAX_SIZE)?;
        size("qk_rope_head_dim", self.qk_rope_head_dim, MAX_SIZE)?;
        if !self.qk_rope_head_dim.is_multiple_of(2) {
            return fail("qk_rope_head_dim", Problem::Odd { value: self.qk_rope_head_dim });
        }
        size("v_head_dim", self.v_head_dim, MAX_SIZE)
    }

    fn check_numbers(&self) -> Check {
        number("rope_theta", self.rope_theta, self.rope_theta > 1.0, "a number above 1")?;
        let eps = self.rms_norm_eps;
        number("rms_norm_eps", eps, eps > 0.0 && eps < 1.0, "above 0 and below 1")?;
        let scale = self.routed_scaling_factor;
        number("routed_scaling_factor", scale, scale > 0.0, "a number above 0")?;
        let range = self.initializer_range;
        number("initializer_range", range, (0.0..=10.0).contains(&range), "from 0 to 10")
    }

    /// The combinations the two families were published with; transformers, vLLM and llama.cpp know no others, so a
    /// checkpoint with another one would mean something else elsewhere.
    fn check_router(&self) -> Check {
        let unsupported = |field, why, remedy| fail(field, Problem::Unsupported { why, remedy });
        match self.model_type {
            Family::V3 if self.scoring_func != ScoringFunction::Sigmoid => {
                unsupported("scoring_func", "deepseek_v3 scores experts by sigmoid", "use \"sigmoid\", or deepseek_v2")
            }
            Family::V3 if self.topk_method != TopkMethod::NoAuxTc => unsupported(
                "topk_method",
                "deepseek_v3 chooses experts by biased score",
                "use \"noaux_tc\", or deepseek_v2",
            ),
            Family::V2 if self.scoring_func != ScoringFunction::Softmax => {
                unsupported("scoring_func", "deepseek_v2 scores experts by softmax", "use \"softmax\", or deepseek_v3")
            }
            Family::V2 if self.topk_method == TopkMethod::NoAuxTc => unsupported(
                "topk_method",
                "deepseek_v2 has no expert bias",
                "use \"greedy\" or \"group_limited_greedy\", or deepseek_v3",
            ),
            // DeepSeek's code then leaves the scaling factor out, vLLM keeps it, transformers does not normalise.
            Family::V2 if self.norm_topk_prob => unsupported(
                "norm_topk_prob",
                "implementations of deepseek_v2 disagree on what it means and no published model sets it",
                "use false, or deepseek_v3",
            ),
            _ => Ok(()),
        }
    }

    fn check_experts(&self) -> Check {
        size("n_routed_experts", self.n_routed_experts, MAX_SIZE)?;
        size("moe_intermediate_size", self.moe_intermediate_size, MAX_SIZE)?;
        size("num_experts_per_tok", self.num_experts_per_tok, MAX_SIZE)?;
        if self.n_shared_experts > MAX_SIZE {
            size("n_shared_experts", self.n_shared_experts, MAX_SIZE)?;
        }
        let mut choice = self.n_routed_experts;
        let mut what = "n_routed_experts";
        if self.topk_method != TopkMethod::Greedy {
            self.check_groups()?;
            choice = self.topk_group * self.experts_per_group();
            what = "the experts in topk_group groups";
        }
        if self.num_experts_per_tok > choice {
            let problem = Problem::Exceeds { value: self.num_experts_per_tok, limit: choice, what };
            return fail("num_experts_per_tok", problem);
        }
        Ok(())
    }

    fn check_groups(&self) -> Check {
        size("n_group", self.n_group, MAX_SIZE)?;
        size("topk_group", self.topk_group, MAX_SIZE)?;
        if !self.n_routed_experts.is_multiple_of(self.n_group) {
            let problem = Problem::NotDivisible { value: self.n_routed_experts, by: self.n_group, divisor: "n_group" };
            return fail("n_routed_experts", problem);
        }
        if self.topk_group > self.n_group {
            let problem = Problem::Exceeds { value: self.topk_group, limit: self.n_group, what: "n_group" };
            return fail("topk_group", problem);
        }
        if self.topk_method == TopkMethod::NoAuxTc && self.experts_per_group() < 2 {
            return fail(
                "n_group",
                Problem::Unsupported {
                    why: "a group's score is the sum of its two best experts, so each group needs two",
                    remedy: "lower n_group or raise n_routed_experts",
                },
            );
        }
        Ok(())
    }

    fn check_tokens(&self) -> Check {
        for (field, id) in [("bos_token_id", self.bos_token_id), ("eos_token_id", self.eos_token_id)] {
            if let Some(id) = id
                && id as usize >= self.vocab_size
            {
                let what = "the last id of the vocabulary";
                return fail(field, Problem::Exceeds { value: id as usize, limit: self.vocab_size - 1, what });
            }
        }
        Ok(())
    }
}

impl Yarn {
    fn check(&self) -> Check {
        number("rope_scaling.factor", self.factor, self.factor >= 1.0, "at least 1")?;
        let original = self.original_max_position_embeddings;
        size("rope_scaling.original_max_position_embeddings", original, 1 << 30)?;
        let (fast, slow) = (self.beta_fast, self.beta_slow);
        number("rope_scaling.beta_slow", slow, slow > 0.0, "above 0")?;
        number("rope_scaling.beta_fast", fast, fast >= slow, "at least beta_slow")?;
        // Their squares multiply scores, so that there is a limit to what makes sense, and to what stays finite.
        let (scale, all) = (self.mscale, self.mscale_all_dim);
        number("rope_scaling.mscale", scale, scale > 0.0 && scale <= 1e3, "above 0, at most 1000")?;
        number("rope_scaling.mscale_all_dim", all, (0.0..=1e3).contains(&all), "from 0 (off) to 1000")
    }
}
