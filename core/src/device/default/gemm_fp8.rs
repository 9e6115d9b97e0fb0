//! Products of FP8 matrices, decoded to f32 and multiplied there.

use super::quantize::decoded;
use crate::device::call::{Gemm, GemmFp8, GroupedGemm, GroupedGemmFp8};
use crate::device::primitives::Primitives;

pub(in crate::device) fn gemm_fp8<D: Primitives>(device: &D, call: GemmFp8<'_, D::Buffer>) -> Result<(), D::Error> {
    let (a, b) = (decoded(device, call.a)?, decoded(device, call.b)?);
    device.gemm(Gemm::new(call.form, a.view(), b.view(), call.c)?.out(call.out))
}

pub(in crate::device) fn grouped_gemm_fp8<D: Primitives>(
    device: &D,
    call: GroupedGemmFp8<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let (a, b) = (decoded(device, call.a)?, decoded(device, call.b)?);
    let product = GroupedGemm::new(call.form, call.groups, a.view(), b.view(), call.offsets, call.c)?;
    device.grouped_gemm(product.out(call.out))
}
