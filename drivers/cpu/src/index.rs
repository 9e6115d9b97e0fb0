//! Kernels that move rows and elements by index. Every index is checked before anything is written.

use fathom_core::DType;
use fathom_core::device::{Combine, GatherColumns, GatherRows, ScatterAddColumns, ScatterAddRows, SortByKey, TopK};
use fathom_core::error::ErrorKind;
use fathom_core::layer::router;

use crate::Cpu;
use crate::elementwise::with_type;
use crate::error::CpuError;
use crate::mat::{self, Element, Mat, check_index, out_of_range};
use crate::memory::Buffer;
use crate::par::{Tiles, rows_per_block};
use crate::reduce::add;

impl Cpu {
    pub(crate) fn run_gather_rows(&self, call: GatherRows<'_, Buffer>) -> Result<(), CpuError> {
        use half::{bf16, f16};
        with_type!("gather_rows", call.x.dtype(), T => self.gather::<T>(call))
    }

    fn gather<T: Element>(&self, call: GatherRows<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gather_rows";
        let (x, index, y) = (mat::read::<T>(OP, &call.x)?, mat::read(OP, &call.index)?, mat::write::<T>(OP, call.y)?);
        let divisor = call.divisor;
        check_index(OP, &index, x.rows().saturating_mul(divisor))?;
        self.for_each(y.rows() * y.cols() / 4, Tiles::of_rows(y), |_, mut y| {
            y.for_rows(|r, row| row.copy_from_slice(x.row(index.row(r)[0] as usize / divisor)));
        });
        Ok(())
    }

    pub(crate) fn run_scatter_add_rows(&self, call: ScatterAddRows<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "scatter_add_rows";
        // Tasks take columns, not rows: each adds the rows in their order, and none meets another.
        const COLS: usize = 64;
        let (x, index, y) = (mat::read(OP, &call.x)?, mat::read(OP, &call.index)?, mat::write(OP, call.y)?);
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

    pub(crate) fn run_gather_columns(&self, call: GatherColumns<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gather_columns";
        let (x, index, y) = (mat::read::<f32>(OP, &call.x)?, mat::read(OP, &call.index)?, mat::write(OP, call.y)?);
        check_index(OP, &index, x.cols())?;
        self.for_each(y.rows() * y.cols(), Tiles::of_rows(y), |_, mut y| {
            y.for_rows(|r, row| {
                let x = x.row(r);
                row.iter_mut().zip(index.row(r)).for_each(|(y, &i)| *y = x[i as usize]);
            });
        });
        Ok(())
    }

    pub(crate) fn run_scatter_add_columns(&self, call: ScatterAddColumns<'_, Buffer>) -> Result<(), CpuError> {
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

    pub(crate) fn run_top_k(&self, call: TopK<'_, Buffer>) -> Result<(), CpuError> {
        let (x, index) = (mat::read::<f32>("top_k", &call.x)?, mat::write::<u32>("top_k", call.index)?);
        let (cols, k) = (x.cols(), index.cols());
        let tiles = Tiles::new(index, rows_per_block(cols * k.max(1)), k);
        self.for_each_with(x.rows() * cols * k, cols, tiles, |_, mut index, scratch| {
            index.for_rows(|r, index| {
                let copy = &mut scratch[..cols];
                copy.copy_from_slice(x.row(r));
                router::top_k(copy, index);
            });
        })
    }

    pub(crate) fn run_sort_by_key(&self, call: SortByKey<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "sort_by_key";
        let keys = mat::read::<u32>(OP, &call.keys)?;
        let buckets = call.buckets;
        check_index(OP, &keys, buckets)?;
        let keys = keys.as_slice();
        let order = mat::write::<u32>(OP, call.order)?.into_slice();
        let inverse = mat::write::<u32>(OP, call.inverse)?.into_slice();
        let offsets = mat::write::<u32>(OP, call.offsets)?.into_slice();
        // Counts move through `offsets`: first one place up, so that placing an item leaves the end of its bucket, the
        // start of the next.
        offsets.fill(0);
        for &key in keys {
            offsets[(key as usize + 2).min(buckets)] += u32::from(key as usize + 2 <= buckets);
        }
        for g in 2..=buckets {
            offsets[g] += offsets[g - 1];
        }
        for (item, &key) in (0u32..).zip(keys) {
            let place = &mut offsets[key as usize + 1];
            order[*place as usize] = item;
            inverse[item as usize] = *place;
            *place += 1;
        }
        Ok(())
    }

    pub(crate) fn run_combine(&self, call: Combine<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "combine";
        let (x, inverse, y) = (mat::read(OP, &call.x)?, mat::read(OP, &call.inverse)?, mat::write(OP, call.y)?);
        check_index(OP, &inverse, x.rows())?;
        let (isa, accumulate) = (self.isa(), call.accumulate);
        let work = inverse.rows() * inverse.cols() * x.cols() / 4;
        self.for_each(work, Tiles::of_rows(y), |_, mut y| {
            y.for_rows(|t, sum| {
                if !accumulate {
                    sum.fill(0.0);
                }
                for &r in inverse.row(t) {
                    add(isa, sum, x.row(r as usize));
                }
            });
        });
        Ok(())
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
