//! Arbitrary bytes as `config.json`: a configuration or a named error.
#![no_main]

use fathom_core::config::{ModelConfig, ParameterCount};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let config: ModelConfig = match serde_json::from_slice(data) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(config.validate(), Ok(()), "what is read is valid");
    let count = ParameterCount::of(&config);
    assert!(count.parameters_with_mtp() >= count.parameters());
    assert!(config.softmax_scale().is_finite() && config.qk_head_dim() > 0 && config.latent_dim() > 0);
    for written in [serde_json::to_vec(&config), serde_json::to_vec(&config.hugging_face("bfloat16"))] {
        let again: ModelConfig = serde_json::from_slice(&written.expect("it can be written")).expect("it can be read");
        assert_eq!(again, config);
    }
});
