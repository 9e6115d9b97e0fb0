//! Matrices in host memory: the core's views as slices.

use bytemuck::Pod;
use fathom_core::DType;
use fathom_core::error::{ErrorKind, InvalidOp};
use fathom_core::tensor::{MatMut as CoreMut, MatRef as CoreRef};

use crate::error::CpuError;
use crate::memory::Buffer;

/// A matrix to read, rows `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Makes a matrix over `data`, which must hold all of it.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(data.len() >= extent(rows, cols, stride), "a matrix lies inside its memory");
        Self { data, rows, cols, stride }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`.
    #[inline(always)]
    pub(crate) fn row(&self, r: usize) -> &'a [T] {
        &self.data[first(r, self.stride, self.cols)..][..self.cols]
    }

    /// All elements from the first to the last, gaps included.
    pub(crate) fn as_slice(&self) -> &'a [T] {
        self.data
    }

    /// The block of `rows` rows and `cols` columns whose first element is at `(row, col)`.
    #[inline(always)]
    pub(crate) fn block(&self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        assert!(row + rows <= self.rows && col + cols <= self.cols, "a block lies inside its matrix");
        let start = if rows * cols == 0 { 0 } else { row * self.stride + col };
        let data = &self.data[start..start + extent(rows, cols, self.stride)];
        Self { data, rows, cols, stride: self.stride }
    }
}

/// A matrix to write.
pub(crate) struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// Makes a matrix over `data`, which must hold all of it. Rows must not overlap.
    pub(crate) fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(data.len() >= extent(rows, cols, stride), "a matrix lies inside its memory");
        assert!(rows <= 1 || cols <= stride, "rows do not overlap");
        Self { data, rows, cols, stride }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`.
    #[inline(always)]
    pub(crate) fn row(&mut self, r: usize) -> &mut [T] {
        &mut self.data[first(r, self.stride, self.cols)..][..self.cols]
    }

    pub(crate) fn into_slice(self) -> &'a mut [T] {
        self.data
    }
}

/// Where row `r` starts. Rows without columns are nowhere: there need be no memory for them.
#[inline(always)]
fn first(r: usize, stride: usize, cols: usize) -> usize {
    if cols == 0 { 0 } else { r * stride }
}

fn extent(rows: usize, cols: usize, stride: usize) -> usize {
    if rows * cols == 0 { 0 } else { (rows - 1) * stride + cols }
}

/// Element types of Rust that stand for those of core.
pub(crate) trait Element: Pod + Send + Sync {
    const DTYPE: DType;
}

macro_rules! element {
    ($($t:ty: $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(f64: F64, f32: F32, half::bf16: BF16, half::f16: F16, u32: U32);

/// The matrix of a view whose elements are `T`, or an error that `op` takes none of its type there.
pub(crate) fn read<'a, T: Element>(op: &'static str, m: &CoreRef<'a, Buffer>) -> Result<Mat<'a, T>, CpuError> {
    of_type::<T>(op, m.dtype())?;
    Ok(Mat::new(&m.buffer().elements()[m.offset()..m.end()], m.rows(), m.cols(), m.stride()))
}

/// As [`read`], to write.
pub(crate) fn write<'a, T: Element>(op: &'static str, m: CoreMut<'a, Buffer>) -> Result<MatMut<'a, T>, CpuError> {
    of_type::<T>(op, m.dtype())?;
    let (rows, cols, stride, range) = (m.rows(), m.cols(), m.stride(), m.offset()..m.end());
    Ok(MatMut::new(&mut m.into_buffer().elements_mut()[range], rows, cols, stride))
}

/// The bytes of a view of any type, for what only moves elements.
pub(crate) fn read_bytes<'a>(m: &CoreRef<'a, Buffer>) -> Mat<'a, u8> {
    let size = m.dtype().size();
    let bytes = &m.buffer().elements()[m.offset() * size..m.end() * size];
    Mat::new(bytes, m.rows(), m.cols() * size, m.stride() * size)
}

/// As [`read_bytes`], to write.
pub(crate) fn write_bytes(m: CoreMut<'_, Buffer>) -> MatMut<'_, u8> {
    let (size, rows) = (m.dtype().size(), m.rows());
    let (cols, stride, range) = (m.cols() * size, m.stride() * size, m.offset() * size..m.end() * size);
    MatMut::new(&mut m.into_buffer().elements_mut()[range], rows, cols, stride)
}

fn of_type<T: Element>(op: &'static str, dtype: DType) -> Result<(), CpuError> {
    if dtype == T::DTYPE { Ok(()) } else { Err(unsupported(op, dtype, T::DTYPE.name())) }
}

/// The error for an operand of a type that `op` does not take.
pub(crate) fn unsupported(op: &'static str, dtype: DType, types: &str) -> CpuError {
    let problem = format!("{op}: the CPU driver takes {types} here, not {dtype}; cast the operand first");
    CpuError::new(ErrorKind::Unsupported, problem)
}

/// Checks that every element of `index` is below `bound`.
pub(crate) fn check_index(op: &'static str, index: &Mat<'_, u32>, bound: usize) -> Result<(), CpuError> {
    for r in 0..index.rows() {
        if let Some(&bad) = index.row(r).iter().find(|&&i| i as usize >= bound) {
            return Err(out_of_range(op, bad, bound));
        }
    }
    Ok(())
}

/// The error for index `bad` into something of `bound` elements.
pub(crate) fn out_of_range(op: &'static str, bad: u32, bound: usize) -> CpuError {
    InvalidOp::not_below(op, "index", bad as usize, "the limit", bound).into()
}
