//! Dense matrix products by cuBLASLt: which products it computes, and the layout it needs.
//!
//! All other products run on the driver's own kernels (`kernels/gemm.rs`, `kernels/gemm_fp8.rs`).

use bytemuck::{Pod, Zeroable};
use fathom_core::device::Form;
use fathom_core::fp8::TILE;

use crate::Cuda;
use crate::cublaslt::{Factors, LEAST_CODES, Operands, Shape};
use crate::error::CudaError;
use crate::launch::Mat;
use crate::memory::Buffer;
use crate::source::TRANSPOSE;

/// Smallest extent of a product that goes to the library; rows of activations may be fewer.
const LEAST: usize = 64;

/// A product of matrices in device memory, `c = α·op(a)·op(b)`, or `c += …`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matmul {
    /// Which factor is transposed, row-major.
    pub(crate) form: Form,
    /// Rows of `c`.
    pub(crate) m: usize,
    /// Columns of `c`.
    pub(crate) n: usize,
    /// Inner dimension.
    pub(crate) k: usize,
    pub(crate) a: Mat,
    pub(crate) b: Mat,
    pub(crate) c: Mat,
    pub(crate) alpha: f32,
    /// Adds the product to `c` instead of replacing it.
    pub(crate) accumulate: bool,
}

/// A product of FP8 matrices (E4M3 codes with scales), `c = a·b` or `c += a·b`.
///
/// [`GemmFp8`](fathom_core::device::GemmFp8) has the shapes of the scales.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaledMatmul {
    /// Which factor is transposed, row-major.
    pub(crate) form: Form,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Rows of a weight per part; each part begins a new row of blocks.
    pub(crate) part: usize,
    /// Codes.
    pub(crate) a: Mat,
    /// F32.
    pub(crate) a_scales: Mat,
    /// Codes.
    pub(crate) b: Mat,
    /// F32.
    pub(crate) b_scales: Mat,
    /// `[m, n]`, BF16 or F32.
    pub(crate) c: Mat,
    pub(crate) accumulate: bool,
}

impl Matmul {
    /// The product's shape for the library; `None` if the driver's own kernels compute it.
    ///
    /// The choice does not depend on the number of rows of activations, so all rows are computed in the same way.
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
            factors: Factors::Bf16,
            wide: c.dtype() == F32,
        })
    }
}

impl ScaledMatmul {
    /// The product's shape for the library; `None` if the driver's own kernels compute it (as [`Matmul::shape`]).
    ///
    /// The library needs whole tiles of `k` and multiples of 16 elsewhere. It multiplies in form `Nt` only, so other
    /// factors are transposed first, and it has no parts: blocks start at the first row.
    pub(crate) fn shape(&self) -> Option<Shape> {
        let Self { form, m, n, k, part, a, b, c, .. } = self;
        let aligned = [a, b, c].iter().all(|mat| mat.is_aligned(16));
        let typed = a.dtype() == E4M3 && b.dtype() == E4M3 && matches!(c.dtype(), F32 | BF16);
        let extents = k.is_multiple_of(TILE) && n.is_multiple_of(16) && m.is_multiple_of(16);
        // Parts of whole tiles do not move the start of any block.
        let plain = part.is_multiple_of(TILE) || *form == Form::Nt && part == n || *form == Form::Tn;
        let large = *m > 0 && *n >= TILE && *k >= LEAST_CODES && (*form != Form::Tn || *m >= TILE);
        let along = *k as i64;
        (aligned && typed && extents && plain && large).then(|| Shape {
            form: Form::Nt,
            m: *m as u64,
            n: *n as u64,
            k: *k as u64,
            strides: match form {
                Form::Nt => [a, b, c].map(stride),
                Form::Nn => [stride(a), along, stride(c)],
                Form::Tn => [along, along, stride(c)],
            },
            factors: if *form == Form::Tn { Factors::Vectors } else { Factors::Blocks },
            wide: c.dtype() == F32,
        })
    }
}

// Element types, numbered as `fathom.cuh` does.
const F32: i32 = 0;
const BF16: i32 = 1;
const E4M3: i32 = 4;

/// Argument of the kernels that copy codes and scales into the library's layout: `Reorder` of `transpose.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Reorder {
    x: Mat,
    y: Mat,
}

impl Cuda {
    /// Queues a dense product by the library; false if a kernel of this driver must compute it.
    pub(crate) fn matmul(&self, product: &Matmul) -> Result<bool, CudaError> {
        let Some(shape) = product.shape() else { return Ok(false) };
        let Matmul { a, b, c, alpha, accumulate, .. } = product;
        let beta = if *accumulate { 1.0 } else { 0.0 };
        let (a, b, c) = (a.address(), b.address(), c.address());
        self.engine().product(&shape, &Operands { a, b, c, scales: [0; 2], alpha: *alpha, beta })
    }

