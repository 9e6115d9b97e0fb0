//! Calls of inference's products with weights as they are stored: few rows (GEMV), and many rows with FP8 weights.

use super::factor::check_blocks;
use super::{Call, Cost, Factor, Out, Scaled, bytes_of, bytes_of_mut, is_float, is_index};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, ensure, multiple, same};

/// A linear layer for few rows, `y = x·Wᵀ`, or `y += …`: what decoding multiplies.
///
/// The weight is read once and decoded in registers; activations are not rounded. The value of a row of `y` does not
/// depend on how many other rows there are.
#[non_exhaustive]
pub struct Gemv<'a, B> {
    /// `[m, k]` floating point.
    pub x: MatRef<'a, B>,
    /// `[n, k]`.
    pub w: Factor<'a, B>,
    /// `[m, n]` floating point.
    pub y: MatMut<'a, B>,
    /// Replaces `y`, or adds to it.
    pub out: Out,
}

impl<'a, B> Gemv<'a, B> {
    /// `y = x·Wᵀ`, or `y += …`.
    pub fn new(x: MatRef<'a, B>, w: Factor<'a, B>, y: MatMut<'a, B>, out: Out) -> Result<Self, InvalidOp> {
        const OP: &str = "gemv";
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        w.check(OP, w.rows())?;
        same(OP, "inner dimension of the weight", x.cols(), w.cols())?;
        same(OP, "rows of y", x.rows(), y.rows())?;
        same(OP, "columns of y", w.rows(), y.cols())?;
        Ok(Self { x, w, y, out })
    }
}

impl<B> Call for Gemv<'_, B> {
    const NAME: &'static str = "gemv";
    fn cost(&self) -> Cost {
        let flops = 2 * self.x.elements() as u64 * self.w.rows() as u64;
        Cost::new(flops, bytes_of(&self.x) + self.w.bytes() + bytes_of_mut(&self.y) * self.out.passes())
    }
}

/// One [`Gemv`] per group of rows, each with a separate weight: the routed experts of few tokens.
///
/// Group `g` is rows `offsets[g]..offsets[g + 1]`; groups may be empty. Offsets must rise from 0 to `r`; a driver
/// clamps others rather than leave its buffers.
#[non_exhaustive]
pub struct GroupedGemv<'a, B> {
    /// Number of groups.
    pub groups: usize,
    /// Rows `[r, k]` floating point.
    pub x: MatRef<'a, B>,
    /// `[g·n, k]`: `g` weights `[n, k]`, one under the other.
    pub w: Factor<'a, B>,
    /// `[1, groups + 1]` u32.
    pub offsets: MatRef<'a, B>,
    /// Rows `[r, n]` floating point, replaced.
    pub y: MatMut<'a, B>,
}

impl<'a, B> GroupedGemv<'a, B> {
    /// One product per group.
    pub fn new(
        groups: usize,
        x: MatRef<'a, B>,
        w: Factor<'a, B>,
        offsets: MatRef<'a, B>,
        y: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "grouped_gemv";
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        let n = grouped(OP, groups, w.rows(), &offsets)?;
        w.check(OP, n)?;
        same(OP, "inner dimension of the weights", x.cols(), w.cols())?;
        same(OP, "rows of y", x.rows(), y.rows())?;
        same(OP, "columns of y", n, y.cols())?;
        Ok(Self { groups, x, w, offsets, y })
    }
}

impl<B> Call for GroupedGemv<'_, B> {
    const NAME: &'static str = "grouped_gemv";
    fn cost(&self) -> Cost {
        // A group without rows is not read.
        let touched = self.x.rows().min(self.groups) as u64;
        let weights = self.w.bytes() / self.groups as u64 * touched;
        let flops = 2 * self.x.elements() as u64 * self.y.cols() as u64;
        Cost::new(flops, bytes_of(&self.x) + weights + bytes_of_mut(&self.y))
    }
}

/// Checks the offsets of `groups` groups and gives the rows of each of their weights, `stacked` rows in all.
fn grouped<B>(op: &'static str, groups: usize, stacked: usize, offsets: &MatRef<'_, B>) -> Result<usize, InvalidOp> {
    is_index(op, offsets)?;
    ensure(op, "needs at least one group", groups > 0)?;
    same(op, "offsets", groups + 1, offsets.elements())?;
    ensure(op, "offsets must have no gaps", offsets.is_contiguous())?;
    multiple(op, "the number of rows of the stacked weights", stacked, "the number of groups", groups)?;
    Ok(stacked / groups)
}

