//! The published numbers of DeepSeek-V3, computed by a step of the real code on the dry device.

use fathom_core::config::ModelConfig;
use fathom_core::precision::Precision;
use fathom_core::train::plan::Plan;

#[test]
fn the_671b_model_is_what_is_published() {
    let config = ModelConfig::v3_671b();
    let start = std::time::Instant::now();
    let plan = Plan::new(&config, Precision::F32, 1, 4096).unwrap();
    println!("{:?} {:?} {}", start.elapsed(), plan.memory, plan.flops_per_token);
    assert_eq!(plan.parameters.parameters(), 671_026_419_200);
    assert_eq!(plan.parameters.parameters_with_mtp(), 684_489_845_504);
    assert_eq!(plan.kv_cache.latent, 70_272);
    // The copies of embedding and head that the checkpoint holds are not trained twice, and biases are not weights.
    let trained = plan.parameters.parameters_in_training();
    let weights = plan.memory.weights / 4;
    assert!(weights >= trained - 61 * 256 && weights < trained + trained / 1_000_000, "{weights} {trained}");
}

#[test]
fn a_micro_batch_beyond_any_device_is_refused_before_it_is_made() {
    let config = ModelConfig::tiny();
    for (sequences, length) in [(1 << 28, 64), (1, 1 << 24), (usize::MAX, usize::MAX), (1, 0), (0, 1)] {
        let error = Plan::new(&config, Precision::F32, sequences, length).unwrap_err().to_string();
        assert!(error.contains("plan: "), "{sequences} x {length}: {error}");
    }
    let wide = ModelConfig { qk_rope_head_dim: 1 << 20, ..config };
    let error = Plan::new(&wide, Precision::F32, 1, 256).unwrap_err().to_string();
    assert!(error.contains("numbers in the rotary table = 268435456 is above"), "{error}");
}
