//! Tests of reading and writing `config.json`.

use super::*;
use crate::config::{Family, PRESETS, ParameterCount, Quantization, TopkMethod, Yarn};
use serde_json::{Map, Value, from_str, from_value, json, to_string_pretty, to_value};
use std::string::{String, ToString};

macro_rules! fixture {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../tests/fixtures/config/", $name, ".json")))
    };
}

/// Written by transformers 5.23 (`v3_fp8` with DeepSeek's quantization_config added).
const FIXTURES: &[(&str, &str)] = &[
    fixture!("v2_lite"),
    fixture!("v3_fp8"),
    fixture!("v3_mtp"),
    fixture!("v3_no_q_lora"),
    fixture!("v3_tied_bias"),
    fixture!("v3_yarn"),
];

fn read(name: &str) -> ModelConfig {
    let (_, text) = FIXTURES.iter().find(|(known, _)| *known == name).unwrap();
    from_str(text).unwrap()
}

/// Writes and reads back both forms.
fn round_trip(config: &ModelConfig) {
    let file = to_string_pretty(&config.hugging_face("float32")).unwrap();
    assert_eq!(from_str::<ModelConfig>(&file).unwrap(), *config, "{file}");
    let settings = to_value(config).unwrap();
    assert_eq!(from_value::<ModelConfig>(settings.clone()).unwrap(), *config);
    assert!(settings.as_object().unwrap().values().all(|value| !value.is_null()), "{settings}");
}

#[test]
fn every_fixture_and_preset_survives() {
    FIXTURES.iter().for_each(|(name, _)| round_trip(&read(name)));
    PRESETS.iter().for_each(|(_, build)| round_trip(&build()));
    let odd = ModelConfig {
        bos_token_id: None,
        eos_token_id: None,
        n_shared_experts: 0,
        num_nextn_predict_layers: 0,
        rope_theta: 12345.678,
        quantization_config: Some(Quantization { weight_block_size: [64, 32], power_of_two_scales: true }),
        ..ModelConfig::v3_671b()
    };
    round_trip(&odd);
}

#[test]
fn transformers_5_files_are_understood() {
    let yarn = read("v3_yarn");
    assert_eq!((yarn.model_type, yarn.num_hidden_layers, yarn.q_lora_rank), (Family::V3, 3, Some(20)));
    let expected = Yarn {
        factor: 4.0,
        original_max_position_embeddings: 64,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: 1.0,
        mscale_all_dim: 1.0,
    };
    assert_eq!(yarn.rope_scaling, Some(expected));
    let tied = read("v3_tied_bias");
    assert!(tied.attention_bias && tied.tie_word_embeddings && !tied.norm_topk_prob);
    assert_eq!((tied.first_k_dense_replace, tied.rope_scaling), (0, None));
    let moonlight = read("v3_no_q_lora");
    assert_eq!((moonlight.q_lora_rank, moonlight.n_shared_experts), (None, 2));
    let v2 = read("v2_lite");
    assert_eq!((v2.model_type, v2.topk_method, v2.num_nextn_predict_layers), (Family::V2, TopkMethod::Greedy, 0));
    assert_eq!(read("v3_mtp").num_nextn_predict_layers, 1);
    let quantization = Quantization { weight_block_size: [128, 128], power_of_two_scales: false };
    assert_eq!(read("v3_fp8").quantization_config, Some(quantization));
}

/// DeepSeek-V3's own file, keys and all.
#[test]
fn deepseek_v3_is_read_as_published() {
    let config: ModelConfig = from_str(
        r#"{
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": false, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
        "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432,
        "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
        "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "pretraining_tp": 1,
        "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                "weight_block_size": [128, 128]},
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 4096, "type": "yarn"},
        "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true,
        "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 129280
    }"#,
    )
    .unwrap();
    let fp8 = Some(Quantization { weight_block_size: [128, 128], power_of_two_scales: false });
    assert_eq!(config, ModelConfig { quantization_config: fp8, initializer_range: 0.02, ..ModelConfig::v3_671b() });
    assert_eq!(ParameterCount::of(&config).parameters_with_mtp(), 684_489_845_504);
}

