//! Quantization to FP8 codes with scales, dequantization, and requantization in other tiles.
//!
//! The bits are those of [`fathom_core::fp8`]: a largest magnitude, a scale, and for every element one division and one
//! rounding to a code, which [`codes`] does in vectors. A task encodes a block ([`tiling`]) in two passes, the second
//! from the cache.

mod both;
mod codes;
pub(crate) mod e4m3;
mod scale;
mod tiling;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use fathom_core::DType;
use fathom_core::device::{Dequantize, GatherCodes, GatherRows, Quantize, Requantize, Scaled, ScaledMut};
use fathom_core::error::ErrorKind;
use fathom_core::fp8::{E4M3, E5M2, E5M6, NonFinite, TILE, scale_of};
use half::bf16;

use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::par::{BLOCK, Blocks, Tile, Tiles};
use crate::real::{Real, typed};
use crate::simd::kernel;
use crate::{Cpu, Isa};
use codes::Format;
pub(crate) use scale::Scale;
use tiling::{Group, STRIP, Shape, Tiling};

/// `$body` with `$C` as the format of codes of type `$dtype`, which a call has checked.
macro_rules! with_format {
    ($dtype:expr, $C:ident => $body:expr) => {
        match $dtype {
            DType::E4M3 => {
                type $C = E4M3;
                $body
            }
            DType::E5M2 => {
                type $C = E5M2;
                $body
            }
            _ => {
                type $C = E5M6;
                $body
            }
        }
    };
}

/// The bits of infinity in f32: those of a finite magnitude are below.
const INFINITE: u32 = 0x7f80_0000;

/// A type of numbers to encode. Magnitudes are ordered like their bits, which a BF16 has half as many of.
pub(crate) trait Magnitude: Real {
    type Bits: Ord + Copy + Default;

    /// Its bits but for the sign.
    fn magnitude(self) -> Self::Bits;

    /// The same in f32.
    fn widen(bits: Self::Bits) -> u32;
}

impl Magnitude for f32 {
    type Bits = u32;

    #[inline(always)]
    fn magnitude(self) -> u32 {
        self.to_bits() & 0x7fff_ffff
    }

    #[inline(always)]
    fn widen(bits: u32) -> u32 {
        bits
    }
}

impl Magnitude for bf16 {
    type Bits = u16;

    #[inline(always)]
    fn magnitude(self) -> u16 {
        self.to_bits() & 0x7fff
    }

    #[inline(always)]
    fn widen(bits: u16) -> u32 {
        u32::from(bits) << 16
    }
}

/// The largest magnitude, as bits of f32.
#[inline(always)]
fn largest<X: Magnitude>(x: &[X]) -> u32 {
    X::widen(x.iter().fold(X::Bits::default(), |most, &x| most.max(x.magnitude())))
}

/// Where the tiles of a row start and end.
#[inline(always)]
fn tiles(cols: usize, part: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = (0..cols).step_by(part);
    parts.flat_map(move |first| (first..first + part).step_by(TILE).map(move |at| (at, (at + TILE).min(first + part))))
}

/// What numbers are divided by to be encoded. By a power of two they may be multiplied instead, which is as exact.
#[inline(always)]
fn over<'a>(scale: f32, power_of_two: bool) -> Scale<'a> {
    if power_of_two { Scale::Times(1.0 / scale) } else { Scale::Over(scale) }
}

