//! Softmax cross entropy.

use fathom_core::device::{CrossEntropy, IGNORE};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, out_of_range};
use crate::memory::Buffer;
use crate::par::{Tiles, rows_per_block};
use crate::real::{Real, typed};
use crate::simd::{exp_to_88, kernel, max, sum};

kernel! {
    /// `−ln softmax(x)[target]`; with a `scale`, `x` becomes `scale·(softmax(x) − onehot(target))`. `weights` is
    /// scratch of the length of `x`.
    fn row_loss<T: Real>(x: &mut [T], target: usize, scale: Option<f32>, weights: &mut [f32]) -> f32 {
        // A NaN need not be the maximum: it stays NaN in the sum.
        let top = max(x);
        let below = x[target].load() - top;
        let total = match scale {
            None => sum(x, |v| exp_to_88(v - top)),
            Some(scale) => {
                for (w, &v) in weights.iter_mut().zip(&*x) {
                    *w = exp_to_88(v.load() - top);
                }
                let total = sum(weights, |w| w);
                let factor = scale / total;
                let at_target = T::store(weights[target] * factor - scale);
                for (v, &mut w) in x.iter_mut().zip(weights) {
                    *v = T::store(w * factor);
                }
                x[target] = at_target;
                total
            }
        };
        total.ln() - below
    }
}

typed! {
    cross_entropy: CrossEntropy[logits] => run_cross_entropy,
}

impl Cpu {
    fn run_cross_entropy<T: Real>(&self, call: CrossEntropy<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "cross_entropy";
        let targets = mat::read::<u32>(OP, &call.targets)?;
        let (x, nll) = (mat::write::<T>(OP, call.logits)?, mat::write::<f32>(OP, call.nll)?);
        let (scale, isa, cols) = (call.gradient.map(|g| g as f32), self.isa(), x.cols());
        for r in 0..targets.rows() {
            let target = targets.row(r)[0];
            if target != IGNORE && target as usize >= cols {
                return Err(out_of_range(OP, target, cols));
            }
        }
        let height = rows_per_block(cols);
        let work = 3 * x.rows() * cols;
        let parts = (Tiles::new(x, height, cols), Tiles::new(nll, height, 1));
        self.for_each_with(work, cols, parts, |_, (mut x, mut nll), weights| {
            for i in 0..x.rows() {
                let target = targets.row(x.row + i)[0];
                nll.row(i)[0] = if target != IGNORE {
                    row_loss(isa, x.row(i), target as usize, scale, &mut weights[..cols])
                } else {
                    if scale.is_some() {
                        x.row(i).fill(T::store(0.0));
                    }
                    0.0
                };
            }
        })
    }
}
