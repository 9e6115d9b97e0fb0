//! Dot products of a few rows of activations with the rows of a weight, which is widened in registers.

use fathom_core::fp8::{Code, E4M3};
use half::bf16;

use crate::mat::Mat;
use crate::simd::{Isa, Level};

/// The most rows of activations that are multiplied with a weight at once.
pub(super) const ROWS: usize = 8;

/// The rows of activations that are multiplied at once with these instructions: as many as registers hold.
pub(super) fn rows(isa: Isa) -> usize {
    match isa.level() {
        Level::Any => 1,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 4,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 => ROWS,
    }
}

/// A type that weights are stored in.
pub(super) trait Stored: bytemuck::Pod + Send + Sync {
    /// What a widened element must be multiplied by to give its number.
    const FACTOR: f32 = 1.0;

    /// The element in f32, over [`FACTOR`](Self::FACTOR).
    fn widen(self) -> f32;

    /// Eight elements from `at` on.
    ///
    /// # Safety
    /// The processor has the instructions, and the elements can be read.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_8(at: *const Self) -> std::arch::x86_64::__m256;

    /// The elements from `at` on that `mask` has a bit for; zeros for the others.
    ///
    /// # Safety
    /// The processor has the instructions, and those elements can be read.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512;
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_8(at: *const Self) -> std::arch::x86_64::__m256 {
        // SAFETY: the caller's premise.
        unsafe { std::arch::x86_64::_mm256_loadu_ps(at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's premise.
        unsafe { std::arch::x86_64::_mm512_maskz_loadu_ps(mask, at) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_8(at: *const Self) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        let x = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        let x = unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
    }
}

/// E4M3. As the upper bits of an f16, whose exponent has a bit more, a code is its number over 256, also below the
/// normal range; and processors widen f16. The codes of NaN are widened to ±480.
impl Stored for u8 {
    const FACTOR: f32 = 256.0;

    #[inline(always)]
    fn widen(self) -> f32 {
        let number = E4M3::decode(self.into());
        if number.is_nan() { if self < 128 { 1.875 } else { -1.875 } } else { number / Self::FACTOR }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_8(at: *const Self) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        let x = unsafe { _mm_loadl_epi64(at.cast()) };
        // The sign fills bits 7 to 15; shifted, it is in bit 15, and in bit 14, which is cleared.
        let x = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(x));
        _mm256_cvtph_ps(_mm_and_si128(x, _mm_set1_epi16(0xbfff_u16 as i16)))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        let x = unsafe { _mm_maskz_loadu_epi8(mask, at.cast()) };
        let x = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(x));
        _mm512_cvtph_ps(_mm256_and_si256(x, _mm256_set1_epi16(0xbfff_u16 as i16)))
    }
}

/// What one call of [`Dots`] multiplies.
struct Operands<W> {
    k: usize,
    /// First row of activations, and numbers from one to the next.
    x: (*const f32, usize),
    /// First row of the weight, and elements from one to the next.
    w: (*const W, usize),
    /// Where the sum of the first rows goes, and numbers from one row of activations to the next.
    sums: (*mut f32, usize),
}

/// Multiplies a fixed number of rows of activations and of the weight.
///
/// # Safety
/// The processor has the instructions the function was compiled for; `k` elements of all rows can be read, and all
/// sums be written.
type Dots<W> = unsafe fn(&Operands<W>);

/// `sums[r, j] = Σ_k x[r, k]·w[j, k]`, one row of sums after the other.
pub(super) fn dots<W: Stored>(isa: Isa, x: &Mat<'_, f32>, w: &Mat<'_, W>, sums: &mut [f32]) {
    let (m, n, k) = (x.rows(), w.rows(), x.cols());
    assert!(w.cols() == k && sums.len() == m * n && m <= rows(isa), "sums of the operands' shape");
    if m * n * k == 0 {
        return sums.fill(0.0);
    }
    let (x_first, w_first) = (x.as_slice().as_ptr(), w.as_slice().as_ptr());
    let (f, at_once, one): (Dots<W>, usize, Dots<W>) = match isa.level() {
        Level::Any => (any::<W>, 1, any::<W>),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::table(m),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 => avx512::table(m),
    };
    let mut run = |f: Dots<W>, j: usize| {
        let operands = Operands {
            k,
            x: (x_first, x.stride()),
            w: (w_first.wrapping_add(j * w.stride()), w.stride()),
            sums: (sums.as_mut_ptr().wrapping_add(j), n),
        };
        // SAFETY: the functions are for the instructions of `isa` and for `m` rows of activations; both matrices lie
        // inside their memory, rows `j..` up to `n` among them, and `sums` has a place for each pair of rows.
        unsafe { f(&operands) };
    };
    let whole = n / at_once * at_once;
    for j in (0..whole).step_by(at_once) {
        run(f, j);
    }
    for j in whole..n {
        run(one, j);
    }
}

/// See [`Dots`]: one row of each, eight chains.
///
/// # Safety
/// That of [`Dots`].
unsafe fn any<W: Stored>(o: &Operands<W>) {
    // SAFETY: the caller's premise.
    let (x, w) = unsafe { (std::slice::from_raw_parts(o.x.0, o.k), std::slice::from_raw_parts(o.w.0, o.k)) };
    let mut lanes = [0.0f32; 8];
    for (x, w) in x.chunks(8).zip(w.chunks(8)) {
        for ((lane, &x), &w) in lanes.iter_mut().zip(x).zip(w) {
            *lane += x * w.widen();
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    // SAFETY: the caller's premise.
    unsafe { *o.sums.0 = ((a + e) + (c + g)) + ((b + f) + (d + h)) };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Dots, Operands, Stored};
    use std::arch::x86_64::*;

    /// For `m` rows of activations: the function, how many rows of the weight it takes, and that for one row.
    pub(super) fn table<W: Stored>(m: usize) -> (Dots<W>, usize, Dots<W>) {
        match m {
            1 => (run::<W, 1, 8>, 8, run::<W, 1, 1>),
            2 => (run::<W, 2, 4>, 4, run::<W, 2, 1>),
            3 => (run::<W, 3, 4>, 4, run::<W, 3, 1>),
            4 => (run::<W, 4, 4>, 4, run::<W, 4, 1>),
            5 => (run::<W, 5, 2>, 2, run::<W, 5, 1>),
            6 => (run::<W, 6, 2>, 2, run::<W, 6, 1>),
            7 => (run::<W, 7, 2>, 2, run::<W, 7, 1>),
            _ => (run::<W, 8, 2>, 2, run::<W, 8, 1>),
        }
    }

    /// # Safety
    /// That of [`Dots`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn run<W: Stored, const R: usize, const N: usize>(o: &Operands<W>) {
        let mut sums = [[_mm512_setzero_ps(); N]; R];
        let whole = o.k / 16 * 16;
        for at in (0..whole).step_by(16) {
            // SAFETY: the caller's premise: 16 elements from `at` on are in every row.
            unsafe { step(o, at, u16::MAX, &mut sums) };
        }
        if whole < o.k {
            // SAFETY: the caller's premise: the mask keeps to the elements that are left of every row.
            unsafe { step(o, whole, u16::MAX >> (16 - (o.k - whole)), &mut sums) };
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                // SAFETY: the caller's premise.
                unsafe { *o.sums.0.add(r * o.sums.1 + j) = total(sum) };
            }
        }
    }

