//! SwiGLU and its gradient.

use std::ops::Range;

use fathom_core::device::{Swiglu, SwigluGrad, SwigluQuantize};

use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles, rows_per_block};
use crate::quantize::{self, Magnitude, Source};
use crate::real::{Real, typed};
use crate::simd::{LANES, kernel, quick_sigmoid, sum};
use crate::{Cpu, Isa};

/// `y = silu(gate)·up·scale`.
#[inline(always)]
fn gated<T: Real>(gate: &[T], up: &[T], scale: f32, y: &mut [T]) {
    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
        let g = g.load();
        *y = T::store(g * quick_sigmoid(g) * u.load() * scale);
    }
}

kernel! {
    /// The gated products of those rows of `x` that `y` is for.
    fn forward<T: Real>(x: &Mat<'_, T>, scale: Option<&Mat<'_, f32>>, y: &mut Tile<'_, T>) {
        for i in 0..y.rows() {
            let r = y.row + i;
            let scale = scale.map_or(1.0, |s| s.row(r)[0]);
            let y = y.row(i);
            let (gate, up) = x.row(r).split_at(y.len());
            gated(gate, up, scale, y);
        }
    }
}

kernel! {
    /// The gated products of a block of `cols` columns whose first element is at `at`.
    fn forward_block<T: Real>(
        x: &Mat<'_, T>,
        scale: Option<&Mat<'_, f32>>,
        at: (usize, usize),
        cols: usize,
        y: &mut [T],
    ) {
        let half = x.cols() / 2;
        for (i, y) in y.chunks_exact_mut(cols.max(1)).enumerate() {
            let row = x.row(at.0 + i);
            let scale = scale.map_or(1.0, |s| s.row(at.0 + i)[0]);
            gated(&row[at.1..at.1 + cols], &row[half + at.1..half + at.1 + cols], scale, y);
        }
    }
}

/// The output of SwiGLU, made a block at a time.
struct Activated<'a, T> {
    isa: Isa,
    x: Mat<'a, T>,
    scale: Option<Mat<'a, f32>>,
}

impl<T: Magnitude> Source for Activated<'_, T> {
    type Number = T;

    fn block<'s>(&'s self, rows: Range<usize>, cols: Range<usize>, scratch: &'s mut [f32]) -> Mat<'s, T> {
        let y = &mut bytemuck::cast_slice_mut(scratch)[..rows.len() * cols.len()];
        forward_block(self.isa, &self.x, self.scale.as_ref(), (rows.start, cols.start), cols.len(), y);
        Mat::new(y, rows.len(), cols.len(), cols.len())
    }
}

/// The gradients of gate and up, the output, and the gradient of the scale, of one column.
#[inline(always)]
fn slopes(gate: f32, up: f32, scale: f32, dy: f32) -> [f32; 4] {
    let sigma = quick_sigmoid(gate);
    let silu = gate * sigma;
    let d_gate = dy * scale * up * (sigma + silu * (1.0 - sigma));
    [d_gate, dy * scale * silu, silu * up * scale, dy * (silu * up)]
}

kernel! {
    /// The gradients of gate, up and (returned) scale; `y` gets the output again.
    fn backward<T: Real>(gate_up: &[T], scale: f32, dy: &[T], d_gate_up: &mut [T], y: &mut [T]) -> f32 {
        let (gate, up) = gate_up.split_at(dy.len());
        let (d_gate, d_up) = d_gate_up.split_at_mut(dy.len());
        let ((gate, gate_tail), (up, up_tail)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
        let ((dy, dy_tail), (y, y_tail)) = (dy.as_chunks::<LANES>(), y.as_chunks_mut::<LANES>());
        let (d_gate, d_gate_tail) = d_gate.as_chunks_mut::<LANES>();
        let (d_up, d_up_tail) = d_up.as_chunks_mut::<LANES>();
        let mut dscale = [0.0; LANES];
        let grads = d_gate.iter_mut().zip(d_up);
        for ((((gate, up), dy), (d_gate, d_up)), y) in gate.iter().zip(up).zip(dy).zip(grads).zip(y) {
            for i in 0..LANES {
                let [a, b, c, d] = slopes(gate[i].load(), up[i].load(), scale, dy[i].load());
                (d_gate[i], d_up[i], y[i]) = (T::store(a), T::store(b), T::store(c));
                dscale[i] += d;
            }
        }
        for i in 0..dy_tail.len() {
            let [a, b, c, d] = slopes(gate_tail[i].load(), up_tail[i].load(), scale, dy_tail[i].load());
            (d_gate_tail[i], d_up_tail[i], y_tail[i]) = (T::store(a), T::store(b), T::store(c));
            dscale[i] += d;
        }
        sum(&dscale, |v| v)
    }
}

typed! {
    swiglu: Swiglu[y] => run_swiglu,
    swiglu_quantize: SwigluQuantize[gate_up] => run_swiglu_quantize,
    swiglu_grad: SwigluGrad[y] => run_swiglu_grad,
}

impl Cpu {
    fn run_swiglu<T: Real>(&self, call: Swiglu<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "swiglu";
        let x = mat::read::<T>(OP, &call.gate_up)?;
        let scale = call.scale.as_ref().map(|s| mat::read::<f32>(OP, s)).transpose()?;
        let (y, isa) = (mat::write::<T>(OP, call.y)?, self.isa());
        self.for_each(2 * y.rows() * y.cols(), Tiles::of_rows(y), |_, mut y| forward(isa, &x, scale.as_ref(), &mut y));
        Ok(())
    }

    fn run_swiglu_quantize<T: Magnitude>(&self, call: SwigluQuantize<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "swiglu_quantize";
        let x = mat::read::<T>(OP, &call.gate_up)?;
        let scale = call.scale.as_ref().map(|s| mat::read::<f32>(OP, s)).transpose()?;
        let scratch = quantize::scratch::<T>(call.y.shape().1);
        self.encode_each(OP, call.y, scratch, &Activated { isa: self.isa(), x, scale })
    }

    fn run_swiglu_grad<T: Real>(&self, call: SwigluGrad<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "swiglu_grad";
        let (x, dy) = (mat::read::<T>(OP, &call.gate_up)?, mat::read::<T>(OP, &call.dy)?);
        let scale = call.scale.as_ref().map(|s| mat::read::<f32>(OP, s)).transpose()?;
        let (dx, y) = (mat::write::<T>(OP, call.d_gate_up)?, mat::write::<T>(OP, call.y)?);
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
