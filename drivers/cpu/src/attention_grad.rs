//! The gradient of attention: scores are computed again from the kept logarithm of the softmax's denominator.
//!
//! A task has a whole sequence and some heads, and goes over tiles of keys (outer) and queries (inner) in order, so every
//! gradient is added up by one task in one order. Only the gradient of the keys' rotary part is a sum over all heads:
//! each task leaves its own share of it, and the shares are added in the order of heads.

use fathom_core::device::AttentionGrad;

use crate::attention::{Inputs, KEYS, QUERIES, masked, take};
use crate::error::CpuError;
use crate::gemm::{Left, multiply, pack_columns, pack_rows, packed};
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles};
use crate::reduce::add;
use crate::simd::{LANES, exp, kernel, sum2};
use crate::{Cpu, Isa};

/// The most shares of the rotary gradient per sequence: bounds its memory where there are many heads.
const SHARES: usize = 16;

/// What the gradient needs besides the inputs.
struct Outputs<'a> {
    o: Mat<'a, f32>,
    lse: Mat<'a, f32>,
    d_o: Mat<'a, f32>,
}

kernel! {
    /// One row of a tile: `scores` become weights, `slopes` (the gradient of the weights) become the gradient of the
    /// scaled products of queries and keys. Columns outside `window` become zeros.
    fn differentiate(
        scores: &mut [f32; KEYS],
        slopes: &mut [f32; KEYS],
        window: std::ops::Range<usize>,
        lse: f32,
        mean: f32,
        scale: f32,
    ) {
        if window.is_empty() {
            scores.fill(0.0);
            slopes.fill(0.0);
            return;
        }
        let from = window.start / LANES * LANES;
        let seen = masked(scores, window.clone());
        for (s, d) in seen.iter_mut().zip(slopes[from..].as_chunks_mut::<LANES>().0) {
            for (s, d) in s.iter_mut().zip(d) {
                let p = exp(*s - lse);
                *s = p;
                *d = p * (*d - mean) * scale;
            }
        }
        slopes[..window.start].fill(0.0);
        slopes[window.end..].fill(0.0);
    }
}

kernel! {
    fn dot(x: &[f32], y: &[f32]) -> f32 {
        sum2(x, y, |x, y| x * y)
    }
}

/// Numbers of scratch that [`head`] needs.
fn scratch_size(x: &Inputs<'_>) -> usize {
    let (width, value) = (x.width(), x.heads.value);
    2 * KEYS * width
        + packed(width, KEYS)
        + packed(KEYS, width)
        + packed(value, KEYS)
        + 2 * QUERIES * KEYS
        + packed(QUERIES, value)
        + packed(QUERIES, width)
        + x.heads.sequence
}

/// Where the gradients of one head over one sequence go.
struct Gradients<'a> {
    /// `[s, nope + rope]`, replaced.
    dq: Tile<'a, f32>,
    /// `[s, nope + value]`, replaced.
    dkv: Tile<'a, f32>,
    /// `[s, rope]`, added to.
    dk_pe: Tile<'a, f32>,
}

