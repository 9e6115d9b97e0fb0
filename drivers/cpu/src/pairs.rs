//! Small products of BF16 factors with f32 sums.
//!
//! The unit of a factor is a pair: two BF16 numbers that follow each other along the inner dimension, the first in the
//! low half of a `u32`. That is what `vdpbf16ps` multiplies; a row of BF16 numbers in memory is a row of pairs as it
//! lies. Where the inner dimension is odd, the last pair's second number is zero.
//!
//! Each sum is one chain over the pairs in rising order, whatever the tile's size, so an element's bits depend on its
//! own row and column only. `vdpbf16ps` takes numbers below the normal range for zero; the other tiles do not.

use half::bf16;

use crate::gemm::{NR, transpose};
use crate::mat::Mat;
use crate::par::Tile;
use crate::real::Real;
use crate::simd::{Isa, Level, kernel};

/// The rows of the left factor: row `i`, pair `p` at `i·row + p·step`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    data: &'a [u32],
    rows: usize,
    depth: usize,
    row: usize,
    step: usize,
}

/// The right factor, packed: panels of [`NR`] columns, each `depth` lines of `NR` pairs.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    data: &'a [u32],
    /// Pairs along the inner dimension.
    depth: usize,
    /// Pairs that were packed, of which the first `depth` are used.
    pitch: usize,
    cols: usize,
}

impl Right<'_> {
    /// The first `depth` rows only; a row that only pads a pair must meet zeros.
    pub(crate) fn shallow(self, depth: usize) -> Self {
        let depth = depth.div_ceil(2);
        assert!(depth <= self.pitch, "no deeper than packed");
        Self { depth, ..self }
    }
}

/// Pairs in `cols` packed columns of depth `depth`.
pub(crate) const fn packed(depth: usize, cols: usize) -> usize {
    cols.next_multiple_of(NR) * depth.div_ceil(2)
}

/// Pairs that [`rows_of_pairs`] may copy of `rows × depth` numbers.
pub(crate) const fn copied(rows: usize, depth: usize) -> usize {
    rows * depth.div_ceil(2)
}

/// The rows of `x` as rows of pairs: where they lie if they can be read so, else copied to `to`.
fn rows_of_pairs<'s>(x: &Mat<'s, bf16>, to: &'s mut [u32]) -> Mat<'s, u32> {
    let (rows, cols, stride) = (x.rows(), x.cols(), x.stride());
    if cols.is_multiple_of(2)
        && stride.is_multiple_of(2)
        && let Ok(pairs) = bytemuck::try_cast_slice(x.as_slice())
    {
        return Mat::new(pairs, rows, cols / 2, stride / 2);
    }
    let width = cols.div_ceil(2);
    let to = &mut to[..rows * width];
    for (r, line) in to.chunks_exact_mut(width.max(1)).enumerate() {
        let line: &mut [bf16] = bytemuck::cast_slice_mut(line);
        line[..cols].copy_from_slice(x.row(r));
        line[cols..].fill(bf16::ZERO);
    }
    Mat::new(to, rows, width, width)
}

/// `a[m, k]` as the left factor. `to` has room for [`copied`] pairs.
pub(crate) fn left<'s>(a: &Mat<'s, bf16>, to: &'s mut [u32]) -> Left<'s> {
    let pairs = rows_of_pairs(a, to);
    Left { data: pairs.as_slice(), rows: pairs.rows(), depth: pairs.cols(), row: pairs.stride(), step: 1 }
}

/// `a[m, k]`, rounded, as the left factor. `to` has room for [`copied`] pairs.
pub(crate) fn rounded<'s>(isa: Isa, a: &Mat<'_, f32>, to: &'s mut [u32]) -> Left<'s> {
    let (rows, depth) = (a.rows(), a.cols().div_ceil(2));
    let to = &mut to[..rows * depth];
    for (r, line) in to.chunks_exact_mut(depth.max(1)).enumerate() {
        round_row(isa, a.row(r), line);
    }
    Left { data: to, rows, depth, row: depth, step: 1 }
}

