//! AdamW step and linear interpolation, in primitives.

use super::Work;
use crate::device::call::{AdamW, BinaryOp, Fill, GatherRows, Lerp, UnaryOp};
use crate::device::primitives::Primitives;
use crate::device::tensor::{Tensor, View, ViewMut};

pub(in crate::device) fn adamw<D: Primitives>(device: &D, call: AdamW<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.w.dtype());
    let rates = &call.rates;
    let (c1, c2) = rates.corrections();
    let clip = work.copy(call.clip.reshape(1, 1)?)?;
    let mut g = work.copy(call.g)?;
    work.apply(BinaryOp::Mul, &mut g, clip.view())?;

    let mut m = work.copy(call.m.as_ref())?;
    work.scale(rates.beta1, &mut m)?;
    let mut step = work.copy(g.view())?;
    work.scale(1.0 - rates.beta1, &mut step)?;
    work.apply(BinaryOp::Add, &mut m, step.view())?;

    let mut v = work.copy(call.v.as_ref())?;
    work.scale(rates.beta2, &mut v)?;
    work.map(UnaryOp::Square, &mut g)?;
    work.scale(1.0 - rates.beta2, &mut g)?;
    work.apply(BinaryOp::Add, &mut v, g.view())?;

    let mut root = work.copy(v.view())?;
    work.map(UnaryOp::Sqrt, &mut root)?;
    work.map(UnaryOp::Affine(1.0 / libm::sqrt(c2), rates.eps), &mut root)?;
    let mut step = work.copy(m.view())?;
    work.apply(BinaryOp::Div, &mut step, root.view())?;
    work.scale(rates.lr / c1, &mut step)?;
    let mut w = work.copy(call.w.as_ref())?;
    work.scale(1.0 - rates.lr * rates.decay, &mut w)?;
    work.apply(BinaryOp::Sub, &mut w, step.view())?;

    let choice = is_number(&work, clip)?;
    replace_if(&work, choice.view(), call.w, &w)?;
    replace_if(&work, choice.view(), call.m, &m)?;
    replace_if(&work, choice.view(), call.v, &v)
}

pub(in crate::device) fn lerp<D: Primitives>(device: &D, call: Lerp<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.y.dtype());
    let (mut step, mut y) = (work.copy(call.x)?, work.copy(call.y.as_ref())?);
    work.apply(BinaryOp::Sub, &mut step, y.view())?;
    work.scale(call.weight, &mut step)?;
    work.apply(BinaryOp::Add, &mut y, step.view())?;
    work.store(y.view(), call.y)
}

/// `[1, 1]` u32: 1 for a number `x`, 0 for NaN.
fn is_number<D: Primitives>(work: &Work<'_, D>, mut x: Tensor<D>) -> Result<Tensor<D>, D::Error> {
    // The sign of x² + 1 is 1, of NaN 0; and the larger of (0.5, sign) is at place 1 or 0.
    work.map(UnaryOp::Square, &mut x)?;
    work.map(UnaryOp::Affine(1.0, 1.0), &mut x)?;
    work.map(UnaryOp::Sign, &mut x)?;
    let mut pair = work.empty(1, 2)?;
    work.device.fill(Fill::new(pair.view_mut(), 0.5))?;
    work.store(x.view(), pair.part_mut(1, 1, 1)?)?;
    work.top_k(pair.view(), 1)
}

/// `old = new` where `choice` is 1. A gather, since no product with zero gets rid of a NaN.
fn replace_if<D: Primitives>(
    work: &Work<'_, D>,
    choice: View<'_, D>,
    old: ViewMut<'_, D>,
    new: &Tensor<D>,
) -> Result<(), D::Error> {
    let mut both = Tensor::<D>::empty(work.device, &[2, old.cols()], old.dtype())?;
    work.store(old.as_ref(), both.view_mut().row_range(0..1)?)?;
    work.store(new.view(), both.view_mut().row_range(1..2)?)?;
    work.device.gather_rows(GatherRows::new(both.view(), choice, 1, old)?)
}
