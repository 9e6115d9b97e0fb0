//! Sources of GEMM operands: where packing reads its numbers from.

use std::ops::Range;

use half::bf16;

use crate::mat::Mat;
use crate::real::Real;
use crate::simd::{Isa, kernel};

/// A factor whose numbers are, or can be made, of type `N`.
pub(super) trait Source<N>: Copy + Sync {
    /// Whether its numbers have to be made.
    const MADE: bool;

    fn rows(&self) -> usize;

    fn cols(&self) -> usize;

    /// See [`Mat::block`].
    fn block(&self, row: usize, rows: usize, col: usize, cols: usize) -> Self;

    /// Rows `rows`, which are all of group `group`.
    fn group(&self, _group: usize, rows: Range<usize>) -> Self {
        self.block(rows.start, rows.len(), 0, self.cols())
    }

    /// The numbers: where they lie, or made in `to`, which then has room for them.
    fn numbers<'s>(&self, isa: Isa, to: &'s mut [N]) -> Mat<'s, N>
    where
        Self: 's;
}

macro_rules! matrix {
    () => {
        fn rows(&self) -> usize {
            Mat::rows(self)
        }

        fn cols(&self) -> usize {
            Mat::cols(self)
        }

        fn block(&self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
            Mat::block(self, row, rows, col, cols)
        }
    };
}

impl<'a, N: Real> Source<N> for Mat<'a, N> {
    const MADE: bool = false;

    matrix!();

    fn numbers<'s>(&self, _: Isa, _: &'s mut [N]) -> Mat<'s, N>
    where
        'a: 's,
    {
        *self
    }
}

impl<'a> Source<f32> for Mat<'a, bf16> {
    const MADE: bool = true;

    matrix!();

    fn numbers<'s>(&self, isa: Isa, to: &'s mut [f32]) -> Mat<'s, f32>
    where
        'a: 's,
    {
        let (rows, cols) = (Mat::rows(self), Mat::cols(self));
        let to = &mut to[..rows * cols];
        widen(isa, self, to);
        Mat::new(to, rows, cols, cols)
    }
}

kernel! {
    fn widen(from: &Mat<'_, bf16>, to: &mut [f32]) {
        for (r, line) in to.chunks_exact_mut(from.cols().max(1)).enumerate() {
            for (to, &x) in line.iter_mut().zip(from.row(r)) {
                *to = x.load();
            }
        }
    }
}
