//! Causal attention over decompressed latent keys and values, by tiles of scores (FlashAttention).
//!
//! A task holds some rows of one head and walks over the keys they see, [`KEYS`] at a time, with the running maximum
//! and sum of the softmax (Dao et al., "FlashAttention", 2022). Tiles of keys start at multiples of [`KEYS`] from the
//! start of the sequence, and keys that a row does not see count as exact zeros, so a row's result depends on nothing
//! but what it sees.

use std::ops::Range;

use fathom_core::device::{Attention, ChunkAttention, Heads, MaskWindow};

use crate::error::CpuError;
use crate::factor::{Computed, Factor, copied, copy, left_words, numbers, right_words, stride};
use crate::gemm::{has_pairs, left, multiply, pack_columns};
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Blocks, Tile, Tiles};
use crate::real::{Real, typed};
use crate::scores::{KEYS, QUERIES, Window, soften};
use crate::simd::kernel;
use crate::{Cpu, Isa};

/// Queries of a task, which share packed keys.
const TASK: usize = 256;

/// As [`take`], as words.
pub(crate) fn take_words<'s, W: Computed>(scratch: &mut &'s mut [f32], n: usize) -> &'s mut [W] {
    bytemuck::cast_slice_mut(take(scratch, n))
}

/// The inputs that both directions share.
pub(crate) struct Inputs<'a, T> {
    pub heads: Heads,
    pub q: Mat<'a, T>,
    pub kv: Mat<'a, T>,
    pub k_pe: Mat<'a, T>,
    /// The first row that each row sees; the first of its sequence if absent.
    pub starts: Option<Mat<'a, u32>>,
    /// Rows of keys before the first query. Rows are counted from the first key.
    pub before: usize,
}

impl<'a, T: Real> Inputs<'a, T> {
    /// Columns of a query or key.
    pub(crate) fn width(&self) -> usize {
        self.heads.nope + self.heads.rope
    }

    /// Rows `rows` of the queries of head `j`.
    pub(crate) fn queries(&self, j: usize, rows: Range<usize>) -> Mat<'a, T> {
        self.q.block(rows.start - self.before, rows.len(), j * self.width(), self.width())
    }

    /// Rows `rows` of the values of head `j`.
    pub(crate) fn values(&self, j: usize, rows: Range<usize>) -> Mat<'a, T> {
        let h = &self.heads;
        self.kv.block(rows.start, rows.len(), j * (h.nope + h.value) + h.nope, h.value)
    }

    /// Copies rows `rows` of the keys of head `j`, both parts side by side, into `to`, [`stride`] apart.
    pub(crate) fn keys<'s, N: Real>(&self, isa: Isa, j: usize, rows: Range<usize>, to: &'s mut [f32]) -> Mat<'s, N> {
        let to: &mut [N] = bytemuck::cast_slice_mut(to);
        let h = &self.heads;
        let first = j * (h.nope + h.value);
        let stride = stride(self.width());
        let nope = self.kv.block(rows.start, rows.len(), first, h.nope);
        copy(isa, &nope, stride, to);
        copy(isa, &self.k_pe.block(rows.start, rows.len(), 0, h.rope), stride, &mut to[h.nope..]);
        Mat::new(to, rows.len(), self.width(), stride)
    }

    /// The first row that each of `rows` sees, which are of one sequence.
    fn first_seen(&self, rows: Range<usize>) -> impl Iterator<Item = usize> {
        let sequence = rows.start - rows.start % self.heads.sequence;
        rows.map(move |t| self.starts.map_or(sequence, |starts| (starts.row(t)[0] as usize).clamp(sequence, t)))
    }

    /// The first row that any of `rows` sees, which are of one sequence and not none.
    pub(crate) fn first_seen_by_any(&self, rows: Range<usize>) -> usize {
        self.first_seen(rows.clone()).min().unwrap_or(rows.start)
    }

    /// Visible columns of each of `rows`, at most [`QUERIES`] of one sequence, in the tile of `n` keys from row `first`
    /// on.
    pub(crate) fn windows(&self, rows: Range<usize>, first: usize, n: usize) -> [Window; QUERIES] {
        let mut windows = [Window::new(0..0); QUERIES];
        for ((t, seen), window) in rows.clone().zip(self.first_seen(rows)).zip(&mut windows) {
            let end = (t + 1).saturating_sub(first).min(n);
            *window = Window::new(seen.saturating_sub(first).min(end)..end);
        }
        windows
    }
}