/// `a[k, m]ᵀ`, rounded, as the left factor. `to` has room for [`copied`]`(m, k)` pairs.
pub(crate) fn rounded_transposed<'s>(isa: Isa, a: &Mat<'_, f32>, to: &'s mut [u32]) -> Left<'s> {
    let (depth, rows) = (a.rows().div_ceil(2), a.cols());
    let to = &mut to[..rows * depth];
    for (p, line) in to.chunks_exact_mut(rows.max(1)).enumerate() {
        let second = if 2 * p + 1 < a.rows() { a.row(2 * p + 1) } else { &[] };
        round_two_rows(isa, a.row(2 * p), second, line);
    }
    Left { data: to, rows, depth, row: 1, step: rows }
}

fn round_row(isa: Isa, x: &[f32], to: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_bf16() {
        // SAFETY: the processor has the instructions.
        return unsafe { fast::round_row(x, to) };
    }
    round_row_anywhere(isa, x, to);
}

/// Pairs of the numbers of two rows. An empty `second` counts as zeros.
fn round_two_rows(isa: Isa, first: &[f32], second: &[f32], to: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_bf16() && first.len() == second.len() {
        // SAFETY: the processor has the instructions.
        return unsafe { fast::round_two_rows(first, second, to) };
    }
    round_two_rows_anywhere(isa, first, second, to);
}

#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    u32::from(bf16::store(first).to_bits()) | u32::from(bf16::store(second).to_bits()) << 16
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

/// Packs `b[k, n]` into panels. Columns past `n` are zeros. `to` has room for [`packed`] pairs.
pub(crate) fn pack_rows<'s>(isa: Isa, b: &Mat<'_, bf16>, to: &'s mut [u32]) -> Right<'s> {
    let (depth, cols) = (b.rows().div_ceil(2), b.cols());
    let to = &mut to[..packed(b.rows(), cols)];
    interleave_rows(isa, b, to);
    Right { data: to, depth, pitch: depth, cols }
}

kernel! {
    fn interleave_rows(b: &Mat<'_, bf16>, to: &mut [u32]) {
        let depth = b.rows().div_ceil(2);
        for p in 0..depth {
            let first = b.row(2 * p);
            let second = if 2 * p + 1 < b.rows() { b.row(2 * p + 1) } else { &[] };
            for col in (0..b.cols()).step_by(NR) {
                let line = &mut to[(col * depth + p * NR)..][..NR];
                let width = NR.min(first.len() - col);
                let low = &first[col..col + width];
                let both = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
                if second.is_empty() {
                    line.iter_mut().zip(low).for_each(|(to, &x)| *to = u32::from(x.to_bits()));
                } else if width == NR {
                    let high = &second[col..col + NR];
                    for i in 0..NR {
                        line[i] = both(low[i], high[i]);
                    }
                } else {
                    let high = &second[col..col + width];
                    line.iter_mut().zip(low).zip(high).for_each(|((to, &x), &y)| *to = both(x, y));
                }
                line[width..].fill(0);
            }
        }
    }
}

/// Packs `b[n, k]ᵀ` into panels whose columns are rows of `b`. Columns past `n` are zeros. `to` has room for
/// [`packed`]`(k, n) + `[`copied`]`(n, k)` pairs.
pub(crate) fn pack_columns<'s>(isa: Isa, b: &Mat<'_, bf16>, to: &'s mut [u32]) -> Right<'s> {
    let (depth, cols) = (b.cols().div_ceil(2), b.rows());
    let (to, copy) = to.split_at_mut(packed(b.cols(), cols));
    let pairs = rows_of_pairs(b, copy);
    // The transposition moves 32 bits at a time, whatever they mean.
    let pairs = Mat::new(bytemuck::cast_slice::<u32, f32>(pairs.as_slice()), cols, depth, pairs.stride());
    for (p, panel) in to.chunks_exact_mut((depth * NR).max(1)).enumerate() {
        transpose(isa, &pairs, p * NR, bytemuck::cast_slice_mut::<u32, f32>(panel).as_chunks_mut().0);
    }
    Right { data: to, depth, pitch: depth, cols }
}

