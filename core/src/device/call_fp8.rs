//! Checked calls over codes with scales.

use super::Form;
use super::call::{Call, Cost, bytes_of, bytes_of_mut, is_float, is_index};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, same};
use crate::fp8::TILE;
use crate::tensor::{MatMut, MatRef};

/// Which elements of a matrix `[m, n]` share a scale.
pub enum Tiles<'a, B> {
    /// 1×128, along the columns; starting anew every `part` columns, where the matrix is several side by side. Scales
    /// `[m, n/part·⌈part/128⌉]`.
    Row {
        /// Columns of a part; `n` for one.
        part: usize,
    },
    /// 128×1, along the rows. Scales `[⌈m/128⌉, n]`.
    Column,
    /// 128×1, starting anew at the first row of every group: group `g` is rows `offsets[g]..offsets[g + 1]`, and its
    /// tile `j` is row `⌊offsets[g]/128⌋ + g + j` of the scales `[⌊m/128⌋ + groups, n]`, of which not all are used.
    /// Offsets must rise from 0 to `m`; a driver clamps others rather than leave its buffers.
    Groups {
        /// `[1, groups + 1]` u32.
        offsets: MatRef<'a, B>,
    },
    /// 128×128; starting anew every `part` rows, where the matrix is several one under the other. Scales
    /// `[m/part·⌈part/128⌉, ⌈n/128⌉]`.
    Block {
        /// Rows of a part; `m` for one.
        part: usize,
    },
}

impl<B> Clone for Tiles<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Tiles<'_, B> {}

impl<B> Tiles<'_, B> {
    /// Rows and columns of the scales of a matrix `[rows, cols]`.
    pub fn scales(&self, rows: usize, cols: usize) -> [usize; 2] {
        match *self {
            Self::Row { part } => [rows, cols / part.max(1) * part.div_ceil(TILE)],
            Self::Column => [rows.div_ceil(TILE), cols],
            Self::Groups { offsets } => [rows / TILE + offsets.elements().saturating_sub(1), cols],
            Self::Block { part } => [rows / part.max(1) * part.div_ceil(TILE), cols.div_ceil(TILE)],
        }
    }

    fn check(&self, op: &'static str, rows: usize, cols: usize) -> Result<(), InvalidOp> {
        match self {
            Self::Row { part } => {
                ensure(op, "a part needs columns", *part > 0)?;
                same(op, "columns must be whole parts", 0, cols % part)
            }
            Self::Block { part } => {
                ensure(op, "a part needs rows", *part > 0)?;
                same(op, "rows must be whole parts", 0, rows % part)
            }
            Self::Column => Ok(()),
            Self::Groups { offsets } => {
                is_index(op, offsets)?;
                ensure(op, "needs at least one group", offsets.elements() > 1)?;
                ensure(op, "offsets must have no gaps", offsets.is_contiguous())
            }
        }
    }

    fn same_kind(&self, other: &Self) -> bool {
        core::mem::discriminant(self) == core::mem::discriminant(other)
    }
}

/// A matrix as codes and scales, to read: an element is its code's number times its tile's scale.
pub struct Scaled<'a, B> {
    /// `[m, n]`, of a type of codes.
    pub codes: MatRef<'a, B>,
    /// F32, of the shape that `tiles` gives.
    pub scales: MatRef<'a, B>,
    /// Which elements share a scale.
    pub tiles: Tiles<'a, B>,
}

impl<B> Clone for Scaled<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Scaled<'_, B> {}

impl<'a, B> Scaled<'a, B> {
    /// Codes with their scales.
    pub fn new(codes: MatRef<'a, B>, scales: MatRef<'a, B>, tiles: Tiles<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "scaled";
        ensure(OP, "codes must be E4M3, E5M2 or E5M6 pairs", codes.dtype().is_code())?;
        ensure(OP, "scales must be F32", scales.dtype() == DType::F32)?;
        let scaled = Self { codes, scales, tiles };
        let (rows, cols) = (scaled.rows(), scaled.cols());
        tiles.check(OP, rows, cols)?;
        let pairs = codes.dtype() == DType::E5M6Pair;
        ensure(OP, "E5M6 is kept in 1x128 tiles of even parts only", {
            !pairs || matches!(tiles, Tiles::Row { part } if part.is_multiple_of(2))
        })?;
        let [r, c] = tiles.scales(rows, cols);
        same(OP, "rows of the scales", r, scales.rows())?;
        same(OP, "columns of the scales", c, scales.cols())?;
        Ok(scaled)
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.codes.rows()
    }

