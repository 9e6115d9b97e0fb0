//! Checked calls of the kernels that end a training step: the loss, the optimiser, the balance of experts.

use super::call::{Call, Cost, bytes_of, bytes_of_mut, is_float, is_index, same_shape};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, same};
use crate::tensor::{MatMut, MatRef};

/// A target that is not scored: its loss and gradient are zero.
pub const IGNORE: u32 = u32::MAX;

/// Softmax cross entropy of a chunk of logits, in place: the loss of every row and, where wanted, the logits replaced
/// by their gradient `scale·(softmax(x) − onehot(target))`.
#[non_exhaustive]
pub struct CrossEntropy<'a, B> {
    /// `[t, v]`: logits in; gradient out where `gradient` is some, else unchanged.
    pub logits: MatMut<'a, B>,
    /// `[t, 1]` u32, each below `v` or [`IGNORE`].
    pub targets: MatRef<'a, B>,
    /// What the gradient is multiplied by: one over the number of targets of the whole batch.
    pub gradient: Option<f64>,
    /// `−ln softmax(x)[target]`, `[t, 1]`; 0 for ignored targets.
    pub nll: MatMut<'a, B>,
}

impl<'a, B> CrossEntropy<'a, B> {
    /// Losses, and the gradient if `gradient` gives its scale.
    pub fn new(
        logits: MatMut<'a, B>,
        targets: MatRef<'a, B>,
        gradient: Option<f64>,
        nll: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "cross_entropy";
        is_float(OP, &logits.as_ref())?;
        is_index(OP, &targets)?;
        same(OP, "rows of the targets", logits.rows(), targets.rows())?;
        same(OP, "columns of the targets", 1, targets.cols())?;
        same_shape(OP, &targets, &nll.as_ref())?;
        Ok(Self { logits, targets, gradient, nll })
    }
}

impl<B> Call for CrossEntropy<'_, B> {
    const NAME: &'static str = "cross_entropy";
    fn cost(&self) -> Cost {
        let passes = if self.gradient.is_some() { 2 } else { 1 };
        Cost::new(6 * self.logits.as_ref().elements() as u64, passes * bytes_of_mut(&self.logits))
    }
}

/// One step of AdamW with decoupled decay (Loshchilov and Hutter, 2019), in PyTorch's order:
/// `g ← clip·g`, `w ← w·(1 − lr·decay)`, `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`,
/// `w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps)`.
///
/// Where `clip` is NaN nothing changes: a step whose gradient is not finite leaves the weights as they were.
#[non_exhaustive]
pub struct AdamW<'a, B> {
    /// Weights, `[1, n]`.
    pub w: MatMut<'a, B>,
    /// Gradients, `[1, n]`.
    pub g: MatRef<'a, B>,
    /// First moments, `[1, n]`.
    pub m: MatMut<'a, B>,
    /// Second moments, `[1, n]`.
    pub v: MatMut<'a, B>,
    /// `[1, 1]`: what gradients are multiplied by.
    pub clip: MatRef<'a, B>,
    /// Rates of this step.
    pub rates: AdamRates,
}

/// The numbers of an AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamRates {
    /// Learning rate.
    pub lr: f64,
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay (0 for vectors).
    pub decay: f64,
    /// `t`: steps taken, this one included.
    pub step: u64,
}

impl AdamRates {
    /// `1 − βᵗ` for `β₁` and `β₂`.
    pub fn corrections(&self) -> (f64, f64) {
        let t = self.step as f64;
        (1.0 - libm::pow(self.beta1, t), 1.0 - libm::pow(self.beta2, t))
    }
}

impl<'a, B> AdamW<'a, B> {
    /// Updates `w`, `m` and `v`.
    pub fn new(
        w: MatMut<'a, B>,
        g: MatRef<'a, B>,
        m: MatMut<'a, B>,
        v: MatMut<'a, B>,
        clip: MatRef<'a, B>,
        rates: AdamRates,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "adamw";
        for x in [&w.as_ref(), &g, &m.as_ref(), &v.as_ref()] {
            is_float(OP, x)?;
            same_shape(OP, &w.as_ref(), x)?;
        }
        same(OP, "rows", 1, w.rows())?;
        same(OP, "elements of clip", 1, clip.elements())?;
        ensure(OP, "steps count from 1", rates.step > 0)?;
        Ok(Self { w, g, m, v, clip, rates })
    }
}

impl<B> Call for AdamW<'_, B> {
    const NAME: &'static str = "adamw";
    fn cost(&self) -> Cost {
        let n = self.w.elements() as u64;
        Cost::new(
            14 * n,
            2 * (bytes_of_mut(&self.w) + bytes_of_mut(&self.m) + bytes_of_mut(&self.v)) + bytes_of(&self.g),
        )
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
