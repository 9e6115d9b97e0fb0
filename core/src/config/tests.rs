//! Tests of configurations, presets and counts.

use super::*;
use std::string::ToString;

/// Values of the main model and of the published checkpoint with its MTP module.
#[test]
fn parameters_are_as_published() {
    let cases = [
        ("v3-671b", 671_026_419_200, 684_489_845_504),
        ("v2-236b", 235_741_434_880, 235_741_434_880),
        ("v2-lite", 15_706_484_224, 15_706_484_224),
        ("moonlight-16b", 15_960_110_208, 15_960_110_208),
    ];
    for (name, main, with_mtp) in cases {
        let count = ParameterCount::of(&ModelConfig::preset(name).unwrap());
        assert_eq!((count.parameters(), count.parameters_with_mtp()), (main, with_mtp), "{name}");
    }
}

/// A table of tensors is made from the configuration alone.
#[test]
fn more_tensors_than_any_model_has_are_refused() {
    let most = ModelConfig { num_hidden_layers: 62, ..ModelConfig::v3_671b() };
    assert_eq!(ModelConfig { n_routed_experts: 1024, ..most }.validate(), Ok(()));
    for (experts, layers) in [(1 << 24, 62), (4096, 62), (256, 4096)] {
        let config = ModelConfig { n_routed_experts: experts, num_hidden_layers: layers, ..most };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("n_routed_experts") && error.contains("2^19 tensors"), "{error}");
    }
    let error = ModelConfig { num_hidden_layers: 4097, ..most }.validate().unwrap_err().to_string();
    assert!(error.contains("num_hidden_layers = 4097: more than 4096"), "{error}");
}

/// Published to the billion: 37, 21, 2.4 and 2.24 (Moonlight without its head).
#[test]
fn active_parameters_are_as_published() {
    let active = |config: ModelConfig| ParameterCount::of(&config).active_parameters() as f64 / 1e9;
    assert_eq!(libm::round(active(ModelConfig::v3_671b())), 37.0);
    assert_eq!(libm::round(active(ModelConfig::v2_236b())), 21.0);
    assert!((active(ModelConfig::v2_lite()) - 2.4).abs() < 0.1);
    let moonlight = ModelConfig::moonlight_16b();
    let head = ParameterCount::of(&moonlight).head as f64 / 1e9;
    assert!((active(moonlight) - head - 2.24).abs() < 0.005);
}

#[test]
fn small_presets_have_the_promised_size() {
    let parameters = |name| ParameterCount::of(&ModelConfig::preset(name).unwrap()).parameters_in_training();
    assert!((2_000_000..4_000_000).contains(&parameters("tiny")));
    assert!((90_000_000..115_000_000).contains(&parameters("small")));
    assert_eq!(ModelConfig::preset("large"), None);
    for (name, build) in PRESETS {
        assert_eq!(build().validate(), Ok(()), "{name}");
    }
}

/// Counted by hand, value by value, for one dense and one expert layer with every optional part.
#[test]
fn parameters_add_up_in_a_model_counted_by_hand() {
    let config = ModelConfig {
        vocab_size: 10,
        hidden_size: 4,
        intermediate_size: 6,
        moe_intermediate_size: 3,
        num_hidden_layers: 2,
        first_k_dense_replace: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        n_routed_experts: 4,
        num_experts_per_tok: 2,
        n_group: 2,
        topk_group: 1,
        q_lora_rank: Some(5),
        kv_lora_rank: 3,
        qk_nope_head_dim: 2,
        qk_rope_head_dim: 2,
        v_head_dim: 1,
        attention_bias: true,
        tie_word_embeddings: true,
        ..ModelConfig::v3_671b()
    };
    assert_eq!(config.validate(), Ok(()));
    let count = ParameterCount::of(&config);
    // q_a 4·5+5, q_b 5·8, kv_a 4·5+5, kv_b 3·6, o 2·4+4.
    let attention = 25 + 40 + 25 + 18 + 12;
    let norms = 4 + 4 + 5 + 3;
    let (expert, router) = (3 * 4 * 3, 4 * 4);
    let moe = attention + norms + 5 * expert + router + 4;
    assert_eq!(count.attention, 2 * attention);
    assert_eq!(count.norms, 2 * norms + 4);
    assert_eq!(count.head, 0);
    assert_eq!(count.parameters(), 40 + (attention + norms + 72) + moe + 4);
    // Three norms and eh_proj; the copy of the tied embedding is one tensor.
    assert_eq!(count.parameters_with_mtp(), count.parameters() + moe + 12 + 32 + 40);
    let matmul = 2 * (attention - 14) + 72 + 3 * expert + router + 40;
    assert_eq!(count.active_matmul_parameters(), matmul);
    assert_eq!(count.active_parameters(), matmul + 2 * 14 + 2 * norms + 4 + 4);
    assert_eq!(count.mtp_active_matmul_parameters(), attention - 14 + 3 * expert + router + 32 + 40);
    // Two layers, two heads of width 4 + 1, seven tokens: (1 + … + 7) / 7 = 4 keys on average.
    assert_eq!(config.flops_per_token(7), 6 * matmul + 3 * 2 * (2 * 2 * 5) * 4);
    assert_eq!(config.mtp_flops_per_token(7), 6 * count.mtp_active_matmul_parameters() + 3 * (2 * 2 * 5) * 4);
}