#[test]
fn missing_keys_take_the_transformers_default() {
    let v3: ModelConfig = from_value(json!({"model_type": "deepseek_v3"})).unwrap();
    let expected = ModelConfig { max_position_embeddings: 4096, rope_scaling: None, ..ModelConfig::v3_671b() };
    assert_eq!(v3, expected);
    let v2: ModelConfig = from_value(json!({"model_type": "deepseek_v2", "num_experts_per_tok": 6})).unwrap();
    assert_eq!((v2.vocab_size, v2.moe_intermediate_size, v2.n_group, v2.bos_token_id), (102400, 1407, 1, Some(1)));
    // Latent attention without a family is V3's.
    let nameless: ModelConfig = from_value(json!({"kv_lora_rank": 512, "n_group": null, "topk_group": 0})).unwrap();
    assert_eq!((nameless.model_type, nameless.n_group, nameless.topk_group), (Family::V3, 1, 1));
}

#[test]
fn aliases_and_absent_values() {
    let read = |mut extra: Value| -> ModelConfig {
        extra.as_object_mut().unwrap().insert("model_type".into(), "deepseek_v3".into());
        from_value(extra).unwrap()
    };
    assert_eq!(read(json!({"num_mtp_layers": 2})).num_nextn_predict_layers, 2);
    assert_eq!(read(json!({"num_mtp_layers": 2, "num_nextn_predict_layers": 2})).num_nextn_predict_layers, 2);
    assert_eq!(read(json!({"q_lora_rank": null})).q_lora_rank, None);
    assert_eq!(read(json!({"q_lora_rank": 0})).q_lora_rank, None);
    assert_eq!(read(json!({"eos_token_id": [7, 8]})).eos_token_id, Some(7));
    assert_eq!(read(json!({"eos_token_id": null})).eos_token_id, None);
    assert_eq!(read(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}})).rope_theta, 5e4);
    assert_eq!(read(json!({"rope_scaling": {}})).rope_scaling, None);
    assert_eq!(read(json!({"n_shared_experts": null})).n_shared_experts, 0);
    let inferred = read(json!({
        "max_position_embeddings": 8192,
        "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 4096}
    }));
    let yarn = inferred.rope_scaling.unwrap();
    assert_eq!((yarn.factor, yarn.mscale, yarn.mscale_all_dim), (2.0, 1.0, 0.0));
}

#[test]
fn one_key_can_be_overridden() {
    let mut settings = to_value(ModelConfig::v2_lite()).unwrap();
    settings["hidden_size"] = json!(1024);
    settings["rope_scaling"]["factor"] = json!(8);
    let config: ModelConfig = from_value(settings).unwrap();
    let yarn = Yarn { factor: 8.0, ..ModelConfig::v2_lite().rope_scaling.unwrap() };
    let expected = ModelConfig { hidden_size: 1024, rope_scaling: Some(yarn), ..ModelConfig::v2_lite() };
    assert_eq!(config, expected);
}

#[test]
fn written_keys_are_the_listed_ones() {
    let full = ModelConfig {
        quantization_config: Some(Quantization { weight_block_size: [128, 128], power_of_two_scales: true }),
        ..ModelConfig::v3_671b()
    };
    let settings = to_string_pretty(&full).unwrap();
    let mut from = 0;
    for field in FIELDS {
        let at = settings[from..].find(&std::format!("\n  \"{field}\":"));
        from += at.unwrap_or_else(|| panic!("{field} is missing or out of order"));
    }
    let keys: Map<String, Value> = from_str(&settings).unwrap();
    assert_eq!(keys.len(), FIELDS.len());

    let file = to_value(full.hugging_face("bfloat16")).unwrap();
    assert_eq!(file["architectures"], json!(["DeepseekV3ForCausalLM"]));
    assert_eq!(file["torch_dtype"], "bfloat16");
    assert_eq!(file["head_dim"], 64);
    assert_eq!((&file["rope_scaling"]["type"], &file["rope_scaling"]["rope_type"]), (&json!("yarn"), &json!("yarn")));
    assert_eq!(to_value(ModelConfig::v2_lite().hugging_face("float32")).unwrap()["q_lora_rank"], Value::Null);
}

