//! The fused kernels of the layers: norm, rotary position, gated product, router, balance, combination.

use alloc::vec::Vec;

use super::matrix::{Matrix, checked, indices, read, read_f32, write, write_indices};
use super::primitives::add;
use super::{HostBuffer, Result};
use crate::device::{Balance, Combine, RmsNorm, RmsNormGrad, Rope, Route, RouteGrad, Swiglu, SwigluGrad};
use crate::dtype::DType;
use crate::layer::router::{self, Score};

pub(super) fn rmsnorm(mut call: RmsNorm<'_, HostBuffer>) -> Result {
    let (x, w) = (read(&call.x), read(&call.weight));
    let mut y = Matrix::zeros(x.rows, x.cols);
    let mut rstd = Vec::with_capacity(x.rows);
    for r in 0..x.rows {
        let mean_square = dot(x.row(r), x.row(r)) / x.cols as f64;
        let s = 1.0 / libm::sqrt(mean_square + call.eps);
        for c in 0..x.cols {
            y[(r, c)] = x[(r, c)] * s * w.data[c];
        }
        rstd.push(s);
    }
    write(&mut call.y, &y.data);
    write(&mut call.rstd, &rstd);
    Ok(())
}

pub(super) fn rmsnorm_grad(mut call: RmsNormGrad<'_, HostBuffer>) -> Result {
    let (x, w, dy) = (read(&call.x), read(&call.weight), read(&call.dy));
    let rstd = read(&call.rstd).data;
    let (mut dx, mut dw) = (read(&call.dx.as_ref()), read(&call.dweight.as_ref()));
    for r in 0..x.rows {
        let normed: Vec<f64> = x.row(r).iter().map(|v| v * rstd[r]).collect();
        let g: Vec<f64> = dy.row(r).iter().zip(&w.data).map(|(dy, w)| dy * w).collect();
        let mean = dot(&g, &normed) / x.cols as f64;
        for c in 0..x.cols {
            let d = rstd[r] * (g[c] - normed[c] * mean);
            dx[(r, c)] = if call.accumulate { dx[(r, c)] + d } else { d };
            dw.data[c] += dy[(r, c)] * normed[c];
        }
    }
    write(&mut call.dx, &dx.data);
    write(&mut call.dweight, &dw.data);
    Ok(())
}

pub(super) fn rope(mut call: Rope<'_, HostBuffer>) -> Result {
    let (table, heads) = (read(&call.table), call.heads());
    let mut x = read(&call.x.as_ref());
    for (r, position) in indices(&call.positions).into_iter().enumerate() {
        let angles = table.row(checked("rope", position, table.rows)?);
        for j in 0..heads {
            for (i, pair) in angles.chunks_exact(2).enumerate() {
                let (cos, sin) = (pair[0], if call.inverse { -pair[1] } else { pair[1] });
                let c = j * call.head + call.start + 2 * i;
                let (even, odd) = (x[(r, c)], x[(r, c + 1)]);
                x[(r, c)] = even * cos - odd * sin;
                x[(r, c + 1)] = even * sin + odd * cos;
            }
        }
    }
    write(&mut call.x, &x.data);
    Ok(())
}

pub(super) fn swiglu(mut call: Swiglu<'_, HostBuffer>) -> Result {
    let x = read(&call.gate_up);
    let scale = call.scale.as_ref().map(|s| read(s).data);
    let mut y = Matrix::zeros(call.y.rows(), call.y.cols());
    for r in 0..y.rows {
        let s = scale.as_ref().map_or(1.0, |s| s[r]);
        for c in 0..y.cols {
            let (gate, up) = (x[(r, c)], x[(r, y.cols + c)]);
            y[(r, c)] = gate * sigmoid(gate) * up * s;
        }
    }
    write(&mut call.y, &y.data);
    Ok(())
}

pub(super) fn swiglu_grad(mut call: SwigluGrad<'_, HostBuffer>) -> Result {
    let (x, dy) = (read(&call.gate_up), read(&call.dy));
    let scale = call.scale.as_ref().map(|s| read(s).data);
    let n = dy.cols;
    let (mut dx, mut y) = (Matrix::zeros(dy.rows, 2 * n), Matrix::zeros(dy.rows, n));
    let mut dscale = alloc::vec![0.0; dy.rows];
    for r in 0..dy.rows {
        let s = scale.as_ref().map_or(1.0, |s| s[r]);
        for c in 0..n {
            let (gate, up, d) = (x[(r, c)], x[(r, n + c)], dy[(r, c)]);
            let sigma = sigmoid(gate);
            let silu = gate * sigma;
            y[(r, c)] = silu * up * s;
            dscale[r] += d * silu * up;
            dx[(r, c)] = d * s * up * (sigma + silu * (1.0 - sigma));
            dx[(r, n + c)] = d * s * silu;
        }
    }
    write(&mut call.d_gate_up, &dx.data);
    write(&mut call.y, &y.data);
    if let Some(out) = &mut call.dscale {
        write(out, &dscale);
    }
    Ok(())
}

