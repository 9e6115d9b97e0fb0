//! Rotary position embedding: frequencies, YaRN's ramp between them, and its scale factors.
//!
//! Everything is computed in f64 and rounded once by the caller. A pair `i` of the `qk_rope_head_dim / 2` interleaved
//! pairs turns by `position · inv_freq(i)` radians. YaRN is applied at every length once the configuration asks for it
//! (as transformers does; DeepSeek's demo switches it on only beyond the original context).

use super::{ModelConfig, Yarn};
use core::f64::consts::TAU;

/// YaRN's attention temperature: `0.1 · mscale · ln(factor) + 1`, and 1 where the context is not extended.
pub fn mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * libm::log(factor) + 1.0 }
}

/// Radians a position that pair `pair < qk_rope_head_dim / 2` turns by.
///
/// Without YaRN `θ^(−2i/d)`; with it, that frequency for pairs that turn fast, the same divided by `factor` for those
/// that turn slowly, and a linear blend between the bounds of [`ramp_bounds`].
pub fn inv_freq(config: &ModelConfig, pair: usize) -> f64 {
    let dim = config.qk_rope_head_dim as f64;
    let plain = libm::pow(config.rope_theta, -(2.0 * pair as f64) / dim);
    let Some(yarn) = &config.rope_scaling else {
        return plain;
    };
    let (low, high) = ramp_bounds(config, yarn);
    // Equal bounds make a step, not a division by zero; the offset is the published one.
    let width = if low == high { 0.001 } else { high - low };
    let interpolated = ((pair as f64 - low) / width).clamp(0.0, 1.0);
    plain / yarn.factor * interpolated + plain * (1.0 - interpolated)
}

/// Fills `frequencies` (length `qk_rope_head_dim / 2`) with [`inv_freq`], rounded to f32.
pub fn fill_inv_freq(config: &ModelConfig, frequencies: &mut [f32]) {
    for (pair, frequency) in frequencies.iter_mut().enumerate() {
        *frequency = inv_freq(config, pair) as f32;
    }
}

/// The pairs between which YaRN blends: up to the first nothing changes, from the second on everything is interpolated.
///
/// The pair that turns `β` times over the original context `L` is `d · ln(L / 2πβ) / (2 ln θ)`; rounded outwards.
pub fn ramp_bounds(config: &ModelConfig, yarn: &Yarn) -> (f64, f64) {
    let dim = config.qk_rope_head_dim as f64;
    let length = yarn.original_max_position_embeddings as f64;
    let pair_of = |turns: f64| dim * libm::log(length / (turns * TAU)) / (2.0 * libm::log(config.rope_theta));
    let low = libm::floor(pair_of(yarn.beta_fast));
    let high = libm::ceil(pair_of(yarn.beta_slow));
    (low.max(0.0), high.min(dim - 1.0))
}

/// Factor on cosine and sine: `m(mscale) / m(mscale_all_dim)`, which is 1 in every published model.
///
/// As in DeepSeek's code. transformers replaces `mscale` by 1 where `mscale_all_dim` is 0; the two agree unless a
/// configuration sets the one without the other.
pub fn attention_factor(config: &ModelConfig) -> f64 {
    match &config.rope_scaling {
        Some(yarn) => mscale(yarn.factor, yarn.mscale) / mscale(yarn.factor, yarn.mscale_all_dim),
        None => 1.0,
    }
}
