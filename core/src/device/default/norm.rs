//! RMSNorm and its gradient.

use super::Work;
use crate::device::call::{BinaryOp, QuantizeBoth, Reduction, RmsNorm, RmsNormGrad, RmsNormQuantize, UnaryOp};
use crate::device::primitives::Primitives;
use crate::device::tensor::Tensor;

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

/// `rmsnorm` and `quantize` are the device's own, one after the other.
pub fn rmsnorm_quantize<D: Primitives>(
    device: &D,
    call: RmsNormQuantize<'_, D::Buffer>,
    rmsnorm: impl FnOnce(RmsNorm<'_, D::Buffer>) -> Result<(), D::Error>,
    quantize: impl FnOnce(QuantizeBoth<'_, D::Buffer>) -> Result<(), D::Error>,
) -> Result<(), D::Error> {
    let mut y = Tensor::<D>::empty(device, &[call.x.rows(), call.x.cols()], call.x.dtype())?;
    rmsnorm(RmsNorm::new(call.x, call.weight, call.eps, y.view_mut(), call.rstd)?)?;
    quantize(QuantizeBoth::new(y.view(), call.y)?)
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
    if call.out.adds() {
        work.apply(BinaryOp::Add, &mut g, work.copy(call.dx.as_ref())?.view())?;
    }
    work.store(g.view(), call.dx)
}
