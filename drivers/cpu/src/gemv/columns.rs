//! Sums of the rows of a weight, each times a number: products with a weight that is not transposed.

use super::dots::Stored;
use crate::mat::Mat;
use crate::simd::{Isa, Level};

/// Rows of a weight that are fetched ahead of the one that is added.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8;

/// What one call of [`Columns`] adds up.
struct Operands<W> {
    /// Rows of the weight.
    n: usize,
    /// First row of factors, and numbers from one to the next.
    x: (*const f32, usize),
    /// First row of the weight, and elements from one to the next.
    w: (*const W, usize),
    /// Where the first sums go, and numbers from one row of factors to the next.
    sums: (*mut f32, usize),
    /// Columns, at most as many as the function has.
    width: usize,
}

/// Adds up a fixed number of columns for a fixed number of rows of factors.
///
/// # Safety
/// The processor has the instructions the function was compiled for; all factors and `width` elements of all rows of
/// the weight can be read, and all sums be written.
type Columns<W> = unsafe fn(&Operands<W>);

/// `sums[r, c] = Σ_i x[r, i]·w[i, c]` for rising `i`, each one chain: the rows that are added beside it do not change
/// it. Rows of sums have `stride` numbers.
pub(super) fn columns<W: Stored>(isa: Isa, x: &Mat<'_, f32>, w: &Mat<'_, W>, sums: &mut [f32], stride: usize) {
    let (m, n, width) = (x.rows(), x.cols(), w.cols());
    assert!(w.rows() == n && m <= super::dots::rows(isa), "a factor for every row of the weight");
    assert!(width <= stride && m * stride <= sums.len() + stride - width, "sums of the operands' shape");
    if m * width == 0 {
        return;
    }
    let (f, at_once): (Columns<W>, usize) = match isa.level() {
        Level::Any => (any::<W>, width),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::table(m),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => avx512::table(m),
    };
    let (x_first, w_first) = (x.as_slice().as_ptr(), w.as_slice().as_ptr());
    for c in (0..width).step_by(at_once) {
        let operands = Operands {
            n,
            x: (x_first, x.stride()),
            w: (w_first.wrapping_add(c), w.stride()),
            sums: (sums.as_mut_ptr().wrapping_add(c), stride),
            width: at_once.min(width - c),
        };
        // SAFETY: the function is for the instructions of `isa` and for `m` rows; both matrices lie inside their
        // memory, and `sums` has `m` rows of `width` numbers.
        unsafe { f(&operands) };
    }
}

