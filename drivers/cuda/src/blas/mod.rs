//! Dense matrix products by the vendor's library: what is asked of it, and what is not.

pub(crate) mod lt;

use bytemuck::{Pod, Zeroable};
use fathom_core::device::Form;
use fathom_core::fp8::TILE;

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::Mat;
use crate::source::TRANSPOSE;
use lt::{Operands, Shape};

/// The least extent, but for rows of activations, that is not left to this driver's own kernels.
const LEAST: usize = 64;

/// The same for codes. Tensor cores add products of codes with some 14 bits, so that short sums would not keep to the
/// bound of the core.
const LEAST_CODES: usize = 1024;

/// A product of matrices in device memory, `c = α·op(a)·op(b)`, or `c += …`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matmul {
    /// Which factor is transposed, row-major.
    pub(crate) form: Form,
    /// Rows of `c`.
    pub(crate) m: usize,
    /// Columns of `c`.
    pub(crate) n: usize,
    /// Length of the sums.
    pub(crate) k: usize,
    pub(crate) a: Mat,
    pub(crate) b: Mat,
    pub(crate) c: Mat,
    pub(crate) alpha: f32,
    /// Adds to what is in `c`.
    pub(crate) accumulate: bool,
}

/// A product of E4M3 codes, `c = a·bᵀ` or `c += a·bᵀ` over factors with scales: `a` activations `[m, k]` with a scale
/// for each 1×128 tile, `b` weights `[n, k]` with a scale for each 128×128 block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaledMatmul {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Codes `[m, k]`.
    pub(crate) a: Mat,
    /// `[m, ⌈k/128⌉]`, F32.
    pub(crate) a_scales: Mat,
    /// Codes `[n, k]`.
    pub(crate) b: Mat,
    /// `[⌈n/128⌉, ⌈k/128⌉]`, F32.
    pub(crate) b_scales: Mat,
    /// `[m, n]`, BF16 or F32.
    pub(crate) c: Mat,
    pub(crate) accumulate: bool,
}

impl Matmul {
    /// The product as the library is asked for it; `None` where it is not. That does not depend on the rows of activations:
    /// all rows are computed the same way.
    pub(crate) fn shape(&self) -> Option<Shape> {
        let Self { form, m, n, k, a, b, c, .. } = self;
        let aligned = [a, b, c].iter().all(|mat| mat.is_aligned(16));
        let typed = a.dtype() == BF16 && b.dtype() == BF16 && matches!(c.dtype(), F32 | BF16);
        let large = *n >= LEAST && *k >= LEAST && (*form != Form::Tn || *m >= LEAST);
        (aligned && typed && large && *m > 0).then(|| Shape {
            form: *form,
            m: *m as u64,
            n: *n as u64,
            k: *k as u64,
            strides: [a, b, c].map(stride),
            codes: false,
            wide: c.dtype() == F32,
        })
    }
}

impl ScaledMatmul {
    /// As [`Matmul::shape`], of what the library can do with codes: whole tiles of `k`, and multiples of 16 elsewhere.
    pub(crate) fn shape(&self) -> Option<Shape> {
        let Self { m, n, k, a, b, c, .. } = self;
        let aligned = [a, b, c].iter().all(|mat| mat.is_aligned(16));
        let typed = a.dtype() == E4M3 && b.dtype() == E4M3 && matches!(c.dtype(), F32 | BF16);
        let whole = k.is_multiple_of(TILE) && n.is_multiple_of(16) && m.is_multiple_of(16);
        (aligned && typed && whole && *m > 0 && *n >= TILE && *k >= LEAST_CODES).then(|| Shape {
            form: Form::Nt,
            m: *m as u64,
            n: *n as u64,
            k: *k as u64,
            strides: [a, b, c].map(stride),
            codes: true,
            wide: c.dtype() == F32,
        })
    }
}

// Element types, numbered as `fathom.cuh` does.
const F32: i32 = 0;
const BF16: i32 = 1;
const E4M3: i32 = 4;

/// How scales are brought into the library's order: `Reorder` of `transpose.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Reorder {
    x: Mat,
    y: Mat,
}

impl Cuda {
    /// Computes a dense product with the vendor's library; false where it does not, and a kernel of this driver must.
    pub(crate) fn matmul(&self, product: &Matmul) -> Result<bool, CudaError> {
        let Some(shape) = product.shape() else { return Ok(false) };
        let Matmul { a, b, c, alpha, accumulate, .. } = product;
        let beta = if *accumulate { 1.0 } else { 0.0 };
        let (a, b, c) = (a.address(), b.address(), c.address());
        self.engine().product(&shape, &Operands { a, b, c, scales: [0; 2], alpha: *alpha, beta })
    }

    /// Computes a product of codes with scales with the vendor's library; false where it does not.
    pub(crate) fn matmul_fp8(&self, product: &ScaledMatmul) -> Result<bool, CudaError> {
        let Some(shape) = product.shape() else { return Ok(false) };
        if !self.engine().has_product(&shape)? {
            return Ok(false);
        }
        let ScaledMatmul { m, k, n, a, a_scales, b, b_scales, c, accumulate } = product;
        let tiles = k / TILE;
        // Scales of activations: those of a tile of `k` one after the other, for all rows.
        let across = self.scratch(tiles * m * 4)?;
        let y = Mat::f32(OP, &across, tiles, *m)?;
        let grid = [m.div_ceil(32), tiles.div_ceil(32), 1];
        self.launch(TRANSPOSE, "transpose_f32", grid, 256, 32 * 33 * 4, &Reorder { x: *a_scales, y })?;
        // Scales of weights: rows of a multiple of four.
        let (rows, cols) = (n.div_ceil(TILE), tiles.next_multiple_of(4));
        let mut blocks = None;
        let weights = if cols == tiles && b_scales.stride() == cols as i64 && b_scales.is_aligned(16) {
            b_scales.address()
        } else {
            let padded = blocks.insert(self.scratch(rows * cols * 4)?);
            let y = Mat::f32(OP, padded, rows, cols)?;
            self.launch(TRANSPOSE, "pad_f32", [rows, 1, 1], 64, 0, &Reorder { x: *b_scales, y })?;
            y.address()
        };
        let beta = if *accumulate { 1.0 } else { 0.0 };
        let scales = [y.address(), weights];
        let operands = Operands { a: a.address(), b: b.address(), c: c.address(), scales, alpha: 1.0, beta };
        self.engine().product(&shape, &operands)
    }
}

const OP: &str = "gemm_fp8";

/// Elements from row to row; of a single row, whose stride may be anything, some that are enough and aligned.
fn stride(mat: &Mat) -> i64 {
    if mat.rows() > 1 { mat.stride() } else { (mat.cols().max(1) as u32).next_multiple_of(16).into() }
}

#[cfg(test)]
mod tests;
