//! RMSNorm and its gradient.

use fathom_core::device::{RmsNorm, RmsNormGrad};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles, rows_per_block};
use crate::real::{Real, typed};
use crate::reduce::add;
use crate::simd::{kernel, sum, sum2};

/// Rows whose contributions to the gradient of the weight are added up by one task.
const ROWS: usize = 64;

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
        let (first, n) = (y.row, x.cols() as f32);
        for i in 0..y.rows() {
            rstd.row(i)[0] = 1.0 / (sum(x.row(first + i), |v| v * v) / n + eps).sqrt();
        }
        for i in 0..y.rows() {
            let rstd = rstd.row(i)[0];
            for ((y, &x), &w) in y.row(i).iter_mut().zip(x.row(first + i)).zip(weight) {
                *y = T::store(x.load() * rstd * w);
            }
        }
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
