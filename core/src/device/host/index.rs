//! Gather and scatter by index.

use super::matrix::{Matrix, add, before, checked, indices, read, row_bytes, row_bytes_mut, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::{Combine, GatherColumns, GatherRows, ScatterAddColumns, ScatterAddRows};

impl Host {
    pub(super) fn gather_rows(&self, mut call: GatherRows<'_, HostBuffer>) -> Result {
        let index = indices(&call.index).into_iter();
        let limit = call.x.rows().saturating_mul(call.divisor);
        let from = index.map(|i| checked("gather_rows", i, limit).map(|i| i / call.divisor));
        if call.x.dtype() == call.y.dtype() {
            for (r, from) in from.enumerate() {
                row_bytes_mut(&mut call.y, r).copy_from_slice(row_bytes(&call.x, from?));
            }
            return Ok(());
        }
        let x = read(&call.x);
        let mut y = Matrix::zeros(call.y.rows(), call.y.cols());
        for (r, from) in from.enumerate() {
            y.row_mut(r).copy_from_slice(x.row(from?));
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn scatter_add_rows(&self, mut call: ScatterAddRows<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let mut y = read(&call.y.as_ref());
        for (r, index) in indices(&call.index).into_iter().enumerate() {
            let to = checked("scatter_add_rows", index, y.rows)?;
            add(y.row_mut(to), x.row(r));
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn gather_columns(&self, mut call: GatherColumns<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let k = call.index.cols();
        let mut y = Matrix::zeros(x.rows, k);
        for (i, index) in indices(&call.index).into_iter().enumerate() {
            y.data[i] = x[(i / k, checked("gather_columns", index, x.cols)?)];
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn scatter_add_columns(&self, mut call: ScatterAddColumns<'_, HostBuffer>) -> Result {
        let x = read(&call.x).data;
        let k = call.index.cols();
        let mut y = read(&call.y.as_ref());
        for (i, index) in indices(&call.index).into_iter().enumerate() {
            if index != u32::MAX {
                let c = checked("scatter_add_columns", index, y.cols)?;
                y[(i / k, c)] += x[if x.len() == 1 { 0 } else { i }];
            }
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn combine(&self, mut call: Combine<'_, HostBuffer>) -> Result {
        let x = read(&call.x);
        let k = call.inverse.cols();
        let mut y = before(&call.y, call.out);
        for (i, row) in indices(&call.inverse).into_iter().enumerate() {
            add(y.row_mut(i / k), x.row(checked("combine", row, x.rows)?));
        }
        write(&mut call.y, &y.data);
        Ok(())
    }
}
