//! Calls of the MoE router: choice of experts, its gradient, the balance loss, the bias update.

use super::{Call, Cost, bytes_of, bytes_of_mut, is_float, is_index, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::{InvalidOp, at_most, ensure, multiple, same};
use crate::routing::RouteConfig;

/// Chooses the experts of every token and weighs them; see [`routing`](crate::routing) for the rule.
///
/// Choices are the same bits on every device: a driver computes scores with [`math::exp`](crate::math::exp).
#[non_exhaustive]
pub struct Route<'a, B> {
    /// The rule.
    pub config: RouteConfig,
    /// `[t, e]`.
    pub logits: MatRef<'a, B>,
    /// `e_score_correction_bias`, `[1, e]`: added to the scores for the choice only.
    pub bias: Option<MatRef<'a, B>>,
    /// `s`, `[t, e]`: sigmoid or softmax of the logits.
    pub scores: MatMut<'a, B>,
    /// `[t, k]` u32, by falling biased score; among equals the lower expert.
    pub experts: MatMut<'a, B>,
    /// `[t, k]`.
    pub weights: MatMut<'a, B>,
}

impl<'a, B> Route<'a, B> {
    /// Routes every token.
    pub fn new(
        config: RouteConfig,
        logits: MatRef<'a, B>,
        bias: Option<MatRef<'a, B>>,
        scores: MatMut<'a, B>,
        experts: MatMut<'a, B>,
        weights: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "route";
        config.check()?;
        is_float(OP, &logits)?;
        is_index(OP, &experts.as_ref())?;
        same(OP, "columns of the logits", config.experts, logits.cols())?;
        same_shape(OP, &logits, &scores.as_ref())?;
        same(OP, "columns of the experts", config.top_k, experts.cols())?;
        same_shape(OP, &experts.as_ref(), &weights.as_ref())?;
        same(OP, "rows of the experts", logits.rows(), experts.rows())?;
        if let Some(b) = &bias {
            is_float(OP, b)?;
            same(OP, "columns of the bias", config.experts, b.cols())?;
            same(OP, "rows of the bias", 1, b.rows())?;
        }
        for m in [scores.as_ref(), experts.as_ref(), weights.as_ref()] {
            ensure(OP, "results must have no gaps", m.is_contiguous())?;
        }
        Ok(Self { config, logits, bias, scores, experts, weights })
    }
}

impl<B> Call for Route<'_, B> {
    const NAME: &'static str = "route";
    fn cost(&self) -> Cost {
        Cost::new(8 * self.logits.elements() as u64, 2 * bytes_of(&self.logits) + 2 * bytes_of_mut(&self.weights))
    }
}

/// The gradient of [`Route`]: of the logits, through weights and scores. The choice and the bias have none.
#[non_exhaustive]
pub struct RouteGrad<'a, B> {
    /// The rule.
    pub config: RouteConfig,
    /// `[t, e]` from the forward call.
    pub scores: MatRef<'a, B>,
    /// `[t, k]` u32.
    pub experts: MatRef<'a, B>,
    /// Gradient of the weights, `[t, k]`.
    pub dweights: MatRef<'a, B>,
    /// Gradient of the scores from elsewhere (the balance loss), `[t, e]`.
    pub dscores: Option<MatRef<'a, B>>,
    /// `[t, e]`.
    pub dlogits: MatMut<'a, B>,
}

impl<'a, B> RouteGrad<'a, B> {
    /// The gradient of the logits.
    pub fn new(
        config: RouteConfig,
        scores: MatRef<'a, B>,
        experts: MatRef<'a, B>,
        dweights: MatRef<'a, B>,
        dscores: Option<MatRef<'a, B>>,
        dlogits: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "route_grad";
        config.check()?;
        is_index(OP, &experts)?;
        is_float(OP, &scores)?;
        same(OP, "columns of the scores", config.experts, scores.cols())?;
        same(OP, "columns of the experts", config.top_k, experts.cols())?;
        same(OP, "rows of the experts", scores.rows(), experts.rows())?;
        same_shape(OP, &experts, &dweights)?;
        same_shape(OP, &scores, &dlogits.as_ref())?;
        if let Some(d) = &dscores {
            same_shape(OP, &scores, d)?;
        }
        Ok(Self { config, scores, experts, dweights, dscores, dlogits })
    }
}

