//! Packing: copies of GEMM operands in the order in which tiles read them.

use bytemuck::Zeroable;

use super::source::Source;
use super::transpose::transpose;
use super::{Left, NR, Right, Word, packed, tile_rows};
use crate::mat::Mat;
use crate::simd::{Isa, fetch, kernel};

/// Packs `b[k, n]` into panels of [`NR`] columns. Columns past `n` are zeros.
pub(crate) fn pack_rows<'s, W: Word>(isa: Isa, b: &Mat<'_, W::Number>, to: &'s mut [W]) -> Right<'s, W> {
    let (depth, cols) = (b.rows().div_ceil(W::NUMBERS), b.cols());
    let to = &mut to[..packed(depth, cols)];
    if W::join_rows::<NR>(isa, b, to).is_none() {
        copy_rows(isa, b, to);
    }
    Right::packed(to, depth, cols)
}

/// Packs `b[n, k]ᵀ` into panels of [`NR`] columns, which are rows of `b`. Columns past `n` are zeros.
pub(crate) fn pack_columns<'s, W: Word>(isa: Isa, b: &Mat<'_, W::Number>, to: &'s mut [W]) -> Right<'s, W> {
    let (depth, cols) = (b.cols().div_ceil(W::NUMBERS), b.rows());
    let to = &mut to[..packed(depth, cols)];
    for (p, panel) in to.chunks_exact_mut((depth * NR).max(1)).enumerate() {
        let panel = panel.as_chunks_mut().0;
        match W::words(b) {
            Some(words) => transpose(isa, &words, p * NR, panel),
            None => transpose_numbers(b, p * NR, panel),
        }
    }
    Right::packed(to, depth, cols)
}

/// As [`pack_columns`] of the numbers of a source. `made` has room for [`NR`] rows of them, if they have to be made:
/// what is made at a time stays in the nearest caches.
pub(super) fn pack_source_columns<'s, W: Word, B: Source<W::Number>>(
    isa: Isa,
    b: &B,
    made: &mut [W::Number],
    to: &'s mut [W],
) -> Right<'s, W> {
    let (depth, cols) = (b.cols(), b.rows());
    if !B::MADE {
        return pack_columns(isa, &b.numbers(isa, made), to);
    }
    let words = depth.div_ceil(W::NUMBERS);
    let to = &mut to[..packed(words, cols)];
    for (p, panel) in to.chunks_exact_mut((words * NR).max(1)).enumerate() {
        let rows = b.block(p * NR, NR.min(cols - p * NR), 0, depth);
        pack_columns(isa, &rows.numbers(isa, made), panel);
    }
    Right::packed(to, words, cols)
}

/// As [`pack_rows`] of the numbers of a source, with `made` as in [`pack_source_columns`].
pub(super) fn pack_source_rows<'s, W: Word, B: Source<W::Number>>(
    isa: Isa,
    b: &B,
    made: &mut [W::Number],
    to: &'s mut [W],
) -> Right<'s, W> {
    let (depth, cols) = (b.rows(), b.cols());
    if !B::MADE {
        return pack_rows(isa, &b.numbers(isa, made), to);
    }
    let words = depth.div_ceil(W::NUMBERS);
    let to = &mut to[..packed(words, cols)];
    for (p, panel) in to.chunks_exact_mut((words * NR).max(1)).enumerate() {
        let block = b.block(0, depth, p * NR, NR.min(cols - p * NR));
        if W::NUMBERS == 1 && block.cols() == NR {
            // A whole panel lies as its rows do.
            block.numbers(isa, bytemuck::cast_slice_mut(panel));
        } else {
            pack_rows(isa, &block.numbers(isa, made), panel);
        }
    }
    Right::packed(to, words, cols)
}

/// As [`transpose`], where the numbers of a row do not lie as words do.
fn transpose_numbers<W: Word>(b: &Mat<'_, W::Number>, first: usize, panel: &mut [[W; NR]]) {
    for line in panel.iter_mut() {
        line.fill(W::zeroed());
    }
    for j in 0..NR.min(b.rows() - first) {
        for (line, numbers) in panel.iter_mut().zip(b.row(first + j).chunks(W::NUMBERS)) {
            line[j] = W::join(numbers[0], numbers.get(1).copied().unwrap_or(W::Number::zeroed()));
        }
    }
}

