//! RMSNorm and its gradient.

use alloc::vec::Vec;

use super::matrix::{Matrix, before, dot, read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{RmsNorm, RmsNormGrad, RmsNormQuantize};
use crate::device::default;

impl Host {
    pub(super) fn rmsnorm(&self, mut call: RmsNorm<'_, HostBuffer>) -> Result {
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

    pub(super) fn rmsnorm_quantize(&self, call: RmsNormQuantize<'_, HostBuffer>) -> Result {
        default::rmsnorm_quantize(self, call, |call| self.rmsnorm(call), |call| self.quantize_both(call))
    }

    pub(super) fn rmsnorm_grad(&self, mut call: RmsNormGrad<'_, HostBuffer>) -> Result {
        let (x, w, dy) = (read(&call.x), read(&call.weight), read(&call.dy));
        let rstd = read(&call.rstd).data;
        let (mut dx, mut dw) = (before(&call.dx, call.out), read(&call.dweight.as_ref()));
        for r in 0..x.rows {
            let normed: Vec<f64> = x.row(r).iter().map(|v| v * rstd[r]).collect();
            let g: Vec<f64> = dy.row(r).iter().zip(&w.data).map(|(dy, w)| dy * w).collect();
            let mean = dot(&g, &normed) / x.cols as f64;
            for c in 0..x.cols {
                let d = rstd[r] * (g[c] - normed[c] * mean);
                dx[(r, c)] += d;
                dw.data[c] += dy[(r, c)] * normed[c];
            }
        }
        write(&mut call.dx, &dx.data);
        write(&mut call.dweight, &dw.data);
        Ok(())
    }
}