#[test]
fn cache_is_as_published() {
    let cache = KvCache::of(&ModelConfig::v3_671b());
    assert_eq!((cache.latent, cache.latent_per_layer, cache.mtp), (70_272, 1_152, 1_152));
    assert_eq!(cache.multi_head, 4_997_120);
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let (from, to, ratio) = cache.published_comparison();
    assert_eq!((gib(from), gib(to), ratio), (213.5, 7.625, 28.0));
    let (from, to, ratio) = cache.comparison_with_rope_key();
    assert_eq!((gib(from), gib(to)), (213.5, 8.578125));
    assert!((ratio - 24.889).abs() < 1e-3);
    let (from, _, ratio) = cache.comparison_with_multi_head();
    assert_eq!(gib(from), 610.0);
    assert!((ratio - 71.111).abs() < 1e-3);
    for config in [ModelConfig::v2_lite(), ModelConfig::moonlight_16b()] {
        let cache = KvCache::of(&config);
        assert_eq!((cache.latent, cache.multi_head), (31_104, 276_480));
    }
}

#[test]
fn softmax_scale_includes_yarn() {
    let scale = |config: ModelConfig| config.softmax_scale();
    assert!((scale(ModelConfig::v3_671b()) - 0.135234).abs() < 1e-6);
    assert!((scale(ModelConfig::v2_lite()) - 0.114721).abs() < 1e-6);
    assert_eq!(scale(ModelConfig::moonlight_16b()), 1.0 / libm::sqrt(192.0));
}

/// transformers 5.23, `_compute_yarn_parameters`, f32.
#[test]
fn frequencies_match_transformers() {
    let v3 = ModelConfig::v3_671b();
    assert_eq!(rope::ramp_bounds(&v3, &v3.rope_scaling.unwrap()), (10.0, 23.0));
    let expected = [
        (0, 1.0),
        (1, 0.7498942017555237),
        (10, 0.05623412877321243),
        (11, 0.039006926119327545),
        (15, 0.0083345090970397),
        (22, 0.00017782794020604342),
        (23, 3.333803397254087e-05),
        (31, 3.3338035336782923e-06),
    ];
    for (pair, frequency) in expected {
        let got = rope::inv_freq(&v3, pair);
        assert!((got / frequency - 1.0).abs() < 3e-7, "pair {pair}: {got} against {frequency}");
    }
    assert_eq!(rope::attention_factor(&v3), 1.0);

    let yarn =
        Yarn { factor: 4.0, original_max_position_embeddings: 64, mscale_all_dim: 0.5, ..v3.rope_scaling.unwrap() };
    let small = ModelConfig { qk_rope_head_dim: 8, rope_scaling: Some(yarn), ..v3 };
    let mut frequencies = [0.0; 4];
    rope::fill_inv_freq(&small, &mut frequencies);
    for (got, expected) in frequencies.into_iter().zip([1.0, 0.0625, 0.0025, 0.00025]) {
        assert!((got / expected - 1.0f32).abs() < 3e-7, "{got} against {expected}");
    }
    assert!((rope::attention_factor(&small) - 1.0648216253695715).abs() < 1e-12);
    let plain = ModelConfig { rope_scaling: None, ..small };
    assert!((rope::inv_freq(&plain, 3) - 0.001).abs() < 1e-12);
}

#[test]
fn layers_alternate_by_first_dense_and_frequency() {
    let every_second = ModelConfig { moe_layer_freq: 2, ..ModelConfig::tiny() };
    let layers: [bool; 5] = core::array::from_fn(|i| every_second.is_moe_layer(i));
    assert_eq!(layers, [false, false, true, false, true]);
    let dense = ModelConfig { n_routed_experts: 0, ..ModelConfig::tiny() };
    assert!(!dense.has_moe_layers() && dense.validate().is_ok());
    assert_eq!(ParameterCount::of(&dense).routed_experts, 0);
}