#[test]
fn a_model_under_a_name_of_its_own_is_what_its_architecture_says() {
    let read = |json| from_value::<ModelConfig>(json).map_err(|error| error.to_string());
    let named =
        |name: &str, class: &str| json!({"model_type": name, "architectures": [class], "num_experts_per_tok": 6});
    let (v3, v2) = (named("deepseek_v3", "X"), named("deepseek_v2", "X"));
    assert_eq!(read(named("kimi_k2", "DeepseekV3ForCausalLM")), read(v3));
    assert_eq!(read(named("other", "DeepseekV2ForCausalLM")), read(v2));
    for (name, class) in [("kimi_k2", "KimiForCausalLM"), ("deepseek_v32", "DeepseekV32ForCausalLM")] {
        assert!(
            read(named(name, class)).unwrap_err().contains(&alloc::format!("model_type = \"{name}\": unknown family"))
        );
    }
    // Without a class: one name is known, and no name is V3.
    let v3 = read(named("deepseek_v3", "X"));
    assert_eq!(read(json!({"model_type": "kimi_k2", "num_experts_per_tok": 6})), v3);
    let unnamed = |class| json!({"architectures": [class], "kv_lora_rank": 512, "num_experts_per_tok": 6});
    assert_eq!(read(unnamed("X")), v3);
    assert_eq!(read(unnamed("DeepseekV2ForCausalLM")), read(named("deepseek_v2", "X")));
    assert!(
        read(json!({"model_type": "kimi_k2", "architectures": 3})).unwrap_err().contains("architectures: invalid type")
    );
}

#[test]
fn bad_files_are_named_by_field() {
    let cases = [
        (json!({"model_type": "llama"}), "model_type = \"llama\""),
        (json!({"hidden_size": 4096}), "model_type: missing"),
        (json!({"model_type": 3}), "model_type: invalid type"),
        (json!({"hidden_size": "wide"}), "hidden_size: invalid type: string \"wide\""),
        (json!({"hidden_size": -1}), "hidden_size: invalid value"),
        (json!({"hidden_size": 12.5}), "hidden_size: invalid type"),
        (json!({"hidden_size": 0}), "hidden_size = 0"),
        (json!({"vocab_size": 1_000_000_000}), "vocab_size = 1000000000"),
        (json!({"qk_rope_head_dim": 63}), "qk_rope_head_dim = 63"),
        (json!({"norm_topk_prob": "yes"}), "norm_topk_prob: invalid type"),
        (json!({"scoring_func": "tanh"}), "scoring_func = \"tanh\""),
        (json!({"topk_method": "best"}), "topk_method = \"best\""),
        (json!({"hidden_act": "gelu"}), "hidden_act = \"gelu\""),
        (json!({"rope_interleave": false}), "rope_interleave = false"),
        (json!({"attention_dropout": 0.1}), "attention_dropout = 0.1"),
        (json!({"mlp_bias": true}), "mlp_bias = true"),
        (json!({"num_mtp_layers": 1, "num_nextn_predict_layers": 2}), "num_mtp_layers = 1"),
        (json!({"eos_token_id": -2}), "eos_token_id: -2"),
        (json!({"eos_token_id": "end"}), "eos_token_id: invalid type"),
        (json!({"eos_token_id": 200000}), "eos_token_id = 200000"),
        (json!({"rope_scaling": {"type": "linear", "factor": 2}}), "rope_scaling.type = \"linear\""),
        (json!({"rope_scaling": {"type": "yarn", "factor": "x"}}), "rope_scaling: factor: invalid type"),
        (json!({"rope_scaling": {"type": "yarn"}}), "rope_scaling.original_max_position_embeddings: missing"),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 2, "attention_factor": 1.2}}),
            "rope_parameters.attention_factor = 1.2",
        ),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config.quant_method = \"gptq\""),
        (
            json!({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]}}),
            "quantization_config.fmt = \"e5m2\"",
        ),
        (
            json!({"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}),
            "quantization_config.activation_scheme = \"static\"",
        ),
        (json!({"quantization_config": {"quant_method": "fp8"}}), "quantization_config.weight_block_size: missing"),
        (
            json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}}),
            "quantization_config.weight_block_size = 0",
        ),
    ];
    for (mut keys, message) in cases {
        let map = keys.as_object_mut().unwrap();
        if !message.starts_with("model_type") {
            map.insert("model_type".into(), "deepseek_v3".into());
        }
        let error = from_value::<ModelConfig>(keys).expect_err(message).to_string();
        assert!(error.starts_with(message), "{error:?} should start with {message:?}");
    }
    let error = from_str::<ModelConfig>("{\"model_type\": \"deepseek_v3\",\n \"hidden_size\": \"x\"}").unwrap_err();
    assert!(error.to_string().starts_with("hidden_size: invalid type"), "{error}");
    assert_eq!(error.line(), 2);
    assert!(from_str::<ModelConfig>("[1]").unwrap_err().to_string().contains("a map of configuration keys"));
}