pub(super) fn route(mut call: Route<'_, HostBuffer>) -> Result {
    let (n, k) = (call.config.experts, call.config.top_k);
    let rows = call.logits.rows();
    let mut experts = alloc::vec![0u32; rows * k];
    // The rule in `T`: f64 only where the logits are, f32 with its bits on every device otherwise.
    macro_rules! route_in {
        ($T:ty, $read:expr) => {{
            let (logits, bias): (Vec<$T>, Option<Vec<$T>>) = (($read)(&call.logits), call.bias.as_ref().map($read));
            let (mut scores, mut weights) = (alloc::vec![0.0; rows * n], alloc::vec![0.0; rows * k]);
            let mut scratch = alloc::vec![0.0; n + call.config.groups];
            for r in 0..rows {
                router::route::<$T>(
                    &call.config,
                    &logits[r * n..][..n],
                    bias.as_deref(),
                    &mut scores[r * n..][..n],
                    &mut experts[r * k..][..k],
                    &mut weights[r * k..][..k],
                    &mut scratch,
                );
            }
            (scores.into_iter().map(f64::from).collect(), weights.into_iter().map(f64::from).collect())
        }};
    }
    let (scores, weights): (Vec<f64>, Vec<f64>) =
        if call.logits.dtype() == DType::F64 { route_in!(f64, |m| read(m).data) } else { route_in!(f32, read_f32) };
    write(&mut call.scores, &scores);
    write(&mut call.weights, &weights);
    write_indices(&mut call.experts, &experts);
    Ok(())
}

pub(super) fn route_grad(mut call: RouteGrad<'_, HostBuffer>) -> Result {
    let (s, dw) = (read(&call.scores), read(&call.dweights));
    let (k, scale) = (call.config.top_k, call.config.scale);
    let experts = indices(&call.experts);
    let mut ds = call.dscores.as_ref().map_or(Matrix::zeros(s.rows, s.cols), read);
    for r in 0..s.rows {
        let mut chosen = Vec::with_capacity(k);
        for &e in &experts[r * k..][..k] {
            chosen.push(checked("route_grad", e, s.cols)?);
        }
        // w = scale·s/S with S = Σ s over the chosen, or w = scale·s.
        let sum = if call.config.normalize { chosen.iter().map(|&e| s[(r, e)]).sum::<f64>() + 1e-20 } else { 1.0 };
        let mean = if call.config.normalize {
            chosen.iter().zip(dw.row(r)).map(|(&e, dw)| dw * s[(r, e)] / sum).sum()
        } else {
            0.0
        };
        for (&e, dw) in chosen.iter().zip(dw.row(r)) {
            ds[(r, e)] += scale * (dw - mean) / sum;
        }
    }
    let mut dx = Matrix::zeros(s.rows, s.cols);
    for r in 0..s.rows {
        let mean = dot(ds.row(r), s.row(r));
        for e in 0..s.cols {
            let (s, ds) = (s[(r, e)], ds[(r, e)]);
            dx[(r, e)] = match call.config.score {
                Score::Sigmoid => ds * s * (1.0 - s),
                Score::Softmax => s * (ds - mean),
            };
        }
    }
    write(&mut call.dlogits, &dx.data);
    Ok(())
}

pub(super) fn balance(mut call: Balance<'_, HostBuffer>) -> Result {
    let s = read(&call.scores);
    let (tokens, experts, k) = (call.sequence, s.cols, call.top_k);
    let mut loss = read(&call.loss.as_ref()).data[0];
    let mut ds = Matrix::zeros(s.rows, experts);
    let mut best = alloc::vec![0u32; k];
    for first in (0..s.rows).step_by(tokens) {
        let sequence = first..first + tokens;
        let sums: Vec<f64> = sequence.clone().map(|t| s.row(t).iter().sum()).collect();
        let (mut f, mut p) = (alloc::vec![0.0; experts], alloc::vec![0.0; experts]);
        for (t, sum) in sequence.clone().zip(&sums) {
            router::top_k(&mut s.row(t).to_vec(), &mut best);
            for &e in &best {
                f[e as usize] += experts as f64 / (k * tokens) as f64;
            }
            for e in 0..experts {
                p[e] += s[(t, e)] / sum / tokens as f64;
            }
        }
        loss += call.alpha * dot(&f, &p);
        for (t, sum) in sequence.zip(&sums) {
            let mean = dot(&f, s.row(t)) / sum;
            for e in 0..experts {
                ds[(t, e)] = call.alpha / tokens as f64 * (f[e] - mean) / sum;
            }
        }
    }
    write(&mut call.loss, &[loss]);
    write(&mut call.dscores, &ds.data);
    Ok(())
}

pub(super) fn combine(mut call: Combine<'_, HostBuffer>) -> Result {
    let x = read(&call.x);
    let k = call.inverse.cols();
    let mut y = if call.accumulate { read(&call.y.as_ref()) } else { Matrix::zeros(call.y.rows(), x.cols) };
    for (i, row) in indices(&call.inverse).into_iter().enumerate() {
        add(y.row_mut(i / k), x.row(checked("combine", row, x.rows)?));
    }
    write(&mut call.y, &y.data);
    Ok(())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// `Σ aᵢ·bᵢ`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
