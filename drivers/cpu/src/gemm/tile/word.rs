//! Words of GEMM operands: one F32 number, or a pair of BF16 numbers.

use bytemuck::Pod;
use half::bf16;

use super::Target;
use crate::mat::Mat;
use crate::real::Real;
use crate::simd::{Isa, Level};

/// The unit of a factor: one F32 number, or two BF16 numbers that follow each other along the inner dimension. 32 bits
/// either way, so that both are laid out, copied and transposed by the same code, and tiles of both have one shape.
///
/// Where the inner dimension is odd, the second number of its last pair is zero in both factors.
pub(crate) trait Unit: Pod + Send + Sync {
    /// Type of the numbers in a word.
    type Number: Real;
    /// Number of numbers in a word.
    const NUMBERS: usize;
    /// Rows of the left factor that are made or packed at once where they must be: a multiple of every tile's rows.
    const ROWS: usize;
    /// Maximum columns of a task's block: with [`depth`](crate::gemm::depth) their packed numbers fill a quarter of an
    /// L2 cache of 1 MiB, or half of one of 512 KiB, as many processors without AVX-512 have.
    fn cols(isa: Isa) -> usize;

    /// A word of two numbers of a column, one after the other. A word of one number leaves the second out.
    fn join(first: Self::Number, second: Self::Number) -> Self;

    /// `sum + a·b`, over the numbers of the words.
    fn multiply_add(self, b: Self, sum: f32) -> f32;

    /// The rows of `a` as rows of words, where its memory can be read so.
    fn words<'a>(a: &Mat<'a, Self::Number>) -> Option<Mat<'a, Self>>;

    /// Writes the columns of `a` as rows of words, `stride` apart, where tiles read no others.
    fn turn(_isa: Isa, _a: &Mat<'_, Self::Number>, _stride: usize, _to: &mut [Self]) -> bool {
        false
    }

    /// Writes the rows of `a` as the lines of panels of `R` columns, zeros past the last, if there is a quicker way to
    /// than joining words one by one. Returns the distance of lines, at least `R`.
    fn join_rows<const R: usize>(_isa: Isa, _a: &Mat<'_, Self::Number>, _to: &mut [Self]) -> Option<usize> {
        None
    }
}

impl Unit for f32 {
    type Number = f32;
    const NUMBERS: usize = 1;
    const ROWS: usize = 96;

    fn cols(isa: Isa) -> usize {
        65_536 / crate::gemm::depth(isa)
    }

    #[inline(always)]
    fn join(first: f32, _: f32) -> f32 {
        first
    }

    #[inline(always)]
    fn multiply_add(self, b: f32, sum: f32) -> f32 {
        sum + self * b
    }

    fn words<'a>(a: &Mat<'a, f32>) -> Option<Mat<'a, f32>> {
        Some(*a)
    }
}

/// A pair of BF16, the first in the low half.
impl Unit for u32 {
    type Number = bf16;
    const NUMBERS: usize = 2;
    const ROWS: usize = 192;

    fn cols(isa: Isa) -> usize {
        131_072 / crate::gemm::depth(isa)
    }

    #[inline(always)]
    fn join(first: bf16, second: bf16) -> u32 {
        u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
    }

    #[inline(always)]
    fn multiply_add(self, b: u32, sum: f32) -> f32 {
        let (first, second) = (|x: u32| f32::from_bits(x << 16), |x: u32| f32::from_bits(x & 0xffff_0000));
        sum + first(self) * first(b) + second(self) * second(b)
    }

    fn words<'a>(a: &Mat<'a, bf16>) -> Option<Mat<'a, u32>> {
        let even = a.cols().is_multiple_of(2) && (a.stride().is_multiple_of(2) || a.rows() < 2);
        let numbers = a.as_slice();
        let words = bytemuck::try_cast_slice(&numbers[..numbers.len() & !1]).ok()?;
        even.then(|| Mat::new(words, a.rows(), a.cols() / 2, a.stride() / 2))
    }

    #[cfg(target_arch = "x86_64")]
    fn turn(isa: Isa, a: &Mat<'_, bf16>, stride: usize, to: &mut [u32]) -> bool {
        if isa.has_amx() {
            // SAFETY: the processor has the instructions.
            unsafe { crate::gemm::join::turn(a, stride, to) };
        }
        isa.has_amx()
    }

    fn join_rows<const R: usize>(isa: Isa, a: &Mat<'_, bf16>, to: &mut [u32]) -> Option<usize> {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 | Level::Amx => {
                let (panels, lines, pitch) = (a.cols().div_ceil(R), a.rows().div_ceil(2), crate::gemm::join::pitch(R));
                assert!(to.len() >= panels * lines * pitch, "panels for every column");
                // SAFETY: `Isa` holds this level only where the processor was found to have the instructions; the
                // premise on room was checked.
                unsafe { crate::gemm::join::avx512::<R>(a, to) };
                Some(pitch)
            }
            _ => None,
        }
    }
}

/// Whether numbers of BF16 are multiplied in pairs here; elsewhere they are made f32 first.
pub(crate) fn has_pairs(isa: Isa) -> bool {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 | Level::Amx => true,
        _ => false,
    }
}

/// The type of a result.
pub(crate) trait Output: Real {
    /// Whether sums are rounded when they are stored.
    const ROUNDS: bool;

    /// The place of a result.
    fn target(c: *mut Self) -> Target;
}

impl Output for f32 {
    const ROUNDS: bool = false;

    fn target(c: *mut f32) -> Target {
        Target::F32(c)
    }
}

impl Output for bf16 {
    const ROUNDS: bool = true;

    fn target(c: *mut bf16) -> Target {
        Target::BF16(c)
    }
}