    /// Queues an FP8 product by the library; false if a kernel of this driver must compute it.
    pub(crate) fn matmul_fp8(&self, product: &ScaledMatmul) -> Result<bool, CudaError> {
        let Some(shape) = product.shape() else { return Ok(false) };
        if !self.engine().has_product(&shape)? {
            return Ok(false);
        }
        let ScaledMatmul { form, m, n, k, a, a_scales, b, b_scales, c, accumulate, .. } = product;
        let tiles = (k / TILE).next_multiple_of(4);
        // Codes: rows along the inner dimension.
        let a = if *form == Form::Tn { self.codes_transposed(a)? } else { Ordered::as_is(a) };
        let b = if *form == Form::Nt { Ordered::as_is(b) } else { self.codes_transposed(b)? };
        // Scales of 1×128 tiles: for each tile of the inner dimension, the scales of all rows are contiguous. Scales of
        // blocks: the scales of a row of blocks are contiguous, padded to a multiple of four.
        let (a_scales, b_scales) = match form {
            Form::Nt => (self.scales_transposed(a_scales, *m)?, self.scales_padded(b_scales, tiles)?),
            Form::Nn => (self.scales_transposed(a_scales, *m)?, self.scales_transposed(b_scales, tiles)?),
            Form::Tn => (self.scales_padded(a_scales, *m)?, self.scales_padded(b_scales, *n)?),
        };
        let operands = Operands {
            a: a.address,
            b: b.address,
            c: c.address(),
            scales: [a_scales.address, b_scales.address],
            alpha: 1.0,
            beta: if *accumulate { 1.0 } else { 0.0 },
        };
        self.engine().product(&shape, &operands)
    }

    /// Transposes codes; all extents and row starts must be multiples of 16.
    fn codes_transposed(&self, x: &Mat) -> Result<Ordered, CudaError> {
        let (rows, cols) = (x.rows() as usize, x.cols() as usize);
        let buffer = self.scratch(rows * cols)?;
        let y = Mat::e4m3(OP, &buffer, cols, rows)?;
        let grid = [rows.div_ceil(TILE), cols.div_ceil(TILE), 1];
        self.launch(TRANSPOSE, "transpose_bytes", grid, 256, TILE * TILE, &Reorder { x: *x, y })?;
        Ok(Ordered { address: y.address(), buffer: Some(buffer) })
    }

    /// Transposes scales and pads the rows with zeros to `cols` columns.
    fn scales_transposed(&self, x: &Mat, cols: usize) -> Result<Ordered, CudaError> {
        let rows = x.cols() as usize;
        let buffer = self.scratch(rows * cols * 4)?;
        let y = Mat::f32(OP, &buffer, rows, cols)?;
        let grid = [cols.div_ceil(32), rows.div_ceil(32), 1];
        self.launch(TRANSPOSE, "transpose_f32", grid, 256, 32 * 33 * 4, &Reorder { x: *x, y })?;
        Ok(Ordered { address: y.address(), buffer: Some(buffer) })
    }

    /// Pads rows of scales with zeros to `cols` columns, without gaps between rows.
    fn scales_padded(&self, x: &Mat, cols: usize) -> Result<Ordered, CudaError> {
        if x.cols() as usize == cols && x.stride() == cols as i64 && x.is_aligned(16) {
            return Ok(Ordered::as_is(x));
        }
        let rows = x.rows() as usize;
        let buffer = self.scratch(rows * cols * 4)?;
        let y = Mat::f32(OP, &buffer, rows, cols)?;
        self.launch(TRANSPOSE, "pad_f32", [rows, 1, 1], 64, 0, &Reorder { x: *x, y })?;
        Ok(Ordered { address: y.address(), buffer: Some(buffer) })
    }
}

/// An operand in the library's layout: its address, and its memory if it is a copy.
struct Ordered {
    address: u64,
    #[cfg_attr(not(test), expect(dead_code, reason = "holds the memory until it is dropped"))]
    buffer: Option<Buffer>,
}

impl Ordered {
    fn as_is(x: &Mat) -> Self {
        Self { address: x.address(), buffer: None }
    }
}

const OP: &str = "gemm_fp8";

/// The row stride in elements; for a single row, whose stride may be arbitrary, an aligned one.
fn stride(mat: &Mat) -> i64 {
    if mat.rows() > 1 { mat.stride() } else { (mat.cols().max(1) as u32).next_multiple_of(16).into() }
}

#[cfg(test)]
mod tests;