type Change = fn(&mut ModelConfig);

#[test]
fn bad_fields_are_named() {
    let cases: &[(&str, Change)] = &[
        ("vocab_size", |c| c.vocab_size = 0),
        ("hidden_size", |c| c.hidden_size = 0),
        ("hidden_size", |c| c.hidden_size = usize::MAX),
        ("intermediate_size", |c| c.intermediate_size = 0),
        ("moe_intermediate_size", |c| c.moe_intermediate_size = 0),
        ("num_hidden_layers", |c| c.num_hidden_layers = 0),
        ("num_hidden_layers", |c| {
            c.hidden_size = 1 << 24;
            c.moe_intermediate_size = 1 << 24;
        }),
        ("moe_layer_freq", |c| c.moe_layer_freq = 0),
        ("num_attention_heads", |c| c.num_attention_heads = 0),
        ("num_key_value_heads", |c| c.num_key_value_heads = 1),
        ("num_experts_per_tok", |c| c.num_experts_per_tok = 0),
        ("num_experts_per_tok", |c| c.num_experts_per_tok = 129),
        ("n_routed_experts", |c| c.n_routed_experts = 255),
        ("n_group", |c| c.n_group = 256),
        ("n_group", |c| c.n_group = 0),
        ("topk_group", |c| c.topk_group = 9),
        ("topk_group", |c| c.topk_group = 0),
        ("n_shared_experts", |c| c.n_shared_experts = usize::MAX),
        ("routed_scaling_factor", |c| c.routed_scaling_factor = 0.0),
        ("scoring_func", |c| c.scoring_func = ScoringFunction::Softmax),
        ("scoring_func", |c| *c = ModelConfig { scoring_func: ScoringFunction::Sigmoid, ..ModelConfig::v2_lite() }),
        ("topk_method", |c| c.topk_method = TopkMethod::Greedy),
        ("topk_method", |c| *c = ModelConfig { topk_method: TopkMethod::NoAuxTc, ..ModelConfig::v2_lite() }),
        ("norm_topk_prob", |c| *c = ModelConfig { norm_topk_prob: true, ..ModelConfig::v2_lite() }),
        ("q_lora_rank", |c| c.q_lora_rank = Some(0)),
        ("kv_lora_rank", |c| c.kv_lora_rank = 0),
        ("qk_nope_head_dim", |c| c.qk_nope_head_dim = 0),
        ("qk_rope_head_dim", |c| c.qk_rope_head_dim = 63),
        ("v_head_dim", |c| c.v_head_dim = 0),
        ("max_position_embeddings", |c| c.max_position_embeddings = 0),
        ("rope_theta", |c| c.rope_theta = f64::NAN),
        ("rope_theta", |c| c.rope_theta = 1.0),
        ("rms_norm_eps", |c| c.rms_norm_eps = 0.0),
        ("initializer_range", |c| c.initializer_range = -0.1),
        ("num_nextn_predict_layers", |c| c.num_nextn_predict_layers = usize::MAX),
        ("bos_token_id", |c| c.bos_token_id = Some(129280)),
        ("eos_token_id", |c| c.eos_token_id = Some(u32::MAX)),
        ("rope_scaling.factor", |c| c.rope_scaling.as_mut().unwrap().factor = 0.5),
        ("rope_scaling.original_max_position_embeddings", |c| {
            c.rope_scaling.as_mut().unwrap().original_max_position_embeddings = 0
        }),
        ("rope_scaling.beta_fast", |c| c.rope_scaling.as_mut().unwrap().beta_fast = 0.5),
        ("rope_scaling.beta_slow", |c| c.rope_scaling.as_mut().unwrap().beta_slow = 0.0),
        ("rope_scaling.mscale", |c| c.rope_scaling.as_mut().unwrap().mscale = f64::INFINITY),
        ("rope_scaling.mscale_all_dim", |c| c.rope_scaling.as_mut().unwrap().mscale_all_dim = -1.0),
        ("rope_scaling.mscale_all_dim", |c| c.rope_scaling.as_mut().unwrap().mscale_all_dim = 1e200),
        ("quantization_config.weight_block_size", |c| {
            c.quantization_config = Some(Quantization { weight_block_size: [128, 0], power_of_two_scales: false })
        }),
    ];
    for (i, (field, change)) in cases.iter().enumerate() {
        let mut config = ModelConfig::v3_671b();
        change(&mut config);
        let error = config.validate().expect_err(field);
        assert_eq!(error.field, *field, "case {i}: {error}");
        assert!(error.to_string().starts_with(field));
    }
}
