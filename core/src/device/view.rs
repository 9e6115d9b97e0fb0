//! Matrix views: what kernels take.
//!
//! The last dimension of a tensor is the columns, all others together are the rows, and a stride leads from one row to
//! the next. That is enough for every layer of the model: a head of a query, the latent part of a key, one expert's
//! weight are all row or column ranges of a larger matrix. A view can only be made inside its buffer, so a kernel that
//! is handed one need not check bounds again.

use core::ops::Range;

use crate::dtype::DType;
use crate::error::{InvalidOp, at_most, ensure, multiple, same};

/// The most dimensions a tensor has.
pub const MAX_RANK: usize = 4;

/// The dimensions of a tensor, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(heapless::Vec<usize, MAX_RANK>);

impl Shape {
    /// A shape of up to [`MAX_RANK`] dimensions whose number of elements fits `usize`.
    pub fn new(dimensions: &[usize]) -> Result<Self, InvalidOp> {
        let dims = heapless::Vec::from_slice(dimensions).map_err(|_| {
            InvalidOp::above("shape", "the number of dimensions", dimensions.len(), "the limit", MAX_RANK)
        })?;
        dimensions
            .iter()
            .try_fold(8usize, |n, &d| n.checked_mul(d))
            .ok_or(InvalidOp::plain("shape", "has more elements than the address space"))?;
        Ok(Self(dims))
    }

    /// The dimensions, outermost first.
    pub fn dimensions(&self) -> &[usize] {
        &self.0
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// The last dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// The product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.0.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }
}

/// A matrix inside a device buffer, to read: `rows × cols` elements of `dtype`, rows `stride` elements apart.
pub struct MatRef<'a, B> {
    buffer: &'a B,
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
    dtype: DType,
}

impl<B> Clone for MatRef<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for MatRef<'_, B> {}

/// A matrix inside a device buffer, to write.
pub struct MatMut<'a, B> {
    buffer: &'a mut B,
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
    dtype: DType,
}

macro_rules! geometry {
    () => {
        /// Number of rows.
        pub fn rows(&self) -> usize {
            self.rows
        }

        /// Number of columns.
        pub fn cols(&self) -> usize {
            self.cols
        }

        /// Elements from the start of one row to the start of the next.
        pub fn stride(&self) -> usize {
            self.stride
        }

        /// Elements from the start of the buffer to the first element.
        pub fn offset(&self) -> usize {
            self.offset
        }

        /// The element type.
        pub fn dtype(&self) -> DType {
            self.dtype
        }

        /// `rows * cols`.
        pub fn elements(&self) -> usize {
            self.rows * self.cols
        }

        /// True where the rows follow each other without gaps.
        pub fn is_contiguous(&self) -> bool {
            self.stride == self.cols || self.rows <= 1
        }

        /// One past the last element, counted from the start of the buffer.
        pub fn end(&self) -> usize {
            if self.rows == 0 || self.cols == 0 {
                self.offset
            } else {
                self.offset + (self.rows - 1) * self.stride + self.cols
            }
        }

        /// The matrix of columns `range`.
        pub fn columns(self, range: Range<usize>) -> Result<Self, InvalidOp> {
            ensure("columns", "the range ends before it starts", range.start <= range.end)?;
            at_most("columns", "the end of the range", range.end, "the number of columns", self.cols)?;
            // What has no elements stays where it is: the place it would start at may lie past the end of the buffer.
            let skipped = if self.rows == 0 || range.is_empty() { 0 } else { range.start };
            Ok(Self { offset: self.offset + skipped, cols: range.len(), ..self })
        }

        /// The matrix of rows `range`.
        pub fn row_range(self, range: Range<usize>) -> Result<Self, InvalidOp> {
            ensure("row_range", "the range ends before it starts", range.start <= range.end)?;
            at_most("row_range", "the end of the range", range.end, "the number of rows", self.rows)?;
            let skipped = if self.cols == 0 || range.is_empty() { 0 } else { range.start * self.stride };
            Ok(Self { offset: self.offset + skipped, rows: range.len(), ..self })
        }

        /// The same elements as a matrix of another shape; the view must have no gaps.
        pub fn reshape(self, rows: usize, cols: usize) -> Result<Self, InvalidOp> {
            ensure("reshape", "needs a view without gaps", self.is_contiguous())?;
            same("reshape", "number of elements", self.elements(), rows.saturating_mul(cols))?;
            Ok(Self { rows, cols, stride: cols, ..self })
        }

        /// The same bytes as elements of `dtype`. Rows, their start and the distance between them must be whole
        /// elements of it.
        pub fn reinterpret(self, dtype: DType) -> Result<Self, InvalidOp> {
            let (from, to) = (self.dtype.size(), dtype.size());
            let whole = |n: usize| multiple("reinterpret", "a number of bytes", n * from, "the size of an element", to);
            whole(self.offset)?;
            whole(self.cols)?;
            whole(self.stride)?;
            let count = |n: usize| n * from / to;
            let (offset, cols, stride) = (count(self.offset), count(self.cols), count(self.stride));
            Ok(Self { offset, cols, stride, dtype, ..self })
        }
    };
}

impl<'a, B> MatRef<'a, B> {
    /// A matrix without gaps. The caller makes sure that it lies inside the buffer.
    pub(super) fn dense(buffer: &'a B, offset: usize, rows: usize, cols: usize, dtype: DType) -> Self {
        Self { buffer, offset, rows, cols, stride: cols, dtype }
    }

    geometry!();

    /// The buffer the matrix lies in.
    pub fn buffer(&self) -> &'a B {
        self.buffer
    }
}

impl<'a, B> MatMut<'a, B> {
    /// A matrix without gaps, to write. The caller makes sure that it lies inside the buffer.
    pub(super) fn dense(buffer: &'a mut B, offset: usize, rows: usize, cols: usize, dtype: DType) -> Self {
        Self { buffer, offset, rows, cols, stride: cols, dtype }
    }

    geometry!();

    /// The buffer the matrix lies in.
    pub fn buffer(&self) -> &B {
        self.buffer
    }

    /// The buffer the matrix lies in, to write.
    pub fn buffer_mut(&mut self) -> &mut B {
        self.buffer
    }

    /// The buffer, for as long as the view would have lived.
    pub fn into_buffer(self) -> &'a mut B {
        self.buffer
    }

    /// The same matrix, to read.
    pub fn as_ref(&self) -> MatRef<'_, B> {
        let Self { offset, rows, cols, stride, dtype, .. } = *self;
        MatRef { buffer: self.buffer, offset, rows, cols, stride, dtype }
    }

    /// The same matrix, lent for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_, B> {
        let Self { offset, rows, cols, stride, dtype, .. } = *self;
        MatMut { buffer: self.buffer, offset, rows, cols, stride, dtype }
    }
}
