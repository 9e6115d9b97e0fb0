//! Cases of top-k and the counting sort.

use fathom_core::device::{SortByKey, TopK};
use proptest::prelude::*;

use crate::case::{Operand, case, kernel};
use crate::values::{size, some};

case!(TopKCase, "top_k", { rows: usize, cols: usize, k: usize }, |self| 1,
    operands {
        vec![
            Operand::floats(self.d.wide(), self.rows, self.cols, self.d.floats(0, self.rows * self.cols))
                .gaps(self.d.gaps),
            Operand::index_result(self.rows, self.k).gaps(!self.d.gaps),
        ]
    }
    call |device, x, index| device.top_k(TopK::new(x.view(), index.view_mut())?)
);
kernel!(
    /// [`TopK`]: bit for bit, with many equal elements.
    top_k, rows: size(40), cols: some(70), k: 0usize..10 =>
    |(d, rows, cols, k)| TopKCase { d, rows, cols, k: k.min(cols) }
);

case!(SortCase, "sort_by_key", { items: usize, per: usize, buckets: usize }, |self| 1,
    operands {
        let n = self.items * self.per;
        vec![
            Operand::indices(self.items, self.per, self.d.indices(0, n, self.buckets)),
            Operand::index_result(n, 1),
            Operand::index_result(self.items, self.per),
            Operand::index_result(1, self.buckets + 1),
        ]
    }
    call |device, keys, order, inverse, offsets| device.sort_by_key(SortByKey::new(
        keys.view(), self.buckets, order.view_mut(), inverse.view_mut(), offsets.view_mut(),
    )?)
);
kernel!(
    /// [`SortByKey`]: bit for bit, with keys that do not occur.
    sort_by_key, items: size(70), per: 1usize..9, buckets: some(70) =>
    |(d, items, per, buckets)| SortCase { d, items, per, buckets }
);
