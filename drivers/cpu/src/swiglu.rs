//! The gated product of the feed-forward layers, and its gradient.

use fathom_core::device::{Swiglu, SwigluGrad};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, MatMut};
use crate::memory::Buffer;
use crate::par::{Tiles, rows_per_block};
use crate::simd::{kernel, quick_sigmoid, sum2};

kernel! {
    fn forward(gate_up: &[f32], scale: f32, y: &mut [f32]) {
        let (gate, up) = gate_up.split_at(y.len());
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * quick_sigmoid(g) * u * scale;
        }
    }
}

kernel! {
    /// The gradients of gate, up and (returned) scale; `y` gets the output again.
    fn backward(gate_up: &[f32], scale: f32, dy: &[f32], d_gate_up: &mut [f32], y: &mut [f32]) -> f32 {
        let n = dy.len();
        let (gate, up) = gate_up.split_at(n);
        let (d_gate, d_up) = d_gate_up.split_at_mut(n);
        let (up, d_gate, d_up, y) = (&up[..n], &mut d_gate[..n], &mut d_up[..n], &mut y[..n]);
        for i in 0..n {
            let sigma = quick_sigmoid(gate[i]);
            let silu = gate[i] * sigma;
            d_gate[i] = dy[i] * scale * up[i] * (sigma + silu * (1.0 - sigma));
            d_up[i] = dy[i] * scale * silu;
            y[i] = silu * up[i];
        }
        let dscale = sum2(dy, y, |dy, y| dy * y);
        for y in y {
            *y *= scale;
        }
        dscale
    }
}

impl Cpu {
    pub(crate) fn run_swiglu(&self, call: Swiglu<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "swiglu";
        let x = mat::read::<f32>(OP, &call.gate_up)?;
        let scale = call.scale.as_ref().map(|s| mat::read::<f32>(OP, s)).transpose()?;
        let (y, isa) = (mat::write::<f32>(OP, call.y)?, self.isa());
        self.for_each(2 * y.rows() * y.cols(), Tiles::of_rows(y), |_, mut y| {
            y.for_rows(|r, y| forward(isa, x.row(r), scale.map_or(1.0, |s| s.row(r)[0]), y));
        });
        Ok(())
    }

    pub(crate) fn run_swiglu_grad(&self, call: SwigluGrad<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "swiglu_grad";
        let (x, dy) = (mat::read::<f32>(OP, &call.gate_up)?, mat::read::<f32>(OP, &call.dy)?);
        let scale = call.scale.as_ref().map(|s| mat::read::<f32>(OP, s)).transpose()?;
        let (dx, y) = (mat::write::<f32>(OP, call.d_gate_up)?, mat::write::<f32>(OP, call.y)?);
        let (rows, cols, isa) = (dy.rows(), dy.cols(), self.isa());
        // Without a scale its gradient goes to scratch, so that there is one loop.
        let mut unused = self.alloc_f32(if scale.is_none() { rows } else { 0 })?;
        let dscale = match call.dscale {
            Some(d) => mat::write::<f32>(OP, d)?,
            None => MatMut::new(unused.elements_mut(), rows, 1, 1),
        };
        let height = rows_per_block(cols);
        let parts = (Tiles::new(dx, height, 2 * cols), Tiles::new(y, height, cols), Tiles::new(dscale, height, 1));
        self.for_each(3 * rows * cols, parts, |_, (mut dx, mut y, mut dscale)| {
            for i in 0..y.rows() {
                let r = y.row + i;
                let s = scale.map_or(1.0, |s| s.row(r)[0]);
                dscale.row(i)[0] = backward(isa, x.row(r), s, dy.row(r), dx.row(i), y.row(i));
            }
        });
        Ok(())
    }
}
