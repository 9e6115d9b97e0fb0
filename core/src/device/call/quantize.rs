//! FP8 matrices (codes with scales), and the calls that encode and decode them.

use core::ops::Range;

use super::{Call, Cost, bytes_of, bytes_of_mut, is_float, is_index, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, multiple, same};
use crate::fp8::TILE;

/// Which elements of a matrix `[m, n]` share a scale.
pub enum Tiles<'a, B> {
    /// 1×128, along the columns; restarting every `part` columns, where the matrix is several side by side. Scales
    /// `[m, n/part·⌈part/128⌉]`.
    Row {
        /// Columns of a part; `n` for one.
        part: usize,
    },
    /// 128×1, along the rows. Scales `[⌈m/128⌉, n]`.
    Column,
    /// 128×1, restarting at the first row of every group: group `g` is rows `offsets[g]..offsets[g + 1]`, and its
    /// tile `j` is row `⌊offsets[g]/128⌋ + g + j` of the scales `[⌊m/128⌋ + groups, n]`, of which not all are used.
    /// Offsets must rise from 0 to `m`; a driver clamps others rather than leave its buffers.
    Groups {
        /// `[1, groups + 1]` u32.
        offsets: MatRef<'a, B>,
    },
    /// 128×128; restarting every `part` rows, where the matrix is several one under the other. Scales
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
                multiple(op, "the number of columns", cols, "the columns of a part", *part)
            }
            Self::Block { part } => {
                ensure(op, "a part needs rows", *part > 0)?;
                multiple(op, "the number of rows", rows, "the rows of a part", *part)
            }
            Self::Column => Ok(()),
            Self::Groups { offsets } => {
                is_index(op, offsets)?;
                ensure(op, "needs at least one group", offsets.elements() > 1)?;
                ensure(op, "offsets must have no gaps", offsets.is_contiguous())
            }
        }
    }

    pub(super) fn same_kind(&self, other: &Self) -> bool {
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

    /// Some rows of a matrix in 128×128 blocks of one part: they begin where a block does, and end where one or the
    /// matrix does.
    ///
    /// # Errors
    /// Other rows, or other tiles.
    pub fn row_range(self, rows: Range<usize>) -> Result<Self, InvalidOp> {
        const OP: &str = "row_range";
        let blocks = matches!(self.tiles, Tiles::Block { part } if part == self.rows());
        ensure(OP, "only codes in 128x128 blocks of one part are cut by rows", blocks)?;
        multiple(OP, "the first row", rows.start, "the rows of a block", TILE)?;
        let whole = rows.end == self.rows() || rows.end.is_multiple_of(TILE);
        ensure(OP, "rows must end where a block or the matrix does", whole)?;
        let codes = self.codes.row_range(rows.clone())?;
        let scales = self.scales.row_range(rows.start / TILE..rows.end.div_ceil(TILE))?;
        Self::new(codes, scales, Tiles::Block { part: codes.rows() })
    }

    pub(super) fn bytes(&self) -> u64 {
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

    /// The same, lent for a shorter time.
    pub fn reborrow(&mut self) -> ScaledMut<'_, B> {
        ScaledMut { codes: self.codes.reborrow(), scales: self.scales.reborrow(), tiles: self.tiles }
    }
}

/// A matrix as E4M3 codes in 1×128 tiles, in 128×1 tiles, or in both, to write: what a product along its columns and
/// one along its rows read. Each has the bits that [`Quantize`] gives it.
pub struct Encoded<'a, B> {
    /// In [`Tiles::Row`].
    pub rows: Option<ScaledMut<'a, B>>,
    /// In [`Tiles::Column`] or [`Tiles::Groups`].
    pub columns: Option<ScaledMut<'a, B>>,
    /// Round scales up to powers of two.
    pub power_of_two: bool,
}

impl<'a, B> Encoded<'a, B> {
    /// Codes in each of the tilings that are given, of one shape.
    ///
    /// # Errors
    /// No tiling, other tiles, other codes than E4M3, or two shapes.
    pub fn new(
        rows: Option<ScaledMut<'a, B>>,
        columns: Option<ScaledMut<'a, B>>,
        power_of_two: bool,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "encoded";
        ensure(OP, "needs a tiling", rows.is_some() || columns.is_some())?;
        for y in rows.iter().chain(&columns) {
            ensure(OP, "codes must be E4M3", y.codes.dtype() == DType::E4M3)?;
        }
        let along = |y: &ScaledMut<'a, B>| matches!(y.tiles, Tiles::Row { .. });
        let across = |y: &ScaledMut<'a, B>| matches!(y.tiles, Tiles::Column | Tiles::Groups { .. });
        ensure(OP, "rows must be in 1x128 tiles", rows.as_ref().is_none_or(along))?;
        ensure(OP, "columns must be in 128x1 tiles", columns.as_ref().is_none_or(across))?;
        if let (Some(rows), Some(columns)) = (&rows, &columns) {
            same_shape(OP, &rows.codes.as_ref(), &columns.codes.as_ref())?;
        }
        Ok(Self { rows, columns, power_of_two })
    }

