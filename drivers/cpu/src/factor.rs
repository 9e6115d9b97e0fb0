//! Operands of attention's products: stored activations, and values computed from them in f32.
//!
//! Sums are f32 in any case. BF16 activations are multiplied in pairs where the processor does that, and a factor that
//! was computed (probabilities, their gradients) is rounded to BF16 for it; elsewhere BF16 activations are made f32 as
//! they are packed, and nothing is rounded.

use half::bf16;

use crate::Isa;
use crate::elementwise::convert;
use crate::gemm::{Left, Right, Unit, Word, left_size, left_stride, pack_rows, packed};
use crate::mat::Mat;
use crate::real::Real;
use crate::simd::{fetch, kernel};

/// A type of activations.
pub(crate) trait Factor: Real {
    /// What it is multiplied as where the processor multiplies that.
    type Word: Computed;
}

impl Factor for f32 {
    type Word = f32;
}

impl Factor for bf16 {
    type Word = u32;
}

/// Words that can be made of numbers computed in f32.
pub(crate) trait Computed: Word {
    /// `a[m, k]` as the left factor; `to` has room for [`left_words`].
    fn rounded<'s>(isa: Isa, a: &Mat<'s, f32>, to: &'s mut [Self]) -> Left<'s, Self>;

    /// `a[k, m]ᵀ` as the left factor; `to` has room for [`left_words`]`(m, k)`.
    fn rounded_transposed<'s>(isa: Isa, a: &Mat<'s, f32>, to: &'s mut [Self]) -> Left<'s, Self>;

    /// `b[k, n]`, whose rows are [`stride`]`(n)` apart, as the right factor: where it lies if it can be read there.
    /// `to` has room for [`right_words`].
    fn right<'s>(isa: Isa, b: &Mat<'s, Self::Number>, to: &'s mut [Self]) -> Right<'s, Self>;
}

/// Words of scratch for any left factor of `rows × depth` numbers.
pub(crate) fn left_words<W: Word>(rows: usize, depth: usize) -> usize {
    left_size(rows, depth.div_ceil(W::NUMBERS))
}

/// Words of a packed right factor of `depth × cols` numbers.
pub(crate) fn right_words<W: Word>(depth: usize, cols: usize) -> usize {
    packed(depth.div_ceil(W::NUMBERS), cols)
}

/// The rows of `x` as numbers of type `N`: where they lie if they are, else in `to`.
pub(crate) fn numbers<'s, T: Real, N: Real>(isa: Isa, x: &Mat<'s, T>, to: &'s mut [f32]) -> Mat<'s, N> {
    let (rows, cols) = (x.rows(), x.cols());
    if T::DTYPE == N::DTYPE {
        return Mat::new(bytemuck::cast_slice(x.as_slice()), rows, cols, x.stride());
    }
    let to = &mut bytemuck::cast_slice_mut(to)[..rows * cols];
    for (r, line) in to.chunks_exact_mut(cols.max(1)).enumerate() {
        convert(isa, x.row(r), line);
    }
    Mat::new(to, rows, cols, cols)
}

/// From row to row of a copy of `cols` numbers that is read as a left and as a right factor: whole cache lines, and as
/// many of them for all sets of a cache to be used alike.
pub(crate) const fn stride(cols: usize) -> usize {
    left_stride(cols)
}

/// Rows ahead of the one being copied that are fetched: rows are far apart, which the processor does not foresee.
pub(crate) const AHEAD: usize = 16;

/// Numbers of a piece of a row that are copied in registers: a call takes as long as copying hundreds.
const PIECE: usize = 16;

kernel! {
    /// Copies the rows of `x` to rows `stride` apart, as numbers of another type.
    pub(crate) fn copy<T: Real, N: Real>(x: &Mat<'_, T>, stride: usize, to: &mut [N]) {
        for (r, line) in to.chunks_mut(stride).take(x.rows()).enumerate() {
            if r + AHEAD < x.rows() {
                fetch(x.row(r + AHEAD));
            }
            copy_row(x.row(r), line);
        }
    }
}

/// Copies numbers to the front of `to`.
#[inline(always)]
pub(crate) fn copy_row<T: Real, N: Real>(from: &[T], to: &mut [N]) {
    let (from, from_rest) = from.as_chunks::<PIECE>();
    let (pieces, rest) = to.split_at_mut(from.len() * PIECE);
    for (to, from) in pieces.as_chunks_mut::<PIECE>().0.iter_mut().zip(from) {
        *to = from.map(|x| N::store(x.load()));
    }
    for (to, &x) in rest.iter_mut().zip(from_rest) {
        *to = N::store(x.load());
    }
}

/// The rows of `x` as numbers of type `N`, copied to `to`, [`stride`] apart.
pub(crate) fn copied<'s, T: Real, N: Real>(isa: Isa, x: &Mat<'_, T>, to: &'s mut [f32]) -> Mat<'s, N> {
    let (rows, cols) = (x.rows(), x.cols());
    let to: &mut [N] = bytemuck::cast_slice_mut(to);
    copy(isa, x, stride(cols), to);
    Mat::new(to, rows, cols, stride(cols))
}

