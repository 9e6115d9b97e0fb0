//! Softmax cross entropy.

use super::Work;
use crate::device::call::{BinaryOp, CrossEntropy, Reduction, UnaryOp};
use crate::device::primitives::Primitives;

pub(in crate::device) fn cross_entropy<D: Primitives>(
    device: &D,
    call: CrossEntropy<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let work = Work::new(device, call.logits.dtype());
    // Rows of zeros where a target is ignored, so their sums are the factor that drops those rows.
    let target = work.one_hot(call.targets, call.logits.cols())?;
    let scored = work.reduce(Reduction::Sum, target.view())?;

    let mut x = work.copy(call.logits.as_ref())?;
    let max = work.reduce(Reduction::Max, x.view())?;
    work.apply(BinaryOp::Sub, &mut x, max.view())?;
    let at_target = work.dot(target.view(), x.view())?;
    work.map(UnaryOp::Exp, &mut x)?;
    let sum = work.reduce(Reduction::Sum, x.view())?;
    let mut nll = work.copy(sum.view())?;
    work.map(UnaryOp::Ln, &mut nll)?;
    work.apply(BinaryOp::Sub, &mut nll, at_target.view())?;
    work.apply(BinaryOp::Mul, &mut nll, scored.view())?;
    work.store(nll.view(), call.nll)?;

    if let Some(scale) = call.gradient {
        work.apply(BinaryOp::Div, &mut x, sum.view())?;
        work.apply(BinaryOp::Sub, &mut x, target.view())?;
        work.apply(BinaryOp::Mul, &mut x, scored.view())?;
        work.scale(scale, &mut x)?;
        work.store(x.view(), call.logits)?;
    }
    Ok(())
}
