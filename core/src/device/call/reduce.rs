//! Calls that reduce rows or columns to one number each.

use super::{Call, Cost, Out, bytes_of, bytes_of_mut, is_float};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, ensure, same};

/// How a row becomes one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// `Σ x`.
    Sum,
    /// `Σ x²`.
    SumSquares,
    /// `max x`.
    Max,
}

/// `y[r] = reduce(x[r, :])`, or `y[r] += …` where it is added to (sums only).
///
/// The order of the sum is the device's, but fixed by the shape alone: the same bits for any number of threads.
#[non_exhaustive]
pub struct ReduceRows<'a, B> {
    /// How.
    pub f: Reduction,
    /// `[m, n]`.
    pub x: MatRef<'a, B>,
    /// `[m, 1]`.
    pub y: MatMut<'a, B>,
    /// Replaces `y`, or adds to it.
    pub out: Out,
}

impl<'a, B> ReduceRows<'a, B> {
    /// Reduces each row of `x` into `y`.
    pub fn new(f: Reduction, x: MatRef<'a, B>, y: MatMut<'a, B>, out: Out) -> Result<Self, InvalidOp> {
        is_float("reduce_rows", &x)?;
        is_float("reduce_rows", &y.as_ref())?;
        same("reduce_rows", "rows of y", x.rows(), y.rows())?;
        same("reduce_rows", "columns of y", 1, y.cols())?;
        ensure("reduce_rows", "a maximum cannot accumulate", !(out.adds() && f == Reduction::Max))?;
        Ok(Self { f, x, y, out })
    }
}

impl<B> Call for ReduceRows<'_, B> {
    const NAME: &'static str = "reduce_rows";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, bytes_of(&self.x) + bytes_of_mut(&self.y))
    }
}

/// `y[c] += Σ_r x[r, c]`: the gradient of a bias. The order of the sum is fixed by the shape.
#[non_exhaustive]
pub struct SumColumns<'a, B> {
    /// `[m, n]`.
    pub x: MatRef<'a, B>,
    /// `[1, n]`, added to.
    pub y: MatMut<'a, B>,
}

impl<'a, B> SumColumns<'a, B> {
    /// Adds the column sums of `x` to `y`.
    pub fn new(x: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        is_float("sum_columns", &x)?;
        is_float("sum_columns", &y.as_ref())?;
        same("sum_columns", "rows of y", 1, y.rows())?;
        same("sum_columns", "columns of y", x.cols(), y.cols())?;
        Ok(Self { x, y })
    }
}

impl<B> Call for SumColumns<'_, B> {
    const NAME: &'static str = "sum_columns";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, bytes_of(&self.x) + 2 * bytes_of_mut(&self.y))
    }
}