impl Computed for f32 {
    fn rounded<'s>(isa: Isa, a: &Mat<'s, f32>, _: &'s mut [f32]) -> Left<'s> {
        Left::new(isa, a)
    }

    fn rounded_transposed<'s>(isa: Isa, a: &Mat<'s, f32>, _: &'s mut [f32]) -> Left<'s> {
        Left::transposed(isa, a)
    }

    fn right<'s>(_: Isa, b: &Mat<'s, f32>, _: &'s mut [f32]) -> Right<'s> {
        Right::new(b)
    }
}

/// Pairs of numbers of a row, or of two rows.
impl Computed for u32 {
    fn rounded<'s>(isa: Isa, a: &Mat<'s, f32>, to: &'s mut [u32]) -> Left<'s, u32> {
        let (rows, depth) = (a.rows(), a.cols().div_ceil(2));
        let to = &mut to[..rows * depth];
        for (r, line) in to.chunks_exact_mut(depth.max(1)).enumerate() {
            round_row(isa, a.row(r), line);
        }
        Left::new(isa, &Mat::new(to, rows, depth, depth))
    }

    fn rounded_transposed<'s>(isa: Isa, a: &Mat<'s, f32>, to: &'s mut [u32]) -> Left<'s, u32> {
        let (depth, rows) = (a.rows().div_ceil(2), a.cols());
        #[cfg(target_arch = "x86_64")]
        if isa.has_amx() {
            let stride = left_stride(depth);
            // SAFETY: the processor has the instructions.
            unsafe { avx512::turn(a, stride, to) };
            return Left::new(isa, &Mat::new(to, rows, depth, stride));
        }
        let to = &mut to[..rows * depth];
        for (p, line) in to.chunks_exact_mut(rows.max(1)).enumerate() {
            let second = if 2 * p + 1 < a.rows() { a.row(2 * p + 1) } else { &[] };
            round_two_rows(isa, a.row(2 * p), second, line);
        }
        Left::transposed(isa, &Mat::new(to, depth, rows, rows))
    }

    fn right<'s>(isa: Isa, b: &Mat<'s, bf16>, to: &'s mut [u32]) -> Right<'s, u32> {
        pack_rows(isa, b, to)
    }
}

fn round_row(isa: Isa, x: &[f32], to: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_bf16() {
        // SAFETY: the processor has the instructions.
        return unsafe { avx512::round_row(x, to) };
    }
    round_row_anywhere(isa, x, to);
}

/// Pairs of the numbers of two rows. An empty `second` counts as zeros.
fn round_two_rows(isa: Isa, first: &[f32], second: &[f32], to: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_bf16() && first.len() == second.len() {
        // SAFETY: the processor has the instructions.
        return unsafe { avx512::round_two_rows(first, second, to) };
    }
    round_two_rows_anywhere(isa, first, second, to);
}

#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    u32::join(bf16::store(first), bf16::store(second))
}

kernel! {
    fn round_row_anywhere(x: &[f32], to: &mut [u32]) {
        let (pairs, last) = x.as_chunks::<2>();
        for (to, &[first, second]) in to.iter_mut().zip(pairs) {
            *to = pair(first, second);
        }
        if let (&[one], Some(to)) = (last, to.last_mut()) {
            *to = pair(one, 0.0);
        }
    }
}

