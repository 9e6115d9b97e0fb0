//! Tiles of attention scores: masking, softmax and its gradient.
//!
//! On AVX-512 the loops are written in intrinsics: a row of sums stays in registers there, and `exp` fuses its
//! multiplications with additions. What a row does not see becomes zeros.

use std::ops::Range;

use crate::gemm::NR;
use crate::simd::{Isa, LANES, exp_to_88, kernel, max, sum};

/// Keys of a tile.
pub(crate) const KEYS: usize = 128;
/// Queries of a tile.
pub(crate) const QUERIES: usize = 32;

const _: () = assert!(KEYS.is_multiple_of(NR) && KEYS.is_multiple_of(LANES));

/// The columns of a tile that a row sees.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    start: u32,
    len: u32,
}

impl Window {
    /// The columns `columns` of a tile.
    pub(crate) fn new(columns: Range<usize>) -> Self {
        Self { start: columns.start as u32, len: columns.len() as u32 }
    }

    /// The columns of all whole vectors of [`LANES`] that contain some of the window.
    #[inline(always)]
    fn vectors(self) -> Range<usize> {
        let (start, end) = (self.start as usize, (self.start + self.len) as usize);
        start / LANES * LANES..end.next_multiple_of(LANES)
    }

    /// Whether column `c` is one of them: one comparison, so that vectors of columns are tested at once.
    #[inline(always)]
    fn sees(self, c: usize) -> bool {
        (c as u32).wrapping_sub(self.start) < self.len
    }
}

/// Turns a tile of scores, up to the last that any row sees, into weights relative to each row's running maximum `top`;
/// updates maxima and sums. Returns what all that was gathered before must be multiplied by, row by row.
///
/// Goes over the tile three times, since the rows of one pass do not wait for each other.
pub(crate) fn soften(
    isa: Isa,
    scores: &mut [[f32; KEYS]],
    windows: &[Window; QUERIES],
    top: &mut [f32],
    total: &mut [f32],
) -> [f32; QUERIES] {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        // SAFETY: the processor has the instructions.
        return unsafe { avx512::soften(scores, windows, top, total) };
    }
    soften_anywhere(isa, scores, windows, top, total)
}

/// In the first `cols` columns, `scores` become weights, and `slopes`, the gradient of the weights, become the gradient
/// of the scaled products of queries and keys. `windows`, `lse` and `means` have something for every row, and no row
/// sees a column further on.
#[allow(clippy::too_many_arguments)]
pub(crate) fn differentiate(
    isa: Isa,
    scores: &mut [[f32; KEYS]],
    slopes: &mut [[f32; KEYS]],
    cols: usize,
    windows: &[Window],
    lse: &[f32],
    means: &[f32],
    scale: f32,
) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        // SAFETY: the processor has the instructions.
        return unsafe { avx512::differentiate(scores, slopes, cols, windows, lse, means, scale) };
    }
    differentiate_anywhere(isa, scores, slopes, cols, windows, lse, means, scale);
}

/// The largest score that `window` sees.
#[inline(always)]
fn largest(scores: &[f32; KEYS], window: Window) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let vectors = window.vectors();
    for (first, vector) in vectors.clone().step_by(LANES).zip(scores[vectors].as_chunks::<LANES>().0) {
        for l in 0..LANES {
            let s = if window.sees(first + l) { vector[l] } else { f32::NEG_INFINITY };
            lanes[l] = if s > lanes[l] { s } else { lanes[l] };
        }
    }
    max(&lanes)
}

/// Turns the scores that `window` sees into `e^(s − top)` and the others into zeros; returns their sum.
#[inline(always)]
fn weigh(scores: &mut [f32; KEYS], window: Window, top: f32) -> f32 {
    let vectors = window.vectors();
    scores[..vectors.start].fill(0.0);
    scores[vectors.end..].fill(0.0);
    let mut lanes = [0.0; LANES];
    for (first, vector) in vectors.clone().step_by(LANES).zip(scores[vectors].as_chunks_mut::<LANES>().0) {
        for l in 0..LANES {
            let weight = exp_to_88(vector[l] - top);
            vector[l] = if window.sees(first + l) { weight } else { 0.0 };
            lanes[l] += vector[l];
        }
    }
    sum(&lanes, |v| v)
}

