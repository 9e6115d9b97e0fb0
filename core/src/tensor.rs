//! Tensors on a device, and the matrix views that kernels take.
//!
//! A tensor owns a buffer and knows its shape. Kernels see matrices: the last dimension is the columns, all others
//! together are the rows, and a stride leads from one row to the next. That is enough for every layer of the model:
//! a head of a query, the latent part of a key, one expert's weight are all row or column ranges of a larger matrix.
//! A view can only be made inside its buffer, so a kernel that is handed one need not check bounds again.

use alloc::vec::Vec;
use core::ops::Range;

use bytemuck::Pod;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, same};

/// The most dimensions a tensor has.
pub const MAX_RANK: usize = 4;

/// The dimensions of a tensor, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(heapless::Vec<usize, MAX_RANK>);

impl Shape {
    /// A shape of up to [`MAX_RANK`] dimensions whose number of elements fits `usize`.
    pub fn new(dimensions: &[usize]) -> Result<Self, InvalidOp> {
        let dims = heapless::Vec::from_slice(dimensions)
            .map_err(|_| InvalidOp::new("shape", "has too many dimensions", MAX_RANK, dimensions.len()))?;
        dimensions.iter().try_fold(8usize, |n, &d| n.checked_mul(d)).ok_or(InvalidOp::new(
            "shape",
            "has more elements than the address space",
            0,
            0,
        ))?;
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

/// A tensor whose elements lie in `B`, a device's buffer, in row-major order without gaps.
pub struct TensorOf<B> {
    buffer: B,
    shape: Shape,
    dtype: DType,
}

/// A tensor on device `D`.
pub type Tensor<D> = TensorOf<<D as Device>::Buffer>;
/// A matrix that a kernel reads, on device `D`.
pub type View<'a, D> = MatRef<'a, <D as Device>::Buffer>;
/// A matrix that a kernel writes, on device `D`.
pub type ViewMut<'a, D> = MatMut<'a, <D as Device>::Buffer>;

impl<B> TensorOf<B> {
    /// A tensor with undefined contents.
    pub fn empty<D: Device<Buffer = B>>(device: &D, dimensions: &[usize], dtype: DType) -> Result<Self, D::Error> {
        let shape = Shape::new(dimensions)?;
        let buffer = device.alloc(shape.elements() * dtype.size())?;
        Ok(Self { buffer, shape, dtype })
    }

    /// A tensor of zeros.
    pub fn zeros<D: crate::device::Primitives<Buffer = B>>(
        device: &D,
        dimensions: &[usize],
        dtype: DType,
    ) -> Result<Self, D::Error> {
        let mut t = Self::empty(device, dimensions, dtype)?;
        device.fill(crate::device::Fill::new(t.view_mut(), 0.0))?;
        Ok(t)
    }

    /// A tensor with the elements of `values`, which must be of the width of `dtype`.
    pub fn from_slice<D: Device<Buffer = B>, T: Pod>(
        device: &D,
        dimensions: &[usize],
        dtype: DType,
        values: &[T],
    ) -> Result<Self, D::Error> {
        let mut t = Self::empty(device, dimensions, dtype)?;
        t.upload(device, values)?;
        Ok(t)
    }

    /// Replaces all elements by `values`.
    pub fn upload<D: Device<Buffer = B>, T: Pod>(&mut self, device: &D, values: &[T]) -> Result<(), D::Error> {
        same("upload", "bytes of the tensor", self.bytes(), core::mem::size_of_val(values))?;
        device.upload(&mut self.buffer, 0, bytemuck::cast_slice(values))
    }

    /// Reads all elements as `T`, which must be of the width of the element type. Waits for the device.
    pub fn download<D: Device<Buffer = B>, T: Pod>(&self, device: &D) -> Result<Vec<T>, D::Error> {
        same("download", "width of the element type", self.dtype.size(), size_of::<T>())?;
        let mut out = alloc::vec![T::zeroed(); self.shape.elements()];
        device.download(&self.buffer, 0, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size()
    }

    /// The whole tensor as a matrix.
    pub fn view(&self) -> MatRef<'_, B> {
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        MatRef { buffer: &self.buffer, offset: 0, rows, cols, stride: cols, dtype: self.dtype }
    }

    /// The whole tensor as a matrix to write.
    pub fn view_mut(&mut self) -> MatMut<'_, B> {
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        MatMut { buffer: &mut self.buffer, offset: 0, rows, cols, stride: cols, dtype: self.dtype }
    }

    /// `rows * cols` elements from `offset` on, as a matrix without gaps.
    pub fn part(&self, offset: usize, rows: usize, cols: usize) -> Result<MatRef<'_, B>, InvalidOp> {
        self.check_part(offset, rows, cols)?;
        Ok(MatRef { buffer: &self.buffer, offset, rows, cols, stride: cols, dtype: self.dtype })
    }

