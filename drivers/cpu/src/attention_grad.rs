//! Gradient of causal attention: scores are recomputed from the saved log-sum-exp.
//!
//! A task has a whole sequence and some heads, and goes over tiles of keys (outer) and queries (inner) in order, so
//! every gradient is added up by one task in one order. Only the gradient of the keys' rotary part is a sum over all
//! heads: each task leaves its own share of it, and the shares are added in the order of heads.

use std::ops::Range;

use fathom_core::device::{AttentionGrad, Heads};

use crate::attention::{Inputs, take, take_words, tile};
use crate::error::CpuError;
use crate::factor::{AHEAD, Computed, Factor, copied, copy_row, left_words, right_words, stride};
use crate::gemm::{has_pairs, left, multiply, pack_columns, tile_rows};
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles};
use crate::real::{Real, typed};
use crate::reduce::add;
use crate::scores::{KEYS, QUERIES, differentiate};
use crate::simd::{fetch, kernel, sum2};
use crate::{Cpu, Isa};

/// The most shares of the rotary gradient per sequence: bounds its memory where there are many heads.
const SHARES: usize = 16;

/// Queries of a tile: two of [`QUERIES`], since gradients of keys and values are read and written once a tile.
const ROWS: usize = 2 * QUERIES;

/// Queries of which scores are differentiated while what is read and written next is fetched: few enough for the
/// processor not to wait for it.
const FETCHED: usize = 4;

/// The least rows of a product that are cut apart where the diagonal crosses them: one large tile, or some small ones.
const STRIP: usize = 12;

/// Cuts `0..len` into strips, `step` each, if the diagonal crosses what is multiplied: none is wider than it must
/// be, and none leaves the [`QUERIES`] rows or columns up to which scores are defined.
fn strips(step: usize, len: usize, crossed: bool) -> impl Iterator<Item = Range<usize>> {
    let (block, step) = if crossed { (QUERIES, step) } else { (len, len) };
    (0..len).step_by(block).flat_map(move |from| {
        let to = (from + block).min(len);
        (from..to).step_by(step).map(move |i| i..(i + step).min(to))
    })
}

/// What the gradient needs besides the inputs.
struct Outputs<'a, T> {
    o: Mat<'a, T>,
    lse: Mat<'a, f32>,
    d_o: Mat<'a, T>,
}

kernel! {
    /// The product of every row of `x` with that of `y`.
    fn dots<T: Real>(x: &Mat<'_, T>, y: &Mat<'_, T>, to: &mut [f32]) {
        for (r, to) in to.iter_mut().enumerate() {
            fetch(if r + AHEAD < x.rows() { x.row(r + AHEAD) } else { &[] });
            *to = sum2(x.row(r), y.row(r), |x, y| x * y);
        }
    }
}

kernel! {
    /// Rounds rows of sums, `pitch` apart, to `to`.
    fn round_rows<T: Real>(sums: &[f32], pitch: usize, to: &mut Tile<'_, T>) {
        for (r, sums) in sums.chunks(pitch).enumerate().take(to.rows()) {
            let to = to.row(r);
            copy_row(&sums[..to.len()], to);
        }
    }
}

kernel! {
    /// `y = Σ_i x[i·pitch + c]` over all shares that `x` holds, rounded once.
    fn add_shares<T: Real>(x: &[f32], pitch: usize, y: &mut [T]) {
        for (c, y) in y.iter_mut().enumerate() {
            *y = T::store(x.chunks_exact(pitch).fold(0.0, |sum, share| sum + share[c]));
        }
    }
}

/// Numbers of scratch that [`head`] needs.
fn scratch_size<W: Computed>(h: &Heads) -> usize {
    let (width, value) = (h.nope + h.rope, h.value);
    KEYS * stride(width)
        + KEYS * (width + value)
        + h.sequence * width
        + KEYS * stride(value)
        + ROWS * (stride(width) + stride(value))
        + right_words::<W>(width, KEYS)
        + right_words::<W>(KEYS, width)
        + right_words::<W>(value, KEYS)
        + 2 * ROWS * KEYS
        + right_words::<W>(ROWS, value)
        + right_words::<W>(ROWS, width)
        + 2 * h.sequence
        + left_size::<W>(h)
}

/// Numbers of scratch for any left factor of [`head`].
fn left_size<W: Computed>(h: &Heads) -> usize {
    let inputs = left_words::<W>(ROWS, (h.nope + h.rope).max(h.value));
    inputs.max(left_words::<W>(ROWS, KEYS)).max(left_words::<W>(KEYS, ROWS))
}

/// Where the gradients of one head over one sequence go.
struct Gradients<'a, T> {
    /// `[s, nope + rope]`, replaced.
    dq: Tile<'a, T>,
    /// `[s, nope + value]`, replaced.
    dkv: Tile<'a, T>,
    /// `[s, rope]`, added to.
    dk_pe: Tile<'a, f32>,
}

