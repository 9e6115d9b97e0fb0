//! The weighted sum of the experts' rows.

use super::Work;
use crate::device::call::{BinaryOp, Combine};
use crate::device::primitives::Primitives;

pub(in crate::device) fn combine<D: Primitives>(device: &D, call: Combine<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.x.dtype());
    let mut y = if call.out.adds() { work.copy(call.y.as_ref())? } else { work.zeros(call.y.rows(), call.y.cols())? };
    for j in 0..call.inverse.cols() {
        let rows = work.rows(call.x, call.inverse.columns(j..j + 1)?)?;
        work.apply(BinaryOp::Add, &mut y, rows.view())?;
    }
    work.store(y.view(), call.y)
}
