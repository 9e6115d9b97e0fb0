//! Rotary position embedding.

use super::Work;
use crate::device::call::{BinaryOp, Form, Rope};
use crate::device::primitives::Primitives;

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