kernel! {
    fn copy_rows<W: Word>(b: &Mat<'_, W::Number>, to: &mut [W]) {
        copy_columns::<W>(b, to);
        let (depth, used) = (b.rows().div_ceil(W::NUMBERS), b.cols() % NR);
        if used > 0 {
            let last = to.len() - depth * NR;
            for line in to[last..].as_chunks_mut::<NR>().0 {
                line[used..].fill(W::zeroed());
            }
        }
    }
}

/// The left factor `a[m, k]`: as it lies, or copied where it cannot be read as words, or to other distances where its
/// rows would fall on each other in the cache.
pub(crate) fn left<'s, W: Word>(isa: Isa, a: &Mat<'s, W::Number>, to: &'s mut [W]) -> Left<'s, W> {
    const ALIAS: usize = 1024; // words in the 4 KiB after which addresses share a set of the L1 cache
    if let Some(words) = W::words(a)
        && (!words.stride().is_multiple_of(ALIAS) || a.rows() < 8)
    {
        return Left::new(isa, &words);
    }
    let depth = a.cols().div_ceil(W::NUMBERS);
    let stride = left_stride(depth);
    let to = &mut to[..a.rows() * stride];
    for (r, line) in to.chunks_exact_mut(stride).enumerate() {
        let line: &mut [W::Number] = bytemuck::cast_slice_mut(&mut line[..depth]);
        line[..a.cols()].copy_from_slice(a.row(r));
        line[a.cols()..].fill(W::Number::zeroed());
    }
    Left::new(isa, &Mat::new(to, a.rows(), depth, stride))
}

/// Words that [`left`] may need for `rows` of `depth` words.
pub(crate) const fn left_size(rows: usize, depth: usize) -> usize {
    rows * left_stride(depth)
}

/// From row to row of a copy: an odd number of cache lines.
pub(crate) const fn left_stride(depth: usize) -> usize {
    (depth.div_ceil(16) | 1) * 16
}

/// Words that [`left`] and [`left_transposed`] may need for `rows` of `depth` words.
pub(super) const fn left_room(rows: usize, depth: usize) -> usize {
    let (copied, panels, lines) = (left_size(rows, depth), rows.div_ceil(12) * 16 * depth, left_stride(rows) * depth);
    let most = if copied > panels { copied } else { panels };
    if most > lines { most } else { lines }
}

/// The left factor `a[k, m]ᵀ`: read where it lies, or copied or joined where it cannot be, or where its rows are so far
/// apart that those of a tile fall on each other in the caches.
pub(super) fn left_transposed<'s, W: Word>(isa: Isa, a: &Mat<'s, W::Number>, to: &'s mut [W]) -> Left<'s, W> {
    const FAR: usize = 1024; // words from row to row: a page
    let (depth, rows) = (a.rows().div_ceil(W::NUMBERS), a.cols());
    if W::NUMBERS == 1 && a.stride() < FAR {
        return Left::transposed(isa, &Mat::new(bytemuck::cast_slice(a.as_slice()), depth, rows, a.stride()));
    }
    let stride = left_stride(depth);
    if W::turn(isa, a, stride, to) {
        return Left::new(isa, &Mat::new(to, rows, depth, stride));
    }
    if tile_rows::<W>(isa) == 12
        && let Some(step) = W::join_rows::<12>(isa, a, to)
    {
        return Left { data: to, rows, depth, panel: depth * step, row: 1, step };
    }
    let stride = left_stride(rows);
    let to = &mut to[..depth * stride];
    copy_lines(isa, a, to, stride);
    Left::transposed(isa, &Mat::new(to, depth, rows, stride))
}

