//! The transposition that packing the weights of a linear layer takes: eight or sixteen rows at a time in registers
//! where the processor can, one number at a time elsewhere.

#[cfg(target_arch = "x86_64")]
use super::squares::transpose16;
use super::{NR, Word};
use crate::mat::Mat;
use crate::simd::{Isa, Level};

/// Writes rows `first..first + NR` of `b` (zeros where it has no more) as the columns of `panel`, of `b.cols()` lines.
pub(super) fn transpose<W: Word>(isa: Isa, b: &Mat<'_, W>, first: usize, panel: &mut [[W; NR]]) {
    assert!(panel.len() >= b.cols() && first < b.rows(), "the panel holds a line for every column");
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa` holds this level only where the processor was found to have the instructions; the premise on
        // the panel was checked.
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => unsafe { avx512(b, first, panel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2(b, first, panel) },
        Level::Any => any(b, first, 0, panel),
    }
}

/// Columns `from..` of `b` only.
fn any<W: Word>(b: &Mat<'_, W>, first: usize, from: usize, panel: &mut [[W; NR]]) {
    let width = NR.min(b.rows() - first);
    for j in 0..width {
        for (line, &v) in panel[from..].iter_mut().zip(&b.row(first + j)[from..]) {
            line[j] = v;
        }
    }
    for line in &mut panel[from..b.cols()] {
        line[width..].fill(W::zeroed());
    }
}

/// # Safety
/// `panel` has at least `b.cols()` lines, and `first` is a row of `b`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<W: Word>(b: &Mat<'_, W>, first: usize, panel: &mut [[W; NR]]) {
    use std::arch::x86_64::*;
    const { assert!(size_of::<W>() == size_of::<f32>(), "words are moved as they are, whatever they mean") };
    let whole = b.cols() / 8 * 8;
    for eighth in (0..NR).step_by(8) {
        let rows = b.rows().saturating_sub(first + eighth).min(8);
        let from = if rows == 0 { b.as_slice() } else { &b.as_slice()[(first + eighth) * b.stride()..] };
        for col in (0..whole).step_by(8) {
            let from = from.as_ptr().wrapping_add(col).cast::<f32>();
            let to = panel.as_mut_ptr().wrapping_add(col).cast::<f32>().wrapping_add(eighth);
            let mut x = [_mm256_setzero_ps(); 8];
            for (i, x) in x.iter_mut().enumerate().take(rows) {
                // SAFETY: row `first + eighth + i` of `b` has eight words from `col` on.
                *x = unsafe { _mm256_loadu_ps(from.wrapping_add(i * b.stride())) };
            }
            for (i, line) in transpose8(x).into_iter().enumerate() {
                // SAFETY: line `col + i` of the panel is below `b.cols()`, and `eighth + 8` is at most `NR`.
                unsafe { _mm256_storeu_ps(to.wrapping_add(i * NR), line) };
            }
        }
    }
    any(b, first, whole, panel);
}

/// Transposes 8 × 8 numbers: pairs of rows, pairs of pairs inside 128-bit lanes, then the lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn transpose8(x: [std::arch::x86_64::__m256; 8]) -> [std::arch::x86_64::__m256; 8] {
    use std::arch::x86_64::*;
    // a[4g + c], lane l: column 4l + c of rows 4g .. 4g + 4.
    let mut a = x;
    for g in 0..2 {
        let [r0, r1, r2, r3] = [x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]];
        let (lo01, hi01) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (lo23, hi23) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        a[4 * g] = _mm256_shuffle_ps::<0x44>(lo01, lo23);
        a[4 * g + 1] = _mm256_shuffle_ps::<0xee>(lo01, lo23);
        a[4 * g + 2] = _mm256_shuffle_ps::<0x44>(hi01, hi23);
        a[4 * g + 3] = _mm256_shuffle_ps::<0xee>(hi01, hi23);
    }
    let mut y = a;
    for c in 0..4 {
        y[c] = _mm256_permute2f128_ps::<0x20>(a[c], a[4 + c]);
        y[4 + c] = _mm256_permute2f128_ps::<0x31>(a[c], a[4 + c]);
    }
    y
}

/// # Safety
/// `panel` has at least `b.cols()` lines, and `first` is a row of `b`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<W: Word>(b: &Mat<'_, W>, first: usize, panel: &mut [[W; NR]]) {
    const { assert!(size_of::<W>() == size_of::<f32>(), "words are moved as they are, whatever they mean") };
    for half in (0..NR).step_by(16) {
        let rows = b.rows().saturating_sub(first + half).min(16);
        let from = if rows == 0 { b.as_slice() } else { &b.as_slice()[(first + half) * b.stride()..] };
        for col in (0..b.cols()).step_by(16) {
            let cols = (b.cols() - col).min(16);
            let from = from.as_ptr().wrapping_add(col).cast();
            let to = panel.as_mut_ptr().wrapping_add(col).cast::<f32>().wrapping_add(half);
            // SAFETY: `rows` rows and `cols` columns from there on are in `b`; lines `col..col + cols` of the panel are
            // below `b.cols()`, and `half + 16` is at most `NR`.
            unsafe {
                // Masks cost as much as all the rest.
                if rows == 16 && cols == 16 {
                    block::<true>(from, b.stride(), (16, 16), to);
                } else {
                    block::<false>(from, b.stride(), (rows, cols), to);
                }
            }
        }
    }
}

/// Writes `rows × cols` words (zeros after the last row) as `cols` lines.
///
/// # Safety
/// Both are at most 16, and 16 if `FULL`; rows `stride` apart can be read, and lines of 16 words `NR` apart written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn block<const FULL: bool>(from: *const f32, stride: usize, (rows, cols): (usize, usize), to: *mut f32) {
    use std::arch::x86_64::*;
    let mut x = [_mm512_setzero_ps(); 16];
    for (i, x) in x.iter_mut().enumerate() {
        let at = from.wrapping_add(i * stride);
        // The rows of the next block: far apart, which the processor does not foresee. A prefetch of any address is
        // harmless.
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(16 * stride).cast());
        let mask = if i < rows { ((1u32 << cols) - 1) as __mmask16 } else { 0 };
        // SAFETY: the caller's premise; the mask leaves out what is not there.
        *x = unsafe { if FULL { _mm512_loadu_ps(at) } else { _mm512_maskz_loadu_ps(mask, at) } };
    }
    let y = transpose16(x);
    for (i, &line) in y.iter().enumerate().take(if FULL { 16 } else { cols }) {
        // SAFETY: the caller's premise.
        unsafe { _mm512_storeu_ps(to.wrapping_add(i * NR), line) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_lines() {
        for (rows, cols) in [(32, 16), (5, 3), (17, 40), (64, 33)] {
            let data: Vec<f32> = (0..rows * cols).map(|i| i as f32 + 1.0).collect();
            let b = Mat::new(&data, rows, cols, cols);
            for isa in Isa::all() {
                for first in (0..rows).step_by(NR) {
                    let mut panel = vec![[f32::NAN; NR]; cols];
                    transpose(isa, &b, first, &mut panel);
                    for (p, line) in panel.iter().enumerate() {
                        for (j, &v) in line.iter().enumerate() {
                            let want = if first + j < rows { b.row(first + j)[p] } else { 0.0 };
                            assert_eq!(v, want, "{isa:?} {rows}x{cols} line {p} column {j}");
                        }
                    }
                }
            }
        }
    }
}
