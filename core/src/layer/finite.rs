//! Sums that show whether all elements of a tensor are finite.

use crate::device::{Binary, BinaryOp, Cast, Kernels, Out, ReduceRows, Reduction, Unary, UnaryOp};
use crate::tensor::{Tensor, View, ViewMut};

/// Elements that are added up at a time.
const WIDTH: usize = 4096;

/// Adds `Σ x` to `sum [1, 1]`: of a matrix without gaps. A sum is not finite where a term is not, and where terms are
/// finite it is, unless they are so large that nothing can be trained with them.
pub(crate) fn add<D: Kernels>(device: &D, x: View<'_, D>, mut sum: ViewMut<'_, D>) -> Result<(), D::Error> {
    let n = x.elements();
    let x = x.reshape(1, n)?;
    let whole = n / WIDTH * WIDTH;
    if whole > 0 {
        let rows = whole / WIDTH;
        let mut sums = Tensor::<D>::empty(device, &[rows, 1], sum.dtype())?;
        let x = x.columns(0..whole)?.reshape(rows, WIDTH)?;
        device.reduce_rows(ReduceRows::new(Reduction::Sum, x, sums.view_mut(), Out::Replace)?)?;
        let row = sums.view().reshape(1, rows)?;
        device.reduce_rows(ReduceRows::new(Reduction::Sum, row, sum.reborrow(), Out::Add)?)?;
    }
    if whole < n {
        let rest = x.columns(whole..n)?;
        device.reduce_rows(ReduceRows::new(Reduction::Sum, rest, sum, Out::Add)?)?;
    }
    Ok(())
}

/// Adds NaN to every element of `y` where an element of `x` is not finite: for what a product or a choice would hide.
pub(crate) fn spread<D: Kernels>(device: &D, x: View<'_, D>, y: ViewMut<'_, D>) -> Result<(), D::Error> {
    let mut sum = Tensor::<D>::zeros(device, &[1, 1], x.dtype())?;
    add(device, x, sum.view_mut())?;
    device.unary(Unary::new(UnaryOp::Affine(0.0, 0.0), sum.view_mut())?)?;
    let mut term = Tensor::<D>::empty(device, &[1, 1], y.dtype())?;
    device.cast(Cast::new(sum.view(), term.view_mut())?)?;
    device.binary(Binary::new(BinaryOp::Add, term.view(), y)?)
}
