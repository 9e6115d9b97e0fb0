//! Calls of matrix products (GEMM), plain and grouped.

use super::{Call, Cost, Out, bytes_of, bytes_of_mut, is_float, is_index, product};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, ensure, multiple, same};

/// Which of the two factors of a product is transposed. Matrices are row-major throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `c[m, n] = a[m, k] · b[n, k]ᵀ`: a linear layer's output, `b` its weight `[out, in]`.
    Nt,
    /// `c[m, n] = a[m, k] · b[k, n]`: a linear layer's input gradient.
    Nn,
    /// `c[m, n] = a[k, m]ᵀ · b[k, n]`: a linear layer's weight gradient.
    Tn,
}

/// A matrix product, `c = α·op(a)·op(b)`, or `c += …`.
///
/// The value of a row of `c` does not depend on how many other rows there are.
#[non_exhaustive]
pub struct Gemm<'a, B> {
    /// Which factor is transposed.
    pub form: Form,
    /// First factor; see [`Form`] for its shape.
    pub a: MatRef<'a, B>,
    /// Second factor.
    pub b: MatRef<'a, B>,
    /// `[m, n]`.
    pub c: MatMut<'a, B>,
    /// α.
    pub alpha: f64,
    /// Replaces `c`, or adds to it.
    pub out: Out,
}

impl<'a, B> Gemm<'a, B> {
    /// `c = op(a)·op(b)`.
    pub fn new(form: Form, a: MatRef<'a, B>, b: MatRef<'a, B>, c: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        for m in [&a, &b, &c.as_ref()] {
            is_float("gemm", m)?;
        }
        let ((m, ka), (n, kb)) = extents(form, &a, &b);
        same("gemm", "inner dimension of b", ka, kb)?;
        same("gemm", "rows of c", m, c.rows())?;
        same("gemm", "columns of c", n, c.cols())?;
        Ok(Self { form, a, b, c, alpha: 1.0, out: Out::Replace })
    }

    /// The same product scaled by `alpha`.
    pub fn scaled(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// The same product, which replaces `c` or adds to it.
    pub fn out(mut self, out: Out) -> Self {
        self.out = out;
        self
    }

    /// `(m, n, k)`.
    pub fn dimensions(&self) -> (usize, usize, usize) {
        let ((m, k), (n, _)) = extents(self.form, &self.a, &self.b);
        (m, n, k)
    }
}

fn extents<B>(form: Form, a: &MatRef<'_, B>, b: &MatRef<'_, B>) -> ((usize, usize), (usize, usize)) {
    match form {
        Form::Nt => ((a.rows(), a.cols()), (b.rows(), b.cols())),
        Form::Nn => ((a.rows(), a.cols()), (b.cols(), b.rows())),
        Form::Tn => ((a.cols(), a.rows()), (b.cols(), b.rows())),
    }
}

impl<B> Call for Gemm<'_, B> {
    const NAME: &'static str = "gemm";
    fn cost(&self) -> Cost {
        let (m, n, k) = self.dimensions();
        let out = bytes_of_mut(&self.c) * self.out.passes();
        Cost::new(product(&[2, m, n, k]), bytes_of(&self.a) + bytes_of(&self.b) + out)
    }
}

/// One matrix product per group of rows, the groups given by `offsets` on the device: group `g` is rows
/// `offsets[g]..offsets[g + 1]` of the row operands. No padding; groups may be empty.
///
/// | form | a | b | c |
/// |---|---|---|---|
/// | `Nt` | rows `[r, k]` | `[g·n, k]`, `g` weights `[n, k]` | rows `[r, n]` |
/// | `Nn` | rows `[r, n]` | `[g·n, k]` | rows `[r, k]` |
/// | `Tn` | rows `[r, n]` | rows `[r, k]` | `[g·n, k]`; the product of no rows is zero |
///
/// Offsets must rise from 0 to `r`; a driver clamps others rather than leave its buffers.
#[non_exhaustive]
pub struct GroupedGemm<'a, B> {
    /// See the table.
    pub form: Form,
    /// Number of groups.
    pub groups: usize,
    /// First factor.
    pub a: MatRef<'a, B>,
    /// Second factor.
    pub b: MatRef<'a, B>,
    /// `[1, groups + 1]` u32.
    pub offsets: MatRef<'a, B>,
    /// Result.
    pub c: MatMut<'a, B>,
    /// Replaces `c`, or adds to it.
    pub out: Out,
}

impl<'a, B> GroupedGemm<'a, B> {
    /// One product per group, which replaces `c`.
    pub fn new(
        form: Form,
        groups: usize,
        a: MatRef<'a, B>,
        b: MatRef<'a, B>,
        offsets: MatRef<'a, B>,
        c: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "grouped_gemm";
        for m in [&a, &b, &c.as_ref()] {
            is_float(OP, m)?;
        }
        is_index(OP, &offsets)?;
        ensure(OP, "needs at least one group", groups > 0)?;
        same(OP, "offsets", groups + 1, offsets.elements())?;
        ensure(OP, "offsets must have no gaps", offsets.is_contiguous())?;
        let call = Self { form, groups, a, b, offsets, c, out: Out::Replace };
        let stacked = if form == Form::Tn { call.c.as_ref() } else { b };
        multiple(OP, "the number of rows of the stacked weights", stacked.rows(), "the number of groups", groups)?;
        let (n, k) = (stacked.rows() / groups, stacked.cols());
        let (rows_in, rows_out) = if form == Form::Tn { (b, a) } else { (a, call.c.as_ref()) };
        same(OP, "rows of its row operands", rows_in.rows(), rows_out.rows())?;
        let (in_cols, out_cols) = if form == Form::Nn { (n, k) } else { (k, n) };
        same(OP, "columns of the input rows", in_cols, rows_in.cols())?;
        same(OP, "columns of the output rows", out_cols, rows_out.cols())?;
        Ok(call)
    }

    /// The same products, which replace `c` or are added to it.
    pub fn out(mut self, out: Out) -> Self {
        self.out = out;
        self
    }

    /// `(n, k)`: the shape of one group's weight.
    pub fn weight(&self) -> (usize, usize) {
        let stacked = if self.form == Form::Tn { self.c.as_ref() } else { self.b };
        (stacked.rows() / self.groups, stacked.cols())
    }

    /// Rows over all groups.
    pub fn rows(&self) -> usize {
        self.a.rows()
    }
}

impl<B> Call for GroupedGemm<'_, B> {
    const NAME: &'static str = "grouped_gemm";
    fn cost(&self) -> Cost {
        let (n, k) = self.weight();
        let out = bytes_of_mut(&self.c) * self.out.passes();
        Cost::new(product(&[2, self.rows(), n, k]), bytes_of(&self.a) + bytes_of(&self.b) + out)
    }
}
