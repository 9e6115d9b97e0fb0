//! A weight as a factor of a product: numbers, or codes with their scales.

use core::ops::Range;

use super::{Scaled, Tiles, bytes_of};
use crate::device::view::MatRef;
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, multiple};

/// A weight as it is stored: a kernel that takes one decodes it as it reads.
pub enum Factor<'a, B> {
    /// Numbers, of any floating-point type.
    Float(MatRef<'a, B>),
    /// Codes with scales.
    Fp8(Scaled<'a, B>),
}

impl<B> Clone for Factor<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Factor<'_, B> {}

impl<B> Factor<'_, B> {
    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        match self {
            Self::Float(w) => w.rows(),
            Self::Fp8(w) => w.rows(),
        }
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        match self {
            Self::Float(w) => w.cols(),
            Self::Fp8(w) => w.cols(),
        }
    }

    /// Some rows of the matrix; rows of codes must be whole blocks ([`Scaled::row_range`]).
    ///
    /// # Errors
    /// Rows that the matrix does not have, or codes of other tiles than blocks.
    pub fn row_range(self, rows: Range<usize>) -> Result<Self, InvalidOp> {
        Ok(match self {
            Self::Float(w) => Self::Float(w.row_range(rows)?),
            Self::Fp8(w) => Self::Fp8(w.row_range(rows)?),
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Float(w) => bytes_of(w),
            Self::Fp8(w) => w.bytes(),
        }
    }

    /// Checks that this is floating point, or E4M3 in 128×128 blocks whose parts divide the `rows` rows of one weight.
    pub(super) fn check(&self, op: &'static str, rows: usize) -> Result<(), InvalidOp> {
        match self {
            Self::Float(w) => super::is_float(op, w),
            Self::Fp8(w) => check_blocks(op, w, rows),
        }
    }
}

/// Checks that `w` is E4M3 in 128×128 blocks whose parts divide the `rows` rows of one weight.
pub(super) fn check_blocks<B>(op: &'static str, w: &Scaled<'_, B>, rows: usize) -> Result<(), InvalidOp> {
    ensure(op, "a weight of codes must be E4M3", w.codes.dtype() == DType::E4M3)?;
    match w.tiles {
        Tiles::Block { part } => multiple(op, "the number of rows of a weight", rows, "the rows of a part", part),
        _ => ensure(op, "a weight of codes must have 128x128 blocks", false),
    }
}
