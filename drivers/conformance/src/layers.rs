//! Cases of norm, rotary position, gated product and combination.

use fathom_core::device::{Combine, Kernels, RmsNorm, RmsNormGrad, Rope, Swiglu, SwigluGrad};
use fathom_core::dtype::DType;
use proptest::prelude::*;

use crate::case::{Case, Magnitude, Operand, Placed, sweep};
use crate::primitives::{case, kernel};
use crate::values::{Draw, size, some};
use crate::{Failure, Options, Outcome};

const EPS: f64 = 1e-6;

/// `1/rms` of every row, as a forward call would have left it.
fn rstd(x: &Operand) -> Vec<f64> {
    let n = x.cols as f64;
    x.values().chunks_exact(x.cols).map(|row| 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / n + EPS).sqrt()).collect()
}

case!(NormCase, "rmsnorm", { rows: usize, cols: usize }, |self| self.cols,
    operands {
        vec![
            Operand::floats(self.d.dtype, self.rows, self.cols, self.d.floats(0, self.rows * self.cols))
                .gaps(self.d.gaps),
            Operand::floats(self.d.wide(), 1, self.cols, self.d.normals(1, self.cols)),
            Operand::result(self.d.dtype, self.rows, self.cols).gaps(!self.d.gaps),
            Operand::result(self.d.wide(), self.rows, 1),
        ]
    }
    call |device, x, w, y, rstd| {
        device.rmsnorm(RmsNorm::new(x.view(), w.view(), EPS, y.view_mut(), rstd.view_mut())?)
    }
);
kernel!(
    /// [`RmsNorm`].
    rmsnorm, rows: size(40), cols: some(70) => |(d, rows, cols)| NormCase { d, rows, cols }
);

case!(NormGradCase, "rmsnorm_grad", { rows: usize, cols: usize, accumulate: bool }, |self| self.rows + self.cols,
    operands {
        let (m, n) = (self.rows, self.cols);
        let x = Operand::floats(self.d.dtype, m, n, self.d.floats(0, m * n)).gaps(self.d.gaps);
        let w = Operand::floats(self.d.wide(), 1, n, self.d.normals(1, n));
        let rstd = Operand::floats(self.d.wide(), m, 1, rstd(&x));
        let dy = Operand::floats(self.d.dtype, m, n, self.d.normals(2, m * n)).gaps(!self.d.gaps);
        let dx = Operand::floats(self.d.dtype, m, n, self.d.normals(3, m * n)).gaps(self.d.gaps);
        let dw = Operand::floats(self.d.wide(), 1, n, self.d.normals(4, n));
        // rstd·(|g| + |x̂|·mean|g·x̂|), and Σ|dy·x̂|.
        let (xs, ws, rs, dys) = (x.values(), w.values(), rstd.values(), dy.values());
        let mut dx_size: Vec<f64> = dx.values().iter().map(|v| if self.accumulate { v.abs() } else { 0.0 }).collect();
        let mut dw_size: Vec<f64> = dw.values().iter().map(|v| v.abs()).collect();
        for (r, &rstd) in rs.iter().enumerate() {
            let at = |c: usize| r * n + c;
            let g = |c: usize| (dys[at(c)] * ws[c]).abs();
            let normed = |c: usize| (xs[at(c)] * rstd).abs();
            let mean = (0..n).map(|c| g(c) * normed(c)).sum::<f64>() / n as f64;
            for c in 0..n {
                dx_size[at(c)] += rstd * (g(c) + normed(c) * mean);
                dw_size[c] += dys[at(c)].abs() * normed(c);
            }
        }
        let (dx, dw) = (dx.near(Magnitude::Given(dx_size)), dw.near(Magnitude::Given(dw_size)));
        vec![x, w, rstd, dy, dx, dw]
    }
    call |device, x, w, rstd, dy, dx, dw| device.rmsnorm_grad(RmsNormGrad::new(
        x.view(), w.view(), rstd.view(), dy.view(), dx.view_mut(), self.accumulate, dw.view_mut(),
    )?)
);
kernel!(
    /// [`RmsNormGrad`].
    rmsnorm_grad, rows: size(40), cols: some(70), accumulate: any::<bool>() =>
    |(d, rows, cols, accumulate)| NormGradCase { d, rows, cols, accumulate }
);

case!(RopeCase, "rope", { rows: usize, heads: usize, start: usize, pairs: usize, tail: usize, inverse: bool }, |self| 1,
    operands {
        let positions = 12;
        let (head, r) = (self.start + 2 * self.pairs + self.tail, 2 * self.pairs);
        let cols = self.heads * head;
        let mut rng = self.d.rng(1);
        let table = (0..positions * self.pairs)
            .flat_map(|_| {
                let angle = 6.3 * rng.uniform();
                [angle.cos(), angle.sin()]
            })
            .collect();
        let x = Operand::floats(self.d.dtype, self.rows, cols, self.d.floats(0, self.rows * cols)).gaps(self.d.gaps);
        // Both columns of a pair enter either result.
        let values = x.values();
        let size = (0..values.len()).map(|i| match (i % cols % head).checked_sub(self.start) {
            Some(c) if c < r => values[i].abs() + values[i + 1 - 2 * (c % 2)].abs(),
            _ => 0.0,
        });
        let size = Magnitude::Given(size.collect());
        vec![
            x.near(size),
            Operand::floats(self.d.wide(), positions, r, table),
            Operand::indices(self.rows, 1, self.d.indices(2, self.rows, positions)),
        ]
    }
    call |device, x, table, positions| {
        let head = self.start + 2 * self.pairs + self.tail;
        device.rope(Rope::new(x.view_mut(), head, self.start, table.view(), positions.view(), self.inverse)?)
    }
);
kernel!(
    /// [`Rope`], both ways round.
    rope, rows: size(40), heads: 1usize..4, start: 0usize..5, pairs: 1usize..9, tail: 0usize..3, inverse: any::<bool>() =>
    |(d, rows, heads, start, pairs, tail, inverse)| RopeCase { d, rows, heads, start, pairs, tail, inverse }
);

