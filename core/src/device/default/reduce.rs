//! Sums of columns, as a product with a row of ones.

use super::Work;
use crate::device::call::{BinaryOp, Form, SumColumns};
use crate::device::primitives::Primitives;

pub(in crate::device) fn sum_columns<D: Primitives>(
    device: &D,
    call: SumColumns<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let work = Work::new(device, call.y.dtype());
    let ones = work.constant(1, call.x.rows(), |_, _| 1.0)?;
    let x = work.copy(call.x)?;
    let mut sum = work.product(Form::Nn, ones.view(), x.view(), [1, call.x.cols()])?;
    work.apply(BinaryOp::Add, &mut sum, work.copy(call.y.as_ref())?.view())?;
    work.store(sum.view(), call.y)
}
