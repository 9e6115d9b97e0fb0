//! The call of rotary position embedding.

use super::{Call, Cost, is_float, is_index};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, at_most, ensure, multiple, same};

/// Rotates pairs of columns by an angle that depends on the position, in place: rotary position embedding with
/// interleaved pairs, `(x₂ᵢ, x₂ᵢ₊₁) ← (x₂ᵢ·cos − x₂ᵢ₊₁·sin, x₂ᵢ·sin + x₂ᵢ₊₁·cos)`.
///
/// Every row holds `heads` heads of `head` columns, of which the `r` from `start` on are rotated.
#[non_exhaustive]
pub struct Rope<'a, B> {
    /// `[t, heads·head]`.
    pub x: MatMut<'a, B>,
    /// Columns of a head.
    pub head: usize,
    /// First rotated column of a head.
    pub start: usize,
    /// `[positions, r]`: cosine and sine of pair `i` in columns `2i` and `2i + 1`.
    pub table: MatRef<'a, B>,
    /// `[t, 1]` u32, each below the rows of the table.
    pub positions: MatRef<'a, B>,
    /// Rotate back (transpose): the gradient.
    pub inverse: bool,
}

impl<'a, B> Rope<'a, B> {
    /// Rotates `x`.
    pub fn new(
        x: MatMut<'a, B>,
        head: usize,
        start: usize,
        table: MatRef<'a, B>,
        positions: MatRef<'a, B>,
        inverse: bool,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "rope";
        is_float(OP, &x.as_ref())?;
        is_float(OP, &table)?;
        is_index(OP, &positions)?;
        ensure(OP, "a head has no columns", head > 0)?;
        multiple(OP, "the number of columns", x.cols(), "the width of a head", head)?;
        multiple(OP, "the number of rotated columns", table.cols(), "the width of a pair", 2)?;
        at_most(OP, "the end of the rotated columns", start.saturating_add(table.cols()), "the width of a head", head)?;
        same(OP, "rows of positions", x.rows(), positions.rows())?;
        same(OP, "columns of positions", 1, positions.cols())?;
        Ok(Self { x, head, start, table, positions, inverse })
    }

    /// Number of heads in a row.
    pub fn heads(&self) -> usize {
        self.x.cols() / self.head
    }
}

impl<B> Call for Rope<'_, B> {
    const NAME: &'static str = "rope";
    fn cost(&self) -> Cost {
        let n = (self.x.rows() * self.heads() * self.table.cols()) as u64;
        Cost::new(3 * n, 2 * n * self.x.dtype().size() as u64)
    }
}
