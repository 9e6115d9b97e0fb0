//! SwiGLU and its gradient.

use super::matrix::{Matrix, read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{Swiglu, SwigluGrad, SwigluQuantize};
use crate::device::default;

impl Host {
    pub(super) fn swiglu(&self, mut call: Swiglu<'_, HostBuffer>) -> Result {
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

    pub(super) fn swiglu_quantize(&self, call: SwigluQuantize<'_, HostBuffer>) -> Result {
        default::swiglu_quantize(self, call, |call| self.swiglu(call), |call| self.quantize_both(call))
    }

    pub(super) fn swiglu_grad(&self, mut call: SwigluGrad<'_, HostBuffer>) -> Result {
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
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}
