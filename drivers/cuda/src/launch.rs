//! Launches: a kernel, its grid, and its argument as the bytes that `fathom.cuh` declares.

use bytemuck::{Pod, Zeroable};
use fathom_core::dtype::DType;
use fathom_core::error::ErrorKind;
use fathom_core::tensor::{MatMut, MatRef};

use crate::error::CudaError;
use crate::memory::Buffer;
use crate::source::Module;

/// A launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    /// The file it is in.
    pub(crate) module: Module,
    /// Its name there.
    pub(crate) name: &'static str,
    /// Blocks along x, y and z. A launch without blocks is no launch.
    pub(crate) grid: [usize; 3],
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Bytes of shared memory of a block.
    pub(crate) shared: usize,
    /// The argument.
    pub(crate) args: &'a [u8],
}

/// `Mat` of `fathom.cuh`: a matrix in device memory.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Mat {
    data: u64,
    stride: i64,
    rows: i32,
    cols: i32,
    dtype: i32,
    reserved: i32,
}

impl Mat {
    /// No matrix: an optional operand that is not there. Kernels see no rows.
    pub(crate) const NONE: Self = Self { data: 0, stride: 0, rows: 0, cols: 0, dtype: 0, reserved: 0 };

    /// A matrix of f32 without gaps in a buffer that is large enough.
    pub(crate) fn of_f32(op: &'static str, buffer: &Buffer, rows: usize, cols: usize) -> Result<Self, CudaError> {
        debug_assert!(rows * cols * 4 <= buffer.len());
        let (rows, cols, data) = (extent(op, rows)?, extent(op, cols)?, buffer.address());
        Ok(Self { data, stride: cols.into(), rows, cols, dtype: 0, reserved: 0 })
    }

    /// Where the first element lies.
    pub(crate) fn address(&self) -> u64 {
        self.data
    }

    /// The same elements as one row, where there are no gaps between rows and they are not too many for a row.
    pub(crate) fn flat(self) -> Self {
        match self.rows.checked_mul(self.cols) {
            Some(n) if self.stride == i64::from(self.cols) => Self { rows: 1, cols: n, stride: n.into(), ..self },
            _ => self,
        }
    }

    /// Blocks of `threads` threads that take eight elements each, in `eighth`'s numbering.
    pub(crate) fn eighths(&self, op: &'static str, threads: u32) -> Result<usize, CudaError> {
        blocks(op, self.rows as usize, (self.cols as usize).div_ceil(8), threads)
    }

    /// True where every row starts on a multiple of `bytes`.
    pub(crate) fn is_aligned(&self, bytes: u64) -> bool {
        let size = match self.dtype {
            1 | 2 => 2,
            4 | 5 => 1,
            6 => 3,
            _ => 4,
        };
        self.data.is_multiple_of(bytes) && (self.rows <= 1 || ((self.stride * size) as u64).is_multiple_of(bytes))
    }
}

/// The number by which kernels know an element type; an error for those they do not know.
fn code(op: &'static str, dtype: DType) -> Result<i32, CudaError> {
    Ok(match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
        DType::U32 => 3,
        DType::E4M3 => 4,
        DType::E5M2 => 5,
        DType::E5M6Pair => 6,
        other => return Err(unsupported(op, format!("does not work on {other}"))),
    })
}

/// The error for a call that this driver has no kernel for.
pub(crate) fn unsupported(op: &'static str, why: impl std::fmt::Display) -> CudaError {
    CudaError::new(ErrorKind::Unsupported, format!("{op} {why} on a CUDA device"))
}

fn extent(op: &'static str, n: usize) -> Result<i32, CudaError> {
    i32::try_from(n)
        .map_err(|_| unsupported(op, format!("has {n} rows or columns, more than 2^31 - 1, which does not work")))
}

/// Blocks of `threads` threads that together do `rows · pieces` pieces of work, which kernels count in 32 bits.
pub(crate) fn blocks(op: &'static str, rows: usize, pieces: usize, threads: u32) -> Result<usize, CudaError> {
    // Room for the threads of the last block.
    let most = (u32::MAX - 1024) as usize;
    match rows.checked_mul(pieces) {
        Some(n) if n <= most => Ok(n.div_ceil(threads as usize)),
        _ => Err(unsupported(op, format!("in {rows} rows of {pieces} pieces is too large"))),
    }
}

/// A view as a kernel takes it.
pub(crate) fn mat(op: &'static str, m: &MatRef<'_, Buffer>) -> Result<Mat, CudaError> {
    Ok(Mat {
        data: m.buffer().address() + (m.offset() * m.dtype().size()) as u64,
        stride: m.stride() as i64,
        rows: extent(op, m.rows())?,
        cols: extent(op, m.cols())?,
        dtype: code(op, m.dtype())?,
        reserved: 0,
    })
}

/// A view to write, as a kernel takes it.
pub(crate) fn mat_mut(op: &'static str, m: &MatMut<'_, Buffer>) -> Result<Mat, CudaError> {
    mat(op, &m.as_ref())
}

/// The name of a kernel that there is one of for each type of activations: `typed!("rmsnorm", OP, dtype)` is
/// `rmsnorm_f32` or `rmsnorm_bf16`.
macro_rules! typed {
    ($name:literal, $op:expr, $dtype:expr) => {
        match $dtype {
            fathom_core::dtype::DType::F32 => concat!($name, "_f32"),
            fathom_core::dtype::DType::BF16 => concat!($name, "_bf16"),
            other => return Err($crate::launch::unsupported($op, format!("does not compute in {other}"))),
        }
    };
}
pub(crate) use typed;
