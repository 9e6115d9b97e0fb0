//! Causal attention over decompressed latent keys and values, a tile of scores at a time.
//!
//! A task holds some rows of one head and walks over the keys they see, [`KEYS`] at a time, with the running maximum and
//! sum of the softmax (Dao et al., "FlashAttention", 2022). Tiles of keys start at multiples of [`KEYS`] from the start
//! of the sequence, and keys that a row does not see count as exact zeros, so a row's result depends on nothing but
//! what it sees.

use std::ops::Range;

use fathom_core::device::{Attention, Heads};

use crate::error::CpuError;
use crate::gemm::{Left, NR, multiply, pack_columns, pack_rows, packed};
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Blocks, Tile};
use crate::simd::{LANES, exp, kernel, max, sum};
use crate::{Cpu, Isa};

/// Keys of a tile.
pub(crate) const KEYS: usize = 128;
/// Queries of a tile.
pub(crate) const QUERIES: usize = 32;
/// Queries of a task, which share packed keys.
const TASK: usize = 256;

const _: () = assert!(KEYS.is_multiple_of(NR) && KEYS.is_multiple_of(LANES));

/// The inputs that both directions share.
pub(crate) struct Inputs<'a> {
    pub heads: Heads,
    pub q: Mat<'a, f32>,
    pub kv: Mat<'a, f32>,
    pub k_pe: Mat<'a, f32>,
    pub starts: Mat<'a, u32>,
}

impl<'a> Inputs<'a> {
    /// Columns of a query or key.
    pub(crate) fn width(&self) -> usize {
        self.heads.nope + self.heads.rope
    }

    /// Rows `rows` of the queries of head `j`.
    pub(crate) fn queries(&self, j: usize, rows: Range<usize>) -> Mat<'a, f32> {
        self.q.block(rows.start, rows.len(), j * self.width(), self.width())
    }

    /// Rows `rows` of the values of head `j`.
    pub(crate) fn values(&self, j: usize, rows: Range<usize>) -> Mat<'a, f32> {
        let h = &self.heads;
        self.kv.block(rows.start, rows.len(), j * (h.nope + h.value) + h.nope, h.value)
    }

    /// Copies rows `rows` of the keys of head `j`, both parts side by side, into `to`.
    pub(crate) fn keys<'s>(&self, j: usize, rows: Range<usize>, to: &'s mut [f32]) -> Mat<'s, f32> {
        let h = &self.heads;
        let first = j * (h.nope + h.value);
        for (r, line) in rows.clone().zip(to.chunks_exact_mut(self.width())) {
            line[..h.nope].copy_from_slice(&self.kv.row(r)[first..first + h.nope]);
            line[h.nope..].copy_from_slice(self.k_pe.row(r));
        }
        Mat::new(to, rows.len(), self.width(), self.width())
    }

    /// The first row that row `t` sees.
    pub(crate) fn first_seen(&self, t: usize) -> usize {
        let sequence = t - t % self.heads.sequence;
        (self.starts.row(t)[0] as usize).clamp(sequence, t)
    }

    /// The first row that any of `rows`, which are not none, sees.
    pub(crate) fn first_seen_by_any(&self, rows: Range<usize>) -> usize {
        rows.clone().map(|t| self.first_seen(t)).min().unwrap_or(rows.start)
    }

    /// What row `t` sees of the tile of `n` keys from row `first` on, as columns of the tile.
    pub(crate) fn window(&self, t: usize, first: usize, n: usize) -> Range<usize> {
        let to = (t + 1).saturating_sub(first).min(n);
        self.first_seen(t).saturating_sub(first).min(to)..to
    }
}

/// Cuts `n` numbers off the front of `scratch`.
pub(crate) fn take<'s>(scratch: &mut &'s mut [f32], n: usize) -> &'s mut [f32] {
    let (front, rest) = std::mem::take(scratch).split_at_mut(n);
    *scratch = rest;
    front
}

/// Masks a row of a tile: columns outside `window` become −∞, as far as whole vectors of [`LANES`] reach that contain
/// some of it, and zeros beyond. Returns those vectors.
#[inline(always)]
pub(crate) fn masked(scores: &mut [f32; KEYS], window: Range<usize>) -> &mut [[f32; LANES]] {
    let (from, to) = (window.start / LANES * LANES, window.end.next_multiple_of(LANES));
    scores[..from].fill(0.0);
    scores[from..window.start].fill(f32::NEG_INFINITY);
    scores[window.end..to].fill(f32::NEG_INFINITY);
    scores[to..].fill(0.0);
    scores[from..to].as_chunks_mut().0
}

