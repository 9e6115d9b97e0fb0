//! Calls of SwiGLU and its gradient.

use super::{Call, Cost, Encoded, bytes_of, bytes_of_mut, is_float, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, ensure, same};

/// `y = silu(gate)·up·scale` with `silu(z) = z·σ(z)`; `gate` and `up` are the two halves of a row.
///
/// `scale`, where there is one, is the routing weight of the row: applying it here and not after the down projection
/// gives the same sum and needs no second copy of the experts' outputs for the gradient.
#[non_exhaustive]
pub struct Swiglu<'a, B> {
    /// `[t, 2i]`: gate, then up.
    pub gate_up: MatRef<'a, B>,
    /// `[t, 1]`.
    pub scale: Option<MatRef<'a, B>>,
    /// `[t, i]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> Swiglu<'a, B> {
    /// The gated product.
    pub fn new(gate_up: MatRef<'a, B>, scale: Option<MatRef<'a, B>>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "swiglu";
        is_float(OP, &gate_up)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "rows of y", gate_up.rows(), y.rows())?;
        same(OP, "columns of gate_up", 2 * y.cols(), gate_up.cols())?;
        if let Some(s) = &scale {
            is_float(OP, s)?;
            same(OP, "rows of scale", y.rows(), s.rows())?;
            same(OP, "columns of scale", 1, s.cols())?;
        }
        Ok(Self { gate_up, scale, y })
    }
}

impl<B> Call for Swiglu<'_, B> {
    const NAME: &'static str = "swiglu";
    fn cost(&self) -> Cost {
        Cost::new(5 * self.y.elements() as u64, bytes_of(&self.gate_up) + bytes_of_mut(&self.y))
    }
}

/// [`Swiglu`] whose result goes nowhere but into codes: those of [`Quantize`](super::Quantize) of a result of the type
/// of `gate_up`, bit for bit. NaN and infinity are an error as there.
#[non_exhaustive]
pub struct SwigluQuantize<'a, B> {
    /// `[t, 2i]`: gate, then up.
    pub gate_up: MatRef<'a, B>,
    /// `[t, 1]`.
    pub scale: Option<MatRef<'a, B>>,
    /// `[t, i]`.
    pub y: Encoded<'a, B>,
}

impl<'a, B> SwigluQuantize<'a, B> {
    /// The gated product, as codes.
    pub fn new(gate_up: MatRef<'a, B>, scale: Option<MatRef<'a, B>>, y: Encoded<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "swiglu_quantize";
        is_float(OP, &gate_up)?;
        same(OP, "rows of y", gate_up.rows(), y.shape().0)?;
        same(OP, "columns of gate_up", 2 * y.shape().1, gate_up.cols())?;
        if let Some(s) = &scale {
            is_float(OP, s)?;
            same(OP, "rows of scale", gate_up.rows(), s.rows())?;
            same(OP, "columns of scale", 1, s.cols())?;
        }
        Ok(Self { gate_up, scale, y })
    }
}

impl<B> Call for SwigluQuantize<'_, B> {
    const NAME: &'static str = "swiglu_quantize";
    fn cost(&self) -> Cost {
        let product = 5 * (self.gate_up.elements() / 2) as u64;
        Cost::new(product + self.y.flops(), bytes_of(&self.gate_up) + self.y.bytes())
    }
}

/// The gradient of [`Swiglu`], which recomputes its output: only the input was kept.
#[non_exhaustive]
pub struct SwigluGrad<'a, B> {
    /// `[t, 2i]`.
    pub gate_up: MatRef<'a, B>,
    /// `[t, 1]`.
    pub scale: Option<MatRef<'a, B>>,
    /// `[t, i]`.
    pub dy: MatRef<'a, B>,
    /// `[t, 2i]`.
    pub d_gate_up: MatMut<'a, B>,
    /// `[t, 1]`: `Σ_i dy·silu(gate)·up`. There is one exactly where there is a scale.
    pub dscale: Option<MatMut<'a, B>>,
    /// The output again, `[t, i]`, for the weight gradient of the down projection.
    pub y: MatMut<'a, B>,
}

impl<'a, B> SwigluGrad<'a, B> {
    /// The gradients of both halves and of the scale, and the output again.
    pub fn new(
        gate_up: MatRef<'a, B>,
        scale: Option<MatRef<'a, B>>,
        dy: MatRef<'a, B>,
        d_gate_up: MatMut<'a, B>,
        dscale: Option<MatMut<'a, B>>,
        y: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "swiglu_grad";
        for m in [&gate_up, &dy, &d_gate_up.as_ref(), &y.as_ref()] {
            is_float(OP, m)?;
        }
        same_shape(OP, &gate_up, &d_gate_up.as_ref())?;
        same_shape(OP, &dy, &y.as_ref())?;
        same(OP, "rows of dy", gate_up.rows(), dy.rows())?;
        same(OP, "columns of gate_up", 2 * dy.cols(), gate_up.cols())?;
        ensure(OP, "scale and dscale go together", scale.is_some() == dscale.is_some())?;
        for s in scale.iter().copied().chain(dscale.as_ref().map(MatMut::as_ref)) {
            is_float(OP, &s)?;
            same(OP, "rows of scale", gate_up.rows(), s.rows())?;
            same(OP, "columns of scale", 1, s.cols())?;
        }
        Ok(Self { gate_up, scale, dy, d_gate_up, dscale, y })
    }
}

impl<B> Call for SwigluGrad<'_, B> {
    const NAME: &'static str = "swiglu_grad";
    fn cost(&self) -> Cost {
        Cost::new(12 * self.dy.elements() as u64, 2 * bytes_of(&self.gate_up) + 2 * bytes_of(&self.dy))
    }
}
