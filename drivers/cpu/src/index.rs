//! Gather and scatter kernels. Every index is checked before anything is written.

use fathom_core::device::{Combine, GatherColumns, GatherRows, ScatterAddColumns, ScatterAddRows};
use half::bf16;

use crate::Cpu;
use crate::elementwise::convert;
use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut, check_index, out_of_range};
use crate::memory::Buffer;
use crate::par::{Tiles, rows_per_block};
use crate::real::{Real, typed};
use crate::reduce::add;
use crate::simd::kernel;

typed! {
    scatter_add_rows: ScatterAddRows[x] => run_scatter_add_rows,
    gather_columns: GatherColumns[x] => run_gather_columns,
    combine: Combine[x] => run_combine,
}

impl Cpu {
    pub(crate) fn gather_rows(&self, call: GatherRows<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gather_rows";
        let (index, divisor, isa) = (mat::read(OP, &call.index)?, call.divisor, self.isa());
        if call.x.dtype() == call.y.dtype() {
            let (x, y) = (mat::read_bytes(&call.x), mat::write_bytes(call.y));
            return self.gather(&x, &index, divisor, y, |x, y| y.copy_from_slice(x));
        }
        let (x, y) = (mat::read::<f32>(OP, &call.x)?, mat::write::<bf16>(OP, call.y)?);
        self.gather(&x, &index, divisor, y, |x, y| convert(isa, x, y))
    }

    /// `f` on row `index[r] / divisor` of `x` and row `r` of `y`, for every `r`.
    fn gather<X: Sync, Y: Send>(
        &self,
        x: &Mat<'_, X>,
        index: &Mat<'_, u32>,
        divisor: usize,
        y: MatMut<'_, Y>,
        f: impl Fn(&[X], &mut [Y]) + Sync,
    ) -> Result<(), CpuError> {
        check_index("gather_rows", index, x.rows().saturating_mul(divisor))?;
        self.for_each(y.rows() * y.cols() * size_of::<Y>() / 16, Tiles::of_rows(y), |_, mut y| {
            y.for_rows(|r, row| f(x.row(index.row(r)[0] as usize / divisor), row));
        });
        Ok(())
    }

    fn run_scatter_add_rows<T: Real>(&self, call: ScatterAddRows<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "scatter_add_rows";
        // Tasks take columns, not rows: each adds the rows in their order, and none meets another.
        const COLS: usize = 64;
        let (x, index) = (mat::read::<T>(OP, &call.x)?, mat::read(OP, &call.index)?);
        let y = mat::write::<f32>(OP, call.y)?;
        check_index(OP, &index, y.rows())?;
        let (isa, height) = (self.isa(), y.rows());
        self.for_each(x.rows() * x.cols() / 4, Tiles::new(y, height, COLS), |_, mut y| {
            let columns = y.col..y.col + y.cols();
            for r in 0..x.rows() {
                add(isa, y.row(index.row(r)[0] as usize), &x.row(r)[columns.clone()]);
            }
        });
        Ok(())
    }

    fn run_gather_columns<T: Real>(&self, call: GatherColumns<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gather_columns";
        let (x, index, y) = (mat::read::<T>(OP, &call.x)?, mat::read(OP, &call.index)?, mat::write::<T>(OP, call.y)?);
        check_index(OP, &index, x.cols())?;
        self.for_each(y.rows() * y.cols(), Tiles::of_rows(y), |_, mut y| {
            y.for_rows(|r, row| {
                let x = x.row(r);
                row.iter_mut().zip(index.row(r)).for_each(|(y, &i)| *y = x[i as usize]);
            });
        });
        Ok(())
    }

    pub(crate) fn scatter_add_columns(&self, call: ScatterAddColumns<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "scatter_add_columns";
        let (x, index, y) =
            (mat::read::<f32>(OP, &call.x)?, mat::read(OP, &call.index)?, mat::write::<f32>(OP, call.y)?);
        check_index_or_none(OP, &index, y.cols())?;
        let repeated = x.rows() * x.cols() == 1;
        let height = rows_per_block(index.cols());
        let width = y.cols();
        self.for_each(index.rows() * index.cols(), Tiles::new(y, height, width), |_, mut y| {
            y.for_rows(|r, row| {
                for (j, &i) in index.row(r).iter().enumerate().filter(|&(_, &i)| i != u32::MAX) {
                    row[i as usize] += if repeated { x.row(0)[0] } else { x.row(r)[j] };
                }
            });
        });
        Ok(())
    }

    fn run_combine<T: Real>(&self, call: Combine<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "combine";
        let (x, inverse) = (mat::read::<T>(OP, &call.x)?, mat::read(OP, &call.inverse)?);
        let y = mat::write::<T>(OP, call.y)?;
        check_index(OP, &inverse, x.rows())?;
        let (isa, accumulate) = (self.isa(), call.out.adds());
        let work = inverse.rows() * inverse.cols() * x.cols() / 4;
        self.for_each(work, Tiles::of_rows(y), |_, mut y| {
            y.for_rows(|t, y| add_rows(isa, &x, inverse.row(t), accumulate, y));
        });
        Ok(())
    }
}

kernel! {
    /// `y = Σ x[r, :]` over `rows` in their order, or `y += …`; rounded once.
    fn add_rows<T: Real>(x: &Mat<'_, T>, rows: &[u32], accumulate: bool, y: &mut [T]) {
        // As many columns at once as sums fit in registers.
        const COLS: usize = 64;
        let (blocks, _) = y.as_chunks::<COLS>();
        let whole = blocks.len() * COLS;
        for (i, y) in y.as_chunks_mut::<COLS>().0.iter_mut().enumerate() {
            let mut sums = [0.0; COLS];
            if accumulate {
                sums = y.map(T::load);
            }
            for &r in rows {
                let x = &x.row(r as usize)[i * COLS..][..COLS];
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum += x.load();
                }
            }
            *y = sums.map(T::store);
        }
        for (c, y) in y.iter_mut().enumerate().skip(whole) {
            let start = if accumulate { y.load() } else { 0.0 };
            *y = T::store(rows.iter().fold(start, |sum, &r| sum + x.row(r as usize)[c].load()));
        }
    }
}

/// As [`check_index`], but for `u32::MAX`, which stands for none.
fn check_index_or_none(op: &'static str, index: &Mat<'_, u32>, bound: usize) -> Result<(), CpuError> {
    for r in 0..index.rows() {
        if let Some(&bad) = index.row(r).iter().find(|&&i| i != u32::MAX && i as usize >= bound) {
            return Err(out_of_range(op, bad, bound));
        }
    }
    Ok(())
}
