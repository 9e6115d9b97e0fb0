//! Reductions of rows and columns.

use super::matrix::{add, read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{ReduceRows, Reduction, SumColumns};

impl Host {
    pub(super) fn reduce_rows(&self, mut call: ReduceRows<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let mut y = read(&call.y.as_ref());
        for r in 0..x.rows {
            let row = x.row(r).iter();
            let value = match call.f {
                Reduction::Sum => row.sum::<f64>(),
                Reduction::SumSquares => row.map(|v| v * v).sum(),
                Reduction::Max => row.fold(f64::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m }),
            };
            y.data[r] = if call.out.adds() { y.data[r] + value } else { value };
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn sum_columns(&self, mut call: SumColumns<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let mut y = read(&call.y.as_ref());
        for r in 0..x.rows {
            add(&mut y.data, x.row(r));
        }
        write(&mut call.y, &y.data);
        Ok(())
    }
}
