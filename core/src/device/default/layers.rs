//! Norm, rotary position, gated product, combination of experts.

use super::Work;
use crate::device::{
    BinaryOp, Combine, Form, Primitives, Reduction, RmsNorm, RmsNormGrad, Rope, Swiglu, SwigluGrad, UnaryOp,
};
use crate::tensor::{Tensor, View};

pub(in crate::device) fn rmsnorm<D: Primitives>(device: &D, call: RmsNorm<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.x.dtype());
    let mut y = work.copy(call.x)?;
    let mut rstd = work.reduce(Reduction::SumSquares, y.view())?;
    work.map(UnaryOp::Affine(1.0 / call.x.cols() as f64, call.eps), &mut rstd)?;
    work.map(UnaryOp::Sqrt, &mut rstd)?;
    work.map(UnaryOp::Recip, &mut rstd)?;
    work.apply(BinaryOp::Mul, &mut y, rstd.view())?;
    work.apply(BinaryOp::Mul, &mut y, work.copy(call.weight)?.view())?;
    work.store(rstd.view(), call.rstd)?;
    work.store(y.view(), call.y)
}

pub(in crate::device) fn rmsnorm_grad<D: Primitives>(
    device: &D,
    call: RmsNormGrad<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let work = Work::new(device, call.x.dtype());
    let rstd = work.copy(call.rstd)?;
    let mut normed = work.copy(call.x)?;
    work.apply(BinaryOp::Mul, &mut normed, rstd.view())?;

    let mut dw = work.copy(call.dy)?;
    work.apply(BinaryOp::Mul, &mut dw, normed.view())?;
    work.sum_columns(dw.view(), call.dweight)?;

    let mut g = work.copy(call.dy)?;
    work.apply(BinaryOp::Mul, &mut g, work.copy(call.weight)?.view())?;
    let mut mean = work.dot(g.view(), normed.view())?;
    work.scale(1.0 / call.x.cols() as f64, &mut mean)?;
    work.apply(BinaryOp::Mul, &mut normed, mean.view())?;
    work.apply(BinaryOp::Sub, &mut g, normed.view())?;
    work.apply(BinaryOp::Mul, &mut g, rstd.view())?;
    if call.accumulate {
        work.apply(BinaryOp::Add, &mut g, work.copy(call.dx.as_ref())?.view())?;
    }
    work.store(g.view(), call.dx)
}

/// `x∘cos + swap(x)∘(∓sin)`, where `swap` exchanges the columns of a pair. Spreading the table over both columns of a
/// pair, and swapping, are products with constant matrices of zeros and ones, which are exact.
pub(in crate::device) fn rope<D: Primitives>(device: &D, mut call: Rope<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.x.dtype());
    let (t, r) = (call.x.rows(), call.table.cols());
    let sign = if call.inverse { -1.0 } else { 1.0 };
    let swap = work.constant(r, r, |from, to| f32::from(u8::from(from == to ^ 1)))?;
    let spread_cos = work.constant(r, r, |from, to| f32::from(u8::from(from == to & !1)))?;
    let spread_sin = work.constant(r, r, |from, to| match (from == to | 1, to % 2) {
        (true, 0) => -sign,
        (true, _) => sign,
        _ => 0.0,
    })?;
    let table = work.rows(call.table, call.positions)?;
    let cos = work.product(Form::Nn, table.view(), spread_cos.view(), [t, r])?;
    let sin = work.product(Form::Nn, table.view(), spread_sin.view(), [t, r])?;
    for head in 0..call.heads() {
        let start = head * call.head + call.start;
        let mut x = work.copy(call.x.as_ref().columns(start..start + r)?)?;
        let mut swapped = work.product(Form::Nn, x.view(), swap.view(), [t, r])?;
        work.apply(BinaryOp::Mul, &mut x, cos.view())?;
        work.apply(BinaryOp::Mul, &mut swapped, sin.view())?;
        work.apply(BinaryOp::Add, &mut x, swapped.view())?;
        work.store(x.view(), call.x.reborrow().columns(start..start + r)?)?;
    }
    Ok(())
}

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

pub(in crate::device) fn combine<D: Primitives>(device: &D, call: Combine<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.x.dtype());
    let mut y = if call.accumulate { work.copy(call.y.as_ref())? } else { work.zeros(call.y.rows(), call.y.cols())? };
    for j in 0..call.inverse.cols() {
        let rows = work.rows(call.x, call.inverse.columns(j..j + 1)?)?;
        work.apply(BinaryOp::Add, &mut y, rows.view())?;
    }
    work.store(y.view(), call.y)
}
