//! Cases of the loss and the optimiser.

use fathom_core::device::{AdamRates, AdamW, CrossEntropy, IGNORE, Kernels};
use fathom_core::dtype::DType;
use proptest::prelude::*;

use crate::case::{Case, Magnitude, Operand, Placed, sweep};
use crate::primitives::{case, kernel};
use crate::values::{Draw, size, some};
use crate::{Failure, Options, Outcome};

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

case!(AdamCase, "adamw", { n: usize, clip: f64, rates: AdamRates, narrow: bool }, |self| 1,
    operands {
        let (n, wide) = (self.n, self.d.wide());
        let moments = if self.narrow { self.d.dtype } else { wide };
        let w = Operand::floats(wide, 1, n, self.d.normals(0, n));
        let g = Operand::floats(wide, 1, n, self.d.floats(1, n));
        let m = Operand::floats(moments, 1, n, self.d.normals(2, n));
        let v = Operand::floats(moments, 1, n, self.d.normals(3, n).into_iter().map(|x| x * x).collect());
        let AdamRates { lr, beta1, beta2, eps, .. } = self.rates;
        let (c1, c2) = self.rates.corrections();
        let (ws, gs, ms, vs) = (w.values(), g.values(), m.values(), v.values());
        let m_size: Vec<f64> = (0..n).map(|i| beta1 * ms[i].abs() + (1.0 - beta1) * (self.clip * gs[i]).abs()).collect();
        let w_size = (0..n).map(|i| {
            let v = beta2 * vs[i] + (1.0 - beta2) * (self.clip * gs[i]).powi(2);
            ws[i].abs() + lr / c1 * m_size[i] / ((v / c2).sqrt() + eps)
        });
        vec![
            w.near(Magnitude::Given(w_size.collect())),
            g,
            m.near(Magnitude::Given(m_size)),
            v.near(Magnitude::Result),
            Operand::floats(wide, 1, 1, vec![self.clip]),
        ]
    }
    call |device, w, g, m, v, clip| device.adamw(AdamW::new(
        w.view_mut(), g.view(), m.view_mut(), v.view_mut(), clip.view(), self.rates,
    )?)
);

pub(crate) fn rates() -> impl Strategy<Value = AdamRates> {
    (1e-5f64..1e-1, 0.0f64..0.95, 0.5f64..0.999, prop_oneof![Just(0.0), Just(0.1)], 1u64..2000)
        .prop_map(|(lr, beta1, beta2, decay, step)| AdamRates { lr, beta1, beta2, eps: 1e-8, decay, step })
}

kernel!(
    /// [`AdamW`], with moments as wide as the weights or as narrow as activations.
    adamw, n: size(200), clip: 0.01f64..1.0, rates: rates(), narrow: any::<bool>() =>
    |(d, n, clip, rates, narrow)| AdamCase { d, n, clip, rates, narrow }
);
