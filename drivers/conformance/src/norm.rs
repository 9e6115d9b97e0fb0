//! Cases of RMSNorm and its gradient.

use fathom_core::device::{Kernels, Out, RmsNorm, RmsNormGrad, RmsNormQuantize};
use fathom_core::tensor::Tensor;
use proptest::prelude::*;

use crate::case::{Magnitude, Operand, case, kernel, twins};
use crate::quantize::{Tilings, each, grouped_parts};
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
        x.view(), w.view(), rstd.view(), dy.view(), dx.view_mut(), Out::add_if(self.accumulate), dw.view_mut(),
    )?)
);
kernel!(
    /// [`RmsNormGrad`].
    rmsnorm_grad, rows: size(40), cols: some(70), accumulate: any::<bool>() =>
    |(d, rows, cols, accumulate)| NormGradCase { d, rows, cols, accumulate }
);

case!(NormQuantizeCase, "rmsnorm_quantize", { to: Tilings, rows: usize, cols: usize, fused: bool }, |self| self.cols,
    operands {
        let (m, n) = (self.rows, self.cols);
        let mut operands = vec![
            Operand::floats(self.d.dtype, m, n, self.d.floats(0, m * n)).gaps(self.d.gaps),
            Operand::floats(self.d.wide(), 1, n, self.d.normals(1, n)),
            Operand::result(self.d.wide(), m, 1).exact(),
        ];
        operands.extend(self.to.operands(&self.d, (m, n)));
        operands
    }
    call |device, x, w, rstd, codes, scales, column_codes, column_scales, offsets| {
        let y = self.to.encoded([codes, scales, column_codes, column_scales, offsets])?;
        let (x, w, rstd) = (x.view(), w.view(), rstd.view_mut());
        if self.fused {
            return device.rmsnorm_quantize(RmsNormQuantize::new(x, w, EPS, y, rstd)?);
        }
        let mut normed = Tensor::<D>::empty(device, &[self.rows, self.cols], self.d.dtype)?;
        device.rmsnorm(RmsNorm::new(x, w, EPS, normed.view_mut(), rstd)?)?;
        each(device, normed.view(), y)
    }
);

/// [`RmsNormQuantize`] in either tiling and in both: the bits of [`RmsNorm`] and `Quantize` one after the other.
pub fn rmsnorm_quantize<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), grouped_parts());
    let pairs = strategy.prop_map(|(d, (sizes, part, parts, to))| {
        let (rows, cols) = (sizes.iter().sum(), part * parts.max(1));
        [true, false].map(|fused| NormQuantizeCase { d, to: to.clone(), rows, cols, fused })
    });
    twins(device, options, pairs)
}
