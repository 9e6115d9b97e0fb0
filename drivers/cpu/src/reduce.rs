//! Sums and maxima of rows and columns.

use fathom_core::device::{ReduceRows, Reduction, SumColumns};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::Tiles;
use crate::real::{Real, typed};
use crate::simd::{self, kernel};

/// Elements reduced by one task; longer rows are reduced in pieces of this length, and then the pieces.
const PIECE: usize = 1 << 15;

kernel! {
    fn reduce<T: Real>(f: Reduction, x: &[T]) -> f32 {
        match f {
            Reduction::Sum => simd::sum(x, |v| v),
            Reduction::SumSquares => simd::sum(x, |v| v * v),
            // NaN if there is one, which a sum of what is left of the numbers shows.
            Reduction::Max if simd::sum(x, |v| if v.is_nan() { v } else { 0.0 }).is_nan() => f32::NAN,
            Reduction::Max => simd::max(x),
        }
    }
}

kernel! {
    /// `y += x`.
    pub(crate) fn add<T: Real>(y: &mut [f32], x: &[T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x.load();
        }
    }
}

typed! {
    reduce_rows: ReduceRows[x] => run_reduce_rows,
    sum_columns: SumColumns[x] => run_sum_columns,
}

impl Cpu {
    fn run_reduce_rows<T: Real>(&self, call: ReduceRows<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "reduce_rows";
        let (f, isa, accumulate) = (call.f, self.isa(), call.out.adds());
        let (x, y) = (mat::read::<T>(OP, &call.x)?, mat::write::<f32>(OP, call.y)?);
        let (rows, cols) = (x.rows(), x.cols());
        let pieces = cols.div_ceil(PIECE).max(1);
        let mut partial = self.alloc_f32(rows * pieces)?;
        let partial = &mut partial.elements_mut::<f32>()[..rows * pieces];
        let at_once = (PIECE / cols.max(1)).max(1);
        let tiles = Tiles::new(MatMut::new(partial, rows, pieces, pieces), at_once, 1);
        self.for_each(rows * cols / 8, tiles, |_, mut tile| {
            let from = tile.col * PIECE;
            tile.for_rows(|r, out| out[0] = reduce(isa, f, &x.row(r)[from..cols.min(from + PIECE)]));
        });
        let then = if f == Reduction::Max { f } else { Reduction::Sum };
        let mut y = y;
        for (r, pieces) in partial.chunks_exact(pieces).enumerate() {
            let value = if let [one] = pieces { *one } else { reduce(isa, then, pieces) };
            let y = &mut y.row(r)[0];
            *y = if accumulate { *y + value } else { value };
        }
        Ok(())
    }

    fn run_sum_columns<T: Real>(&self, call: SumColumns<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "sum_columns";
        let (x, y) = (mat::read::<T>(OP, &call.x)?, mat::write::<f32>(OP, call.y)?);
        self.add_column_sums(&x, y)
    }

    /// `y[0, c] += Σ_r x[r, c]`: rows are added up in blocks of 64, then the blocks.
    pub(crate) fn add_column_sums<T: Real>(&self, x: &Mat<'_, T>, mut y: MatMut<'_, f32>) -> Result<(), CpuError> {
        const ROWS: usize = 64;
        let (rows, cols, isa) = (x.rows(), x.cols(), self.isa());
        let blocks = rows.div_ceil(ROWS);
        let mut partial = self.alloc_f32(blocks * cols)?;
        let partial = &mut partial.elements_mut::<f32>()[..blocks * cols];
        let tiles = Tiles::new(MatMut::new(partial, blocks, cols, cols), 1, cols);
        self.for_each(rows * cols / 8, tiles, |block, mut tile| {
            let sums = tile.row(0);
            sums.fill(0.0);
            for r in block * ROWS..rows.min((block + 1) * ROWS) {
                add(isa, sums, x.row(r));
            }
        });
        for sums in partial.chunks_exact(cols.max(1)) {
            add(isa, y.row(0), sums);
        }
        Ok(())
    }
}
