//! Squares of 16 × 16 words, transposed in the registers of AVX-512.

use std::arch::x86_64::*;

/// Writes `depth` lines of `cols` words as the columns of rows `stride` apart. `words(p, from, mask)` gives the words
/// of line `p` from `from` on of which the mask has a bit.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn turn(
    (depth, cols): (usize, usize),
    stride: usize,
    to: &mut [u32],
    words: impl Fn(usize, usize, __mmask16) -> __m512i,
) {
    assert!(stride >= depth && to.len() >= cols * stride, "rows of the depth for every column");
    let mask = |n: usize| ((1u32 << n.min(16)) - 1) as __mmask16;
    for top in (0..depth).step_by(16) {
        for from in (0..cols).step_by(16) {
            let mut x = [_mm512_setzero_ps(); 16];
            for (p, x) in (top..depth).zip(&mut x) {
                *x = _mm512_castsi512_ps(words(p, from, mask(cols - from)));
            }
            for (i, &row) in transpose16(x).iter().enumerate().take(cols - from) {
                let at = to.as_mut_ptr().wrapping_add((from + i) * stride + top);
                // SAFETY: the row of column `from + i` has words `top..depth`, and the mask keeps to them.
                unsafe { _mm512_mask_storeu_ps(at.cast(), mask(depth - top), row) };
            }
        }
    }
}

/// Transposes 16 × 16 numbers: pairs of rows, then pairs of pairs inside 128-bit lanes, then the lanes.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose16(x: [__m512; 16]) -> [__m512; 16] {
    // a[4g + c], lane l: column 4l + c of rows 4g .. 4g + 4.
    let mut a = x;
    for g in 0..4 {
        let [r0, r1, r2, r3] = [x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]];
        let (lo01, hi01) = (_mm512_unpacklo_ps(r0, r1), _mm512_unpackhi_ps(r0, r1));
        let (lo23, hi23) = (_mm512_unpacklo_ps(r2, r3), _mm512_unpackhi_ps(r2, r3));
        a[4 * g] = _mm512_shuffle_ps::<0x44>(lo01, lo23);
        a[4 * g + 1] = _mm512_shuffle_ps::<0xee>(lo01, lo23);
        a[4 * g + 2] = _mm512_shuffle_ps::<0x44>(hi01, hi23);
        a[4 * g + 3] = _mm512_shuffle_ps::<0xee>(hi01, hi23);
    }
    let mut y = a;
    for c in 0..4 {
        let [g0, g1, g2, g3] = [a[c], a[4 + c], a[8 + c], a[12 + c]];
        // Lanes 0 and 1 of two groups, lanes 2 and 3 of two groups; then every other lane of both.
        let (low01, high01) = (_mm512_shuffle_f32x4::<0x44>(g0, g1), _mm512_shuffle_f32x4::<0xee>(g0, g1));
        let (low23, high23) = (_mm512_shuffle_f32x4::<0x44>(g2, g3), _mm512_shuffle_f32x4::<0xee>(g2, g3));
        y[c] = _mm512_shuffle_f32x4::<0x88>(low01, low23);
        y[4 + c] = _mm512_shuffle_f32x4::<0xdd>(low01, low23);
        y[8 + c] = _mm512_shuffle_f32x4::<0x88>(high01, high23);
        y[12 + c] = _mm512_shuffle_f32x4::<0xdd>(high01, high23);
    }
    y
}