/// `c = α·a·b`, or `c += …` with `add`.
pub(crate) fn multiply(isa: Isa, a: &Left<'_>, b: &Right<'_>, c: &mut Tile<'_, f32>, alpha: f32, add: bool) {
    let (m, n, k) = (c.rows(), c.cols(), b.depth);
    let table = table(isa);
    let most = table.len();
    assert!(a.rows >= m && a.depth == k && b.cols >= n, "factors fit their product");
    let end = if m * k == 0 { 0 } else { (m - 1) * a.row + (k - 1) * a.step + 1 };
    let whole = b.cols.next_multiple_of(NR) * b.pitch;
    assert!(a.data.len() >= end && b.data.len() >= whole, "factors lie inside their memory");
    let ldc = c.stride();
    for col in (0..n).step_by(NR) {
        let width = NR.min(n - col);
        let panel = b.data[col * b.pitch..].as_ptr();
        for row in (0..m).step_by(most) {
            let height = most.min(m - row);
            let f = table[height - 1][usize::from(width > 16)];
            let operands = Operands {
                k,
                a: a.data.as_ptr().wrapping_add(row * a.row),
                row: a.row,
                step: a.step,
                b: panel,
                c: c.as_mut_ptr().wrapping_add(row * ldc + col),
                ldc,
                n: width,
                alpha,
                add,
            };
            // SAFETY: the table is for the instructions of `isa`. Rows below `m` and pairs below `k` of `a` end before
            // `end`, which the assertion found inside `a.data`; `b` holds whole panels of `NR` columns; rows
            // `row..row + height` and columns `col..col + width` are inside `c`, whose memory is ours.
            unsafe { f(&operands) };
        }
    }
}

/// What one tile multiplies: its rows of the left factor, a packed panel of the right one, and where the result goes.
#[derive(Clone, Copy)]
struct Operands {
    /// Pairs along the inner dimension.
    k: usize,
    a: *const u32,
    row: usize,
    step: usize,
    /// `k` lines of [`NR`] pairs.
    b: *const u32,
    /// Row `i`, column `j` of the result at `c + i·ldc + j`.
    c: *mut f32,
    ldc: usize,
    /// Columns of the result, at most [`NR`].
    n: usize,
    alpha: f32,
    add: bool,
}

/// Multiplies one tile.
///
/// # Safety
/// The processor has the instructions the function was compiled for. All places of `a` and `b` that [`Operands`]
/// describes for the tile's rows can be read, and those of `c` be written, and nobody else writes or reads `c`.
type TileFn = unsafe fn(&Operands);

/// Tiles of 1, 2, … rows, as many as registers hold, and for each a narrow one (at most 16 columns) and a wide one.
type TileTable = &'static [[TileFn; 2]];

macro_rules! table {
    ($f:ident: $($rows:literal)*) => { &[$([$f::<$rows, 1>, $f::<$rows, 2>]),*] };
}

fn table(isa: Isa) -> TileTable {
    match isa.level() {
        Level::Any => slow::ANY,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => fast::TABLE,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => slow::AVX2,
    }
}

/// With `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
mod fast {
    use super::{NR, Operands, TileTable};
    use std::arch::x86_64::*;