    /// Columns of the matrix: of numbers, where an element of the codes is a pair.
    pub fn cols(&self) -> usize {
        self.codes.cols() * self.codes.dtype().numbers()
    }

    fn bytes(&self) -> u64 {
        bytes_of(&self.codes) + bytes_of(&self.scales)
    }
}

/// A matrix as codes and scales, to write.
pub struct ScaledMut<'a, B> {
    /// `[m, n]`, of a type of codes.
    pub codes: MatMut<'a, B>,
    /// F32, of the shape that `tiles` gives.
    pub scales: MatMut<'a, B>,
    /// Which elements share a scale.
    pub tiles: Tiles<'a, B>,
}

impl<'a, B> ScaledMut<'a, B> {
    /// Codes with their scales.
    pub fn new(codes: MatMut<'a, B>, scales: MatMut<'a, B>, tiles: Tiles<'a, B>) -> Result<Self, InvalidOp> {
        Scaled::new(codes.as_ref(), scales.as_ref(), tiles)?;
        Ok(Self { codes, scales, tiles })
    }

    /// The same to read.
    pub fn as_ref(&self) -> Scaled<'_, B> {
        Scaled { codes: self.codes.as_ref(), scales: self.scales.as_ref(), tiles: self.tiles }
    }
}

/// Encodes a matrix tile by tile ([`fp8::quantize`](crate::fp8::quantize)). The same bits on every device. An element
/// that is NaN or infinite is an error of kind [`NonFinite`](crate::error::ErrorKind::NonFinite), at once or late.
#[non_exhaustive]
pub struct Quantize<'a, B> {
    /// `[m, n]` floating point.
    pub x: MatRef<'a, B>,
    /// Result.
    pub y: ScaledMut<'a, B>,
    /// Round scales up to powers of two.
    pub power_of_two: bool,
}

impl<'a, B> Quantize<'a, B> {
    /// Encodes `x`.
    pub fn new(x: MatRef<'a, B>, y: ScaledMut<'a, B>, power_of_two: bool) -> Result<Self, InvalidOp> {
        const OP: &str = "quantize";
        is_float(OP, &x)?;
        same(OP, "rows of its operands", x.rows(), y.as_ref().rows())?;
        same(OP, "columns of its operands", x.cols(), y.as_ref().cols())?;
        Ok(Self { x, y, power_of_two })
    }
}

impl<B> Call for Quantize<'_, B> {
    const NAME: &'static str = "quantize";
    fn cost(&self) -> Cost {
        Cost::new(3 * self.x.elements() as u64, bytes_of(&self.x) + self.y.as_ref().bytes())
    }
}

/// Decodes a matrix: `y = code · scale` in f32, rounded to the type of `y`. The same bits on every device.
///
/// What was quantised from a number within half a code of f32's largest may decode to infinity.
#[non_exhaustive]
pub struct Dequantize<'a, B> {
    /// `[m, n]`.
    pub x: Scaled<'a, B>,
    /// `[m, n]` floating point.
    pub y: MatMut<'a, B>,
}

impl<'a, B> Dequantize<'a, B> {
    /// Decodes `x`.
    pub fn new(x: Scaled<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "dequantize";
        is_float(OP, &y.as_ref())?;
        same(OP, "rows of its operands", x.rows(), y.rows())?;
        same(OP, "columns of its operands", x.cols(), y.cols())?;
        Ok(Self { x, y })
    }
}

impl<B> Call for Dequantize<'_, B> {
    const NAME: &'static str = "dequantize";
    fn cost(&self) -> Cost {
        Cost::new(self.y.as_ref().elements() as u64, self.x.bytes() + bytes_of_mut(&self.y))
    }
}

/// Decodes a matrix in f32 and encodes it with other tiles: 1×128 → 128×1, for a weight gradient.
#[non_exhaustive]
pub struct Requantize<'a, B> {
    /// `[m, n]`.
    pub x: Scaled<'a, B>,
    /// `[m, n]`.
    pub y: ScaledMut<'a, B>,
    /// Round scales up to powers of two.
    pub power_of_two: bool,
}

