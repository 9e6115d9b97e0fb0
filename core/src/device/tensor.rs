//! Tensors: a device buffer with a shape and an element type.

use alloc::vec::Vec;
use core::ops::Range;

use bytemuck::Pod;

use super::Device;
use super::call::Fill;
use super::primitives::Primitives;
use super::view::{MatMut, MatRef, Shape};
use crate::dtype::DType;
use crate::error::{InvalidOp, at_most, same};

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
    pub fn zeros<D: Primitives<Buffer = B>>(device: &D, dimensions: &[usize], dtype: DType) -> Result<Self, D::Error> {
        let mut t = Self::empty(device, dimensions, dtype)?;
        device.fill(Fill::new(t.view_mut(), 0.0))?;
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

    /// Replaces elements from `first` on by bytes as they are stored.
    pub fn write_elements<D: Device<Buffer = B>>(
        &mut self,
        device: &D,
        first: usize,
        bytes: &[u8],
    ) -> Result<(), D::Error> {
        device.upload(&mut self.buffer, first * self.dtype.size(), bytes)
    }

    /// Reads all elements as `T`, which must be of the width of the element type. Waits for the device.
    pub fn download<D: Device<Buffer = B>, T: Pod>(&self, device: &D) -> Result<Vec<T>, D::Error> {
        let mut out = Vec::new();
        self.download_into(device, &mut out)?;
        Ok(out)
    }

    /// As [`download`](Self::download), in place of what `out` holds.
    pub fn download_into<D: Device<Buffer = B>, T: Pod>(&self, device: &D, out: &mut Vec<T>) -> Result<(), D::Error> {
        same("download", "width of the element type", self.dtype.size(), size_of::<T>())?;
        out.resize(self.shape.elements(), T::zeroed());
        device.download(&self.buffer, 0, bytemuck::cast_slice_mut(out))
    }

    /// Reads some rows as `T` into `out`, which they must fill. Waits for the device.
    pub fn download_rows<D: Device<Buffer = B>, T: Pod>(
        &self,
        device: &D,
        rows: Range<usize>,
        out: &mut [T],
    ) -> Result<(), D::Error> {
        same("download", "width of the element type", self.dtype.size(), size_of::<T>())?;
        let part = self.view().row_range(rows)?;
        same("download", "elements of the rows", part.elements(), out.len())?;
        device.download(&self.buffer, part.offset() * self.dtype.size(), bytemuck::cast_slice_mut(out))
    }

    /// The first rows as a tensor; what lies after them stays with it, out of reach.
    pub fn first_rows(self, rows: usize) -> Result<Self, InvalidOp> {
        at_most("first_rows", "the number of rows", rows, "those of the tensor,", self.shape.rows())?;
        if rows == self.shape.rows() {
            return Ok(self);
        }
        let shape = Shape::new(&[rows, self.shape.cols()])?;
        Ok(Self { shape, ..self })
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
        MatRef::dense(&self.buffer, 0, rows, cols, self.dtype)
    }

    /// The whole tensor as a matrix to write.
    pub fn view_mut(&mut self) -> MatMut<'_, B> {
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        MatMut::dense(&mut self.buffer, 0, rows, cols, self.dtype)
    }

    /// `rows * cols` elements from `offset` on, as a matrix without gaps.
    pub fn part(&self, offset: usize, rows: usize, cols: usize) -> Result<MatRef<'_, B>, InvalidOp> {
        self.check_part(offset, rows, cols)?;
        Ok(MatRef::dense(&self.buffer, offset, rows, cols, self.dtype))
    }

    /// As [`part`](Self::part), to write.
    pub fn part_mut(&mut self, offset: usize, rows: usize, cols: usize) -> Result<MatMut<'_, B>, InvalidOp> {
        self.check_part(offset, rows, cols)?;
        Ok(MatMut::dense(&mut self.buffer, offset, rows, cols, self.dtype))
    }

    fn check_part(&self, offset: usize, rows: usize, cols: usize) -> Result<(), InvalidOp> {
        let end = rows.saturating_mul(cols).saturating_add(offset);
        at_most("part", "the end of the part", end, "the number of elements", self.shape.elements())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::wrap::Dry;

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