    pub(super) static TABLE: TileTable = table!(tile: 1 2 3 4 5 6 7 8 9 10 11 12);

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn pairs(x: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits.
        unsafe { std::mem::transmute(x) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bits(x: __m512bh) -> __m512i {
        // SAFETY: both are 512 bits.
        unsafe { std::mem::transmute(x) }
    }

    /// See [`TileFn`](super::TileFn). `ROWS × 16·WIDTH`: 24 of 32 registers are sums.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn tile<const ROWS: usize, const WIDTH: usize>(x: &Operands) {
        let Operands { k, mut a, row: stride, step, mut b, c, ldc, n, alpha, add } = *x;
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
        for _ in 0..k {
            // SAFETY: the caller's premise on `a` and `b` for this depth.
            unsafe {
                let mut bs = [pairs(_mm512_setzero_si512()); WIDTH];
                for (v, b_v) in bs.iter_mut().enumerate() {
                    *b_v = pairs(_mm512_loadu_si512(b.add(16 * v).cast()));
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = pairs(_mm512_set1_epi32(*a.add(i * stride) as i32));
                    for (sum, &b_v) in row.iter_mut().zip(&bs) {
                        *sum = _mm512_dpbf16_ps(*sum, x, b_v);
                    }
                }
            }
            a = a.wrapping_add(step);
            b = b.wrapping_add(NR);
        }
        let alpha = _mm512_set1_ps(alpha);
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let valid = n.saturating_sub(16 * v).min(16);
                let mask = ((1u32 << valid) - 1) as __mmask16;
                let at = c.wrapping_add(i * ldc + 16 * v);
                let mut y = _mm512_mul_ps(sum, alpha);
                // SAFETY: the mask keeps to the `n` columns of row `i` that the caller's premise gives.
                unsafe {
                    if add {
                        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, at));
                    }
                    _mm512_mask_storeu_ps(at, mask, y);
                }
            }
        }
    }

    /// See [`round_row`](super::round_row). Numbers below the normal range become zeros.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn round_row(x: &[f32], to: &mut [u32]) {
        assert!(to.len() == x.len().div_ceil(2), "a pair for every two numbers");
        for from in (0..x.len()).step_by(32) {
            let valid = (x.len() - from).min(32);
            let mask = (1u64 << valid) - 1;
            // SAFETY: the masks keep to the numbers of `x` from `from` on, and to the pairs of `to` they make.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask as __mmask16, x.as_ptr().add(from));
                let high = _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, x.as_ptr().wrapping_add(from + 16));
                let mask = ((1u32 << valid.div_ceil(2)) - 1) as __mmask16;
                _mm512_mask_storeu_epi32(
                    to.as_mut_ptr().add(from / 2).cast(),
                    mask,
                    bits(_mm512_cvtne2ps_pbh(high, low)),
                );
            }
        }
    }

    /// See [`round_two_rows`](super::round_two_rows). Numbers below the normal range become zeros.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn round_two_rows(first: &[f32], second: &[f32], to: &mut [u32]) {
        assert!(first.len() == second.len() && to.len() == first.len(), "rows are of one length");
        let mut order = [0u16; 32];
        for (i, from) in order.iter_mut().enumerate() {
            *from = (i / 2 + i % 2 * 16) as u16;
        }
        // SAFETY: `order` is 64 bytes.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        for from in (0..to.len()).step_by(16) {
            let mask = ((1u32 << (to.len() - from).min(16)) - 1) as __mmask16;
            // SAFETY: the mask keeps to the numbers from `from` on.
            unsafe {
                let low = _mm512_maskz_loadu_ps(mask, first.as_ptr().add(from));
                let high = _mm512_maskz_loadu_ps(mask, second.as_ptr().add(from));
                let both = _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(high, low)));
                _mm512_mask_storeu_epi32(to.as_mut_ptr().add(from).cast(), mask, both);
            }
        }
    }
}

/// With two multiply-adds a pair.
mod slow {
    use super::{NR, Operands, TileTable};

    pub(super) static ANY: TileTable = table!(any: 1 2 3 4);
    #[cfg(target_arch = "x86_64")]
    pub(super) static AVX2: TileTable = table!(avx2: 1 2 3 4 5 6);

    /// See [`TileFn`](super::TileFn).
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    unsafe fn any<const ROWS: usize, const WIDTH: usize>(x: &Operands) {
        // SAFETY: the caller's premise.
        unsafe { tile::<ROWS, WIDTH, 4>(x, |a, b, sum| sum + a * b) };
    }

    /// See [`TileFn`](super::TileFn).
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const ROWS: usize, const WIDTH: usize>(x: &Operands) {
        // SAFETY: the caller's premise.
        unsafe { tile::<ROWS, WIDTH, 8>(x, |a, b, sum| a.mul_add(b, sum)) };
    }