/// A product of floating-point activations with an FP8 weight, `c = a·Wᵀ`, or `c += …`: what the prefill of an FP8
/// model multiplies (a mixed-input GEMM).
///
/// Codes are exact in BF16, so a product is a BF16 one where `a` is BF16; sums are f32, and those of every 128 elements
/// of the inner dimension are multiplied by the block's scale. A row does not depend on the others.
#[non_exhaustive]
pub struct GemmMixed<'a, B> {
    /// `[m, k]` floating point.
    pub a: MatRef<'a, B>,
    /// `[n, k]` E4M3 in 128×128 blocks.
    pub w: Scaled<'a, B>,
    /// `[m, n]` floating point.
    pub c: MatMut<'a, B>,
    /// Replaces `c`, or adds to it.
    pub out: Out,
}

impl<'a, B> GemmMixed<'a, B> {
    /// `c = a·Wᵀ`, or `c += …`.
    pub fn new(a: MatRef<'a, B>, w: Scaled<'a, B>, c: MatMut<'a, B>, out: Out) -> Result<Self, InvalidOp> {
        const OP: &str = "gemm_mixed";
        is_float(OP, &a)?;
        is_float(OP, &c.as_ref())?;
        check_blocks(OP, &w, w.rows())?;
        same(OP, "inner dimension of the weight", a.cols(), w.cols())?;
        same(OP, "rows of c", a.rows(), c.rows())?;
        same(OP, "columns of c", w.rows(), c.cols())?;
        Ok(Self { a, w, c, out })
    }

    /// `(m, n, k)`.
    pub fn dimensions(&self) -> (usize, usize, usize) {
        (self.a.rows(), self.w.rows(), self.a.cols())
    }
}

impl<B> Call for GemmMixed<'_, B> {
    const NAME: &'static str = "gemm_mixed";
    fn cost(&self) -> Cost {
        let (m, n, k) = self.dimensions();
        let out = bytes_of_mut(&self.c) * self.out.passes();
        Cost::new(2 * m as u64 * n as u64 * k as u64, bytes_of(&self.a) + self.w.bytes() + out)
    }
}

/// One [`GemmMixed`] per group of rows; see [`GroupedGemv`] for the shapes.
#[non_exhaustive]
pub struct GroupedGemmMixed<'a, B> {
    /// Number of groups.
    pub groups: usize,
    /// Rows `[r, k]` floating point.
    pub a: MatRef<'a, B>,
    /// `[g·n, k]` E4M3 in 128×128 blocks.
    pub w: Scaled<'a, B>,
    /// `[1, groups + 1]` u32.
    pub offsets: MatRef<'a, B>,
    /// Rows `[r, n]` floating point, replaced.
    pub c: MatMut<'a, B>,
}

impl<'a, B> GroupedGemmMixed<'a, B> {
    /// One product per group.
    pub fn new(
        groups: usize,
        a: MatRef<'a, B>,
        w: Scaled<'a, B>,
        offsets: MatRef<'a, B>,
        c: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "grouped_gemm_mixed";
        is_float(OP, &a)?;
        is_float(OP, &c.as_ref())?;
        let n = grouped(OP, groups, w.rows(), &offsets)?;
        check_blocks(OP, &w, n)?;
        same(OP, "inner dimension of the weights", a.cols(), w.cols())?;
        same(OP, "rows of c", a.rows(), c.rows())?;
        same(OP, "columns of c", n, c.cols())?;
        Ok(Self { groups, a, w, offsets, c })
    }

    /// `(n, k)`: the shape of one group's weight.
    pub fn weight(&self) -> (usize, usize) {
        (self.c.cols(), self.a.cols())
    }
}

impl<B> Call for GroupedGemmMixed<'_, B> {
    const NAME: &'static str = "grouped_gemm_mixed";
    fn cost(&self) -> Cost {
        let flops = 2 * self.a.elements() as u64 * self.c.cols() as u64;
        Cost::new(flops, bytes_of(&self.a) + self.w.bytes() + bytes_of_mut(&self.c))
    }
}
