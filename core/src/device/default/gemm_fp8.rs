//! Products of FP8 matrices, decoded to f32 and multiplied there.

use super::quantize::decoded;
use crate::device::call::{Gemm, GemmFp8, GroupedGemm, GroupedGemmFp8};
use crate::device::primitives::Primitives;

pub(in crate::device) fn gemm_fp8<D: Primitives>(device: &D, call: GemmFp8<'_, D::Buffer>) -> Result<(), D::Error> {
    let (a, b) = (decoded(device, call.a)?, decoded(device, call.b)?);
    let mut product = Gemm::new(call.form, a.view(), b.view(), call.c)?;
    product.out = call.out;
    device.gemm(product)
}

pub(in crate::device) fn grouped_gemm_fp8<D: Primitives>(
    device: &D,
    call: GroupedGemmFp8<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let (a, b) = (decoded(device, call.a)?, decoded(device, call.b)?);
    device.grouped_gemm(GroupedGemm::new(call.form, call.groups, a.view(), b.view(), call.offsets, call.c)?)
}