    /// Adds the products of the elements from `at` on that `mask` has a bit for.
    ///
    /// # Safety
    /// The processor has the instructions, and those elements can be read.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn step<W: Stored, const R: usize, const N: usize>(
        o: &Operands<W>,
        at: usize,
        mask: u16,
        sums: &mut [[__m512; N]; R],
    ) {
        // SAFETY: the caller's premise.
        unsafe {
            let mut w = [_mm512_setzero_ps(); N];
            for (j, w) in w.iter_mut().enumerate() {
                let from = o.w.0.add(j * o.w.1 + at);
                // The rows that come next. A prefetch of any address is harmless.
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(N * o.w.1).cast());
                *w = W::load_16(from, mask);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_maskz_loadu_ps(mask, o.x.0.add(r * o.x.1 + at));
                for (sum, &w) in sums.iter_mut().zip(&w) {
                    *sum = _mm512_fmadd_ps(x, w, *sum);
                }
            }
        }
    }

    /// The sum of the lanes: always halves added to halves.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn total(x: __m512) -> f32 {
        super::avx2::total(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Dots, Operands, Stored};
    use std::arch::x86_64::*;

    /// As for AVX-512, with half as many registers.
    pub(super) fn table<W: Stored>(m: usize) -> (Dots<W>, usize, Dots<W>) {
        match m {
            1 => (run::<W, 1, 8>, 8, run::<W, 1, 1>),
            2 => (run::<W, 2, 4>, 4, run::<W, 2, 1>),
            3 => (run::<W, 3, 2>, 2, run::<W, 3, 1>),
            _ => (run::<W, 4, 2>, 2, run::<W, 4, 1>),
        }
    }

    /// # Safety
    /// That of [`Dots`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run<W: Stored, const R: usize, const N: usize>(o: &Operands<W>) {
        let mut sums = [[_mm256_setzero_ps(); N]; R];
        let whole = o.k / 8 * 8;
        for at in (0..whole).step_by(8) {
            // SAFETY: the caller's premise: eight elements from `at` on are in every row.
            unsafe {
                let mut w = [_mm256_setzero_ps(); N];
                for (j, w) in w.iter_mut().enumerate() {
                    let from = o.w.0.add(j * o.w.1 + at);
                    // The rows that come next. A prefetch of any address is harmless.
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(N * o.w.1).cast());
                    *w = W::load_8(from);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_loadu_ps(o.x.0.add(r * o.x.1 + at));
                    for (sum, &w) in sums.iter_mut().zip(&w) {
                        *sum = _mm256_fmadd_ps(x, w, *sum);
                    }
                }
            }
        }
        if whole < o.k {
            let left = o.k - whole;
            for (r, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let (mut x, mut w) = ([0.0; 8], [0.0; 8]);
                    for i in 0..left {
                        // SAFETY: the caller's premise: `left` elements from `whole` on are in every row.
                        unsafe {
                            x[i] = *o.x.0.add(r * o.x.1 + whole + i);
                            w[i] = (*o.w.0.add(j * o.w.1 + whole + i)).widen();
                        }
                    }
                    // SAFETY: both hold eight numbers.
                    let (x, w) = unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(w.as_ptr())) };
                    *sum = _mm256_fmadd_ps(x, w, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                // SAFETY: the caller's premise.
                unsafe { *o.sums.0.add(r * o.sums.1 + j) = total(sum) };
            }
        }
    }

    /// The sum of the lanes: always halves added to halves.
    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn total(x: __m256) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
}
