//! SwiGLU and its gradient.

use super::Work;
use crate::device::call::{BinaryOp, QuantizeBoth, Swiglu, SwigluGrad, SwigluQuantize, UnaryOp};
use crate::device::primitives::Primitives;
use crate::device::tensor::{Tensor, View};

/// Both halves of a gated product: `(gate, up)`.
fn halves<D: Primitives>(work: &Work<'_, D>, x: View<'_, D>) -> Result<(Tensor<D>, Tensor<D>), D::Error> {
    let n = x.cols() / 2;
    Ok((work.copy(x.columns(0..n)?)?, work.copy(x.columns(n..2 * n)?)?))
}

/// `(σ(gate), silu(gate))`.
fn silu<D: Primitives>(work: &Work<'_, D>, gate: &Tensor<D>) -> Result<(Tensor<D>, Tensor<D>), D::Error> {
    let mut sigma = work.copy(gate.view())?;
    work.map(UnaryOp::Sigmoid, &mut sigma)?;
    let mut silu = work.copy(gate.view())?;
    work.apply(BinaryOp::Mul, &mut silu, sigma.view())?;
    Ok((sigma, silu))
}

pub(in crate::device) fn swiglu<D: Primitives>(device: &D, call: Swiglu<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.gate_up.dtype());
    let (gate, up) = halves(&work, call.gate_up)?;
    let (_, mut y) = silu(&work, &gate)?;
    work.apply(BinaryOp::Mul, &mut y, up.view())?;
    if let Some(scale) = call.scale {
        work.apply(BinaryOp::Mul, &mut y, work.copy(scale)?.view())?;
    }
    work.store(y.view(), call.y)
}

/// `swiglu` and `quantize` are the device's own, one after the other.
pub fn swiglu_quantize<D: Primitives>(
    device: &D,
    call: SwigluQuantize<'_, D::Buffer>,
    swiglu: impl FnOnce(Swiglu<'_, D::Buffer>) -> Result<(), D::Error>,
    quantize: impl FnOnce(QuantizeBoth<'_, D::Buffer>) -> Result<(), D::Error>,
) -> Result<(), D::Error> {
    let (rows, cols) = call.y.shape();
    let mut y = Tensor::<D>::empty(device, &[rows, cols], call.gate_up.dtype())?;
    swiglu(Swiglu::new(call.gate_up, call.scale, y.view_mut())?)?;
    quantize(QuantizeBoth::new(y.view(), call.y)?)
}

pub(in crate::device) fn swiglu_grad<D: Primitives>(
    device: &D,
    call: SwigluGrad<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let work = Work::new(device, call.gate_up.dtype());
    let n = call.dy.cols();
    let (gate, up) = halves(&work, call.gate_up)?;
    let (sigma, silu) = silu(&work, &gate)?;
    let mut y = work.copy(silu.view())?;
    work.apply(BinaryOp::Mul, &mut y, up.view())?;
    let mut dy = work.copy(call.dy)?;
    if let (Some(scale), Some(dscale)) = (call.scale, call.dscale) {
        work.store(work.dot(dy.view(), y.view())?.view(), dscale)?;
        let scale = work.copy(scale)?;
        work.apply(BinaryOp::Mul, &mut y, scale.view())?;
        work.apply(BinaryOp::Mul, &mut dy, scale.view())?;
    }
    work.store(y.view(), call.y)?;

    // d silu = σ + silu·(1 − σ)
    let mut slope = work.copy(sigma.view())?;
    work.map(UnaryOp::Affine(-1.0, 1.0), &mut slope)?;
    work.apply(BinaryOp::Mul, &mut slope, silu.view())?;
    work.apply(BinaryOp::Add, &mut slope, sigma.view())?;
    work.apply(BinaryOp::Mul, &mut slope, up.view())?;
    work.apply(BinaryOp::Mul, &mut slope, dy.view())?;
    let mut out = call.d_gate_up;
    work.store(slope.view(), out.reborrow().columns(0..n)?)?;
    work.apply(BinaryOp::Mul, &mut dy, silu.view())?;
    work.store(dy.view(), out.columns(n..2 * n)?)
}
