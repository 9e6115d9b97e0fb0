//! Inference's products with weights as they are stored: codes are decoded to f32 first.

use super::quantize::decoded;
use crate::device::call::{Factor, Form, Gemm, GemmMixed, Gemv, GroupedGemm, GroupedGemmMixed, GroupedGemv};
use crate::device::primitives::Primitives;
use crate::device::tensor::{Tensor, View};

/// A weight as numbers: where they lie, or decoded.
enum Numbers<'a, D: Primitives> {
    View(View<'a, D>),
    Made(Tensor<D>),
}

impl<'a, D: Primitives> Numbers<'a, D> {
    fn of(device: &D, w: Factor<'a, D::Buffer>) -> Result<Self, D::Error> {
        Ok(match w {
            Factor::Float(w) => Self::View(w),
            Factor::Fp8(w) => Self::Made(decoded(device, w)?),
        })
    }

    fn view(&self) -> View<'_, D> {
        match self {
            Self::View(w) => *w,
            Self::Made(w) => w.view(),
        }
    }
}

/// A row at a time, so that a row cannot depend on how many there are.
pub fn gemv<D: Primitives>(device: &D, call: Gemv<'_, D::Buffer>) -> Result<(), D::Error> {
    let Gemv { x, w, mut y, out } = call;
    let w = Numbers::of(device, w)?;
    for r in 0..x.rows() {
        let (x, y) = (x.row_range(r..r + 1)?, y.reborrow().row_range(r..r + 1)?);
        device.gemm(Gemm::new(Form::Nt, x, w.view(), y)?.out(out))?;
    }
    Ok(())
}

/// A grouped product of all rows.
pub fn grouped_gemv<D: Primitives>(device: &D, call: GroupedGemv<'_, D::Buffer>) -> Result<(), D::Error> {
    let GroupedGemv { groups, x, w, offsets, y } = call;
    let w = Numbers::of(device, w)?;
    device.grouped_gemm(GroupedGemm::new(Form::Nt, groups, x, w.view(), offsets, y)?)
}

/// The weight in f32, then a product.
pub fn gemm_mixed<D: Primitives>(device: &D, call: GemmMixed<'_, D::Buffer>) -> Result<(), D::Error> {
    let w = decoded(device, call.w)?;
    device.gemm(Gemm::new(Form::Nt, call.a, w.view(), call.c)?.out(call.out))
}

/// The weights in f32, then a grouped product.
pub fn grouped_gemm_mixed<D: Primitives>(device: &D, call: GroupedGemmMixed<'_, D::Buffer>) -> Result<(), D::Error> {
    let w = decoded(device, call.w)?;
    device.grouped_gemm(GroupedGemm::new(Form::Nt, call.groups, call.a, w.view(), call.offsets, call.c)?)
}
