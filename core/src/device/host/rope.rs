//! Rotary position embedding.

use super::matrix::{checked, indices, read, write};
use super::{Host, HostBuffer, Result};
use crate::device::call::Rope;

impl Host {
    pub(super) fn rope(&self, mut call: Rope<'_, HostBuffer>) -> Result {
        let (table, heads) = (read(&call.table), call.heads());
        let mut x = read(&call.x.as_ref());
        for (r, position) in indices(&call.positions).into_iter().enumerate() {
            let angles = table.row(checked("rope", position, table.rows)?);
            for j in 0..heads {
                for (i, pair) in angles.chunks_exact(2).enumerate() {
                    let (cos, sin) = (pair[0], if call.inverse { -pair[1] } else { pair[1] });
                    let c = j * call.head + call.start + 2 * i;
                    let (even, odd) = (x[(r, c)], x[(r, c + 1)]);
                    x[(r, c)] = even * cos - odd * sin;
                    x[(r, c + 1)] = even * sin + odd * cos;
                }
            }
        }
        write(&mut call.x, &x.data);
        Ok(())
    }
}