    /// As [`part`](Self::part), to write.
    pub fn part_mut(&mut self, offset: usize, rows: usize, cols: usize) -> Result<MatMut<'_, B>, InvalidOp> {
        self.check_part(offset, rows, cols)?;
        Ok(MatMut { buffer: &mut self.buffer, offset, rows, cols, stride: cols, dtype: self.dtype })
    }

    fn check_part(&self, offset: usize, rows: usize, cols: usize) -> Result<(), InvalidOp> {
        let end = rows.checked_mul(cols).and_then(|n| n.checked_add(offset));
        ensure("part", "reaches past the end of the tensor", end.is_some_and(|e| e <= self.shape.elements()))
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
            ensure("columns", "range is not inside the matrix", range.start <= range.end && range.end <= self.cols)?;
            // What has no elements stays where it is: the place it would start at may lie past the end of the buffer.
            let skipped = if self.rows == 0 || range.is_empty() { 0 } else { range.start };
            Ok(Self { offset: self.offset + skipped, cols: range.len(), ..self })
        }

        /// The matrix of rows `range`.
        pub fn row_range(self, range: Range<usize>) -> Result<Self, InvalidOp> {
            ensure("row_range", "range is not inside the matrix", range.start <= range.end && range.end <= self.rows)?;
            let skipped = if self.cols == 0 || range.is_empty() { 0 } else { range.start * self.stride };
            Ok(Self { offset: self.offset + skipped, rows: range.len(), ..self })
        }

        /// The same elements as a matrix of another shape; the view must have no gaps.
        pub fn reshape(self, rows: usize, cols: usize) -> Result<Self, InvalidOp> {
            ensure("reshape", "needs a view without gaps", self.is_contiguous())?;
            same("reshape", "number of elements", self.elements(), rows.saturating_mul(cols))?;
            Ok(Self { rows, cols, stride: cols, ..self })
        }
    };
}

impl<'a, B> MatRef<'a, B> {
    geometry!();

    /// The buffer the matrix lies in.
    pub fn buffer(&self) -> &'a B {
        self.buffer
    }
}

impl<'a, B> MatMut<'a, B> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Dry;

    #[test]
    fn a_view_without_elements_stays_inside_its_buffer() {
        let device = Dry::new();
        let none = Tensor::<Dry>::empty(&device, &[0, 4], DType::F32).expect("no memory");
        let columns = none.view().columns(2..4).expect("inside");
        assert_eq!((columns.offset(), columns.end(), columns.rows(), columns.cols()), (0, 0, 0, 2));
        let some = Tensor::<Dry>::empty(&device, &[3, 4], DType::F32).expect("memory");
        let last = some.view().columns(3..4).and_then(|v| v.row_range(3..3)).expect("inside");
        assert_eq!((last.offset(), last.end(), last.rows(), last.cols()), (3, 3, 0, 1));
        let inner = some.view().row_range(1..3).and_then(|v| v.columns(1..3)).expect("inside");
        assert_eq!((inner.offset(), inner.end()), (5, 11));
    }
}