/// The gradients of one head over one sequence.
fn head(isa: Isa, x: &Inputs<'_>, y: &Outputs<'_>, j: usize, to: Gradients<'_>, mut scratch: &mut [f32]) {
    let Gradients { mut dq, mut dkv, mut dk_pe } = to;
    let (nope, value, width) = (x.heads.nope, x.heads.value, x.width());
    let scale = x.heads.scale as f32;
    let keys = take(&mut scratch, KEYS * width);
    let dk = take(&mut scratch, KEYS * width);
    let k_by_columns = take(&mut scratch, packed(width, KEYS));
    let k_by_rows = take(&mut scratch, packed(KEYS, width));
    let v_by_columns = take(&mut scratch, packed(value, KEYS));
    let scores = take(&mut scratch, QUERIES * KEYS);
    let slopes = take(&mut scratch, QUERIES * KEYS);
    let d_o_packed = take(&mut scratch, packed(QUERIES, value));
    let q_packed = take(&mut scratch, packed(QUERIES, width));
    let means = take(&mut scratch, x.heads.sequence);

    let (first, end) = (dq.row, dq.row + dq.rows());
    for (t, mean) in (first..end).zip(&mut *means) {
        let columns = j * value..(j + 1) * value;
        *mean = dot(isa, &y.o.row(t)[columns.clone()], &y.d_o.row(t)[columns]);
    }
    dq.for_rows(|_, row| row.fill(0.0));
    dkv.for_rows(|_, row| row.fill(0.0));
    for key in (first..end).step_by(KEYS) {
        let rows = key..(key + KEYS).min(end);
        let k = x.keys(j, rows.clone(), keys);
        let kt = pack_columns(isa, &k, k_by_columns);
        let k = pack_rows(isa, &k, k_by_rows);
        let vt = pack_columns(isa, &x.values(j, rows.clone()), v_by_columns);
        dk.fill(0.0);
        let start = first + (key - first) / QUERIES * QUERIES;
        for from in (start..end).step_by(QUERIES) {
            let to = (from + QUERIES).min(end);
            if x.first_seen_by_any(from..to) >= rows.end {
                continue;
            }
            let (m, n) = (to - from, rows.len().min(to - key));
            let (q, d_o) = (x.queries(j, from..to), y.d_o.block(from, m, j * value, value));
            let mut s = Tile::whole(MatMut::new(scores, m, n, KEYS));
            multiply(isa, &Left::new(isa, &q), &kt, &mut s, scale, false);
            let mut d = Tile::whole(MatMut::new(slopes, m, n, KEYS));
            multiply(isa, &Left::new(isa, &d_o), &vt, &mut d, 1.0, false);
            for ((t, s), d) in (from..to).zip(scores.as_chunks_mut().0).zip(slopes.as_chunks_mut().0) {
                differentiate(isa, s, d, x.window(t, key, n), y.lse.row(t)[j], means[t - first], scale);
            }
            let (p, ds) = (Mat::new(scores, m, n, KEYS), Mat::new(slopes, m, n, KEYS));
            let mut dv = dkv.block(key - first, n, nope, value);
            multiply(isa, &Left::transposed(isa, &p), &pack_rows(isa, &d_o, d_o_packed), &mut dv, 1.0, true);
            let mut dk = Tile::whole(MatMut::new(dk, n, width, width));
            multiply(isa, &Left::transposed(isa, &ds), &pack_rows(isa, &q, q_packed), &mut dk, 1.0, true);
            let mut dq = dq.block(from - first, m, 0, width);
            multiply(isa, &Left::new(isa, &ds), &k.shallow(n), &mut dq, 1.0, true);
        }
        for (r, dk) in rows.zip(dk.chunks_exact(width)) {
            dkv.row(r - first)[..nope].copy_from_slice(&dk[..nope]);
            add(isa, &mut dk_pe.row(r - first)[..width - nope], &dk[nope..]);
        }
    }
}

impl Cpu {
    pub(crate) fn run_attention_grad(&self, call: AttentionGrad<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "attention_grad";
        let (cost, h, isa) = (fathom_core::device::Call::cost(&call), call.heads, self.isa());
        let x = Inputs {
            heads: h,
            q: mat::read(OP, &call.q)?,
            kv: mat::read(OP, &call.kv)?,
            k_pe: mat::read(OP, &call.k_pe)?,
            starts: mat::read(OP, &call.starts)?,
        };
        let y = Outputs { o: mat::read(OP, &call.o)?, lse: mat::read(OP, &call.lse)?, d_o: mat::read(OP, &call.d_o)? };
        let (dq, dkv) = (mat::write(OP, call.dq)?, mat::write(OP, call.dkv)?);
        let dk_pe = mat::write(OP, call.dk_pe)?;
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
        self.for_each_with(work, scratch_size(&x), parts, |i, (mut dq, mut dkv, mut dk_pe), scratch| {
            dk_pe.for_rows(|_, row| row.fill(0.0));
            let first = i % shares * heads_each;
            for j in first..(first + heads_each).min(h.heads) {
                let (at, rows) = (j - first, dq.rows());
                let to = Gradients {
                    dq: dq.block(0, rows, at * width, width),
                    dkv: dkv.block(0, rows, at * (h.nope + h.value), h.nope + h.value),
                    dk_pe: dk_pe.block(0, rows, 0, pe),
                };
                head(isa, &x, &y, j, to, scratch);
            }
        })?;
        let shares = Mat::new(partial, rows, shares * pe, shares * pe);
        self.for_each(shares.cols() * rows / 8, Tiles::of_rows(dk_pe), |_, mut dk_pe| {
            dk_pe.for_rows(|r, sum| {
                sum.fill(0.0);
                for share in shares.row(r).chunks_exact(pe) {
                    add(isa, sum, &share[..h.rope]);
                }
            });
        });
        Ok(())
    }
}
