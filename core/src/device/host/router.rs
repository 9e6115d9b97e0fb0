//! The MoE router, its gradient, the balance loss and the bias update.

use alloc::vec::Vec;

use super::elementwise::sign;
use super::matrix::{Matrix, checked, dot, indices, read, read_f32, write, write_indices};
use super::{Host, HostBuffer, Result};
use crate::device::call::{Balance, Route, RouteGrad, UpdateBias};
use crate::dtype::DType;
use crate::routing::{self, Score};

impl Host {
    pub(super) fn route(&self, mut call: Route<'_, HostBuffer>) -> Result {
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
                    routing::route::<$T>(
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

    pub(super) fn route_grad(&self, mut call: RouteGrad<'_, HostBuffer>) -> Result {
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

    pub(super) fn balance(&self, mut call: Balance<'_, HostBuffer>) -> Result {
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
                routing::top_k(&mut s.row(t).to_vec(), &mut best);
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

    pub(super) fn update_bias(&self, mut call: UpdateBias<'_, HostBuffer>) -> Result {
        let load = read(&call.load).data;
        let mut bias = read(&call.bias.as_ref()).data;
        // sign(mean − load), without the division: exact as long as the counts are.
        let (n, total): (f64, f64) = (load.len() as f64, load.iter().sum());
        for (b, load) in bias.iter_mut().zip(&load) {
            *b += call.speed * sign(total - n * load);
        }
        write(&mut call.bias, &bias);
        Ok(())
    }
}
