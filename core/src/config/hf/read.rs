//! Reading `config.json`: keys to a model configuration.

use crate::config::{Family, ModelConfig, Quantization, ScoringFunction, TopkMethod, Yarn};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A key's value: whether the key was there, and what it held unless null.
struct Slot<T> {
    seen: bool,
    value: Option<T>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot { seen: false, value: None }
    }
}

impl<T> Slot<T> {
    /// The value, or `default` where the key is missing or null.
    fn or(self, default: T) -> T {
        self.value.unwrap_or(default)
    }

    /// The value, `default` where the key is missing, nothing where it is null.
    fn or_null(self, default: Option<T>) -> Option<T> {
        if self.seen { self.value } else { default }
    }
}

/// A struct of [`Slot`]s that reads a map: each field from the key of its name, other keys passed over, and the key
/// named in the message where a value has the wrong type.
macro_rules! keys {
    ($(#[$doc:meta])* $name:ident { $($field:ident $(= $key:literal)?: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Default)]
        struct $name { $($field: Slot<$type>,)* }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_map(MapVisitor(PhantomData))
            }
        }

        impl<'de> ReadKeys<'de> for $name {
            fn read<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
                $(if key == keys!(@key $field $($key)?) {
                    self.$field = Slot { seen: true, value: value(key, map)? };
                    return Ok(());
                })*
                map.next_value::<IgnoredAny>().map(|_| ())
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}

trait ReadKeys<'de>: Default {
    fn read<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(key: &str, map: &mut A) -> Result<Option<T>, A::Error> {
    map.next_value().map_err(|error| {
        // Of a nested key: "rope_scaling: factor: ...".
        A::Error::custom(format_args!("{key}: {error}"))
    })
}

struct MapVisitor<T>(PhantomData<T>);

impl<'de, T: ReadKeys<'de>> Visitor<'de> for MapVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of configuration keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut keys = T::default();
        while let Some(key) = map.next_key::<String>()? {
            keys.read(&key, &mut map)?;
        }
        Ok(keys)
    }
}

keys! {
    /// The keys of `config.json` that are read.
    Keys {
        model_type: String,
        architectures: Vec<String>,
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        moe_intermediate_size: usize,
        num_hidden_layers: usize,
        first_k_dense_replace: usize,
        moe_layer_freq: usize,
        num_attention_heads: usize,
        num_key_value_heads: usize,
        n_shared_experts: usize,
        n_routed_experts: usize,
        num_experts_per_tok: usize,
        n_group: usize,
        topk_group: usize,
        routed_scaling_factor: f64,
        scoring_func: String,
        topk_method: String,
        norm_topk_prob: bool,
        q_lora_rank: usize,
        kv_lora_rank: usize,
        qk_nope_head_dim: usize,
        qk_rope_head_dim: usize,
        v_head_dim: usize,
        max_position_embeddings: usize,
        rope_theta: f64,
        rope_scaling: RopeKeys,
        rope_parameters: RopeKeys,
        rope_interleave: bool,
        rms_norm_eps: f64,
        attention_bias: bool,
        attention_dropout: f64,
        mlp_bias: bool,
        hidden_act: String,
        tie_word_embeddings: bool,
        initializer_range: f64,
        num_nextn_predict_layers: usize,
        num_mtp_layers: usize,
        bos_token_id: TokenId,
        eos_token_id: TokenId,
        quantization_config: QuantizationKeys,
    }
}

keys! {
    /// `rope_scaling`, or transformers 5's `rope_parameters`.
    RopeKeys {
        legacy_type = "type": String,
        rope_type: String,
        rope_theta: f64,
        factor: f64,
        original_max_position_embeddings: usize,
        beta_fast: f64,
        beta_slow: f64,
        mscale: f64,
        mscale_all_dim: f64,
        attention_factor: f64,
        truncate: bool,
    }
}

keys! {
    QuantizationKeys {
        quant_method: String,
        fmt: String,
        activation_scheme: String,
        weight_block_size: [usize; 2],
        scale_fmt: String,
    }
}

/// A token id; of a list (several ends of text) the first, and −1 for none.
#[derive(Clone, Copy)]
struct TokenId(Option<u32>);

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenIdVisitor)
    }
}

struct TokenIdVisitor;