kernel! {
    /// Copies the rows of `a`, as words of their columns, to lines `stride` apart.
    fn copy_lines<W: Word>(a: &Mat<'_, W::Number>, to: &mut [W], stride: usize) {
        for (p, line) in to.chunks_exact_mut(stride).enumerate() {
            let (first, second) = rows_of_words::<W>(a, p);
            fetch_rows_of_words::<W>(a, p + AHEAD);
            join_row(first, second, &mut line[..a.cols()]);
        }
    }
}

/// The rows of numbers that line `p` of words is made of. The second may be missing at the end.
#[inline(always)]
fn rows_of_words<'a, W: Word>(a: &Mat<'a, W::Number>, p: usize) -> (&'a [W::Number], Option<&'a [W::Number]>) {
    let last = (p + 1) * W::NUMBERS - 1;
    (a.row(p * W::NUMBERS), (W::NUMBERS > 1 && last < a.rows()).then(|| a.row(last)))
}

/// Rows ahead of the one being copied that are fetched: rows are far apart, which the processor does not foresee.
const AHEAD: usize = 16;

/// Copies `a` into panels of [`NR`] columns of words. The columns that the last panel lacks keep what `to` held.
///
/// Each row is read from end to end, since rows may be far apart and panels are not.
#[inline(always)]
fn copy_columns<W: Word>(a: &Mat<'_, W::Number>, to: &mut [W]) {
    let depth = a.rows().div_ceil(W::NUMBERS);
    for p in 0..depth {
        let (first, second) = rows_of_words::<W>(a, p);
        fetch_rows_of_words::<W>(a, p + AHEAD);
        for (panel, from) in (0..a.cols()).step_by(NR).enumerate() {
            let span = from..(from + NR).min(a.cols());
            let line = &mut to[(panel * depth + p) * NR..][..span.len()];
            join_row(&first[span.clone()], second.map(|s| &s[span]), line);
        }
    }
}

/// Fetches the rows of numbers that line `p` of words is made of, as far as there are such.
#[inline(always)]
fn fetch_rows_of_words<W: Word>(a: &Mat<'_, W::Number>, p: usize) {
    for r in p * W::NUMBERS..((p + 1) * W::NUMBERS).min(a.rows()) {
        fetch(a.row(r));
    }
}

/// Words of the numbers of two rows. A missing second row counts as zeros.
#[inline(always)]
fn join_row<W: Word>(first: &[W::Number], second: Option<&[W::Number]>, to: &mut [W]) {
    match second {
        _ if W::NUMBERS == 1 => copy(bytemuck::cast_slice(first), to),
        Some(second) => {
            for ((to, &x), &y) in to.iter_mut().zip(first).zip(second) {
                *to = W::join(x, y);
            }
        }
        None => {
            for (to, &x) in to.iter_mut().zip(first) {
                *to = W::join(x, W::Number::zeroed());
            }
        }
    }
}

/// Copies words in registers: a call takes as long as copying hundreds.
#[inline(always)]
fn copy<W: Copy>(from: &[W], to: &mut [W]) {
    let ((wholes, rest), (to, to_rest)) = (from.as_chunks::<NR>(), to.as_chunks_mut::<NR>());
    assert!(wholes.len() == to.len() && rest.len() == to_rest.len(), "a row has room of its length");
    for (to, from) in to.iter_mut().zip(wholes) {
        *to = *from;
    }
    let mut at = 0;
    copy_part::<W, 16>(rest, to_rest, &mut at);
    copy_part::<W, 8>(rest, to_rest, &mut at);
    copy_part::<W, 4>(rest, to_rest, &mut at);
    copy_part::<W, 2>(rest, to_rest, &mut at);
    copy_part::<W, 1>(rest, to_rest, &mut at);
}

/// Copies `N` words from `at` on, and moves `at` behind them, if the length of both has the bit `N`.
#[inline(always)]
fn copy_part<W: Copy, const N: usize>(from: &[W], to: &mut [W], at: &mut usize) {
    if from.len() & N != 0 {
        to[*at..*at + N].copy_from_slice(&from[*at..*at + N]);
        *at += N;
    }
}
