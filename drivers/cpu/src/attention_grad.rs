//! Gradient of causal attention: scores are recomputed from the saved log-sum-exp.
//!
//! A task has a whole sequence and some heads, and goes over tiles of keys (outer) and queries (inner) in order, so
//! every gradient is added up by one task in one order. Only the gradient of the keys' rotary part is a sum over all
//! heads: each task leaves its own share of it, and the shares are added in the order of heads.

use fathom_core::device::{AttentionGrad, Heads};

use crate::attention::{Inputs, made_size, take, take_words, tile};
use crate::elementwise::convert;
use crate::error::CpuError;
use crate::factor::{Computed, Factor, left_words, numbers, right_words};
use crate::gemm::{has_pairs, left, multiply, pack_columns, pack_rows};
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles};
use crate::real::{Real, typed};
use crate::reduce::add;
use crate::scores::{KEYS, QUERIES, differentiate};
use crate::simd::{kernel, sum2};
use crate::{Cpu, Isa};

/// The most shares of the rotary gradient per sequence: bounds its memory where there are many heads.
const SHARES: usize = 16;

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
            *to = sum2(x.row(r), y.row(r), |x, y| x * y);
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
    KEYS * width
        + KEYS * (width + value)
        + h.sequence * width
        + 2 * made_size(h)
        + right_words::<W>(width, KEYS)
        + right_words::<W>(KEYS, width)
        + right_words::<W>(value, KEYS)
        + 2 * QUERIES * KEYS
        + right_words::<W>(QUERIES, value)
        + right_words::<W>(QUERIES, width)
        + 2 * h.sequence
        + left_size::<W>(h)
}

/// Numbers of scratch for any left factor of [`head`].
fn left_size<W: Computed>(h: &Heads) -> usize {
    let inputs = left_words::<W>(QUERIES, (h.nope + h.rope).max(h.value));
    inputs.max(left_words::<W>(QUERIES, KEYS)).max(left_words::<W>(KEYS, QUERIES))
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
    let Gradients { dq: mut dq_rows, mut dkv, mut dk_pe } = to;
    let (nope, value, width) = (x.heads.nope, x.heads.value, x.width());
    let scale = x.heads.scale as f32;
    let keys = take(&mut scratch, KEYS * width);
    let dk = take(&mut scratch, KEYS * width);
    let dv = take(&mut scratch, KEYS * value);
    let dq = take(&mut scratch, x.heads.sequence * width);
    let made = take(&mut scratch, made_size(&x.heads));
    let made_too = take(&mut scratch, made_size(&x.heads));
    let k_by_columns = take_words::<W>(&mut scratch, right_words::<W>(width, KEYS));
    let k_by_rows = take_words::<W>(&mut scratch, right_words::<W>(KEYS, width));
    let v_by_columns = take_words::<W>(&mut scratch, right_words::<W>(value, KEYS));
    let scores = take(&mut scratch, QUERIES * KEYS);
    let slopes = take(&mut scratch, QUERIES * KEYS);
    let d_o_packed = take_words::<W>(&mut scratch, right_words::<W>(QUERIES, value));
    let q_packed = take_words::<W>(&mut scratch, right_words::<W>(QUERIES, width));
    let means = take(&mut scratch, x.heads.sequence);
    let lse = take(&mut scratch, x.heads.sequence);
    let copy = take_words::<W>(&mut scratch, left_size::<W>(&x.heads));

    let (first, end) = (dq_rows.row, dq_rows.row + dq_rows.rows());
    let [o, d_o] = [&y.o, &y.d_o].map(|x| x.block(first, end - first, j * value, value));
    dots(isa, &o, &d_o, means);
    lse.iter_mut().zip(first..end).for_each(|(lse, t)| *lse = y.lse.row(t)[j]);
    dq.fill(0.0);
    for key in (first..end).step_by(KEYS) {
        let rows = key..(key + KEYS).min(end);
        let k = x.keys(isa, j, rows.clone(), keys);
        let kt = pack_columns::<W>(isa, &k, k_by_columns);
        let k = pack_rows::<W>(isa, &k, k_by_rows);
        let vt = pack_columns::<W>(isa, &numbers(isa, &x.values(j, rows.clone()), made), v_by_columns);
        dk.fill(0.0);
        dv.fill(0.0);
        let start = first + (key - first) / QUERIES * QUERIES;
        for from in (start..end).step_by(QUERIES) {
            let to = (from + QUERIES).min(end);
            if x.first_seen_by_any(from..to) >= rows.end {
                continue;
            }
            let (m, n) = (to - from, rows.len().min(to - key));
            let q = numbers(isa, &x.queries(j, from..to), made);
            let d_o = numbers(isa, &y.d_o.block(from, m, j * value, value), made_too);
            multiply(isa, &left::<W>(isa, &q, copy), &kt, &mut tile(scores, m, n, KEYS), scale, false);
            multiply(isa, &left::<W>(isa, &d_o, copy), &vt, &mut tile(slopes, m, n, KEYS), 1.0, false);
            let (s, d) = (&mut scores.as_chunks_mut().0[..m], &mut slopes.as_chunks_mut().0[..m]);
            let (lse, means) = (&lse[from - first..], &means[from - first..]);
            differentiate(isa, s, d, &x.windows(from..to, key, n), lse, means, scale);
            let (p, ds) = (Mat::new(scores, m, n, KEYS), Mat::new(slopes, m, n, KEYS));
            let (d_o, q) = (pack_rows::<W>(isa, &d_o, d_o_packed), pack_rows::<W>(isa, &q, q_packed));
            let pt = W::rounded_transposed(isa, &p, copy);
            multiply(isa, &pt, &d_o, &mut tile(dv, n, value, value), 1.0, true);
            let dst = W::rounded_transposed(isa, &ds, copy);
            multiply(isa, &dst, &q, &mut tile(dk, n, width, width), 1.0, true);
            let dq = &mut dq[(from - first) * width..];
            let ds = W::rounded(isa, &ds, copy);
            multiply(isa, &ds, &k.shallow(n), &mut tile(dq, m, width, width), 1.0, true);
        }
        for ((r, dk), dv) in rows.zip(dk.chunks_exact(width)).zip(dv.chunks_exact(value)) {
            let (to_k, to_v) = dkv.row(r - first).split_at_mut(nope);
            convert(isa, dk, to_k);
            convert(isa, dv, to_v);
            add(isa, &mut dk_pe.row(r - first)[..width - nope], &dk[nope..]);
        }
    }
    dq_rows.for_rows(|t, row| convert(isa, &dq[(t - first) * width..], row));
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
