//! FP8 matrices in other tiles, by way of f32.

use crate::device::call::{Dequantize, Quantize, Requantize, Scaled};
use crate::device::primitives::Primitives;
use crate::device::tensor::Tensor;
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
