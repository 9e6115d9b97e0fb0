//! Calls that select or sort: top-k and the counting sort.

use super::{Call, Cost, bytes_of, bytes_of_mut, is_float, is_index};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, at_most, ensure, same};

/// The columns of the `k` largest elements of every row, largest first; among equals the lower column.
#[non_exhaustive]
pub struct TopK<'a, B> {
    /// `[m, n]`, free of NaN.
    pub x: MatRef<'a, B>,
    /// `[m, k]` u32, `k ≤ n`.
    pub index: MatMut<'a, B>,
}

impl<'a, B> TopK<'a, B> {
    /// Finds the largest of every row.
    pub fn new(x: MatRef<'a, B>, index: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "top_k";
        is_float(OP, &x)?;
        is_index(OP, &index.as_ref())?;
        same(OP, "rows of the index", x.rows(), index.rows())?;
        at_most(OP, "k =", index.cols(), "the number of columns", x.cols())?;
        Ok(Self { x, index })
    }
}

impl<B> Call for TopK<'_, B> {
    const NAME: &'static str = "top_k";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, bytes_of(&self.x) + bytes_of_mut(&self.index))
    }
}

/// A stable counting sort of small keys: where each of `m` items goes when they are grouped by key.
///
/// `order[p]` is the item at place `p`, `inverse[i]` the place of item `i`, and the items of key `g` lie at places
/// `offsets[g]..offsets[g + 1]`. Keys at or above `buckets` are an error, or count as the last bucket on an
/// asynchronous device.
#[non_exhaustive]
pub struct SortByKey<'a, B> {
    /// `m` keys, u32, in any shape without gaps.
    pub keys: MatRef<'a, B>,
    /// Number of keys there are.
    pub buckets: usize,
    /// `[m, 1]` u32.
    pub order: MatMut<'a, B>,
    /// `m` elements u32, in any shape without gaps.
    pub inverse: MatMut<'a, B>,
    /// `[1, buckets + 1]` u32.
    pub offsets: MatMut<'a, B>,
}

impl<'a, B> SortByKey<'a, B> {
    /// Groups items by key.
    pub fn new(
        keys: MatRef<'a, B>,
        buckets: usize,
        order: MatMut<'a, B>,
        inverse: MatMut<'a, B>,
        offsets: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "sort_by_key";
        for m in [&keys, &order.as_ref(), &inverse.as_ref(), &offsets.as_ref()] {
            is_index(OP, m)?;
            ensure(OP, "operands must have no gaps", m.is_contiguous())?;
        }
        same(OP, "elements of order", keys.elements(), order.elements())?;
        same(OP, "elements of inverse", keys.elements(), inverse.elements())?;
        same(OP, "elements of offsets", buckets.saturating_add(1), offsets.elements())?;
        Ok(Self { keys, buckets, order, inverse, offsets })
    }
}

impl<B> Call for SortByKey<'_, B> {
    const NAME: &'static str = "sort_by_key";
    fn cost(&self) -> Cost {
        Cost::new(0, 4 * bytes_of(&self.keys) + bytes_of_mut(&self.offsets))
    }
}
