//! Calls that gather and scatter rows or columns by index.

use super::{Call, Cost, Out, bytes_of, bytes_of_mut, is_float, is_index, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, ensure, same};

/// `y[r, :] = x[index[r] / divisor, :]`, rounded where `y` is of a narrower type. An index outside `x` is an error, or
/// reads as zeros on an asynchronous device.
#[non_exhaustive]
pub struct GatherRows<'a, B> {
    /// `[n, c]` of any type.
    pub x: MatRef<'a, B>,
    /// `[m, 1]` u32.
    pub index: MatRef<'a, B>,
    /// What an index is divided by: top-k, where indices count (token, choice) pairs and `x` holds tokens.
    pub divisor: usize,
    /// `[m, c]`, of the type of `x`, or both floating point.
    pub y: MatMut<'a, B>,
}

impl<'a, B> GatherRows<'a, B> {
    /// Gathers rows of `x`.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, divisor: usize, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "gather_rows";
        is_index(OP, &index)?;
        same(OP, "columns of the index", 1, index.cols())?;
        same(OP, "rows of y", index.rows(), y.rows())?;
        same(OP, "columns of y", x.cols(), y.cols())?;
        let floats = x.dtype().is_float() && y.dtype().is_float();
        ensure(OP, "x and y must have one type, or both be floating point", floats || x.dtype() == y.dtype())?;
        ensure(OP, "needs a divisor above zero", divisor > 0)?;
        Ok(Self { x, index, divisor, y })
    }
}

impl<B> Call for GatherRows<'_, B> {
    const NAME: &'static str = "gather_rows";
    fn cost(&self) -> Cost {
        Cost::new(0, 2 * bytes_of_mut(&self.y) + bytes_of(&self.index))
    }
}

/// `y[index[r], :] += x[r, :]`, each row of `y` summed in the order of `r`: the gradient of an embedding.
#[non_exhaustive]
pub struct ScatterAddRows<'a, B> {
    /// `[m, c]`.
    pub x: MatRef<'a, B>,
    /// `[m, 1]` u32, each below `n`.
    pub index: MatRef<'a, B>,
    /// `[n, c]`, added to.
    pub y: MatMut<'a, B>,
}

impl<'a, B> ScatterAddRows<'a, B> {
    /// Adds rows of `x` into `y`.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "scatter_add_rows";
        is_index(OP, &index)?;
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "columns of the index", 1, index.cols())?;
        same(OP, "rows of the index", x.rows(), index.rows())?;
        same(OP, "columns of y", x.cols(), y.cols())?;
        Ok(Self { x, index, y })
    }
}

impl<B> Call for ScatterAddRows<'_, B> {
    const NAME: &'static str = "scatter_add_rows";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, 3 * bytes_of(&self.x) + bytes_of(&self.index))
    }
}

/// `y[r, j] = x[r, index[r, j]]`.
#[non_exhaustive]
pub struct GatherColumns<'a, B> {
    /// `[m, n]`.
    pub x: MatRef<'a, B>,
    /// `[m, k]` u32, each below `n`.
    pub index: MatRef<'a, B>,
    /// `[m, k]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> GatherColumns<'a, B> {
    /// Picks `k` elements of every row.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "gather_columns";
        is_index(OP, &index)?;
        is_float(OP, &x)?;
        same(OP, "rows of the index", x.rows(), index.rows())?;
        same_shape(OP, &index, &y.as_ref())?;
        ensure(OP, "x and y must have one type", x.dtype() == y.dtype())?;
        Ok(Self { x, index, y })
    }
}

impl<B> Call for GatherColumns<'_, B> {
    const NAME: &'static str = "gather_columns";
    fn cost(&self) -> Cost {
        Cost::new(0, 2 * bytes_of_mut(&self.y) + bytes_of(&self.index))
    }
}

/// `y[r, index[r, j]] += x[r, j]`. An index of `u32::MAX` adds nothing.
#[non_exhaustive]
pub struct ScatterAddColumns<'a, B> {
    /// `[m, k]`, or `[1, 1]` repeated.
    pub x: MatRef<'a, B>,
    /// `[m, k]` u32.
    pub index: MatRef<'a, B>,
    /// `[m, n]`, added to.
    pub y: MatMut<'a, B>,
}

impl<'a, B> ScatterAddColumns<'a, B> {
    /// Adds `k` numbers into every row.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "scatter_add_columns";
        is_index(OP, &index)?;
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "rows of the index", y.rows(), index.rows())?;
        if x.elements() != 1 {
            same_shape(OP, &x, &index)?;
        }
        Ok(Self { x, index, y })
    }
}

impl<B> Call for ScatterAddColumns<'_, B> {
    const NAME: &'static str = "scatter_add_columns";
    fn cost(&self) -> Cost {
        Cost::new(self.index.elements() as u64, bytes_of(&self.x) + 3 * bytes_of(&self.index))
    }
}

/// Sums the rows of every token: `y[t, :] = Σ_j x[inverse[t, j], :]` (or `+=`), in the order of `j`.
#[non_exhaustive]
pub struct Combine<'a, B> {
    /// `[r, d]`, rows grouped by expert.
    pub x: MatRef<'a, B>,
    /// `[t, k]` u32, each below `r`.
    pub inverse: MatRef<'a, B>,
    /// `[t, d]`.
    pub y: MatMut<'a, B>,
    /// Replaces `y`, or adds to it.
    pub out: Out,
}

impl<'a, B> Combine<'a, B> {
    /// Sums `k` rows per token.
    pub fn new(x: MatRef<'a, B>, inverse: MatRef<'a, B>, y: MatMut<'a, B>, out: Out) -> Result<Self, InvalidOp> {
        const OP: &str = "combine";
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        is_index(OP, &inverse)?;
        same(OP, "columns of y", x.cols(), y.cols())?;
        same(OP, "rows of the index", y.rows(), inverse.rows())?;
        Ok(Self { x, inverse, y, out })
    }
}

impl<B> Call for Combine<'_, B> {
    const NAME: &'static str = "combine";
    fn cost(&self) -> Cost {
        let rows = self.inverse.elements() * self.x.cols();
        Cost::new(rows as u64, (rows * self.x.dtype().size()) as u64 + bytes_of_mut(&self.y))
    }
}