/// The gradients of one head over one sequence. They are added up in scratch and rounded once.
fn head<T: Real, W: Computed>(
    isa: Isa,
    x: &Inputs<'_, T>,
    y: &Outputs<'_, T>,
    j: usize,
    to: Gradients<'_, T>,
    mut scratch: &mut [f32],
) {
    let _tiles = isa.hold_tiles();
    let Gradients { dq: mut dq_rows, mut dkv, mut dk_pe } = to;
    let (nope, value, width) = (x.heads.nope, x.heads.value, x.width());
    let (scale, step) = (x.heads.scale as f32, tile_rows::<W>(isa).max(STRIP));
    let keys = take(&mut scratch, KEYS * stride(width));
    let dk = take(&mut scratch, KEYS * width);
    let dv = take(&mut scratch, KEYS * value);
    let dq = take(&mut scratch, x.heads.sequence * width);
    let values = take(&mut scratch, KEYS * stride(value));
    let q_rows = take(&mut scratch, ROWS * stride(width));
    let d_o_rows = take(&mut scratch, ROWS * stride(value));
    let k_by_columns = take_words::<W>(&mut scratch, right_words::<W>(width, KEYS));
    let k_by_rows = take_words::<W>(&mut scratch, right_words::<W>(KEYS, width));
    let v_by_columns = take_words::<W>(&mut scratch, right_words::<W>(value, KEYS));
    let scores = take(&mut scratch, ROWS * KEYS);
    let slopes = take(&mut scratch, ROWS * KEYS);
    let d_o_packed = take_words::<W>(&mut scratch, right_words::<W>(ROWS, value));
    let q_packed = take_words::<W>(&mut scratch, right_words::<W>(ROWS, width));
    let means = take(&mut scratch, x.heads.sequence);
    let lse = take(&mut scratch, x.heads.sequence);
    let copy = take_words::<W>(&mut scratch, left_size::<W>(&x.heads));

    let (first, end) = (dq_rows.row, dq_rows.row + dq_rows.rows());
    let [o, d_o] = [&y.o, &y.d_o].map(|x| x.block(first, end - first, j * value, value));
    lse.iter_mut().zip(first..end).for_each(|(lse, t)| *lse = y.lse.row(t)[j]);
    let q = x.queries(j, first..end);
    for key in (first..end).step_by(KEYS) {
        let rows = key..(key + KEYS).min(end);
        let k = x.keys(isa, j, rows.clone(), keys);
        let kt = pack_columns::<W>(isa, &k, k_by_columns);
        let k = W::right(isa, &k, k_by_rows);
        let vt = pack_columns::<W>(isa, &copied(isa, &x.values(j, rows.clone()), values), v_by_columns);
        for from in (key..end).step_by(ROWS) {
            let to = (from + ROWS).min(end);
            let (m, n, here) = (to - from, rows.len().min(to - key), from - first);
            let (q_block, d_o_block) = (q.block(here, m, 0, width), d_o.block(here, m, 0, value));
            if key == first {
                dots(isa, &o.block(here, m, 0, value), &d_o_block, &mut means[here..here + m]);
            }
            let seen = x.first_seen_by_any(from..to);
            if seen >= rows.end {
                continue;
            }
            // Row `i` sees no column after `before + i`.
            let before = from - key;
            let crossed = before < n;
            let q_block = copied(isa, &q_block, q_rows);
            let d_o_block = copied(isa, &d_o_block, d_o_rows);
            let left_q = left::<W>(isa, &q_block, copy);
            for i in strips(step, m, crossed) {
                let (part, n) = (left_q.part(i.clone(), 0..width), n.min(before + i.end));
                let to = &mut scores[i.start * KEYS..];
                multiply(isa, &part, &kt, &mut tile(to, i.len(), n, KEYS), scale, false);
            }
            let left_d_o = left::<W>(isa, &d_o_block, copy);
            for i in strips(step, m, crossed) {
                let (part, n) = (left_d_o.part(i.clone(), 0..value), n.min(before + i.end));
                let to = &mut slopes[i.start * KEYS..];
                multiply(isa, &part, &vt, &mut tile(to, i.len(), n, KEYS), 1.0, false);
            }
            for part in (0..m).step_by(QUERIES) {
                let part = part..(part + QUERIES).min(m);
                let (cols, windows) = (n.min(before + part.end), x.windows(from + part.start..from + part.end, key, n));
                for i in part.clone().step_by(FETCHED) {
                    let i = i..(i + FETCHED).min(part.end);
                    let at = here + i.start..here + i.end;
                    for t in at.clone() {
                        if key == first && t + ROWS < q.rows() {
                            [q, o, d_o].iter().for_each(|x| fetch(x.row(t + ROWS)));
                        }
                        if crossed {
                            fetch(dq_rows.row(t));
                            fetch(dkv.row(t));
                        }
                    }
                    let (s, d) = (&mut scores.as_chunks_mut().0[i.clone()], &mut slopes.as_chunks_mut().0[i.clone()]);
                    let windows = &windows[i.start - part.start..i.end - part.start];
                    differentiate(isa, s, d, cols, windows, &lse[at.clone()], &means[at], scale);
                }
            }
            let (p, ds) = (Mat::new(scores, m, n, KEYS), Mat::new(slopes, m, n, KEYS));
            let d_o_right = W::right(isa, &d_o_block, d_o_packed);
            let q_right = W::right(isa, &q_block, q_packed);
            let pt = W::rounded_transposed(isa, &p, copy);
            for c in strips(step, n, crossed) {
                let (i, seen_before) = (c.start.saturating_sub(before)..m, c.start < before);
                let dv = &mut tile(&mut dv[c.start * value..], c.len(), value, value);
                multiply(isa, &pt.part(c, i.clone()), &d_o_right.part(i), dv, 1.0, seen_before);
            }
            let dst = W::rounded_transposed(isa, &ds, copy);
            for c in strips(step, n, crossed) {
                let (i, seen_before) = (c.start.saturating_sub(before)..m, c.start < before);
                let dk = &mut tile(&mut dk[c.start * width..], c.len(), width, width);
                multiply(isa, &dst.part(c, i.clone()), &q_right.part(i), dk, 1.0, seen_before);
            }
            let dq = &mut dq[here * width..(here + m) * width];
            let ds = W::rounded(isa, &ds, copy);
            for i in strips(step, m, crossed) {
                let columns = 0..n.min(before + i.end);
                let dq = &mut tile(&mut dq[i.start * width..], i.len(), width, width);
                multiply(isa, &ds.part(i, columns.clone()), &k.part(columns), dq, 1.0, seen < key);
            }
            if crossed {
                round_rows(isa, dq, width, &mut dq_rows.block(here, m, 0, width));
            }
        }
        round_rows(isa, dk, width, &mut dkv.block(key - first, rows.len(), 0, nope));
        round_rows(isa, dv, value, &mut dkv.block(key - first, rows.len(), nope, value));
        for (r, dk) in rows.zip(dk.chunks_exact(width)) {
            add(isa, &mut dk_pe.row(r - first)[..width - nope], &dk[nope..]);
        }
    }
}

