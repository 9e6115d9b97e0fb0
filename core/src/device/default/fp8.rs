//! Products of codes with scales: decoded to f32 and multiplied there.

use crate::device::{Dequantize, Gemm, GemmFp8, GroupedGemm, GroupedGemmFp8, Primitives, Quantize, Requantize, Scaled};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// The matrix in f32.
fn decoded<D: Primitives>(device: &D, x: Scaled<'_, D::Buffer>) -> Result<Tensor<D>, D::Error> {
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

pub(in crate::device) fn gemm_fp8<D: Primitives>(device: &D, call: GemmFp8<'_, D::Buffer>) -> Result<(), D::Error> {
    let (a, b) = (decoded(device, call.a)?, decoded(device, call.b)?);
    let mut product = Gemm::new(call.form, a.view(), b.view(), call.c)?;
    product.accumulate = call.accumulate;
    device.gemm(product)
}

pub(in crate::device) fn grouped_gemm_fp8<D: Primitives>(
    device: &D,
    call: GroupedGemmFp8<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let (a, b) = (decoded(device, call.a)?, decoded(device, call.b)?);
    device.grouped_gemm(GroupedGemm::new(call.form, call.groups, a.view(), b.view(), call.offsets, call.c)?)
}
