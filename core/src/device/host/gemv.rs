//! Inference's products with weights as they are stored.

use super::matrix::{Matrix, before, dot, group_rows, indices, read, write};
use super::quantize::decode;
use super::{Host, HostBuffer, HostError, Result};
use crate::device::call::{Factor, GemmMixed, Gemv, GroupedGemmMixed, GroupedGemv, Out, Scaled};
use crate::device::view::{MatMut, MatRef};

impl Host {
    pub(super) fn gemv(&self, call: Gemv<'_, HostBuffer>) -> Result {
        let w = weight("gemv", &call.w)?;
        product(&call.x, &w, call.y, call.out);
        Ok(())
    }

    pub(super) fn grouped_gemv(&self, call: GroupedGemv<'_, HostBuffer>) -> Result {
        let w = weight("grouped_gemv", &call.w)?;
        grouped("grouped_gemv", &call.x, &w, &call.offsets, call.y)
    }

    pub(super) fn gemm_mixed(&self, call: GemmMixed<'_, HostBuffer>) -> Result {
        let w = numbers("gemm_mixed", &call.w)?;
        product(&call.a, &w, call.c, call.out);
        Ok(())
    }

    pub(super) fn grouped_gemm_mixed(&self, call: GroupedGemmMixed<'_, HostBuffer>) -> Result {
        let w = numbers("grouped_gemm_mixed", &call.w)?;
        grouped("grouped_gemm_mixed", &call.a, &w, &call.offsets, call.c)
    }
}

/// The numbers of a weight.
fn weight(op: &'static str, w: &Factor<'_, HostBuffer>) -> core::result::Result<Matrix, HostError> {
    match w {
        Factor::Float(w) => Ok(read(w)),
        Factor::Fp8(w) => numbers(op, w),
    }
}

/// What codes and scales stand for, not rounded.
fn numbers(op: &'static str, w: &Scaled<'_, HostBuffer>) -> core::result::Result<Matrix, HostError> {
    let decoded = decode(op, w)?;
    let mut w = decoded.codes;
    for (x, scale) in w.data.iter_mut().zip(&decoded.scales.data) {
        *x *= scale;
    }
    Ok(w)
}

fn product(x: &MatRef<'_, HostBuffer>, w: &Matrix, mut y: MatMut<'_, HostBuffer>, out: Out) {
    let (x, mut sums) = (read(x), before(&y, out));
    for r in 0..x.rows {
        for j in 0..w.rows {
            sums[(r, j)] += dot(x.row(r), w.row(j));
        }
    }
    write(&mut y, &sums.data);
}

fn grouped(
    op: &'static str,
    x: &MatRef<'_, HostBuffer>,
    w: &Matrix,
    offsets: &MatRef<'_, HostBuffer>,
    mut y: MatMut<'_, HostBuffer>,
) -> Result {
    let (x, mut sums) = (read(x), Matrix::zeros(y.rows(), y.cols()));
    for (g, rows) in group_rows(op, &indices(offsets), x.rows)?.enumerate() {
        for r in rows {
            for j in 0..sums.cols {
                sums[(r, j)] = dot(x.row(r), w.row(g * sums.cols + j));
            }
        }
    }
    write(&mut y, &sums.data);
    Ok(())
}