typed! {
    attention_grad: AttentionGrad[q] => run_attention_grad,
}

impl Cpu {
    fn run_attention_grad<T: Factor>(&self, call: AttentionGrad<'_, Buffer>) -> Result<(), CpuError> {
        if has_pairs(self.isa()) {
            self.attention_grad_in::<T, T::Word>(call)
        } else {
            self.attention_grad_in::<T, f32>(call)
        }
    }

    fn attention_grad_in<T: Real, W: Computed>(&self, call: AttentionGrad<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "attention_grad";
        let (cost, h, isa) = (fathom_core::device::Call::cost(&call), call.heads, self.isa());
        let x = Inputs::<T> {
            heads: h,
            q: mat::read(OP, &call.q)?,
            kv: mat::read(OP, &call.kv)?,
            k_pe: mat::read(OP, &call.k_pe)?,
            starts: Some(mat::read(OP, &call.starts)?),
            before: 0,
        };
        let y =
            Outputs::<T> { o: mat::read(OP, &call.o)?, lse: mat::read(OP, &call.lse)?, d_o: mat::read(OP, &call.d_o)? };
        let (dq, dkv) = (mat::write::<T>(OP, call.dq)?, mat::write::<T>(OP, call.dkv)?);
        let dk_pe = mat::write::<T>(OP, call.dk_pe)?;
        let (rows, width) = (x.q.rows(), x.width());

        let heads_each = h.heads.div_ceil(SHARES);
        let shares = h.heads.div_ceil(heads_each);
        let pe = h.rope.max(1);
        let mut partial = self.alloc_f32(rows * shares * pe)?;
        let partial = &mut partial.elements_mut::<f32>()[..rows * shares * pe];
        let parts = (
            Tiles::new(dq, h.sequence, heads_each * width),
            Tiles::new(dkv, h.sequence, heads_each * (h.nope + h.value)),
            Tiles::new(MatMut::new(partial, rows, shares * pe, shares * pe), h.sequence, pe),
        );
        let work = (cost.flops / 16) as usize;
        self.for_each_with(work, scratch_size::<W>(&h), parts, |i, (mut dq, mut dkv, mut dk_pe), scratch| {
            dk_pe.for_rows(|_, row| row.fill(0.0));
            let first = i % shares * heads_each;
            for j in first..(first + heads_each).min(h.heads) {
                let (at, rows) = (j - first, dq.rows());
                let to = Gradients {
                    dq: dq.block(0, rows, at * width, width),
                    dkv: dkv.block(0, rows, at * (h.nope + h.value), h.nope + h.value),
                    dk_pe: dk_pe.block(0, rows, 0, pe),
                };
                head::<T, W>(isa, &x, &y, j, to, scratch);
            }
        })?;
        let shares = Mat::new(partial, rows, shares * pe, shares * pe);
        self.for_each(shares.cols() * rows / 8, Tiles::of_rows(dk_pe), |_, mut dk_pe| {
            dk_pe.for_rows(|r, sum| add_shares(isa, shares.row(r), pe, sum));
        });
        Ok(())
    }
}
