//! Cases of SwiGLU and its gradient.

use fathom_core::device::{Kernels, Swiglu, SwigluGrad, SwigluQuantize};
use fathom_core::tensor::Tensor;
use proptest::prelude::*;

use crate::case::{Magnitude, Operand, case, kernel, twins};
use crate::quantize::{Tilings, each, grouped_parts};
use crate::values::{Draw, size};
use crate::{Failure, Options, Outcome};

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

case!(SwigluQuantizeCase, "swiglu_quantize",
    { to: Tilings, rows: usize, cols: usize, scaled: bool, fused: bool }, |self| 1,
    operands {
        let (m, n) = (self.rows, self.cols);
        let mut operands = vec![
            Operand::floats(self.d.dtype, m, 2 * n, self.d.floats(0, 2 * m * n)).gaps(self.d.gaps),
            Operand::floats(self.d.wide(), m, 1, self.d.normals(1, m)),
        ];
        operands.extend(self.to.operands(&self.d, (m, n)));
        operands
    }
    call |device, x, scale, codes, scales, column_codes, column_scales, offsets| {
        let scale = self.scaled.then(|| scale.view());
        let y = self.to.encoded([codes, scales, column_codes, column_scales, offsets])?;
        if self.fused {
            return device.swiglu_quantize(SwigluQuantize::new(x.view(), scale, y)?);
        }
        let mut product = Tensor::<D>::empty(device, &[self.rows, self.cols], self.d.dtype)?;
        device.swiglu(Swiglu::new(x.view(), scale, product.view_mut())?)?;
        each(device, product.view(), y)
    }
);

/// [`SwigluQuantize`] in either tiling and in both: the bits of [`Swiglu`] and `Quantize` one after the other.
pub fn swiglu_quantize<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), grouped_parts(), any::<bool>());
    let pairs = strategy.prop_map(|(d, (sizes, part, parts, to), scaled)| {
        let (rows, cols) = (sizes.iter().sum(), part * parts);
        [true, false].map(|fused| SwigluQuantizeCase { d, to: to.clone(), rows, cols, scaled, fused })
    });
    twins(device, options, pairs)
}
