//! A weight as a factor of a product: numbers, or codes with their scales.

use core::ops::Range;

use super::{Scaled, bytes_of};
use crate::device::view::MatRef;
use crate::error::{InvalidOp, ensure};

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

    pub(super) fn check(&self, op: &'static str) -> Result<(), InvalidOp> {
        match self {
            Self::Float(w) => super::is_float(op, w),
            Self::Fp8(w) => ensure(op, "a weight's codes must be one byte each", w.codes.dtype().size() == 1),
        }
    }
}
