//! Calls of RMSNorm and its gradient.

use super::{Call, Cost, Encoded, Out, bytes_of, bytes_of_mut, is_float, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, same};

/// `y = x / rms(x) · w`, `rms(x) = √(mean(x²) + eps)` over each row.
#[non_exhaustive]
pub struct RmsNorm<'a, B> {
    /// `[t, n]`.
    pub x: MatRef<'a, B>,
    /// `w`, `[1, n]`.
    pub weight: MatRef<'a, B>,
    /// Added to the mean square.
    pub eps: f64,
    /// `[t, n]`.
    pub y: MatMut<'a, B>,
    /// `1 / rms(x)`, `[t, 1]`, kept for the gradient.
    pub rstd: MatMut<'a, B>,
}

impl<'a, B> RmsNorm<'a, B> {
    /// Normalises every row of `x`.
    pub fn new(
        x: MatRef<'a, B>,
        weight: MatRef<'a, B>,
        eps: f64,
        y: MatMut<'a, B>,
        rstd: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "rmsnorm";
        same_shape(OP, &x, &y.as_ref())?;
        for m in [&x, &weight, &y.as_ref(), &rstd.as_ref()] {
            is_float(OP, m)?;
        }
        same(OP, "columns of the weight", x.cols(), weight.cols())?;
        same(OP, "rows of the weight", 1, weight.rows())?;
        same(OP, "rows of rstd", x.rows(), rstd.rows())?;
        same(OP, "columns of rstd", 1, rstd.cols())?;
        Ok(Self { x, weight, eps, y, rstd })
    }
}

impl<B> Call for RmsNorm<'_, B> {
    const NAME: &'static str = "rmsnorm";
    fn cost(&self) -> Cost {
        Cost::new(4 * self.x.elements() as u64, bytes_of(&self.x) + bytes_of_mut(&self.y))
    }
}

/// [`RmsNorm`] whose result goes nowhere but into codes: those of [`Quantize`](super::Quantize) of a result of the type
/// of `x`, bit for bit. NaN and infinity are an error as there.
#[non_exhaustive]
pub struct RmsNormQuantize<'a, B> {
    /// `[t, n]`.
    pub x: MatRef<'a, B>,
    /// `[1, n]`.
    pub weight: MatRef<'a, B>,
    /// Added to the mean square.
    pub eps: f64,
    /// `[t, n]`.
    pub y: Encoded<'a, B>,
    /// `1 / rms(x)`, `[t, 1]`, kept for the gradient.
    pub rstd: MatMut<'a, B>,
}

impl<'a, B> RmsNormQuantize<'a, B> {
    /// Normalises every row of `x` into codes.
    pub fn new(
        x: MatRef<'a, B>,
        weight: MatRef<'a, B>,
        eps: f64,
        y: Encoded<'a, B>,
        rstd: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "rmsnorm_quantize";
        for m in [&x, &weight, &rstd.as_ref()] {
            is_float(OP, m)?;
        }
        y.check(OP, x.rows(), x.cols())?;
        same(OP, "columns of the weight", x.cols(), weight.cols())?;
        same(OP, "rows of the weight", 1, weight.rows())?;
        same(OP, "rows of rstd", x.rows(), rstd.rows())?;
        same(OP, "columns of rstd", 1, rstd.cols())?;
        Ok(Self { x, weight, eps, y, rstd })
    }
}

impl<B> Call for RmsNormQuantize<'_, B> {
    const NAME: &'static str = "rmsnorm_quantize";
    fn cost(&self) -> Cost {
        Cost::new(4 * self.x.elements() as u64 + self.y.flops(), bytes_of(&self.x) + self.y.bytes())
    }
}

/// The gradient of [`RmsNorm`]: with `x̂ = x·rstd` and `g = dy·w`,
/// `dx = rstd·(g − x̂·mean(g·x̂))` and `dw += Σ_t dy·x̂`.
#[non_exhaustive]
pub struct RmsNormGrad<'a, B> {
    /// `[t, n]`.
    pub x: MatRef<'a, B>,
    /// `[1, n]`.
    pub weight: MatRef<'a, B>,
    /// `[t, 1]` from the forward call.
    pub rstd: MatRef<'a, B>,
    /// `[t, n]`.
    pub dy: MatRef<'a, B>,
    /// `[t, n]`.
    pub dx: MatMut<'a, B>,
    /// Replaces `dx`, or adds to it: a residual stream's gradient is already there.
    pub out: Out,
    /// `[1, n]`, added to.
    pub dweight: MatMut<'a, B>,
}

impl<'a, B> RmsNormGrad<'a, B> {
    /// The gradients of input and weight.
    pub fn new(
        x: MatRef<'a, B>,
        weight: MatRef<'a, B>,
        rstd: MatRef<'a, B>,
        dy: MatRef<'a, B>,
        dx: MatMut<'a, B>,
        out: Out,
        dweight: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "rmsnorm_grad";
        for m in [&x, &weight, &rstd, &dy, &dx.as_ref(), &dweight.as_ref()] {
            is_float(OP, m)?;
        }
        same_shape(OP, &x, &dy)?;
        same_shape(OP, &x, &dx.as_ref())?;
        same_shape(OP, &weight, &dweight.as_ref())?;
        same(OP, "columns of the weight", x.cols(), weight.cols())?;
        same(OP, "rows of the weight", 1, weight.rows())?;
        same(OP, "rows of rstd", x.rows(), rstd.rows())?;
        same(OP, "columns of rstd", 1, rstd.cols())?;
        Ok(Self { x, weight, rstd, dy, dx, out, dweight })
    }
}

impl<B> Call for RmsNormGrad<'_, B> {
    const NAME: &'static str = "rmsnorm_grad";
    fn cost(&self) -> Cost {
        let dx = bytes_of_mut(&self.dx) * self.out.passes();
        Cost::new(8 * self.x.elements() as u64, bytes_of(&self.x) + bytes_of(&self.dy) + dx)
    }
}
