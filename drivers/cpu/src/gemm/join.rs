//! Pairs of the numbers of two rows, for factors whose inner dimension runs down their rows.

use half::bf16;

use crate::mat::Mat;

/// Rows ahead of those being joined that are fetched: rows are far apart, which the processor does not foresee.
const AHEAD: usize = 32;

/// Words from line to line of a panel: whole cache lines, which no store crosses.
pub(super) const fn pitch(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// Writes the rows of `a`, two by two, as the lines of panels of `R` columns, where `R` is 12 or 32. Columns past the
/// last are zeros.
///
/// # Safety
/// The processor has the instructions, and `to` has room for `⌈cols/R⌉` panels of `⌈rows/2⌉` lines, [`pitch`] apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn avx512<const R: usize>(a: &Mat<'_, bf16>, to: &mut [u32]) {
    const { assert!(R == 12 || R == 32) };
    let (depth, cols) = (a.rows().div_ceil(2), a.cols());
    for p in 0..depth {
        let first = a.row(2 * p);
        let second = if 2 * p + 1 < a.rows() { a.row(2 * p + 1) } else { &[] };
        let ahead = first.as_ptr().wrapping_add(AHEAD * a.stride());
        for (panel, from) in (0..cols).step_by(R).enumerate() {
            fetch(ahead.wrapping_add(from));
            fetch(ahead.wrapping_add(a.stride() + from));
            let valid = R.min(cols - from);
            let to = to.as_mut_ptr().wrapping_add((panel * depth + p) * pitch(R));
            let (x, y) = (first[from..].as_ptr(), if second.is_empty() { None } else { Some(second[from..].as_ptr()) });
            // SAFETY: `valid` numbers from `x` and `y` on are in their rows; line `p` of this panel is in `to`.
            unsafe { if R == 32 { join_32(x, y, valid, to) } else { join_12(x, y, valid, to) } }
        }
    }
}

/// Writes the columns of `a` as rows of pairs, `stride` apart.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn turn(a: &Mat<'_, bf16>, stride: usize, to: &mut [u32]) {
    use std::arch::x86_64::*;
    let (depth, cols) = (a.rows().div_ceil(2), a.cols());
    let words = |p: usize, from: usize, mask: __mmask16| {
        // The rows of the next block: far apart, which the processor does not foresee.
        let first = a.row(2 * p);
        fetch(first.as_ptr().wrapping_add(32 * a.stride() + from));
        fetch(first.as_ptr().wrapping_add(33 * a.stride() + from));
        let load = |row: &[half::bf16]| {
            // SAFETY: the mask keeps to the numbers of a row from `from` on.
            _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, row.as_ptr().add(from).cast()) })
        };
        let (x, is_last) = (load(first), 2 * p + 1 == a.rows());
        if is_last { x } else { _mm512_or_si512(x, _mm512_slli_epi32::<16>(load(a.row(2 * p + 1)))) }
    };
    // SAFETY: the processor has the instructions.
    unsafe { super::squares::turn((depth, cols), stride, to, words) };
}

/// Fetches the line of an address, whatever it is.
#[inline]
fn fetch(at: *const bf16) {
    use std::arch::x86_64::*;
    // SAFETY: a prefetch of any address is harmless, and every processor of this architecture has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// # Safety
/// `valid` numbers, at most 32, can be read from `x` and `y`, and 32 words be written from `to` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn join_32(x: *const bf16, y: Option<*const bf16>, valid: usize, to: *mut u32) {
    use std::arch::x86_64::*;
    let order: [[u16; 32]; 2] = const {
        let mut order = [[0; 32]; 2];
        let mut i = 0;
        while i < 64 {
            // The numbers of `y` count from 32.
            order[i / 32][i % 32] = (i / 2 + i % 2 * 32) as u16;
            i += 1;
        }
        order
    };
    let mask = ((1u64 << valid) - 1) as __mmask32;
    // SAFETY: the mask keeps to what can be read; `order` is two registers; 32 words are two registers.
    unsafe {
        let x = _mm512_maskz_loadu_epi16(mask, x.cast());
        let y = y.map_or(_mm512_setzero_si512(), |y| _mm512_maskz_loadu_epi16(mask, y.cast()));
        for (half, order) in order.iter().enumerate() {
            let order = _mm512_loadu_si512(order.as_ptr().cast());
            _mm512_storeu_si512(to.add(16 * half).cast(), _mm512_permutex2var_epi16(x, order, y));
        }
    }
}

/// # Safety
/// `valid` numbers, at most 12, can be read from `x` and `y`, and 16 words be written from `to` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn join_12(x: *const bf16, y: Option<*const bf16>, valid: usize, to: *mut u32) {
    use std::arch::x86_64::*;
    let mask = ((1u32 << valid) - 1) as __mmask16;
    // SAFETY: the mask keeps to what can be read; 16 words are one register.
    unsafe {
        let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x.cast()));
        let y = y.map_or(_mm256_setzero_si256(), |y| _mm256_maskz_loadu_epi16(mask, y.cast()));
        let y = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(y));
        _mm512_storeu_si512(to.cast(), _mm512_or_si512(x, y));
    }
}
