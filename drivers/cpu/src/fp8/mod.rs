//! Codes with scales: encoding, decoding, and encoding anew with other tiles.
//!
//! The bits are those of [`fathom_core::fp8`]: a largest magnitude, a scale, and for every element one division and one
//! rounding to a code, which [`codes`] does in vectors. A task encodes a block ([`tiling`]) in two passes, the second
//! from the cache.

mod codes;
mod tiling;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use fathom_core::DType;
use fathom_core::device::{Dequantize, Quantize, Requantize, Scaled, ScaledMut};
use fathom_core::error::ErrorKind;
use fathom_core::fp8::{E4M3, E5M2, E5M6, NonFinite, TILE, scale_of};

use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::par::{BLOCK, Blocks, Tile, Tiles};
use crate::real::Real;
use crate::simd::kernel;
use crate::{Cpu, Isa};
use codes::Format;
use tiling::{Group, STRIP, Scales, Shape, Tiling};

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

/// The bits of infinity: the bits of a finite magnitude are below.
const INFINITE: u32 = 0x7f80_0000;

#[inline(always)]
fn magnitude<X: Real>(x: X) -> u32 {
    x.load().to_bits() & 0x7fff_ffff
}

/// The largest magnitude, as bits, which are ordered like the numbers.
#[inline(always)]
fn largest<X: Real>(x: &[X]) -> u32 {
    x.iter().fold(0, |most, &x| most.max(magnitude(x)))
}

/// Stores the codes of `x / scale`.
#[inline(always)]
fn put<C: Format, X: Real>(x: &[X], scale: f32, power_of_two: bool, to: &mut [u8]) {
    if power_of_two {
        // Exact, as the division is.
        let inverse = 1.0 / scale;
        C::put(x, |_, x| x * inverse, to);
    } else {
        C::put(x, |_, x| x / scale, to);
    }
}

kernel! {
    /// Encodes a row of tiles. Gives the first column of a tile that is not all finite, if there is one.
    fn encode_row<C: Format, X: Real>(
        x: &[X],
        part: usize,
        power_of_two: bool,
        scales: &mut [f32],
        to: &mut [u8],
    ) -> Option<usize> {
        let starts = (0..x.len()).step_by(part).flat_map(|p| (p..p + part).step_by(TILE).map(move |at| (at, p + part)));
        for ((at, end), to_scale) in starts.zip(scales) {
            let columns = at..end.min(at + TILE);
            let tile = &x[columns.clone()];
            let most = largest(tile);
            if most >= INFINITE {
                return Some(at);
            }
            let scale = scale_of(f32::from_bits(most), C::MAX, power_of_two);
            *to_scale = scale;
            let to = &mut to[columns.start / C::NUMBERS * C::BYTES..columns.end / C::NUMBERS * C::BYTES];
            put::<C, X>(tile, scale, power_of_two, to);
        }
        None
    }
}

kernel! {
    /// Encodes a block with one scale; gives whether all of it was finite.
    fn encode_whole<C: Format, X: Real>(
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
            put::<C, X>(x.row(r), *scale, power_of_two, to.row(r));
        }
        true
    }
}

kernel! {
    /// Encodes a block of at most [`STRIP`] columns with a scale for each. Gives the first that is not all finite.
    fn encode_columns<C: Format, X: Real>(
        x: &Mat<'_, X>,
        power_of_two: bool,
        scales: &mut [f32],
        to: &mut Tile<'_, u8>,
    ) -> Option<usize> {
        let mut most = [0u32; STRIP];
        for r in 0..x.rows() {
            for (most, &x) in most.iter_mut().zip(x.row(r)) {
                *most = magnitude(x).max(*most);
            }
        }
        let most = &most[..x.cols()];
        if let Some(bad) = most.iter().position(|&m| m >= INFINITE) {
            return Some(bad);
        }
        for (scale, &most) in scales.iter_mut().zip(most) {
            *scale = scale_of(f32::from_bits(most), C::MAX, power_of_two);
        }
        let scales = &scales[..x.cols()];
        for r in 0..x.rows() {
            C::put(x.row(r), |c, x| x / scales[c], to.row(r));
        }
        None
    }
}

kernel! {
    fn decode_one<C: Format, Y: Real>(codes: &[u8], scale: f32, y: &mut [Y]) {
        C::get(codes, |_, x| x * scale, y);
    }
}

kernel! {
    fn decode_each<C: Format, Y: Real>(codes: &[u8], scales: &[f32], y: &mut [Y]) {
        let scales = &scales[..y.len()];
        C::get(codes, |c, x| x * scales[c], y);
    }
}

/// Codes with their scales, to read.
struct Decoder<'a> {
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

    /// Decodes columns `cols` of row `r`.
    fn row<Y: Real>(&self, r: usize, cols: Range<usize>, y: &mut [Y]) {
        let (bytes, numbers) = (self.dtype.size(), self.dtype.numbers());
        let row = self.codes.row(r);
        self.tiling.pieces(r, cols.clone(), &self.scales, |piece, scales| {
            let codes = &row[piece.start / numbers * bytes..piece.end / numbers * bytes];
            let y = &mut y[piece.start - cols.start..piece.end - cols.start];
            with_format!(self.dtype, C => match scales {
                Scales::One(scale) => decode_one::<C, Y>(self.isa, codes, scale, y),
                Scales::Each(scales) => decode_each::<C, Y>(self.isa, codes, scales, y),
            });
        });
    }
}

/// A matrix that can be looked at a block at a time.
trait Source: Sync {
    type Number: Real;

    /// A block, where it lies or in `scratch`.
    fn block<'s>(&'s self, rows: Range<usize>, cols: Range<usize>, scratch: &'s mut [f32]) -> Mat<'s, Self::Number>;
}

impl<X: Real> Source for Mat<'_, X> {
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

impl Cpu {
    pub(crate) fn run_quantize<X: Real>(&self, call: Quantize<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "quantize";
        let x = mat::read::<X>(OP, &call.x)?;
        with_format!(call.y.codes.dtype(), C => self.encode::<C, _>(OP, call.y, call.power_of_two, 0, &x))
    }

    pub(crate) fn run_requantize(&self, call: Requantize<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "requantize";
        let mut groups = self.alloc_f32(3 * Tiling::groups(&call.x.tiles))?;
        let x = Decoder::new(OP, self.isa(), &call.x, as_groups(&mut groups))?;
        let scratch = BLOCK.max(call.x.cols());
        with_format!(call.y.codes.dtype(), C => self.encode::<C, _>(OP, call.y, call.power_of_two, scratch, &x))
    }

    pub(crate) fn run_dequantize<Y: Real>(&self, call: Dequantize<'_, Buffer>) -> Result<(), CpuError> {
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
                Shape::Rows { part } => (0..x.rows()).find_map(|r| {
                    let column =
                        encode_row::<C, S::Number>(isa, x.row(r), part, power_of_two, scales.row(r), codes.row(r));
                    Some((r, column?))
                }),
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
        match bad.into_inner() {
            usize::MAX => Ok(()),
            at => {
                let (row, col) = (at / cols, at % cols);
                let problem = format!("{op}: the tile at row {row}, column {col}: {NonFinite}");
                Err(CpuError::new(ErrorKind::NonFinite, problem))
            }
        }
    }
}

fn as_groups(scratch: &mut Buffer) -> &mut [Group] {
    bytemuck::cast_slice_mut(scratch.elements_mut::<u32>())
}