kernel! {
    /// One row of a tile of scores: turns the columns of `window` into weights relative to the running maximum `top`,
    /// and the others to zeros; updates maximum and sum, and rescales what was gathered so far in `o`.
    fn soften(scores: &mut [f32; KEYS], window: Range<usize>, top: &mut f32, total: &mut f32, o: &mut [f32]) {
        if window.is_empty() {
            scores.fill(0.0);
            return;
        }
        let seen = masked(scores, window);
        // A NaN score need not be the maximum: it stays NaN below, and so does the sum.
        let new = top.max(max(seen.as_flattened()));
        let shrink = if new == *top { 1.0 } else { exp(*top - new) };
        for vector in &mut *seen {
            for s in vector {
                *s = exp(*s - new);
            }
        }
        *total = *total * shrink + sum(seen.as_flattened(), |s| s);
        *top = new;
        if shrink != 1.0 {
            for o in o {
                *o *= shrink;
            }
        }
    }
}

kernel! {
    fn divide(o: &mut [f32], by: f32) {
        let factor = 1.0 / by;
        for o in o {
            *o *= factor;
        }
    }
}

/// Attention of head `j` for the rows of `o`, at most [`TASK`] of one sequence.
fn attend(isa: Isa, x: &Inputs<'_>, j: usize, o: &mut Tile<'_, f32>, lse: &mut Tile<'_, f32>, mut scratch: &mut [f32]) {
    let (width, value) = (x.width(), x.heads.value);
    let keys = take(&mut scratch, KEYS * width);
    let keys_packed = take(&mut scratch, packed(width, KEYS));
    let values_packed = take(&mut scratch, packed(KEYS, value));
    let scores = take(&mut scratch, QUERIES * KEYS);
    let top = take(&mut scratch, TASK);
    let total = take(&mut scratch, TASK);
    top.fill(f32::NEG_INFINITY);
    total.fill(0.0);
    o.for_rows(|_, o| o.fill(0.0));

    let (first, end) = (o.row, o.row + o.rows());
    let sequence = first - first % x.heads.sequence;
    let seen = x.first_seen_by_any(first..end) - sequence;
    for key in (sequence + seen / KEYS * KEYS..end).step_by(KEYS) {
        let rows = key..(key + KEYS).min(sequence + x.heads.sequence);
        let k = pack_columns(isa, &x.keys(j, rows.clone(), keys), keys_packed);
        let v = pack_rows(isa, &x.values(j, rows.clone()), values_packed);
        for from in (first..end).step_by(QUERIES) {
            let to = (from + QUERIES).min(end);
            if to <= key || x.first_seen_by_any(from..to) >= rows.end {
                continue;
            }
            let n = rows.len().min(to - key);
            let q = Left::new(isa, &x.queries(j, from..to));
            let mut tile = Tile::whole(MatMut::new(scores, to - from, n, KEYS));
            multiply(isa, &q, &k, &mut tile, x.heads.scale as f32, false);
            for (t, row) in (from..to).zip(scores.as_chunks_mut().0) {
                let at = t - first;
                soften(isa, row, x.window(t, key, n), &mut top[at], &mut total[at], o.row(at));
            }
            let weights = Left::new(isa, &Mat::new(scores, to - from, n, KEYS));
            let mut o = o.block(from - first, to - from, 0, value);
            multiply(isa, &weights, &v.shallow(n), &mut o, 1.0, true);
        }
    }
    for i in 0..o.rows() {
        divide(isa, o.row(i), total[i]);
        lse.row(i)[0] = top[i] + total[i].ln();
    }
}

impl Cpu {
    pub(crate) fn run_attention(&self, call: Attention<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "attention";
        let (cost, heads, isa) = (fathom_core::device::Call::cost(&call), call.heads, self.isa());
        let x = Inputs {
            heads,
            q: mat::read(OP, &call.q)?,
            kv: mat::read(OP, &call.kv)?,
            k_pe: mat::read(OP, &call.k_pe)?,
            starts: mat::read(OP, &call.starts)?,
        };
        let (o, lse) = (mat::write(OP, call.o)?, mat::write(OP, call.lse)?);
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
        let width = x.width();
        let scratch = KEYS * width + packed(width, KEYS) + packed(KEYS, heads.value) + QUERIES * KEYS + 2 * TASK;
        self.for_each_with((cost.flops / 16) as usize, scratch, parts, |i, (mut o, mut lse), scratch| {
            attend(isa, &x, place(i).2, &mut o, &mut lse, scratch);
        })
    }
}
