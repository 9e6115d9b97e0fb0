//! RMSNorm and its gradient.

use std::ops::Range;

use fathom_core::device::{RmsNorm, RmsNormGrad, RmsNormQuantize};

use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles, rows_per_block};
use crate::quantize::{self, Magnitude, Source};
use crate::real::{Real, typed};
use crate::reduce::add;
use crate::simd::{kernel, sum, sum2};
use crate::{Cpu, Isa};

/// Rows whose contributions to the gradient of the weight are added up by one task.
const ROWS: usize = 64;

/// `1 / rms(x)`.
#[inline(always)]
fn inverse_root<T: Real>(x: &[T], eps: f32) -> f32 {
    1.0 / (sum(x, |v| v * v) / x.len() as f32 + eps).sqrt()
}

/// `y = x·rstd·weight`.
#[inline(always)]
fn scaled<T: Real>(x: &[T], rstd: f32, weight: &[f32], y: &mut [T]) {
    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
        *y = T::store(x.load() * rstd * w);
    }
}

kernel! {
    /// Writes the norms of those rows of `x` that `y` is for, and `1 / rms(x)` of each to `rstd`.
    ///
    /// Goes over the rows twice, so that no row waits for its own root and quotient.
    fn normalize<T: Real>(
        x: &Mat<'_, T>,
        weight: &[f32],
        eps: f32,
        y: &mut Tile<'_, T>,
        rstd: &mut Tile<'_, f32>,
    ) {
        let first = y.row;
        for i in 0..y.rows() {
            rstd.row(i)[0] = inverse_root(x.row(first + i), eps);
        }
        for i in 0..y.rows() {
            scaled(x.row(first + i), rstd.row(i)[0], weight, y.row(i));
        }
    }
}

kernel! {
    /// Writes `1 / rms(x)` of those rows of `x` that `rstd` is for.
    fn roots<T: Real>(x: &Mat<'_, T>, eps: f32, rstd: &mut Tile<'_, f32>) {
        let first = rstd.row;
        for i in 0..rstd.rows() {
            rstd.row(i)[0] = inverse_root(x.row(first + i), eps);
        }
    }
}

kernel! {
    /// The norms of a block whose first row is `first`, in the columns that `weight` is for, which begin at `col`.
    fn normalize_block<T: Real>(
        x: &Mat<'_, T>,
        rstd: &Mat<'_, f32>,
        first: usize,
        col: usize,
        weight: &[f32],
        y: &mut [T],
    ) {
        for (i, y) in y.chunks_exact_mut(weight.len().max(1)).enumerate() {
            scaled(&x.row(first + i)[col..col + weight.len()], rstd.row(first + i)[0], weight, y);
        }
    }
}

/// The output of RMSNorm, made a block at a time.
struct Normed<'a, T> {
    isa: Isa,
    x: Mat<'a, T>,
    weight: Mat<'a, f32>,
    rstd: Mat<'a, f32>,
}

impl<T: Magnitude> Source for Normed<'_, T> {
    type Number = T;

    fn block<'s>(&'s self, rows: Range<usize>, cols: Range<usize>, scratch: &'s mut [f32]) -> Mat<'s, T> {
        let (height, width) = (rows.len(), cols.len());
        let y = &mut bytemuck::cast_slice_mut(scratch)[..height * width];
        let first = cols.start;
        normalize_block(self.isa, &self.x, &self.rstd, rows.start, first, &self.weight.row(0)[cols], y);
        Mat::new(y, height, width, width)
    }
}

kernel! {
    /// `dx (+)= rstd·(dy·w − x·rstd·mean(dy·w·x·rstd))` and `dweight += dy·x·rstd`; `g` is scratch.
    fn normalize_grad<T: Real>(
        x: &[T],
        weight: &[f32],
        rstd: f32,
        dy: &[T],
        accumulate: bool,
        dx: &mut [T],
        dweight: &mut [f32],
        g: &mut [f32],
    ) {
        for ((g, &dy), &w) in g.iter_mut().zip(dy).zip(weight) {
            *g = dy.load() * w;
        }
        // rstd·(g − x·rstd·mean) with mean = rstd·Σ(g·x)/n.
        let slope = rstd * rstd * (sum2(g, x, |g, x| g * x) / x.len() as f32);
        if accumulate {
            for ((dx, &g), &x) in dx.iter_mut().zip(&*g).zip(x) {
                *dx = T::store(dx.load() + rstd * (g - x.load() * slope));
            }
        } else {
            for ((dx, &g), &x) in dx.iter_mut().zip(&*g).zip(x) {
                *dx = T::store(rstd * (g - x.load() * slope));
            }
        }
        for ((dw, &dy), &x) in dweight.iter_mut().zip(dy).zip(x) {
            *dw += dy.load() * (x.load() * rstd);
        }
    }
}