    /// `COLS` columns at a time, which divide 16. `add(a, b, sum)` is `sum + a·b`.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[inline(always)]
    unsafe fn tile<const ROWS: usize, const WIDTH: usize, const COLS: usize>(
        x: &Operands,
        add: impl Fn(f32, f32, f32) -> f32,
    ) {
        let (low, high) = (|pair: u32| f32::from_bits(pair << 16), |pair: u32| f32::from_bits(pair & 0xffff_0000));
        for col in (0..16 * WIDTH).step_by(COLS) {
            let mut sums = [[0.0f32; COLS]; ROWS];
            for p in 0..x.k {
                // SAFETY: the caller's premise on `b`: columns `col..col + COLS` of line `p` of a panel.
                let b: [u32; COLS] = unsafe { x.b.add(p * NR + col).cast::<[u32; COLS]>().read() };
                for (i, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's premise on `a`.
                    let a = unsafe { *x.a.add(i * x.row + p * x.step) };
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = add(high(a), high(b), add(low(a), low(b), *sum));
                    }
                }
            }
            let valid = x.n.saturating_sub(col).min(COLS);
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums[..valid].iter().enumerate() {
                    // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                    unsafe {
                        let at = x.c.add(i * x.ldc + col + j);
                        let old = if x.add { *at } else { 0.0 };
                        *at = if x.add { sum * x.alpha + old } else { sum * x.alpha };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mat::MatMut;

    /// Numbers of which every sum below is exact, so that no order of additions shows.
    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 13) as f32 - 6.0).collect()
    }

    #[test]
    fn every_form_of_both_factors_gives_the_product() {
        for (m, n, k) in [(1, 1, 1), (12, 32, 16), (13, 33, 7), (32, 48, 31), (5, 17, 128), (25, 70, 2)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let want: Vec<f32> = (0..m * n)
                .map(|at| 1.0 + 0.5 * (0..k).map(|p| a[at / n * k + p] * b[p * n + at % n]).sum::<f32>())
                .collect();
            let short = |x: &[f32]| x.iter().map(|&v| bf16::store(v)).collect::<Vec<_>>();
            let turned = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                (0..rows * cols).map(|at| x[at % rows * cols + at / rows]).collect()
            };
            let (a_short, a_turned) = (short(&a), turned(&a, m, k));
            let (b_short, b_turned) = (short(&b), short(&turned(&b, k, n)));
            for isa in Isa::all() {
                let mut rights = [vec![9; packed(k, n)], vec![9; packed(k, n) + copied(n, k)]];
                let [rows, columns] = &mut rights;
                let rows = pack_rows(isa, &Mat::new(&b_short, k, n, n), rows);
                let columns = pack_columns(isa, &Mat::new(&b_turned, n, k, k), columns);
                let mut lefts = [(); 3].map(|()| vec![9; copied(m, k).max(m * k.div_ceil(2))]);
                let [stored, rounded_rows, rounded_columns] = &mut lefts;
                let lefts = [
                    left(&Mat::new(&a_short, m, k, k), stored),
                    rounded(isa, &Mat::new(&a, m, k, k), rounded_rows),
                    rounded_transposed(isa, &Mat::new(&a_turned, k, m, m), rounded_columns),
                ];
                for right in [rows, columns] {
                    for left in &lefts {
                        let mut c = vec![1.0; m * n];
                        multiply(isa, left, &right, &mut Tile::whole(MatMut::new(&mut c, m, n, n)), 0.5, true);
                        assert_eq!(c, want, "{m}x{n}x{k} on {isa:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn rounding_is_that_of_storing() {
        let x: Vec<f32> = (0..4099u32).map(|i| f32::from_bits(0x3f00_0000 + i * 4099)).collect();
        let y: Vec<f32> = x.iter().map(|v| -v * 1.01).collect();
        for isa in Isa::all() {
            let (mut row, mut both) = (vec![0; x.len().div_ceil(2)], vec![0; x.len()]);
            round_row(isa, &x, &mut row);
            round_two_rows(isa, &x, &y, &mut both);
            for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                assert_eq!(row[i / 2] >> (i % 2 * 16) & 0xffff, u32::from(bf16::store(x).to_bits()), "{x}");
                assert_eq!(both[i], pair(x, y), "{x} and {y} on {isa:?}");
            }
        }
    }
}
