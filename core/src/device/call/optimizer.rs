//! The calls of AdamW and of linear interpolation, which averages weights.

use super::{Call, Cost, bytes_of, bytes_of_mut, is_float, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, ensure, same};

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

/// Linear interpolation, PyTorch's `lerp_`: `y ← y + weight·(x − y)`, each operation rounded to the type of `y`; one
/// update of an exponential moving average `y` of weights `x`.
#[non_exhaustive]
pub struct Lerp<'a, B> {
    /// Where the result goes, `[1, n]`.
    pub y: MatMut<'a, B>,
    /// What it moves towards, `[1, n]`, of the same type.
    pub x: MatRef<'a, B>,
    /// The share of the way: 0 leaves `y`, 1 gives `x` where `y` is 0.
    pub weight: f64,
}

impl<'a, B> Lerp<'a, B> {
    /// Moves `y` towards `x`.
    pub fn new(y: MatMut<'a, B>, x: MatRef<'a, B>, weight: f64) -> Result<Self, InvalidOp> {
        const OP: &str = "lerp";
        is_float(OP, &x)?;
        same_shape(OP, &y.as_ref(), &x)?;
        ensure(OP, "its operands have one type", y.dtype() == x.dtype())?;
        same(OP, "rows", 1, y.rows())?;
        ensure(OP, "a share is from 0 to 1", (0.0..=1.0).contains(&weight))?;
        Ok(Self { y, x, weight })
    }
}

impl<B> Call for Lerp<'_, B> {
    const NAME: &'static str = "lerp";
    fn cost(&self) -> Cost {
        Cost::new(3 * self.y.elements() as u64, 2 * bytes_of_mut(&self.y) + bytes_of(&self.x))
    }
}