kernel! {
    /// Encodes tiles along rows. Gives the place of the first that is not all finite, if there is one.
    ///
    /// Goes over the block once for the magnitudes and once for the codes, so that no tile waits for its own scale.
    fn encode_rows<C: Format, X: Magnitude>(
        x: &Mat<'_, X>,
        part: usize,
        power_of_two: bool,
        scales: &mut Tile<'_, f32>,
        to: &mut Tile<'_, u8>,
    ) -> Option<(usize, usize)> {
        for r in 0..x.rows() {
            let row = x.row(r);
            for ((at, end), scale) in tiles(row.len(), part).zip(scales.row(r)) {
                let most = largest(&row[at..end]);
                if most >= INFINITE {
                    return Some((r, at));
                }
                *scale = f32::from_bits(most);
            }
        }
        for r in 0..x.rows() {
            for scale in scales.row(r) {
                *scale = scale_of(*scale, C::MAX, power_of_two);
            }
        }
        for r in 0..x.rows() {
            let (row, to) = (x.row(r), to.row(r));
            for ((at, end), &mut scale) in tiles(row.len(), part).zip(scales.row(r)) {
                let to = &mut to[at / C::NUMBERS * C::BYTES..end / C::NUMBERS * C::BYTES];
                C::put(&row[at..end], over(scale, power_of_two), to);
            }
        }
        None
    }
}

kernel! {
    /// Encodes a block with one scale; gives whether all of it was finite.
    fn encode_whole<C: Format, X: Magnitude>(
        x: &Mat<'_, X>,
        power_of_two: bool,
        scale: &mut f32,
        to: &mut Tile<'_, u8>,
    ) -> bool {
        let most = (0..x.rows()).fold(0, |most, r| most.max(largest(x.row(r))));
        if most >= INFINITE {
            return false;
        }
        *scale = scale_of(f32::from_bits(most), C::MAX, power_of_two);
        for r in 0..x.rows() {
            C::put(x.row(r), over(*scale, power_of_two), to.row(r));
        }
        true
    }
}

kernel! {
    /// Encodes a block of at most [`STRIP`] columns with a scale for each. Gives the first that is not all finite.
    fn encode_columns<C: Format, X: Magnitude>(
        x: &Mat<'_, X>,
        power_of_two: bool,
        scales: &mut [f32],
        to: &mut Tile<'_, u8>,
    ) -> Option<usize> {
        let mut most = [X::Bits::default(); STRIP];
        for r in 0..x.rows() {
            for (most, &x) in most.iter_mut().zip(x.row(r)) {
                *most = x.magnitude().max(*most);
            }
        }
        let most = &most[..x.cols()];
        if let Some(bad) = most.iter().position(|&m| X::widen(m) >= INFINITE) {
            return Some(bad);
        }
        for (scale, &most) in scales.iter_mut().zip(most) {
            *scale = scale_of(f32::from_bits(X::widen(most)), C::MAX, power_of_two);
        }
        let scales = &scales[..x.cols()];
        for r in 0..x.rows() {
            C::put(x.row(r), Scale::OverEach(scales), to.row(r));
        }
        None
    }
}

/// Codes with their scales, to read.
pub(crate) struct Decoder<'a> {
    isa: Isa,
    dtype: DType,
    codes: Mat<'a, u8>,
    scales: Mat<'a, f32>,
    tiling: Tiling<'a>,
}

impl<'a> Decoder<'a> {
    fn new(op: &'static str, isa: Isa, x: &Scaled<'a, Buffer>, groups: &'a mut [Group]) -> Result<Self, CpuError> {
        let tiling = Tiling::new(op, &x.tiles, (x.rows(), x.cols()), groups)?;
        let scales = mat::read::<f32>(op, &x.scales)?;
        Ok(Self { isa, dtype: x.codes.dtype(), codes: mat::read_bytes(&x.codes), scales, tiling })
    }

    /// Codes whose tiles are those of no groups.
    pub(crate) fn ungrouped(op: &'static str, isa: Isa, x: &Scaled<'a, Buffer>) -> Result<Self, CpuError> {
        Self::new(op, isa, x, &mut [])
    }

    /// Decodes columns `cols` of row `r`.
    pub(crate) fn row<Y: Real>(&self, r: usize, cols: Range<usize>, y: &mut [Y]) {
        let (bytes, numbers) = (self.dtype.size(), self.dtype.numbers());
        let row = self.codes.row(r);
        self.tiling.pieces(r, cols.clone(), &self.scales, |piece, scale| {
            let codes = &row[piece.start / numbers * bytes..piece.end / numbers * bytes];
            let y = &mut y[piece.start - cols.start..piece.end - cols.start];
            with_format!(self.dtype, C => C::get::<Y>(self.isa, codes, scale, y));
        });
    }
}