/// See [`Columns`]: one row of factors, any number of columns.
///
/// # Safety
/// That of [`Columns`].
unsafe fn any<W: Stored>(o: &Operands<W>) {
    // SAFETY: the caller's premise.
    let (x, sums) =
        unsafe { (std::slice::from_raw_parts(o.x.0, o.n), std::slice::from_raw_parts_mut(o.sums.0, o.width)) };
    sums.fill(0.0);
    for (i, &x) in x.iter().enumerate() {
        // SAFETY: the caller's premise.
        let w = unsafe { std::slice::from_raw_parts(o.w.0.add(i * o.w.1), o.width) };
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum += x * w.widen();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{AHEAD, Columns, Operands, Stored};
    use std::arch::x86_64::*;

    /// For `m` rows of factors: the function and its columns.
    pub(super) fn table<W: Stored>(m: usize) -> (Columns<W>, usize) {
        match m {
            1 => (run::<W, 1, 4>, 128),
            2 => (run::<W, 2, 4>, 128),
            3 => (run::<W, 3, 2>, 64),
            _ => (run::<W, 4, 2>, 64),
        }
    }

    /// `R` rows of `P` pairs of vectors.
    ///
    /// # Safety
    /// That of [`Columns`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn run<W: Stored, const R: usize, const P: usize>(o: &Operands<W>) {
        let mut sums = [[[_mm512_setzero_ps(); 2]; P]; R];
        if o.width == 32 * P {
            for i in 0..o.n {
                // SAFETY: the caller's premise; a prefetch of any address is harmless.
                unsafe {
                    let w = o.w.0.add(i * o.w.1);
                    let next = w.wrapping_add(AHEAD * o.w.1).cast::<i8>();
                    for byte in (0..32 * P * size_of::<W>()).step_by(64) {
                        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(byte));
                    }
                    for p in 0..P {
                        let w = W::load_2x16(w.add(32 * p));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm512_set1_ps(*o.x.0.add(r * o.x.1 + i));
                            for (sum, &w) in sums[p].iter_mut().zip(&w) {
                                *sum = _mm512_fmadd_ps(x, w, *sum);
                            }
                        }
                    }
                }
            }
        } else {
            for i in 0..o.n {
                for v in 0..o.width.div_ceil(16) {
                    let mask = u16::MAX >> (16 - (o.width - 16 * v).min(16));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: the caller's premise: the mask keeps to the columns there are.
                        unsafe {
                            let w = W::load_16(o.w.0.add(i * o.w.1 + 16 * v), mask);
                            let x = _mm512_set1_ps(*o.x.0.add(r * o.x.1 + i));
                            let sum = &mut sums[v / 2][v % 2];
                            *sum = _mm512_fmadd_ps(x, w, *sum);
                        }
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.as_flattened().iter().enumerate().take(o.width.div_ceil(16)) {
                let mask = u16::MAX >> (16 - (o.width - 16 * v).min(16));
                // SAFETY: the caller's premise: the mask keeps to the columns there are.
                unsafe { _mm512_mask_storeu_ps(o.sums.0.add(r * o.sums.1 + 16 * v), mask, sum) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{AHEAD, Columns, Operands, Stored};
    use std::arch::x86_64::*;

    /// As for AVX-512, with half as many registers.
    pub(super) fn table<W: Stored>(m: usize) -> (Columns<W>, usize) {
        match m {
            1 => (run::<W, 1, 4>, 64),
            2 => (run::<W, 2, 2>, 32),
            3 => (run::<W, 3, 1>, 16),
            _ => (run::<W, 4, 1>, 16),
        }
    }

    /// `R` rows of `P` pairs of vectors.
    ///
    /// # Safety
    /// That of [`Columns`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run<W: Stored, const R: usize, const P: usize>(o: &Operands<W>) {
        let mut sums = [[[_mm256_setzero_ps(); 2]; P]; R];
        for i in 0..o.n {
            let w = o.w.0.wrapping_add(i * o.w.1);
            let next = w.wrapping_add(AHEAD * o.w.1).cast::<i8>();
            for byte in (0..o.width * size_of::<W>()).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(byte));
            }
            for p in 0..o.width.div_ceil(16) {
                let left = o.width - 16 * p;
                // SAFETY: the caller's premise: the columns that are left, at most 16, can be read.
                unsafe {
                    let w = if left >= 16 { W::load_2x8(w.add(16 * p)) } else { some(w.add(16 * p), left) };
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(*o.x.0.add(r * o.x.1 + i));
                        for (sum, &w) in sums[p].iter_mut().zip(&w) {
                            *sum = _mm256_fmadd_ps(x, w, *sum);
                        }
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let mut numbers = [0.0f32; 64];
            for (to, &sum) in numbers.chunks_exact_mut(8).zip(sums.as_flattened()) {
                // SAFETY: a piece holds eight numbers.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sum) };
            }
            // SAFETY: the caller's premise; `width` is at most 16·P, which is at most 64.
            unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), o.sums.0.add(r * o.sums.1), o.width) };
        }
    }

    /// The `n < 16` elements from `at` on, then zeros.
    ///
    /// # Safety
    /// The processor has the instructions, and those elements can be read.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn some<W: Stored>(at: *const W, n: usize) -> [__m256; 2] {
        let mut numbers = [0.0f32; 16];
        for (i, number) in numbers.iter_mut().enumerate().take(n) {
            // SAFETY: the caller's premise.
            *number = unsafe { (*at.add(i)).widen() };
        }
        // SAFETY: there are 16 numbers.
        unsafe { [_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(8))] }
    }
}
