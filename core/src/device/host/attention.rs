//! Causal attention, its gradient, and the window mask.

use alloc::vec::Vec;
use core::ops::Range;

use super::matrix::{Matrix, dot, indices, read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{Attention, AttentionGrad, Heads, MaskWindow};

/// Queries, keys and values of all heads, and which rows a row sees.
struct Operands {
    heads: Heads,
    q: Matrix,
    kv: Matrix,
    k_pe: Matrix,
    starts: Vec<u32>,
}

impl Operands {
    /// `q_nope` and `q_pe` of head `j` in row `t`, as columns of `q`.
    fn query(&self, j: usize) -> (Range<usize>, Range<usize>) {
        let start = j * (self.heads.nope + self.heads.rope);
        let middle = start + self.heads.nope;
        (start..middle, middle..middle + self.heads.rope)
    }

    /// `k_nope` and `v` of head `j`, as columns of `kv`.
    fn key_value(&self, j: usize) -> (Range<usize>, Range<usize>) {
        let start = j * (self.heads.nope + self.heads.value);
        let middle = start + self.heads.nope;
        (start..middle, middle..middle + self.heads.value)
    }

    /// The rows that row `t` sees.
    fn visible(&self, t: usize) -> Range<usize> {
        let sequence = t - t % self.heads.sequence;
        (self.starts[t] as usize).clamp(sequence, t)..t + 1
    }

    /// `scale·q·k` of head `j` between rows `t` and `u`.
    fn score(&self, j: usize, t: usize, u: usize) -> f64 {
        let ((nope, pe), (key, _)) = (self.query(j), self.key_value(j));
        let q = self.q.row(t);
        self.heads.scale * (dot(&q[nope], &self.kv.row(u)[key]) + dot(&q[pe], self.k_pe.row(u)))
    }
}

/// `y += a·x`, over as many elements as `x` has.
fn axpy(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

impl Host {
    pub(super) fn mask_window(&self, mut call: MaskWindow<'_, HostBuffer>) -> Result {
        let mut y = read(&call.y.as_ref());
        for (r, first) in indices(&call.first).into_iter().enumerate() {
            for c in 0..y.cols {
                let position = call.base + c;
                if position < first as usize || position > call.last + r {
                    y[(r, c)] = f64::NEG_INFINITY;
                }
            }
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn attention(&self, mut call: Attention<'_, HostBuffer>) -> Result {
        let x = Operands {
            heads: call.heads,
            q: read(&call.q),
            kv: read(&call.kv),
            k_pe: read(&call.k_pe),
            starts: indices(&call.starts),
        };
        let mut o = Matrix::zeros(call.o.rows(), call.o.cols());
        let mut lse = Matrix::zeros(call.lse.rows(), call.lse.cols());
        for t in 0..x.q.rows {
            for j in 0..x.heads.heads {
                let (_, value) = x.key_value(j);
                let scores: Vec<f64> = x.visible(t).map(|u| x.score(j, t, u)).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| libm::exp(s - max)).sum();
                lse[(t, j)] = max + libm::log(sum);
                for (u, s) in x.visible(t).zip(&scores) {
                    let p = libm::exp(s - max) / sum;
                    axpy(&mut o.row_mut(t)[j * x.heads.value..], p, &x.kv.row(u)[value.clone()]);
                }
            }
        }
        write(&mut call.o, &o.data);
        write(&mut call.lse, &lse.data);
        Ok(())
    }

    pub(super) fn attention_grad(&self, mut call: AttentionGrad<'_, HostBuffer>) -> Result {
        let x = Operands {
            heads: call.heads,
            q: read(&call.q),
            kv: read(&call.kv),
            k_pe: read(&call.k_pe),
            starts: indices(&call.starts),
        };
        let (o, lse, d_o) = (read(&call.o), read(&call.lse), read(&call.d_o));
        let mut dq = Matrix::zeros(x.q.rows, x.q.cols);
        let mut dkv = Matrix::zeros(x.kv.rows, x.kv.cols);
        let mut dk_pe = Matrix::zeros(x.k_pe.rows, x.k_pe.cols);
        for t in 0..x.q.rows {
            for j in 0..x.heads.heads {
                let ((nope, pe), (key, value)) = (x.query(j), x.key_value(j));
                let out = j * x.heads.value..(j + 1) * x.heads.value;
                let d_o = &d_o.row(t)[out.clone()];
                let mean = dot(&o.row(t)[out], d_o);
                for u in x.visible(t) {
                    let p = libm::exp(x.score(j, t, u) - lse[(t, j)]);
                    axpy(&mut dkv.row_mut(u)[value.clone()], p, d_o);
                    let dp = dot(d_o, &x.kv.row(u)[value.clone()]);
                    let ds = x.heads.scale * p * (dp - mean);
                    axpy(&mut dq.row_mut(t)[nope.clone()], ds, &x.kv.row(u)[key.clone()]);
                    axpy(&mut dq.row_mut(t)[pe.clone()], ds, x.k_pe.row(u));
                    axpy(&mut dkv.row_mut(u)[key.clone()], ds, &x.q.row(t)[nope.clone()]);
                    axpy(dk_pe.row_mut(u), ds, &x.q.row(t)[pe.clone()]);
                }
            }
        }
        write(&mut call.dq, &dq.data);
        write(&mut call.dkv, &dkv.data);
        write(&mut call.dk_pe, &dk_pe.data);
        Ok(())
    }
}