/// Cuts `n` numbers off the front of `scratch`.
pub(crate) fn take<'s>(scratch: &mut &'s mut [f32], n: usize) -> &'s mut [f32] {
    let (front, rest) = std::mem::take(scratch).split_at_mut(n);
    *scratch = rest;
    front
}

kernel! {
    pub(crate) fn scale(o: &mut [f32], factor: f32) {
        for o in o {
            *o *= factor;
        }
    }
}

kernel! {
    /// `to = factor·from`, rounded.
    pub(crate) fn scale_to<T: Real>(from: &[f32], factor: f32, to: &mut [T]) {
        for (to, &x) in to.iter_mut().zip(from) {
            *to = T::store(x * factor);
        }
    }
}

/// Numbers of scratch that [`attend`] needs.
fn scratch_size<W: Computed>(h: &Heads) -> usize {
    let (width, value) = (h.nope + h.rope, h.value);
    KEYS * stride(width)
        + KEYS * stride(value)
        + QUERIES * width
        + right_words::<W>(width, KEYS)
        + right_words::<W>(KEYS, value)
        + QUERIES * KEYS
        + left_words::<W>(QUERIES, width)
        + left_words::<W>(QUERIES, KEYS)
        + TASK * value
        + 2 * TASK
}

/// Attention of head `j` for the rows of `o`, at most [`TASK`] of one sequence.
fn attend<T: Real, W: Computed>(
    isa: Isa,
    x: &Inputs<'_, T>,
    j: usize,
    o: &mut Tile<'_, T>,
    lse: Option<&mut Tile<'_, f32>>,
    mut scratch: &mut [f32],
) {
    let _tiles = isa.hold_tiles();
    let (width, value) = (x.width(), x.heads.value);
    let keys = take(&mut scratch, KEYS * stride(width));
    let values = take(&mut scratch, KEYS * stride(value));
    let made = take(&mut scratch, QUERIES * width);
    let keys_packed = take_words::<W>(&mut scratch, right_words::<W>(width, KEYS));
    let values_packed = take_words::<W>(&mut scratch, right_words::<W>(KEYS, value));
    let scores = take(&mut scratch, QUERIES * KEYS);
    let q_copy = take_words::<W>(&mut scratch, left_words::<W>(QUERIES, width));
    let weights_copy = take_words::<W>(&mut scratch, left_words::<W>(QUERIES, KEYS));
    let sums = take(&mut scratch, TASK * value);
    let top = take(&mut scratch, TASK);
    let total = take(&mut scratch, TASK);
    top.fill(f32::NEG_INFINITY);
    total.fill(0.0);
    sums.fill(0.0);

    let (first, end) = (x.before + o.row, x.before + o.row + o.rows());
    let sequence = first - first % x.heads.sequence;
    let seen = x.first_seen_by_any(first..end) - sequence;
    for key in (sequence + seen / KEYS * KEYS..end).step_by(KEYS) {
        let rows = key..(key + KEYS).min(sequence + x.heads.sequence);
        let k = pack_columns::<W>(isa, &x.keys(isa, j, rows.clone(), keys), keys_packed);
        let v = W::right(isa, &copied(isa, &x.values(j, rows.clone()), values), values_packed);
        for from in (first..end).step_by(QUERIES) {
            let to = (from + QUERIES).min(end);
            if to <= key || x.first_seen_by_any(from..to) >= rows.end {
                continue;
            }
            let (m, n) = (to - from, rows.len().min(to - key));
            let q = numbers(isa, &x.queries(j, from..to), made);
            let q = left::<W>(isa, &q, q_copy);
            multiply(isa, &q, &k, &mut tile(scores, m, n, KEYS), x.heads.scale as f32, false);
            let (rows, windows) = (&mut scores.as_chunks_mut().0[..m], x.windows(from..to, key, n));
            let at = from - first..to - first;
            let shrink = soften(isa, rows, &windows, &mut top[at.clone()], &mut total[at.clone()]);
            let sums = &mut sums[at.start * value..at.end * value];
            for (row, &factor) in sums.chunks_exact_mut(value).zip(&shrink).filter(|(_, f)| **f != 1.0) {
                scale(isa, row, factor);
            }
            let weights = W::rounded(isa, &Mat::new(scores, m, n, KEYS), weights_copy);
            multiply(isa, &weights, &v.part(0..n), &mut tile(sums, m, value, value), 1.0, true);
        }
    }
    for (i, sums) in sums.chunks_exact(value).enumerate().take(o.rows()) {
        scale_to(isa, sums, 1.0 / total[i], o.row(i));
    }
    if let Some(lse) = lse {
        for i in 0..lse.rows() {
            lse.row(i)[0] = top[i] + total[i].ln();
        }
    }
}