    /// Rows and columns of the matrix.
    pub fn shape(&self) -> (usize, usize) {
        let codes = self.rows.as_ref().or(self.columns.as_ref()).map(|y| &y.codes);
        codes.map_or((0, 0), |codes| (codes.rows(), codes.cols()))
    }

    /// The call that quantizes `x` in each of the tilings.
    pub(in crate::device) fn each<'c>(
        &'c mut self,
        x: MatRef<'c, B>,
    ) -> impl Iterator<Item = Result<Quantize<'c, B>, InvalidOp>> {
        let power_of_two = self.power_of_two;
        self.rows.iter_mut().chain(&mut self.columns).map(move |y| Quantize::new(x, y.reborrow(), power_of_two))
    }

    pub(super) fn check(&self, op: &'static str, rows: usize, cols: usize) -> Result<(), InvalidOp> {
        same(op, "rows of its codes", rows, self.shape().0)?;
        same(op, "columns of its codes", cols, self.shape().1)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.rows.iter().chain(&self.columns).map(|y| y.as_ref().bytes()).sum()
    }

    /// Operations of its rounding: for each element and tiling as [`Quantize`].
    pub(super) fn flops(&self) -> u64 {
        let tilings = u64::from(self.rows.is_some()) + u64::from(self.columns.is_some());
        3 * tilings * super::product(&[self.shape().0, self.shape().1])
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

/// Encodes a matrix in 1×128 and in 128×1 tiles from one read: the bits of two [`Quantize`].
///
/// NaN and infinity are an error as there. The scales of both results are then undefined.
#[non_exhaustive]
pub struct QuantizeBoth<'a, B> {
    /// `[m, n]` floating point.
    pub x: MatRef<'a, B>,
    /// `[m, n]`.
    pub y: Encoded<'a, B>,
}

impl<'a, B> QuantizeBoth<'a, B> {
    /// Encodes `x`.
    pub fn new(x: MatRef<'a, B>, y: Encoded<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "quantize_both";
        is_float(OP, &x)?;
        y.check(OP, x.rows(), x.cols())?;
        Ok(Self { x, y })
    }
}

impl<B> Call for QuantizeBoth<'_, B> {
    const NAME: &'static str = "quantize_both";
    fn cost(&self) -> Cost {
        Cost::new(self.y.flops(), bytes_of(&self.x) + self.y.bytes())
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
    /// Requantizes `x` in the tiles of `y`.
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

/// Gathers rows of codes in 1×128 tiles, `index[r] / divisor` into row `r`: what goes to the experts. In 1×128 tiles
/// codes and scales are copied, in 128×1 tiles they are those of [`Requantize`] of the gathered rows.
///
/// An index outside `x` is an error, or reads as zeros on an asynchronous device; NaN is an error as there.
#[non_exhaustive]
pub struct GatherCodes<'a, B> {
    /// `[n, c]` of E4M3, in [`Tiles::Row`].
    pub x: Scaled<'a, B>,
    /// `[m, 1]` u32.
    pub index: MatRef<'a, B>,
    /// What an index is divided by: top-k, where indices count (token, choice) pairs and `x` holds tokens.
    pub divisor: usize,
    /// `[m, c]`, in parts of `x`.
    pub y: Encoded<'a, B>,
}

impl<'a, B> GatherCodes<'a, B> {
    /// Gathers rows of `x`.
    pub fn new(x: Scaled<'a, B>, index: MatRef<'a, B>, divisor: usize, y: Encoded<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "gather_codes";
        is_index(OP, &index)?;
        same(OP, "columns of the index", 1, index.cols())?;
        y.check(OP, index.rows(), x.cols())?;
        ensure(OP, "codes must be E4M3", x.codes.dtype() == DType::E4M3)?;
        let Tiles::Row { part } = x.tiles else { return Err(InvalidOp::plain(OP, "x must be in 1x128 tiles")) };
        let alike = |y: &ScaledMut<'a, B>| matches!(y.tiles, Tiles::Row { part: own } if own == part);
        ensure(OP, "rows must be in the parts of x", y.rows.as_ref().is_none_or(alike))?;
        ensure(OP, "needs a divisor above zero", divisor > 0)?;
        Ok(Self { x, index, divisor, y })
    }
}

impl<B> Call for GatherCodes<'_, B> {
    const NAME: &'static str = "gather_codes";
    fn cost(&self) -> Cost {
        let elements = super::product(&[self.index.rows(), self.x.cols()]);
        let anew = if self.y.columns.is_some() { 4 * elements } else { 0 };
        Cost::new(anew, elements + bytes_of(&self.index) + self.y.bytes())
    }
}
