//! Calls of matrix products over FP8 matrices, plain and grouped.

use super::{Call, Cost, Out, bytes_of_mut, is_float, is_index, product};
use super::{Form, Scaled, Tiles};
use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, multiple, same};

/// A product of E4M3 matrices with f32 sums, promoted at every tile of the inner dimension:
/// `c[i, j] (+)= Σ_tiles a.scale·b.scale·(Σ_k a.code·b.code)`.
///
/// | form | a | b |
/// |---|---|---|
/// | `Nt` | `[m, k]` 1×128 | `[n, k]` 128×128 |
/// | `Nn` | `[m, k]` 1×128 in parts | `[k, n]` 128×128 in the same parts |
/// | `Tn` | `[k, m]` 128×1 | `[k, n]` 128×1 |
///
/// Products of codes are exact in f32; a sum of `k` products is within `(k + 2)·2⁻²³·Σ|a·b|` of the true one. Sums of
/// 512 products and more may be made on tensor cores that keep 14 bits within a tile
/// ([`Hopper`](crate::fp8::accumulate::Hopper)): each of its four instructions is then off by less than 34·2⁻¹³ of the
/// largest number it adds up, and the whole by less than another `136·2⁻¹³·Σ|a·b|`, usually by a hundredth of that.
#[non_exhaustive]
pub struct GemmFp8<'a, B> {
    /// Which factor is transposed.
    pub form: Form,
    /// First factor.
    pub a: Scaled<'a, B>,
    /// Second factor.
    pub b: Scaled<'a, B>,
    /// `[m, n]` floating point.
    pub c: MatMut<'a, B>,
    /// Replaces `c`, or adds to it.
    pub out: Out,
}

impl<'a, B> GemmFp8<'a, B> {
    /// `c = op(a)·op(b)`, or `c += …`.
    pub fn new(form: Form, a: Scaled<'a, B>, b: Scaled<'a, B>, c: MatMut<'a, B>, out: Out) -> Result<Self, InvalidOp> {
        const OP: &str = "gemm_fp8";
        factors(OP, form, &a, &b, b.rows())?;
        ensure(OP, "a plain product has no groups", !matches!(a.tiles, Tiles::Groups { .. }))?;
        is_float(OP, &c.as_ref())?;
        let call = Self { form, a, b, c, out };
        let (m, n, _) = call.dimensions();
        same(OP, "inner dimension of b", inner(form, &a, true), inner(form, &b, false))?;
        same(OP, "rows of c", m, call.c.rows())?;
        same(OP, "columns of c", n, call.c.cols())?;
        Ok(call)
    }

    /// `(m, n, k)`.
    pub fn dimensions(&self) -> (usize, usize, usize) {
        let (a, b) = (&self.a, &self.b);
        match self.form {
            Form::Nt => (a.rows(), b.rows(), a.cols()),
            Form::Nn => (a.rows(), b.cols(), a.cols()),
            Form::Tn => (a.cols(), b.cols(), a.rows()),
        }
    }
}

fn inner<B>(form: Form, x: &Scaled<'_, B>, first: bool) -> usize {
    match (form, first) {
        (Form::Nt, _) | (Form::Nn, true) => x.cols(),
        _ => x.rows(),
    }
}

/// Types and tiles of the factors; `weight` is the rows of one weight, which parts must divide.
fn factors<B>(
    op: &'static str,
    form: Form,
    a: &Scaled<'_, B>,
    b: &Scaled<'_, B>,
    weight: usize,
) -> Result<(), InvalidOp> {
    ensure(op, "factors must be E4M3", a.codes.dtype() == DType::E4M3 && b.codes.dtype() == DType::E4M3)?;
    match (form, a.tiles, b.tiles) {
        (Form::Nt, Tiles::Row { part }, Tiles::Block { part: rows }) => {
            same(op, "columns of a must be one part", a.cols(), part)?;
            multiple(op, "the number of rows of a weight", weight, "the rows of a part", rows)
        }
        (Form::Nn, Tiles::Row { part }, Tiles::Block { part: rows }) => {
            same(op, "parts of the inner dimension", rows, part)?;
            multiple(op, "the number of rows of a weight", weight, "the rows of a part", rows)
        }
        (Form::Tn, a, b) if a.same_kind(&b) && matches!(a, Tiles::Column | Tiles::Groups { .. }) => Ok(()),
        _ => ensure(op, "these tiles do not go with this form", false),
    }
}