typed! {
    rmsnorm: RmsNorm[x] => run_rmsnorm,
    rmsnorm_quantize: RmsNormQuantize[x] => run_rmsnorm_quantize,
    rmsnorm_grad: RmsNormGrad[x] => run_rmsnorm_grad,
}

impl Cpu {
    fn run_rmsnorm<T: Real>(&self, call: RmsNorm<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "rmsnorm";
        let (x, weight) = (mat::read::<T>(OP, &call.x)?, mat::read::<f32>(OP, &call.weight)?);
        let (y, rstd) = (mat::write::<T>(OP, call.y)?, mat::write::<f32>(OP, call.rstd)?);
        let (isa, eps, height) = (self.isa(), call.eps as f32, rows_per_block(x.cols()));
        let parts = (Tiles::of_rows(y), Tiles::new(rstd, height, 1));
        self.for_each(x.rows() * x.cols() / 3, parts, |_, (mut y, mut rstd)| {
            normalize(isa, &x, weight.row(0), eps, &mut y, &mut rstd);
        });
        Ok(())
    }

    fn run_rmsnorm_quantize<T: Magnitude>(&self, mut call: RmsNormQuantize<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "rmsnorm_quantize";
        let (x, weight) = (mat::read::<T>(OP, &call.x)?, mat::read::<f32>(OP, &call.weight)?);
        let (isa, eps, height) = (self.isa(), call.eps as f32, rows_per_block(x.cols()));
        let rstd = Tiles::new(mat::write::<f32>(OP, call.rstd.reborrow())?, height, 1);
        self.for_each(x.rows() * x.cols() / 6, rstd, |_, mut rstd| roots(isa, &x, eps, &mut rstd));
        let (read, scratch) = (call.rstd.as_ref(), quantize::scratch::<T>(x.cols()));
        let rstd = mat::read::<f32>(OP, &read)?;
        self.encode_each(OP, call.y, scratch, &Normed { isa, x, weight, rstd })
    }

    fn run_rmsnorm_grad<T: Real>(&self, call: RmsNormGrad<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "rmsnorm_grad";
        let (x, weight) = (mat::read::<T>(OP, &call.x)?, mat::read::<f32>(OP, &call.weight)?);
        let (rstd, dy) = (mat::read::<f32>(OP, &call.rstd)?, mat::read::<T>(OP, &call.dy)?);
        let (dx, mut dweight) = (mat::write::<T>(OP, call.dx)?, mat::write::<f32>(OP, call.dweight)?);
        let (isa, accumulate, rows, cols) = (self.isa(), call.out.adds(), x.rows(), x.cols());
        let blocks = rows.div_ceil(ROWS);
        let mut partial = self.alloc_f32(blocks * cols)?;
        let partial = &mut partial.elements_mut::<f32>()[..blocks * cols];
        let sums = Tiles::new(MatMut::new(partial, blocks, cols, cols), 1, cols);
        let parts = (Tiles::new(dx, ROWS, cols), sums);
        self.for_each_with(rows * cols, cols, parts, |_, (mut dx, mut dw), g| {
            let dw = dw.row(0);
            dw.fill(0.0);
            let g = &mut g[..cols];
            for i in 0..dx.rows() {
                let r = dx.row + i;
                let (x, dy, rstd) = (x.row(r), dy.row(r), rstd.row(r)[0]);
                normalize_grad(isa, x, weight.row(0), rstd, dy, accumulate, dx.row(i), dw, g);
            }
        })?;
        for sums in partial.chunks_exact(cols.max(1)) {
            add(isa, dweight.row(0), sums);
        }
        Ok(())
    }
}