kernel! {
    fn round_two_rows_anywhere(first: &[f32], second: &[f32], to: &mut [u32]) {
        if second.is_empty() {
            to.iter_mut().zip(first).for_each(|(to, &x)| *to = pair(x, 0.0));
        } else {
            to.iter_mut().zip(first).zip(second).for_each(|((to, &x), &y)| *to = pair(x, y));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use crate::mat::Mat;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bits(x: __m512bh) -> __m512i {
        // SAFETY: both are 512 bits.
        unsafe { std::mem::transmute(x) }
    }

    /// See [`round_row`](super::round_row). Numbers below the normal range become zeros.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn round_row(x: &[f32], to: &mut [u32]) {
        assert!(to.len() == x.len().div_ceil(2), "a pair for every two numbers");
        for from in (0..x.len()).step_by(32) {
            let valid = (x.len() - from).min(32);
            let mask = (1u64 << valid) - 1;
            // SAFETY: the masks keep to the numbers of `x` from `from` on, and to the pairs of `to` they make.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask as __mmask16, x.as_ptr().add(from));
                let high = _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, x.as_ptr().wrapping_add(from + 16));
                let pairs = bits(_mm512_cvtne2ps_pbh(high, low));
                let mask = ((1u32 << valid.div_ceil(2)) - 1) as __mmask16;
                _mm512_mask_storeu_epi32(to.as_mut_ptr().add(from / 2).cast(), mask, pairs);
            }
        }
    }

    /// Words of two rows of numbers, one number of each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn join(first: __m512, second: __m512) -> __m512i {
        const ORDER: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            order
        };
        // SAFETY: `ORDER` is 64 bytes.
        let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
        _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(second, first)))
    }

    /// Writes the columns of `a` as rows of pairs, `stride` apart. Numbers below the normal range become zeros.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn turn(a: &Mat<'_, f32>, stride: usize, to: &mut [u32]) {
        let words = |p: usize, from: usize, mask: __mmask16| {
            // SAFETY: the mask keeps to the numbers of a row from `from` on.
            let load = |row: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, row.as_ptr().add(from)) };
            let is_last = 2 * p + 1 == a.rows();
            join(load(a.row(2 * p)), if is_last { _mm512_setzero_ps() } else { load(a.row(2 * p + 1)) })
        };
        // SAFETY: the processor has the instructions.
        unsafe { crate::gemm::turn((a.rows().div_ceil(2), a.cols()), stride, to, words) };
    }

    /// See [`round_two_rows`](super::round_two_rows). Numbers below the normal range become zeros.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn round_two_rows(first: &[f32], second: &[f32], to: &mut [u32]) {
        assert!(first.len() == second.len() && to.len() == first.len(), "rows are of one length");
        for from in (0..to.len()).step_by(16) {
            let mask = ((1u32 << (to.len() - from).min(16)) - 1) as __mmask16;
            // SAFETY: the mask keeps to the numbers from `from` on.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask, first.as_ptr().add(from));
                let high = _mm512_maskz_loadu_ps(mask, second.as_ptr().add(from));
                _mm512_mask_storeu_epi32(to.as_mut_ptr().add(from).cast(), mask, join(low, high));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::multiply;
    use crate::mat::MatMut;
    use crate::par::Tile;

    #[test]
    fn rounding_is_that_of_storing() {
        for n in [1, 31, 32, 4099u32] {
            let x: Vec<f32> = (0..n).map(|i| f32::from_bits(0x3f00_0000 + i * 4099)).collect();
            let y: Vec<f32> = x.iter().map(|v| -v * 1.01).collect();
            for isa in Isa::all() {
                let (mut row, mut both, mut one) = (vec![0; x.len().div_ceil(2)], vec![0; x.len()], vec![0; x.len()]);
                round_row(isa, &x, &mut row);
                round_two_rows(isa, &x, &y, &mut both);
                round_two_rows(isa, &x, &[], &mut one);
                for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                    assert_eq!(row[i / 2] >> (i % 2 * 16) & 0xffff, u32::from(bf16::store(x).to_bits()), "{x}");
                    assert_eq!((both[i], one[i]), (pair(x, y), pair(x, 0.0)), "{x} and {y} on {isa:?}");
                }
            }
        }
    }

    /// Numbers that BF16 holds, and of which every sum below is exact.
    fn integers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 13) as f32 - 6.0).collect()
    }

    fn check<W: Computed>(m: usize, n: usize, k: usize, isa: Isa) {
        let (a, b) = (integers(m * k, 1), integers(k * n, 2));
        let a_turned: Vec<f32> = (0..m * k).map(|at| a[at % m * k + at / m]).collect();
        let want: Vec<f32> =
            (0..m * n).map(|at| (0..k).map(|p| a[at / n * k + p] * b[p * n + at % n]).sum::<f32>()).collect();
        let mut right = vec![W::zeroed(); right_words::<W>(k, n)];
        let mut lines = vec![f32::NAN; k * stride(n)];
        let right = W::right(isa, &copied(isa, &Mat::new(&b, k, n, n), &mut lines), &mut right);
        let mut lefts = [(); 2].map(|()| vec![W::zeroed(); left_words::<W>(m, k)]);
        let [rows, columns] = &mut lefts;
        let lefts = [
            W::rounded(isa, &Mat::new(&a, m, k, k), rows),
            W::rounded_transposed(isa, &Mat::new(&a_turned, k, m, m), columns),
        ];
        for left in &lefts {
            let mut c = vec![0.0; m * n];
            multiply(isa, left, &right, &mut Tile::whole(MatMut::new(&mut c, m, n, n)), 1.0, false);
            assert_eq!(c, want, "{m}x{n}x{k} on {isa:?}");
        }
    }

    #[test]
    fn computed_factors_give_the_product_either_way_round() {
        for isa in Isa::all() {
            let short = [(1, 1, 1), (12, 32, 16), (13, 33, 7), (32, 48, 31), (5, 17, 128), (45, 70, 544)];
            // Deeper than what is copied of the rows of a tile at once.
            let deep = [(7, 40, 1301), (24, 32, 1301), (24, 16, 1301), (40, 32, 1030)];
            for (m, n, k) in short.into_iter().chain(deep) {
                check::<f32>(m, n, k, isa);
                check::<u32>(m, n, k, isa);
            }
        }
    }
}