kernel! {
    /// See [`soften`].
    fn soften_anywhere(
        scores: &mut [[f32; KEYS]],
        windows: &[Window; QUERIES],
        top: &mut [f32],
        total: &mut [f32],
    ) -> [f32; QUERIES] {
        let (mut old, mut new) = ([f32::NEG_INFINITY; QUERIES], [f32::NEG_INFINITY; QUERIES]);
        old[..top.len()].copy_from_slice(top);
        for (i, row) in scores.iter().enumerate() {
            // A NaN score need not be the maximum: it stays NaN as a weight, and so does the sum.
            new[i] = old[i].max(largest(row, windows[i]));
        }
        let mut shrink = [1.0; QUERIES];
        for i in 0..QUERIES {
            shrink[i] = if new[i] == old[i] { 1.0 } else { exp_to_88(old[i] - new[i]) };
        }
        for (i, row) in scores.iter_mut().enumerate() {
            total[i] = total[i] * shrink[i] + weigh(row, windows[i], new[i]);
            top[i] = new[i];
        }
        shrink
    }
}

kernel! {
    /// See [`differentiate`].
    fn differentiate_anywhere(
        scores: &mut [[f32; KEYS]],
        slopes: &mut [[f32; KEYS]],
        cols: usize,
        windows: &[Window],
        lse: &[f32],
        means: &[f32],
        scale: f32,
    ) {
        for (i, (s, d)) in scores.iter_mut().zip(slopes).enumerate() {
            let (window, vectors) = (windows[i], windows[i].vectors());
            let (lse, mean) = (lse[i], means[i]);
            for row in [&mut *s, &mut *d] {
                row[..vectors.start].fill(0.0);
                row[vectors.end..cols.max(vectors.end)].fill(0.0);
            }
            let (s, d) = (&mut s[vectors.clone()], &mut d[vectors.clone()]);
            let pairs = s.as_chunks_mut::<LANES>().0.iter_mut().zip(d.as_chunks_mut::<LANES>().0);
            for (first, (s, d)) in vectors.step_by(LANES).zip(pairs) {
                for l in 0..LANES {
                    let p = exp_to_88(s[l] - lse);
                    let slope = p * (d[l] - mean) * scale;
                    s[l] = if window.sees(first + l) { p } else { 0.0 };
                    d[l] = if window.sees(first + l) { slope } else { 0.0 };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{KEYS, QUERIES, Window};
    use crate::simd::{LN2_HIGH, LN2_LOW, MAGIC, POLYNOMIAL};
    use std::arch::x86_64::*;

    /// Numbers of a register.
    const WIDTH: usize = 16;

    /// Which of the columns from `first` on a row sees.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn mask(window: Window, first: usize) -> __mmask16 {
        let column = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let from_start = _mm512_sub_epi32(column, _mm512_set1_epi32((window.start as i32).wrapping_sub(first as i32)));
        _mm512_cmplt_epu32_mask(from_start, _mm512_set1_epi32(window.len as i32))
    }

    /// Registers that hold all that any of the windows contain.
    fn registers(windows: &[Window]) -> usize {
        windows.iter().map(|w| w.start + w.len).max().map_or(0, |end| (end as usize).div_ceil(WIDTH).min(KEYS / WIDTH))
    }

    /// `e^x` where `keep`, for `x` up to 88 (and NaN); zero elsewhere.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn exp(keep: __mmask16, x: __m512) -> __m512 {
        let magic = _mm512_set1_ps(MAGIC);
        let shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), magic);
        let n = _mm512_sub_ps(shifted, magic);
        let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_HIGH), x);
        let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LOW), r);
        let mut p = _mm512_set1_ps(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
        }
        let y = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0));
        // The low bits of the shifted number are the exponent, as in `simd::exp_to_88`.
        let scale =
            _mm512_add_epi32(_mm512_slli_epi32::<23>(_mm512_castps_si512(shifted)), _mm512_set1_epi32(127 << 23));
        // Not below: true for NaN.
        let keep = _mm512_mask_cmp_ps_mask::<_CMP_NLT_UQ>(keep, x, _mm512_set1_ps(-87.336_54));
        _mm512_maskz_mul_ps(keep, y, _mm512_castsi512_ps(scale))
    }

    /// See [`soften`](super::soften).
    #[target_feature(enable = "avx512f")]
    pub(super) fn soften(
        scores: &mut [[f32; KEYS]],
        windows: &[Window; QUERIES],
        top: &mut [f32],
        total: &mut [f32],
    ) -> [f32; QUERIES] {
        let used = registers(&windows[..scores.len()]);
        let (mut old, mut new) = ([f32::NEG_INFINITY; QUERIES], [f32::NEG_INFINITY; QUERIES]);
        old[..top.len()].copy_from_slice(top);
        for (i, row) in scores.iter().enumerate() {
            let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
            for (v, x) in row.as_chunks::<WIDTH>().0[..used].iter().enumerate() {
                // SAFETY: `x` is one register long.
                let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
                // Of a NaN and a number this gives the second operand. A NaN stays NaN as a weight, and so does the
                // sum.
                largest = _mm512_mask_max_ps(largest, mask(windows[i], v * WIDTH), x, largest);
            }
            new[i] = old[i].max(_mm512_reduce_max_ps(largest));
        }
        let mut shrink = [1.0; QUERIES];
        for i in (0..QUERIES).step_by(WIDTH) {
            // SAFETY: the arrays hold a register's numbers from `i` on.
            unsafe {
                let (old, new) = (_mm512_loadu_ps(old.as_ptr().add(i)), _mm512_loadu_ps(new.as_ptr().add(i)));
                // Nothing is taken from −∞ to −∞.
                let changed = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(old, new);
                let factor = exp(changed, _mm512_sub_ps(old, new));
                let factor = _mm512_mask_mov_ps(_mm512_set1_ps(1.0), changed, factor);
                _mm512_storeu_ps(shrink.as_mut_ptr().add(i), factor);
            }
        }
        for (i, row) in scores.iter_mut().enumerate() {
            let (highest, mut sum) = (_mm512_set1_ps(new[i]), _mm512_setzero_ps());
            for (v, x) in row.as_chunks_mut::<WIDTH>().0[..used].iter_mut().enumerate() {
                // SAFETY: `x` is one register long.
                unsafe {
                    let score = _mm512_sub_ps(_mm512_loadu_ps(x.as_ptr()), highest);
                    let weight = exp(mask(windows[i], v * WIDTH), score);
                    _mm512_storeu_ps(x.as_mut_ptr(), weight);
                    sum = _mm512_add_ps(sum, weight);
                }
            }
            total[i] = total[i] * shrink[i] + _mm512_reduce_add_ps(sum);
            top[i] = new[i];
        }
        shrink
    }

    /// See [`differentiate`](super::differentiate).
    #[target_feature(enable = "avx512f")]
    pub(super) fn differentiate(
        scores: &mut [[f32; KEYS]],
        slopes: &mut [[f32; KEYS]],
        cols: usize,
        windows: &[Window],
        lse: &[f32],
        means: &[f32],
        scale: f32,
    ) {
        let (scale, all) = (_mm512_set1_ps(scale), cols.div_ceil(WIDTH));
        let used = registers(&windows[..scores.len()]).min(all);
        for (i, (s, d)) in scores.iter_mut().zip(slopes).enumerate() {
            let (lse, mean) = (_mm512_set1_ps(lse[i]), _mm512_set1_ps(means[i]));
            let (s, d) = (&mut s.as_chunks_mut::<WIDTH>().0[..all], &mut d.as_chunks_mut::<WIDTH>().0[..all]);
            let ((s, s_rest), (d, d_rest)) = (s.split_at_mut(used), d.split_at_mut(used));
            s_rest.iter_mut().chain(d_rest).for_each(|x| *x = [0.0; WIDTH]);
            for (v, (s, d)) in s.iter_mut().zip(d).enumerate() {
                let seen = mask(windows[i], v * WIDTH);
                // SAFETY: both are one register long.
                unsafe {
                    let weight = exp(seen, _mm512_sub_ps(_mm512_loadu_ps(s.as_ptr()), lse));
                    let slope = _mm512_sub_ps(_mm512_loadu_ps(d.as_ptr()), mean);
                    let slope = _mm512_maskz_mul_ps(seen, _mm512_mul_ps(weight, slope), scale);
                    _mm512_storeu_ps(s.as_mut_ptr(), weight);
                    _mm512_storeu_ps(d.as_mut_ptr(), slope);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores of a tile, and windows of all kinds: none, one column, across registers, everything.
    fn tile() -> (Vec<[f32; KEYS]>, [Window; QUERIES]) {
        let score = |i: usize, c: usize| ((i * 131 + c * 37) % 101) as f32 * 0.2 - 8.0;
        let scores = (0..QUERIES).map(|i| std::array::from_fn(|c| score(i, c))).collect();
        let windows = std::array::from_fn(|i| match i {
            0 => Window::new(0..0),
            1 => Window::new(0..KEYS),
            2 => Window::new(17..18),
            _ => Window::new(i..i * 4),
        });
        (scores, windows)
    }

    #[test]
    fn weights_are_those_of_a_softmax_on_every_instruction_set() {
        let (scores, windows) = tile();
        for isa in Isa::all() {
            let mut weights = scores.clone();
            let (mut top, mut total) = (vec![f32::NEG_INFINITY; QUERIES], vec![0.0; QUERIES]);
            // A row that saw larger scores before, and one that saw smaller ones.
            (top[4], total[4], top[5], total[5]) = (20.0, 3.0, -30.0, 2.0);
            let (old, before) = (top.clone(), total.clone());
            let shrink = soften(isa, &mut weights, &windows, &mut top, &mut total);
            for (i, row) in weights.iter().enumerate() {
                let seen: Vec<usize> = (0..KEYS).filter(|&c| windows[i].sees(c)).collect();
                let highest = seen.iter().map(|&c| scores[i][c]).fold(old[i], f32::max);
                assert_eq!(top[i], highest, "row {i} on {isa:?}");
                let mut sum = before[i] * if old[i] == highest { 1.0 } else { (old[i] - highest).exp() };
                assert!((shrink[i] - sum / before[i]).abs() < 1e-6 || before[i] == 0.0);
                for (c, &w) in row.iter().enumerate() {
                    let want = if windows[i].sees(c) { (scores[i][c] - highest).exp() } else { 0.0 };
                    assert!((w - want).abs() <= 4e-7 * want, "{w}, not {want}, in row {i} on {isa:?}");
                    sum += want;
                }
                assert!((total[i] - sum).abs() <= 1e-5 * sum, "row {i} on {isa:?}");
            }
        }
    }

    #[test]
    fn slopes_are_those_of_a_softmax_on_every_instruction_set() {
        let (scores, windows) = tile();
        let lse: Vec<f32> = (0..QUERIES).map(|i| i as f32 * 0.1 + 9.0).collect();
        let means: Vec<f32> = (0..QUERIES).map(|i| i as f32 * 0.01).collect();
        for isa in Isa::all() {
            let (mut weights, mut slopes) = (scores.clone(), scores.clone());
            differentiate(isa, &mut weights, &mut slopes, KEYS, &windows, &lse, &means, 0.5);
            for i in 0..QUERIES {
                for c in 0..KEYS {
                    let s = scores[i][c];
                    let p = if windows[i].sees(c) { (s - lse[i]).exp() } else { 0.0 };
                    assert!((weights[i][c] - p).abs() <= 4e-7 * p, "{isa:?}");
                    let slope = p * (s - means[i]) * 0.5;
                    assert!((slopes[i][c] - slope).abs() <= 1e-6 * slope.abs(), "{isa:?}");
                }
            }
        }
    }
}
