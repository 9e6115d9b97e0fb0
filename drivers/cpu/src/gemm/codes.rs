//! GEMM operands of E4M3 codes with scales.

use std::ops::Range;
use std::sync::LazyLock;

use fathom_core::device::{Scaled, Tiles};
use fathom_core::fp8::{Code, E4M3, TILE};
use half::bf16;

use super::source::Source;
use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::quantize::{Scale, e4m3};
use crate::simd::{Isa, Level};

/// Which elements share a scale: [`Tiles`] without the groups, each of which is a separate matrix here.
#[derive(Clone, Copy)]
enum Tiling {
    /// Tiles of 1×128, restarting every `part` columns.
    Row { part: usize },
    /// Tiles of 128×1; the first tile's scales are in row `first`.
    Column { first: usize },
    /// Tiles of 128×128, restarting every `part` rows.
    Block { part: usize },
}

/// A block of a matrix of codes with scales.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    codes: Mat<'a, u8>,
    scales: Mat<'a, f32>,
    tiling: Tiling,
    /// Place of the block in the matrix that is tiled.
    row: usize,
    col: usize,
}

impl<'a> Codes<'a> {
    pub(super) fn read(op: &'static str, x: &Scaled<'a, Buffer>) -> Result<Self, CpuError> {
        let tiling = match x.tiles {
            Tiles::Row { part } => Tiling::Row { part },
            Tiles::Column | Tiles::Groups { .. } => Tiling::Column { first: 0 },
            Tiles::Block { part } => Tiling::Block { part },
        };
        Ok(Self { codes: mat::read_bytes(&x.codes), scales: mat::read(op, &x.scales)?, tiling, row: 0, col: 0 })
    }

    /// After how many elements of the inner dimension, which runs along the tiles, these restart; none if never.
    pub(super) fn part(&self) -> Option<usize> {
        match self.tiling {
            Tiling::Row { part } => Some(part),
            _ => None,
        }
    }

    /// Row `r` of codes.
    pub(super) fn row(&self, r: usize) -> &'a [u8] {
        self.codes.row(r)
    }

    /// The scale of the element in row `r` and column `c`.
    #[inline]
    fn scale(&self, r: usize, c: usize) -> f32 {
        let (r, c) = (self.row + r, self.col + c);
        match self.tiling {
            Tiling::Row { part } => self.scales.row(r)[tile(c, part)],
            Tiling::Column { first } => self.scales.row(first + r / TILE)[c],
            Tiling::Block { part } => self.scales.row(tile(r, part))[c / TILE],
        }
    }

    /// The numbers of row `r`.
    fn numbers_of_row(&self, isa: Isa, r: usize, to: &mut [f32]) {
        let codes = self.row(r);
        if let Tiling::Column { .. } = self.tiling {
            let scales = Scale::TimesEach(&self.scales_of_columns(r)[..to.len()]);
            return e4m3::decode(isa, codes, scales, to);
        }
        let part = if let Tiling::Row { part } = self.tiling { part } else { usize::MAX };
        let mut from = 0;
        while from < to.len() {
            let end = from + run(self.col + from, part, to.len() - from);
            let scale = Scale::Times(self.scale(r, from));
            e4m3::decode(isa, &codes[from..end], scale, &mut to[from..end]);
            from = end;
        }
    }

    /// The scales of all elements of row `r`, where each column has its own.
    fn scales_of_columns(&self, r: usize) -> &'a [f32] {
        let first = if let Tiling::Column { first } = self.tiling { first } else { 0 };
        &self.scales.row(first + (self.row + r) / TILE)[self.col..]
    }

    /// The scales of the first elements of row `r`.
    pub(super) fn scales_of_row(&self, r: usize, to: &mut [f32]) {
        match self.tiling {
            Tiling::Column { .. } => to.copy_from_slice(&self.scales_of_columns(r)[..to.len()]),
            Tiling::Row { part } => fill_tiles(self.col, part, to, |c| self.scale(r, c)),
            Tiling::Block { .. } => fill_tiles(self.col, usize::MAX, to, |c| self.scale(r, c)),
        }
    }

    /// The scales of the first elements of column `c`.
    pub(super) fn scales_of_column(&self, c: usize, to: &mut [f32]) {
        match self.tiling {
            Tiling::Row { part } => {
                let tile = tile(self.col + c, part);
                for (r, to) in to.iter_mut().enumerate() {
                    *to = self.scales.row(self.row + r)[tile];
                }
            }
            Tiling::Column { .. } => fill_tiles(self.row, usize::MAX, to, |r| self.scale(r, c)),
            Tiling::Block { part } => fill_tiles(self.row, part, to, |r| self.scale(r, c)),
        }
    }
}

/// The tile that element `at` of a row or column is in, where tiles restart every `part`.
#[inline]
fn tile(at: usize, part: usize) -> usize {
    at / part * part.div_ceil(TILE) + at % part / TILE
}

/// How many of the `left` elements of a row or column from `at` on are in one tile, where tiles restart every `part`.
#[inline]
fn run(at: usize, part: usize, left: usize) -> usize {
    let within = at % part;
    (TILE - within % TILE).min(part - within).min(left)
}

