//! FP8 matrices in other tiles, by way of f32.

use crate::device::call::{Dequantize, GatherCodes, GatherRows, Quantize, QuantizeBoth, Requantize, Scaled};
use crate::device::primitives::Primitives;
use crate::device::tensor::{Tensor, View, ViewMut};
use crate::dtype::DType;

/// The matrix in f32.
pub(super) fn decoded<D: Primitives>(device: &D, x: Scaled<'_, D::Buffer>) -> Result<Tensor<D>, D::Error> {
    let mut y = Tensor::<D>::empty(device, &[x.rows(), x.cols()], DType::F32)?;
    device.dequantize(Dequantize::new(x, y.view_mut())?)?;
    Ok(y)
}

pub(in crate::device) fn requantize<D: Primitives>(
    device: &D,
    call: Requantize<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let x = decoded(device, call.x)?;
    device.quantize(Quantize::new(x.view(), call.y, call.power_of_two)?)
}

pub(in crate::device) fn quantize_both<D: Primitives>(
    device: &D,
    mut call: QuantizeBoth<'_, D::Buffer>,
) -> Result<(), D::Error> {
    call.y.each(call.x).try_for_each(|call| device.quantize(call?))
}

/// Rows are gathered as bytes; `requantize` is the device's own.
pub fn gather_codes<D: Primitives>(
    device: &D,
    call: GatherCodes<'_, D::Buffer>,
    requantize: impl FnOnce(Requantize<'_, D::Buffer>) -> Result<(), D::Error>,
) -> Result<(), D::Error> {
    let GatherCodes { x, index, divisor, y } = call;
    let gather = |x: View<'_, D>, y: ViewMut<'_, D>| device.gather_rows(GatherRows::new(x, index, divisor, y)?);
    let Some(columns) = y.columns else {
        let Some(rows) = y.rows else { return Ok(()) };
        gather(x.codes, rows.codes)?;
        return gather(x.scales, rows.scales);
    };
    if let Some(mut rows) = y.rows {
        gather(x.codes, rows.codes.reborrow())?;
        gather(x.scales, rows.scales.reborrow())?;
        return requantize(Requantize::new(rows.as_ref(), columns, y.power_of_two)?);
    }
    let mut codes = Tensor::<D>::empty(device, &[index.rows(), x.codes.cols()], x.codes.dtype())?;
    let mut scales = Tensor::<D>::empty(device, &[index.rows(), x.scales.cols()], x.scales.dtype())?;
    gather(x.codes, codes.view_mut())?;
    gather(x.scales, scales.view_mut())?;
    requantize(Requantize::new(Scaled::new(codes.view(), scales.view(), x.tiles)?, columns, y.power_of_two)?)
}