/// Scratch for a block of numbers of type `X` of a [`Source`] of `cols` columns, as a count of f32.
pub(crate) fn scratch<X>(cols: usize) -> usize {
    (BLOCK.max(TILE * STRIP).max(cols) * size_of::<X>()).div_ceil(size_of::<f32>())
}

/// A matrix that can be looked at a block at a time.
pub(crate) trait Source: Sync {
    type Number: Magnitude;

    /// A block, where it lies or in `scratch`.
    fn block<'s>(&'s self, rows: Range<usize>, cols: Range<usize>, scratch: &'s mut [f32]) -> Mat<'s, Self::Number>;
}

impl<X: Magnitude> Source for Mat<'_, X> {
    type Number = X;

    fn block<'s>(&'s self, rows: Range<usize>, cols: Range<usize>, _: &'s mut [f32]) -> Mat<'s, X> {
        Mat::block(self, rows.start, rows.len(), cols.start, cols.len())
    }
}

impl Source for Decoder<'_> {
    type Number = f32;

    fn block<'s>(&'s self, rows: Range<usize>, cols: Range<usize>, scratch: &'s mut [f32]) -> Mat<'s, f32> {
        let (height, width) = (rows.len(), cols.len());
        let decoded = &mut scratch[..height * width];
        for (r, line) in rows.zip(decoded.chunks_exact_mut(width.max(1))) {
            // What belongs to no group is nothing.
            line.fill(0.0);
            self.row(r, cols.clone(), line);
        }
        Mat::new(decoded, height, width, width)
    }
}

/// Rows of codes, `index[r] / divisor` for row `r`.
struct Gathered<'a> {
    x: Decoder<'a>,
    index: Mat<'a, u32>,
    divisor: usize,
}

impl Source for Gathered<'_> {
    type Number = f32;

    fn block<'s>(&'s self, rows: Range<usize>, cols: Range<usize>, scratch: &'s mut [f32]) -> Mat<'s, f32> {
        let (height, width) = (rows.len(), cols.len());
        let decoded = &mut scratch[..height * width];
        for (r, line) in rows.zip(decoded.chunks_exact_mut(width.max(1))) {
            self.x.row(self.index.row(r)[0] as usize / self.divisor, cols.clone(), line);
        }
        Mat::new(decoded, height, width, width)
    }
}

typed! {
    quantize: Quantize[x] => run_quantize,
    dequantize: Dequantize[y] => run_dequantize,
}

impl Cpu {
    fn run_quantize<X: Magnitude>(&self, call: Quantize<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "quantize";
        let x = mat::read::<X>(OP, &call.x)?;
        with_format!(call.y.codes.dtype(), C => self.encode::<C, _>(OP, call.y, call.power_of_two, 0, &x))
    }

    pub(crate) fn gather_codes(&self, call: GatherCodes<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gather_codes";
        let (index, y) = (mat::read::<u32>(OP, &call.index)?, call.y);
        if let Some(rows) = y.rows {
            let gather = |x, y| GatherRows::new(x, call.index, call.divisor, y);
            self.gather_rows(gather(call.x.codes, rows.codes)?)?;
            self.gather_rows(gather(call.x.scales, rows.scales)?)?;
        }
        let Some(columns) = y.columns else { return Ok(()) };
        mat::check_index(OP, &index, call.x.rows().saturating_mul(call.divisor))?;
        let x = Gathered { x: Decoder::ungrouped(OP, self.isa(), &call.x)?, index, divisor: call.divisor };
        self.encode::<E4M3, _>(OP, columns, y.power_of_two, scratch::<f32>(call.x.cols()), &x)
    }