impl<B> Call for RouteGrad<'_, B> {
    const NAME: &'static str = "route_grad";
    fn cost(&self) -> Cost {
        Cost::new(8 * self.scores.elements() as u64, 3 * bytes_of(&self.scores) + 2 * bytes_of(&self.dweights))
    }
}

/// The sequence-wise balance loss and its gradient (V3 report, eq. 17–20):
/// `loss += α Σ_seq Σ_i f_i·P_i`, `f_i = N/(K·T)·#{t : i ∈ TopK(s_t)}` (plain top-k of the unbiased scores, no
/// groups), `P_i = 1/T Σ_t s_it / Σ_j s_jt`. The gradient flows through `P` alone.
#[non_exhaustive]
pub struct Balance<'a, B> {
    /// `s`, `[t, e]`, a whole number of sequences.
    pub scores: MatRef<'a, B>,
    /// `T`, tokens of a sequence.
    pub sequence: usize,
    /// `K`.
    pub top_k: usize,
    /// α, already divided by the number of sequences it is a mean over.
    pub alpha: f64,
    /// `[1, 1]`, added to.
    pub loss: MatMut<'a, B>,
    /// `[t, e]`, replaced.
    pub dscores: MatMut<'a, B>,
}

impl<'a, B> Balance<'a, B> {
    /// Loss and gradient.
    pub fn new(
        scores: MatRef<'a, B>,
        sequence: usize,
        top_k: usize,
        alpha: f64,
        loss: MatMut<'a, B>,
        dscores: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "balance";
        is_float(OP, &scores)?;
        ensure(OP, "a sequence has no tokens", sequence > 0)?;
        multiple(OP, "the number of rows", scores.rows(), "the sequence length", sequence)?;
        ensure(OP, "top-k must be at least 1", top_k > 0)?;
        at_most(OP, "top-k", top_k, "the number of experts", scores.cols())?;
        same(OP, "elements of the loss", 1, loss.elements())?;
        same_shape(OP, &scores, &dscores.as_ref())?;
        Ok(Self { scores, sequence, top_k, alpha, loss, dscores })
    }
}

impl<B> Call for Balance<'_, B> {
    const NAME: &'static str = "balance";
    fn cost(&self) -> Cost {
        Cost::new(8 * self.scores.elements() as u64, 2 * bytes_of(&self.scores))
    }
}

/// The bias update that balances experts without a loss (V3 report §2.1.2): `b += γ·sign(mean(load) − load)`.
#[non_exhaustive]
pub struct UpdateBias<'a, B> {
    /// Tokens routed to each expert over the whole batch, `[1, e]` floating point.
    pub load: MatRef<'a, B>,
    /// γ.
    pub speed: f64,
    /// `[1, e]`.
    pub bias: MatMut<'a, B>,
}

impl<'a, B> UpdateBias<'a, B> {
    /// Moves every bias by γ towards balance.
    pub fn new(load: MatRef<'a, B>, speed: f64, bias: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "update_bias";
        is_float(OP, &load)?;
        same(OP, "rows of the load", 1, load.rows())?;
        same_shape(OP, &load, &bias.as_ref())?;
        ensure(OP, "bias must be F32 or F64", matches!(bias.dtype(), DType::F32 | DType::F64))?;
        Ok(Self { load, speed, bias })
    }
}

impl<B> Call for UpdateBias<'_, B> {
    const NAME: &'static str = "update_bias";
    fn cost(&self) -> Cost {
        Cost::new(3 * self.load.elements() as u64, bytes_of(&self.load) + 2 * bytes_of_mut(&self.bias))
    }
}