impl<'de> Visitor<'de> for TokenIdVisitor {
    type Value = TokenId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id, a list of them, or -1 for none")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<TokenId, E> {
        let id = u32::try_from(id).map_err(|_| E::custom(format_args!("{id} is not a token id; use -1 for none")))?;
        Ok(TokenId(Some(id)))
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<TokenId, E> {
        match u64::try_from(id) {
            Ok(id) => self.visit_u64(id),
            Err(_) if id == -1 => Ok(TokenId(None)),
            Err(_) => Err(E::custom(format_args!("{id} is not a token id; use -1 for none"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut ids: A) -> Result<TokenId, A::Error> {
        let first = ids.next_element::<TokenId>()?;
        while ids.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first.unwrap_or(TokenId(None)))
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = Keys::deserialize(deserializer)?.resolve()?;
        config.validate().map_err(D::Error::custom)?;
        Ok(config)
    }
}

/// What transformers assumes for a key that `config.json` leaves out, by family.
fn defaults(family: Family) -> ModelConfig {
    let v3 = ModelConfig { max_position_embeddings: 4096, rope_scaling: None, ..ModelConfig::v3_671b() };
    match family {
        Family::V3 => v3,
        Family::V2 => ModelConfig {
            model_type: Family::V2,
            vocab_size: 102400,
            hidden_size: 4096,
            intermediate_size: 11008,
            // Not a slip: DeepseekV2Config says 1407.
            moe_intermediate_size: 1407,
            num_hidden_layers: 32,
            first_k_dense_replace: 0,
            num_attention_heads: 32,
            n_shared_experts: 2,
            n_routed_experts: 64,
            // There is no default: routing needs the key.
            num_experts_per_tok: 0,
            n_group: 1,
            topk_group: 1,
            routed_scaling_factor: 1.0,
            scoring_func: ScoringFunction::Softmax,
            topk_method: TopkMethod::Greedy,
            norm_topk_prob: false,
            max_position_embeddings: 2048,
            num_nextn_predict_layers: 0,
            bos_token_id: Some(1),
            eos_token_id: Some(2),
            ..v3
        },
    }
}

/// The `model_type` of Kimi K2.
const KIMI_K2: &str = "kimi_k2";

impl Keys {
    fn resolve<E: Error>(mut self) -> Result<ModelConfig, E> {
        let family = self.family()?;
        self.refuse_what_is_not_computed()?;
        let rope = self.rope()?;
        let base = defaults(family);
        let heads = self.num_attention_heads.or(base.num_attention_heads);
        let context = self.max_position_embeddings.or(base.max_position_embeddings);
        let modules = match (self.num_nextn_predict_layers.value, self.num_mtp_layers.value) {
            (Some(a), Some(b)) if a != b => {
                return Err(E::custom(format_args!(
                    "num_mtp_layers = {b}: differs from num_nextn_predict_layers = {a}, which means the same; keep one"
                )));
            }
            (a, b) => a.or(b).unwrap_or(base.num_nextn_predict_layers),
        };
        Ok(ModelConfig {
            model_type: family,
            vocab_size: self.vocab_size.or(base.vocab_size),
            hidden_size: self.hidden_size.or(base.hidden_size),
            intermediate_size: self.intermediate_size.or(base.intermediate_size),
            moe_intermediate_size: self.moe_intermediate_size.or(base.moe_intermediate_size),
            num_hidden_layers: self.num_hidden_layers.or(base.num_hidden_layers),
            first_k_dense_replace: self.first_k_dense_replace.or(base.first_k_dense_replace),
            moe_layer_freq: self.moe_layer_freq.or(base.moe_layer_freq),
            num_attention_heads: heads,
            num_key_value_heads: self.num_key_value_heads.or(heads),
            // DeepSeek's code takes a null in these two for "none".
            n_shared_experts: self.n_shared_experts.or_null(Some(base.n_shared_experts)).unwrap_or(0),
            n_routed_experts: self.n_routed_experts.or_null(Some(base.n_routed_experts)).unwrap_or(0),
            num_experts_per_tok: self.num_experts_per_tok.or(base.num_experts_per_tok),
            n_group: self.n_group.or_null(Some(base.n_group)).unwrap_or(1).max(1),
            topk_group: self.topk_group.or_null(Some(base.topk_group)).unwrap_or(1).max(1),
            routed_scaling_factor: self.routed_scaling_factor.or(base.routed_scaling_factor),
            scoring_func: choice(
                "scoring_func",
                self.scoring_func.value,
                base.scoring_func,
                ScoringFunction::from_name,
                "\"sigmoid\" or \"softmax\"",
            )?,
            topk_method: choice(
                "topk_method",
                self.topk_method.value,
                base.topk_method,
                TopkMethod::from_name,
                "\"noaux_tc\", \"greedy\" or \"group_limited_greedy\"",
            )?,
            norm_topk_prob: self.norm_topk_prob.or(base.norm_topk_prob),
            q_lora_rank: self.q_lora_rank.or_null(base.q_lora_rank).filter(|&rank| rank != 0),
            kv_lora_rank: self.kv_lora_rank.or(base.kv_lora_rank),
            qk_nope_head_dim: self.qk_nope_head_dim.or(base.qk_nope_head_dim),
            qk_rope_head_dim: self.qk_rope_head_dim.or(base.qk_rope_head_dim),
            v_head_dim: self.v_head_dim.or(base.v_head_dim),
            max_position_embeddings: context,
            rope_theta: self.rope_theta.value.or(rope.theta).unwrap_or(base.rope_theta),
            rope_scaling: rope.yarn(context)?,
            rms_norm_eps: self.rms_norm_eps.or(base.rms_norm_eps),
            attention_bias: self.attention_bias.or(base.attention_bias),
            tie_word_embeddings: self.tie_word_embeddings.or(base.tie_word_embeddings),
            initializer_range: self.initializer_range.or(base.initializer_range),
            num_nextn_predict_layers: modules,
            bos_token_id: self.bos_token_id.or_null(Some(TokenId(base.bos_token_id))).and_then(|id| id.0),
            eos_token_id: self.eos_token_id.or_null(Some(TokenId(base.eos_token_id))).and_then(|id| id.0),
            quantization_config: self.quantization_config.value.map(QuantizationKeys::resolve).transpose()?,
        })
    }

    /// The family of `model_type`; under another name, or none, that of the class in `architectures`. Without a class,
    /// Kimi K2 is V3 to the letter, and so is a file that says nothing of its family but has latent attention.
    fn family<E: Error>(&mut self) -> Result<Family, E> {
        let expected = "expected \"deepseek_v3\" or \"deepseek_v2\"";
        let classes = self.architectures.value.take().unwrap_or_default();
        let by_class = || classes.iter().find_map(|class| Family::from_architecture(class));
        match self.model_type.value.take() {
            Some(name) => Family::from_model_type(&name)
                .or_else(by_class)
                .or((classes.is_empty() && name == KIMI_K2).then_some(Family::V3))
                .ok_or_else(|| E::custom(format_args!("model_type = \"{name}\": unknown family; {expected}"))),
            None if self.kv_lora_rank.value.is_some() => Ok(by_class().unwrap_or(Family::V3)),
            None => Err(E::custom(format_args!("model_type: missing; {expected}"))),
        }
    }

    fn refuse_what_is_not_computed<E: Error>(&self) -> Result<(), E> {
        if let Some(act) = &self.hidden_act.value
            && act != "silu"
        {
            return Err(E::custom(format_args!("hidden_act = \"{act}\": feed-forward layers use \"silu\" only")));
        }
        if self.rope_interleave.value == Some(false) {
            return Err(E::custom(
                "rope_interleave = false: rotary pairs must be interleaved; permute the rotary rows of q and kv_a",
            ));
        }
        if self.mlp_bias.value == Some(true) {
            return Err(E::custom("mlp_bias = true: feed-forward layers have no biases; set it to false"));
        }
        match self.attention_dropout.value {
            Some(rate) if rate != 0.0 => {
                Err(E::custom(format_args!("attention_dropout = {rate}: there is no dropout; set it to 0")))
            }
            _ => Ok(()),
        }
    }

    fn rope<E: Error>(&mut self) -> Result<Rope, E> {
        // transformers 5 lets the older key win.
        let (field, keys) = match (self.rope_scaling.value.take(), self.rope_parameters.value.take()) {
            (Some(keys), _) => ("rope_scaling", keys),
            (None, Some(keys)) => ("rope_parameters", keys),
            (None, None) => ("rope_scaling", RopeKeys::default()),
        };
        let kind = keys.rope_type.value.as_deref().or(keys.legacy_type.value.as_deref());
        let scaled = match kind {
            Some("yarn") => true,
            Some("default") => false,
            // YaRN's keys without a type (a single one overridden, say) can mean nothing else.
            None => keys.factor.seen || keys.original_max_position_embeddings.seen,
            Some(other) => {
                return Err(E::custom(format_args!(
                    "{field}.type = \"{other}\": unknown context extension; expected \"yarn\" or \"default\""
                )));
            }
        };
        Ok(Rope { field, theta: keys.rope_theta.value, keys: scaled.then_some(keys) })
    }
}

/// The rotary embedding's keys, wherever they stood.
struct Rope {
    field: &'static str,
    theta: Option<f64>,
    keys: Option<RopeKeys>,
}

impl Rope {
    /// YaRN for a model of `context` tokens, with the defaults of DeepSeek's code.
    fn yarn<E: Error>(self, context: usize) -> Result<Option<Yarn>, E> {
        let Rope { field, keys: Some(keys), .. } = self else {
            return Ok(None);
        };
        if let Some(factor) = keys.attention_factor.value {
            return Err(E::custom(format_args!(
                "{field}.attention_factor = {factor}: give mscale and mscale_all_dim instead"
            )));
        }
        if keys.truncate.value == Some(false) {
            return Err(E::custom(format_args!("{field}.truncate = false: the ramp is always rounded; remove it")));
        }
        let Some(original) = keys.original_max_position_embeddings.value else {
            return Err(E::custom(format_args!(
                "{field}.original_max_position_embeddings: missing; give the context length before the extension"
            )));
        };
        Ok(Some(Yarn {
            factor: keys.factor.value.unwrap_or(context as f64 / original as f64),
            original_max_position_embeddings: original,
            beta_fast: keys.beta_fast.or(32.0),
            beta_slow: keys.beta_slow.or(1.0),
            mscale: keys.mscale.or(1.0),
            mscale_all_dim: keys.mscale_all_dim.or(0.0),
        }))
    }
}

/// Reads the value of `quantization_config` by itself, for folders whose model is not one of ours.
impl<'de> Deserialize<'de> for Quantization {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantization = QuantizationKeys::deserialize(deserializer)?.resolve::<D::Error>()?;
        match quantization.weight_block_size {
            [0, _] | [_, 0] => Err(D::Error::custom("quantization_config.weight_block_size = 0: must be at least 1")),
            _ => Ok(quantization),
        }
    }
}

impl QuantizationKeys {
    fn resolve<E: Error>(self) -> Result<Quantization, E> {
        let refuse = |key: &str, value: &str, expected: &str| {
            Err(E::custom(format_args!("quantization_config.{key} = \"{value}\": expected {expected}")))
        };
        match self.quant_method.value.as_deref() {
            Some("fp8") => {}
            other => return refuse("quant_method", other.unwrap_or(""), "\"fp8\""),
        }
        if let Some(format) = self.fmt.value.as_deref().filter(|&format| format != "e4m3") {
            return refuse("fmt", format, "\"e4m3\"");
        }
        if let Some(scheme) = self.activation_scheme.value.as_deref().filter(|&scheme| scheme != "dynamic") {
            return refuse("activation_scheme", scheme, "\"dynamic\"");
        }
        let Some(weight_block_size) = self.weight_block_size.value else {
            return Err(E::custom("quantization_config.weight_block_size: missing; weights must be scaled by blocks"));
        };
        let power_of_two_scales = match self.scale_fmt.value.as_deref() {
            None | Some("float") => false,
            Some("ue8m0") => true,
            Some(other) => return refuse("scale_fmt", other, "\"ue8m0\" or none"),
        };
        Ok(Quantization { weight_block_size, power_of_two_scales })
    }
}

/// The choice a name stands for, or `default` where there is none.
fn choice<T, E: Error>(
    key: &str,
    name: Option<String>,
    default: T,
    from_name: fn(&str) -> Option<T>,
    expected: &str,
) -> Result<T, E> {
    match name {
        None => Ok(default),
        Some(name) => {
            from_name(&name).ok_or_else(|| E::custom(format_args!("{key} = \"{name}\": unknown; expected {expected}")))
        }
    }
}