impl<B> Call for GemmFp8<'_, B> {
    const NAME: &'static str = "gemm_fp8";
    fn cost(&self) -> Cost {
        let (m, n, k) = self.dimensions();
        let out = bytes_of_mut(&self.c) * self.out.passes();
        Cost::new(product(&[2, m, n, k]), self.a.bytes() + self.b.bytes() + out)
    }
}

/// One [`GemmFp8`] per group of rows; see [`GroupedGemm`](super::GroupedGemm) for the shapes. The row operands of `Tn`
/// have [`Tiles::Groups`] over the same offsets.
#[non_exhaustive]
pub struct GroupedGemmFp8<'a, B> {
    /// Which factor is transposed.
    pub form: Form,
    /// Number of groups.
    pub groups: usize,
    /// First factor.
    pub a: Scaled<'a, B>,
    /// Second factor.
    pub b: Scaled<'a, B>,
    /// `[1, groups + 1]` u32.
    pub offsets: MatRef<'a, B>,
    /// Result, floating point.
    pub c: MatMut<'a, B>,
    /// Replaces `c`, or adds to it.
    pub out: Out,
}

impl<'a, B> GroupedGemmFp8<'a, B> {
    /// One product per group, which replaces `c`.
    pub fn new(
        form: Form,
        groups: usize,
        a: Scaled<'a, B>,
        b: Scaled<'a, B>,
        offsets: MatRef<'a, B>,
        c: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "grouped_gemm_fp8";
        is_float(OP, &c.as_ref())?;
        is_index(OP, &offsets)?;
        ensure(OP, "needs at least one group", groups > 0)?;
        same(OP, "offsets", groups + 1, offsets.elements())?;
        ensure(OP, "offsets must have no gaps", offsets.is_contiguous())?;
        let call = Self { form, groups, a, b, offsets, c, out: Out::Replace };
        let tn = form == Form::Tn;
        let stacked = if tn { call.c.rows() } else { b.rows() };
        multiple(OP, "the number of rows of the stacked weights", stacked, "the number of groups", groups)?;
        let (n, k) = call.weight();
        factors(OP, form, &a, &b, n)?;
        ensure(OP, "weight gradients need tiles by group", tn == matches!(a.tiles, Tiles::Groups { .. }))?;
        let (rows_in, cols_in) = if tn { (b.rows(), b.cols()) } else { (a.rows(), a.cols()) };
        let (rows_out, cols_out) = if tn { (a.rows(), a.cols()) } else { (call.c.rows(), call.c.cols()) };
        same(OP, "rows of its row operands", rows_in, rows_out)?;
        let (wanted_in, wanted_out) = if form == Form::Nn { (n, k) } else { (k, n) };
        same(OP, "columns of the input rows", wanted_in, cols_in)?;
        same(OP, "columns of the output rows", wanted_out, cols_out)?;
        Ok(call)
    }

    /// The same products, which replace `c` or are added to it.
    pub fn out(mut self, out: Out) -> Self {
        self.out = out;
        self
    }

    /// `(n, k)`: the shape of one group's weight.
    pub fn weight(&self) -> (usize, usize) {
        let (rows, cols) = match self.form {
            Form::Tn => (self.c.rows(), self.c.cols()),
            _ => (self.b.rows(), self.b.cols()),
        };
        (rows / self.groups, cols)
    }

    /// Rows over all groups.
    pub fn rows(&self) -> usize {
        self.a.rows()
    }
}

impl<B> Call for GroupedGemmFp8<'_, B> {
    const NAME: &'static str = "grouped_gemm_fp8";
    fn cost(&self) -> Cost {
        let (n, k) = self.weight();
        let out = bytes_of_mut(&self.c) * self.out.passes();
        Cost::new(product(&[2, self.rows(), n, k]), self.a.bytes() + self.b.bytes() + out)
    }
}