/// Scratch as a tile to write.
pub(crate) fn tile(scratch: &mut [f32], rows: usize, cols: usize, stride: usize) -> Tile<'_, f32> {
    Tile::whole(MatMut::new(scratch, rows, cols, stride))
}

typed! {
    attention: Attention[q] => run_attention,
    chunk_attention: ChunkAttention[q] => run_chunk_attention,
}

impl Cpu {
    pub(crate) fn mask_window(&self, call: MaskWindow<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "mask_window";
        let (first, y) = (mat::read::<u32>(OP, &call.first)?, mat::write::<f32>(OP, call.y)?);
        let (base, last) = (call.base, call.last);
        let work = y.rows() * y.cols() / 4;
        self.for_each(work, Tiles::of_elements(y), |_, mut y: Tile<'_, f32>| {
            let left = base + y.col;
            y.for_rows(|r, row| {
                let seen_from = (first.row(r)[0] as usize).saturating_sub(left).min(row.len());
                let seen_to = (last + r + 1).saturating_sub(left).clamp(seen_from, row.len());
                row[..seen_from].fill(f32::NEG_INFINITY);
                row[seen_to..].fill(f32::NEG_INFINITY);
            });
        });
        Ok(())
    }

    fn run_attention<T: Factor>(&self, call: Attention<'_, Buffer>) -> Result<(), CpuError> {
        if has_pairs(self.isa()) { self.attention_in::<T, T::Word>(call) } else { self.attention_in::<T, f32>(call) }
    }

    fn attention_in<T: Real, W: Computed>(&self, call: Attention<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "attention";
        let (cost, heads, isa) = (fathom_core::device::Call::cost(&call), call.heads, self.isa());
        let x = Inputs::<T> {
            heads,
            q: mat::read(OP, &call.q)?,
            kv: mat::read(OP, &call.kv)?,
            k_pe: mat::read(OP, &call.k_pe)?,
            starts: Some(mat::read(OP, &call.starts)?),
            before: 0,
        };
        let (o, lse) = (mat::write::<T>(OP, call.o)?, mat::write::<f32>(OP, call.lse)?);
        let per_sequence = heads.sequence.div_ceil(TASK);
        let count = x.q.rows() / heads.sequence * per_sequence * heads.heads;
        // Task `i`: its first row, its number of rows, its head. Heads of the same rows follow each other.
        let place = |i: usize| {
            let (j, part) = (i % heads.heads, i / heads.heads);
            let offset = part % per_sequence * TASK;
            (part / per_sequence * heads.sequence + offset, TASK.min(heads.sequence - offset), j)
        };
        let o_place = |i: usize| {
            let (row, rows, j) = place(i);
            [row, rows, j * heads.value, heads.value]
        };
        let lse_place = |i: usize| {
            let (row, rows, j) = place(i);
            [row, rows, j, 1]
        };
        // SAFETY: different tasks have different rows or different heads, and so do their blocks.
        let parts = unsafe { (Blocks::new(o, count, o_place), Blocks::new(lse, count, lse_place)) };
        self.for_each_with(
            (cost.flops / 16) as usize,
            scratch_size::<W>(&heads),
            parts,
            |i, (mut o, mut lse), scratch| {
                attend::<T, W>(isa, &x, place(i).2, &mut o, Some(&mut lse), scratch);
            },
        )
    }

    fn run_chunk_attention<T: Factor>(&self, call: ChunkAttention<'_, Buffer>) -> Result<(), CpuError> {
        if has_pairs(self.isa()) {
            self.chunk_attention_in::<T, T::Word>(call)
        } else {
            self.chunk_attention_in::<T, f32>(call)
        }
    }

    fn chunk_attention_in<T: Real, W: Computed>(&self, call: ChunkAttention<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "chunk_attention";
        let (cost, isa, before) = (fathom_core::device::Call::cost(&call), self.isa(), call.before());
        let heads = Heads { sequence: call.kv.rows().max(1), ..call.heads };
        let x = Inputs::<T> {
            heads,
            q: mat::read(OP, &call.q)?,
            kv: mat::read(OP, &call.kv)?,
            k_pe: mat::read(OP, &call.k_pe)?,
            starts: None,
            before,
        };
        let parts = Tiles::new(mat::write::<T>(OP, call.o)?, TASK, heads.value);
        let work = (cost.flops / 16) as usize;
        self.for_each_with(work, scratch_size::<W>(&heads), parts, |_, mut o, scratch| {
            let j = o.col / heads.value;
            attend::<T, W>(isa, &x, j, &mut o, None, scratch);
        })
    }
}