/// Fills `to`, whose first element is number `first` of a row or column, with the scales of its tiles; `scale(i)` is
/// that of element `i` of `to`.
fn fill_tiles(first: usize, part: usize, to: &mut [f32], scale: impl Fn(usize) -> f32) {
    let mut from = 0;
    while from < to.len() {
        let n = run(first + from, part, to.len() - from);
        to[from..from + n].fill(scale(from));
        from += n;
    }
}

/// Made of codes, numbers are what codes and scales stand for, rounded to f32.
impl<'a> Source<f32> for Codes<'a> {
    const MADE: bool = true;

    fn rows(&self) -> usize {
        self.codes.rows()
    }

    fn cols(&self) -> usize {
        self.codes.cols()
    }

    fn block(&self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        let codes = self.codes.block(row, rows, col, cols);
        Self { codes, row: self.row + row, col: self.col + col, ..*self }
    }

    fn group(&self, group: usize, rows: Range<usize>) -> Self {
        let block = self.block(rows.start, rows.len(), 0, self.cols());
        match self.tiling {
            // Tiles restart at the group's first row.
            Tiling::Column { .. } => {
                Self { tiling: Tiling::Column { first: rows.start / TILE + group }, row: 0, ..block }
            }
            _ => block,
        }
    }

    fn numbers<'s>(&self, isa: Isa, to: &'s mut [f32]) -> Mat<'s, f32>
    where
        'a: 's,
    {
        let (rows, cols) = (self.codes.rows(), self.codes.cols());
        let to = &mut to[..rows * cols];
        for (r, line) in to.chunks_exact_mut(cols.max(1)).enumerate() {
            self.numbers_of_row(isa, r, line);
        }
        Mat::new(to, rows, cols, cols)
    }
}

/// The number of every code.
static NUMBERS: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|code| E4M3::decode(code as u16)));

/// The low and the high bytes of the numbers of all codes without a sign, as BF16: which holds them exactly.
static BYTES: LazyLock<[[u8; 128]; 2]> = LazyLock::new(|| {
    let number = |code: usize| bf16::from_f32(NUMBERS[code]).to_bits().to_le_bytes();
    std::array::from_fn(|byte| std::array::from_fn(|code| number(code)[byte]))
});

/// The numbers of codes, scales left aside.
pub(super) fn decode(isa: Isa, codes: &[u8], to: &mut [bf16]) {
    assert_eq!(codes.len(), to.len(), "a number for every code");
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa` holds this level only where the processor was found to have the instructions.
        Level::Avx512Bf16 | Level::Amx => unsafe { avx512(codes, to) },
        _ => {
            for (to, &code) in to.iter_mut().zip(codes) {
                *to = bf16::from_f32(NUMBERS[usize::from(code)]);
            }
        }
    }
}

/// Looks both bytes of 64 numbers up in registers.
///
/// # Safety
/// The processor has the instructions, and `to` is as long as `codes`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn avx512(codes: &[u8], to: &mut [bf16]) {
    use std::arch::x86_64::*;
    // SAFETY: tables are two registers each; masks keep to what is left of both slices.
    unsafe {
        let [low, high] = BYTES.each_ref().map(|t| {
            let t = t.as_ptr();
            [_mm512_loadu_si512(t.cast()), _mm512_loadu_si512(t.add(64).cast())]
        });
        let sign = _mm512_set1_epi8(i8::MIN);
        // Unpacking works inside 128-bit lanes: the first 32 codes go to their low halves.
        let lanes = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        for from in (0..codes.len()).step_by(64) {
            let left = (codes.len() - from).min(64);
            let x = _mm512_maskz_loadu_epi8(u64::MAX >> (64 - left), codes.as_ptr().add(from).cast());
            let x = _mm512_permutexvar_epi64(lanes, x);
            let low = _mm512_permutex2var_epi8(low[0], x, low[1]);
            let high = _mm512_permutex2var_epi8(high[0], x, high[1]);
            let high = _mm512_or_si512(high, _mm512_and_si512(x, sign));
            let to = to.as_mut_ptr().add(from).cast::<i16>();
            let halves = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
            if left == 64 {
                _mm512_storeu_si512(to.cast(), halves[0]);
                _mm512_storeu_si512(to.add(32).cast(), halves[1]);
            } else {
                let mask = u64::MAX >> (64 - left);
                _mm512_mask_storeu_epi16(to, mask as u32, halves[0]);
                _mm512_mask_storeu_epi16(to.wrapping_add(32), (mask >> 32) as u32, halves[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_number_at_every_place() {
        let codes: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        for isa in Isa::all() {
            for n in [0, 1, 31, 32, 33, 63, 64, 65, 128, 300] {
                let mut to = vec![bf16::MAX; n];
                decode(isa, &codes[..n], &mut to);
                for (&code, x) in codes.iter().zip(to) {
                    let want = E4M3::decode(code.into());
                    assert!(x.to_f32().to_bits() == want.to_bits() || x.is_nan() && want.is_nan(), "{code} is {x}");
                }
            }
        }
    }
}