impl<'a, B> Requantize<'a, B> {
    /// Encodes `x` anew.
    pub fn new(x: Scaled<'a, B>, y: ScaledMut<'a, B>, power_of_two: bool) -> Result<Self, InvalidOp> {
        const OP: &str = "requantize";
        same(OP, "rows of its operands", x.rows(), y.as_ref().rows())?;
        same(OP, "columns of its operands", x.cols(), y.as_ref().cols())?;
        Ok(Self { x, y, power_of_two })
    }
}

impl<B> Call for Requantize<'_, B> {
    const NAME: &'static str = "requantize";
    fn cost(&self) -> Cost {
        let elements = (self.x.rows() * self.x.cols()) as u64;
        Cost::new(4 * elements, self.x.bytes() + self.y.as_ref().bytes())
    }
}

/// A product of E4M3 matrices with f32 sums, promoted at every tile of the inner dimension:
/// `c[i, j] (+)= Σ_tiles a.scale·b.scale·(Σ_k a.code·b.code)`.
///
/// | form | a | b |
/// |---|---|---|
/// | `Nt` | `[m, k]` 1×128 | `[n, k]` 128×128 |
/// | `Nn` | `[m, k]` 1×128 in parts | `[k, n]` 128×128 in the same parts |
/// | `Tn` | `[k, m]` 128×1 | `[k, n]` 128×1 |
///
/// Products of codes are exact in f32; a sum of `k` products is within `(k + 2)·2⁻²³·Σ|a·b|` of the true one. Sums of 512
/// products and more may be made on tensor cores that keep 14 bits within a tile
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
    /// Add to `c` instead of replacing it.
    pub accumulate: bool,
}

impl<'a, B> GemmFp8<'a, B> {
    /// `c = op(a)·op(b)`, or `c += …` with `accumulate`.
    pub fn new(
        form: Form,
        a: Scaled<'a, B>,
        b: Scaled<'a, B>,
        c: MatMut<'a, B>,
        accumulate: bool,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "gemm_fp8";
        factors(OP, form, &a, &b, b.rows())?;
        ensure(OP, "a plain product has no groups", !matches!(a.tiles, Tiles::Groups { .. }))?;
        is_float(OP, &c.as_ref())?;
        let call = Self { form, a, b, c, accumulate };
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
            same(op, "a weight must be whole parts", 0, weight % rows)
        }
        (Form::Nn, Tiles::Row { part }, Tiles::Block { part: rows }) => {
            same(op, "parts of the inner dimension", rows, part)?;
            same(op, "a weight must be whole parts", 0, weight % rows)
        }
        (Form::Tn, a, b) if a.same_kind(&b) && matches!(a, Tiles::Column | Tiles::Groups { .. }) => Ok(()),
        _ => ensure(op, "these tiles do not go with this form", false),
    }
}

impl<B> Call for GemmFp8<'_, B> {
    const NAME: &'static str = "gemm_fp8";
    fn cost(&self) -> Cost {
        let (m, n, k) = self.dimensions();
        let out = bytes_of_mut(&self.c) * if self.accumulate { 2 } else { 1 };
        Cost::new(2 * m as u64 * n as u64 * k as u64, self.a.bytes() + self.b.bytes() + out)
    }
}

/// One [`GemmFp8`] per group of rows; see [`GroupedGemm`](super::GroupedGemm) for the shapes. The row operands of `Tn`
/// have [`Tiles::Groups`] over the same offsets, and its result is always added to.
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
}

impl<'a, B> GroupedGemmFp8<'a, B> {
    /// One product per group.
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
        let call = Self { form, groups, a, b, offsets, c };
        let tn = form == Form::Tn;
        let stacked = if tn { call.c.rows() } else { b.rows() };
        same(OP, "rows of the stacked weights must divide by the groups", 0, stacked % groups)?;
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
        let out = bytes_of_mut(&self.c) * if self.form == Form::Tn { 2 } else { 1 };
        Cost::new(2 * self.rows() as u64 * n as u64 * k as u64, self.a.bytes() + self.b.bytes() + out)
    }
}