    pub(crate) fn requantize(&self, call: Requantize<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "requantize";
        let mut groups = self.alloc_f32(3 * Tiling::groups(&call.x.tiles))?;
        let x = Decoder::new(OP, self.isa(), &call.x, as_groups(&mut groups))?;
        let scratch = scratch::<f32>(call.x.cols());
        with_format!(call.y.codes.dtype(), C => self.encode::<C, _>(OP, call.y, call.power_of_two, scratch, &x))
    }

    fn run_dequantize<Y: Real>(&self, call: Dequantize<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "dequantize";
        let mut groups = self.alloc_f32(3 * Tiling::groups(&call.x.tiles))?;
        let x = Decoder::new(OP, self.isa(), &call.x, as_groups(&mut groups))?;
        let y = mat::write::<Y>(OP, call.y)?;
        self.for_each(y.rows() * y.cols() / 4, Tiles::of_rows(y), |_, mut y| {
            let cols = y.cols();
            y.for_rows(|r, row| x.row(r, 0..cols, row));
        });
        Ok(())
    }

    /// Encodes `x`, whose blocks take `scratch` numbers of scratch.
    fn encode<C: Format, S: Source>(
        &self,
        op: &'static str,
        y: ScaledMut<'_, Buffer>,
        power_of_two: bool,
        scratch: usize,
        x: &S,
    ) -> Result<(), CpuError> {
        let (rows, cols, isa) = (y.as_ref().rows(), y.as_ref().cols(), self.isa());
        let mut groups = self.alloc_f32(3 * Tiling::groups(&y.tiles))?;
        let tiling = Tiling::new(op, &y.tiles, (rows, cols), as_groups(&mut groups))?;
        let code_place = |i: usize| {
            let b = tiling.block(i);
            let bytes = |cols: usize| cols / C::NUMBERS * C::BYTES;
            [b.rows.start, b.rows.len(), bytes(b.cols.start), bytes(b.cols.len())]
        };
        let (codes, scales) = (mat::write_bytes(y.codes), mat::write::<f32>(op, y.scales)?);
        // SAFETY: different blocks of a tiling share neither elements nor scales.
        let parts = unsafe {
            let codes = Blocks::new(codes, tiling.blocks(), code_place);
            (codes, Blocks::new(scales, tiling.blocks(), |i| tiling.block(i).scales))
        };
        // The first tile that is not all finite: the same on any number of threads.
        let bad = AtomicUsize::new(usize::MAX);
        self.for_each_with(rows * cols, scratch, parts, |i, (mut codes, mut scales), scratch| {
            let place = tiling.block(i);
            let (first, left) = (place.rows.start, place.cols.start);
            let x = x.block(place.rows, place.cols, scratch);
            let found = match place.shape {
                Shape::Rows { part } => {
                    encode_rows::<C, S::Number>(isa, &x, part, power_of_two, &mut scales, &mut codes)
                }
                Shape::Columns => encode_columns::<C, S::Number>(isa, &x, power_of_two, scales.row(0), &mut codes)
                    .map(|column| (0, column)),
                Shape::Whole => {
                    let finite = encode_whole::<C, S::Number>(isa, &x, power_of_two, &mut scales.row(0)[0], &mut codes);
                    (!finite).then_some((0, 0))
                }
            };
            if let Some((r, c)) = found {
                bad.fetch_min((first + r) * cols + left + c, Ordering::Relaxed);
            }
        })?;
        all_finite(op, bad, cols)
    }
}

/// The error for the element `bad` of a matrix of `cols` columns, if there is one.
fn all_finite(op: &'static str, bad: AtomicUsize, cols: usize) -> Result<(), CpuError> {
    match bad.into_inner() {
        usize::MAX => Ok(()),
        at => {
            let (row, col) = (at / cols, at % cols);
            let problem = format!("{op}: the tile at row {row}, column {col}: {NonFinite}");
            Err(CpuError::new(ErrorKind::NonFinite, problem))
        }
    }
}

fn as_groups(scratch: &mut Buffer) -> &mut [Group] {
    bytemuck::cast_slice_mut(scratch.elements_mut::<u32>())
}
