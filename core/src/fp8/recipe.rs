//! The mixed-precision recipe of the V3 report (§3.3): which product runs in what, and what is kept in what.
//!
//! | what | runs in |
//! |---|---|
//! | forward, input gradient and weight gradient of every linear layer and expert | E4M3, sums promoted to f32 every 128 |
//! | embedding, output head, `eh_proj` | BF16 |
//! | router, norms, softmax, loss | f32 |
//! | attention | BF16 operands, f32 softmax and sums |
//! | master weights, gradients | f32 |
//! | moments of AdamW | BF16 |
//!
//! Activations and gradients get a scale for every 1×128 tile along the inner dimension, weights one for every 128×128
//! block. A weight gradient sums over tokens, so both its factors are quantised again in 128×1 tiles: from BF16 where
//! that is at hand, else from the codes that were kept or dispatched. That is why those have power-of-two scales: going
//! from one tiling to the other then costs no second rounding of the scale.

/// Switches of the FP8 recipe: the format of each kind of tensor, beyond what every FP8 policy quantizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recipe {
    /// Scales are powers of two everywhere, as in V3.1 and later (`scale_fmt: ue8m0`). The three switches below name
    /// where V3 has them.
    pub power_of_two: bool,
    /// Power-of-two scales for the input of the projection after attention.
    pub power_of_two_attention_output: bool,
    /// Power-of-two scales for the activations that are dispatched to experts.
    pub power_of_two_dispatch: bool,
    /// Power-of-two scales for the gradient before the experts' down projections.
    pub power_of_two_down_gradient: bool,
    /// Rows go to the experts, in both passes, as FP8 codes rather than as BF16.
    pub dispatch: bool,
    /// Keep the output of attention as E5M6 for the backward pass.
    pub attention_output_e5m6: bool,
    /// Keep the inputs of SwiGLU as E4M3 for the backward pass.
    pub swiglu_input: bool,
}

impl Recipe {
    /// The V3 report's.
    pub const V3: Self = Self {
        power_of_two: false,
        power_of_two_attention_output: true,
        power_of_two_dispatch: true,
        power_of_two_down_gradient: true,
        dispatch: true,
        attention_output_e5m6: true,
        swiglu_input: true,
    };
}

impl Default for Recipe {
    fn default() -> Self {
        Self::V3
    }
}
