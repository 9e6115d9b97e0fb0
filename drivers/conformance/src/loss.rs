//! Cases of softmax cross entropy.

use fathom_core::device::{CrossEntropy, IGNORE};
use proptest::prelude::*;

use crate::case::{Magnitude, Operand, case, kernel};
use crate::values::{size, some};

case!(LossCase, "cross_entropy", { rows: usize, cols: usize, gradient: Option<f64> }, |self| self.cols,
    operands {
        let (m, n) = (self.rows, self.cols);
        let mut rng = self.d.rng(1);
        let targets = self.d.indices(2, m, n).into_iter();
        let targets: Vec<u32> = targets.map(|t| if rng.below(5) == 0 { IGNORE } else { t }).collect();
        let x = Operand::floats(self.d.dtype, m, n, self.d.floats(0, m * n)).gaps(self.d.gaps);
        let (mut x_size, mut nll_size) = (Vec::with_capacity(m * n), Vec::with_capacity(m));
        for (row, &target) in x.values().chunks_exact(n).zip(&targets) {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|v| (v - max).exp()).sum();
            // An exponent is off by its own rounding, and what it gives by that factor.
            nll_size.push(1.0 + row.iter().map(|v| (v - max).abs()).fold(0.0, f64::max) + sum.ln());
            for (c, v) in row.iter().enumerate() {
                let hit = f64::from(u8::from(c == target as usize));
                x_size.push(self.gradient.unwrap_or(0.0) * ((v - max).exp() / sum * (2.0 + max - v) + hit));
            }
        }
        let x = if self.gradient.is_some() { x.near(Magnitude::Given(x_size)) } else { x.exact() };
        vec![
            x,
            Operand::indices(m, 1, targets),
            Operand::result(self.d.wide(), m, 1).near(Magnitude::Given(nll_size)),
        ]
    }
    call |device, x, targets, nll| {
        device.cross_entropy(CrossEntropy::new(x.view_mut(), targets.view(), self.gradient, nll.view_mut())?)
    }
);
kernel!(
    /// [`CrossEntropy`], with and without its gradient, with ignored targets.
    cross_entropy, rows: size(40), cols: some(200), gradient: prop::option::of(0.01f64..1.0) =>
    |(d, rows, cols, gradient)| LossCase { d, rows, cols, gradient }
);