case!(SwigluCase, "swiglu", { rows: usize, cols: usize, scaled: bool }, |self| 1,
    operands {
        let mut operands = vec![
            Operand::floats(self.d.dtype, self.rows, 2 * self.cols, self.d.floats(0, 2 * self.rows * self.cols))
                .gaps(self.d.gaps),
            Operand::result(self.d.dtype, self.rows, self.cols).gaps(!self.d.gaps),
        ];
        operands.push(Operand::floats(self.d.wide(), self.rows, 1, self.d.normals(1, self.rows)));
        operands
    }
    call |device, x, y, scale| {
        let scale = self.scaled.then(|| scale.view());
        device.swiglu(Swiglu::new(x.view(), scale, y.view_mut())?)
    }
);
kernel!(
    /// [`Swiglu`], with and without a scale.
    swiglu, rows: size(40), cols: size(70), scaled: any::<bool>() =>
    |(d, rows, cols, scaled)| SwigluCase { d, rows, cols, scaled }
);

case!(SwigluGradCase, "swiglu_grad", { rows: usize, cols: usize, scaled: bool }, |self| self.cols,
    operands {
        let (m, n) = (self.rows, self.cols);
        let x = Operand::floats(self.d.dtype, m, 2 * n, self.d.floats(0, 2 * m * n)).gaps(self.d.gaps);
        let scale = Operand::floats(self.d.wide(), m, 1, self.d.normals(1, m));
        let dy = Operand::floats(self.d.dtype, m, n, self.d.normals(2, m * n)).gaps(!self.d.gaps);
        let (xs, ss, dys) = (x.values(), scale.values(), dy.values());
        let (mut dx_size, mut ds_size) = (vec![0.0; 2 * m * n], vec![0.0; m]);
        for r in 0..m {
            let s = if self.scaled { ss[r].abs() } else { 1.0 };
            for c in 0..n {
                let (gate, up, dy) = (xs[2 * r * n + c], xs[(2 * r + 1) * n + c].abs(), dys[r * n + c].abs());
                let sigma = 1.0 / (1.0 + (-gate).exp());
                // σ + silu·(1 − σ) loses what 1 − σ does, times the gate.
                dx_size[2 * r * n + c] = dy * s * up * sigma * (1.0 + gate.abs());
                dx_size[(2 * r + 1) * n + c] = dy * s * gate.abs() * sigma;
                ds_size[r] += dy * gate.abs() * sigma * up;
            }
        }
        let dscale = Operand::result(self.d.wide(), m, 1).near(Magnitude::Given(ds_size));
        vec![
            x,
            scale,
            dy,
            Operand::result(self.d.dtype, m, 2 * n).gaps(self.d.gaps).near(Magnitude::Given(dx_size)),
            if self.scaled { dscale } else { dscale.untouched() },
            Operand::result(self.d.dtype, m, n).gaps(!self.d.gaps),
        ]
    }
    call |device, x, scale, dy, dx, dscale, y| {
        let (scale, dscale) = if self.scaled { (Some(scale.view()), Some(dscale.view_mut())) } else { (None, None) };
        device.swiglu_grad(SwigluGrad::new(x.view(), scale, dy.view(), dx.view_mut(), dscale, y.view_mut())?)
    }
);
kernel!(
    /// [`SwigluGrad`], with and without a scale.
    swiglu_grad, rows: size(40), cols: size(70), scaled: any::<bool>() =>
    |(d, rows, cols, scaled)| SwigluGradCase { d, rows, cols, scaled }
);

case!(CombineCase, "combine", { tokens: usize, k: usize, cols: usize, accumulate: bool }, |self| self.k + 1,
    operands {
        let rows = self.tokens * self.k;
        vec![
            Operand::floats(self.d.dtype, rows, self.cols, self.d.floats(0, rows * self.cols)).gaps(self.d.gaps),
            Operand::indices(self.tokens, self.k, self.d.rng(1).permutation(rows)),
            Operand::floats(self.d.dtype, self.tokens, self.cols, self.d.floats(2, self.tokens * self.cols))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
        ]
    }
    call |device, x, inverse, y| {
        device.combine(Combine::new(x.view(), inverse.view(), y.view_mut(), self.accumulate)?)
    }
);
kernel!(
    /// [`Combine`].
    combine, tokens: size(33), k: 1usize..9, cols: size(70), accumulate: any::<bool>() =>
    |(d, tokens, k, cols, accumulate)| CombineCase { d, tokens, k, cols, accumulate }
);
