//! Softmax cross entropy.

use fathom_core::device::{CrossEntropy, IGNORE};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, out_of_range};
use crate::memory::Buffer;
use crate::par::{Tiles, rows_per_block};
use crate::simd::{exp_to_88, kernel, max, sum};

kernel! {
    /// `−ln softmax(x)[target]`; with a `scale`, `x` becomes `scale·(softmax(x) − onehot(target))`.
    fn row_loss(x: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
        // A NaN need not be the maximum: it stays NaN in the sum.
        let top = max(x);
        let below = x[target] - top;
        let total = match scale {
            None => sum(x, |v| exp_to_88(v - top)),
            Some(scale) => {
                for v in &mut *x {
                    *v = exp_to_88(*v - top);
                }
                let total = sum(x, |v| v);
                let factor = scale / total;
                for v in &mut *x {
                    *v *= factor;
                }
                x[target] -= scale;
                total
            }
        };
        total.ln() - below
    }
}

impl Cpu {
    pub(crate) fn run_cross_entropy(&self, call: CrossEntropy<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "cross_entropy";
        let targets = mat::read::<u32>(OP, &call.targets)?;
        let (x, nll) = (mat::write::<f32>(OP, call.logits)?, mat::write::<f32>(OP, call.nll)?);
        let (scale, isa, cols) = (call.gradient.map(|g| g as f32), self.isa(), x.cols());
        for r in 0..targets.rows() {
            let target = targets.row(r)[0];
            if target != IGNORE && target as usize >= cols {
                return Err(out_of_range(OP, target, cols));
            }
        }
        let height = rows_per_block(cols);
        let work = 3 * x.rows() * cols;
        self.for_each(work, (Tiles::new(x, height, cols), Tiles::new(nll, height, 1)), |_, (mut x, mut nll)| {
            for i in 0..x.rows() {
                let target = targets.row(x.row + i)[0];
                nll.row(i)[0] = if target != IGNORE {
                    row_loss(isa, x.row(i), target as usize, scale)
                } else {
                    if scale.is_some() {
                        x.row(i).fill(0.0);
                    }
                    0.0
                };
            }
        });
        Ok(())
    }
}
