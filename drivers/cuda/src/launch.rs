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

    /// Rows and columns of f32 without gaps at the start of `scratch`.
    pub(crate) fn f32(op: &'static str, scratch: &Buffer, rows: usize, cols: usize) -> Result<Self, CudaError> {
        debug_assert!(rows * cols * 4 <= scratch.len(), "scratch holds what is put there");
        let (rows, stride, cols) = (extent(op, rows)?, cols as i64, extent(op, cols)?);
        Ok(Self { data: scratch.address(), stride, rows, cols, dtype: 0, reserved: 0 })
    }

    /// The same of E4M3 codes.
    pub(crate) fn e4m3(op: &'static str, scratch: &Buffer, rows: usize, cols: usize) -> Result<Self, CudaError> {
        debug_assert!(rows * cols <= scratch.len(), "scratch holds what is put there");
        let (rows, stride, cols) = (extent(op, rows)?, cols as i64, extent(op, cols)?);
        Ok(Self { data: scratch.address(), stride, rows, cols, dtype: 4, reserved: 0 })
    }

    /// Rows and columns without gaps at the start of a buffer, of the type of a number.
    #[cfg(test)]
    pub(crate) fn of(buffer: &Buffer, rows: usize, cols: usize, dtype: i32) -> Self {
        let (rows, cols) = (rows as i32, cols as i32);
        Self { data: buffer.address(), stride: cols.into(), rows, cols, dtype, reserved: 0 }
    }

    /// The type of the elements, if all of these have the same.
    pub(crate) fn common(mats: &[Self]) -> Option<i32> {
        let first = mats.first()?.dtype;
        mats.iter().all(|m| m.dtype == first).then_some(first)
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

    /// Elements from a row to the next.
    pub(crate) fn stride(&self) -> i64 {
        self.stride
    }

    pub(crate) fn rows(&self) -> i32 {
        self.rows
    }

    pub(crate) fn cols(&self) -> i32 {
        self.cols
    }

    /// The number of the element type.
    pub(crate) fn dtype(&self) -> i32 {
        self.dtype
    }

    /// Bytes of an element.
    pub(crate) fn size(&self) -> u64 {
        match self.dtype {
            1 | 2 => 2,
            4 | 5 => 1,
            6 => 3,
            _ => 4,
        }
    }

    /// True where every row starts on a multiple of `bytes`.
    pub(crate) fn is_aligned(&self, bytes: u64) -> bool {
        self.data.is_multiple_of(bytes) && (self.rows <= 1 || (self.stride as u64 * self.size()).is_multiple_of(bytes))
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

/// Whether every row of every one of these can be read eight elements at a time, sixteen bytes an access.
pub(crate) fn in_eights(mats: &[Mat]) -> bool {
    mats.iter().all(|m| m.cols % 8 == 0 && m.is_aligned(16))
}

/// The eights of columns that a row has, the last of which may be short.
pub(crate) fn eights(cols: usize) -> usize {
    cols.div_ceil(8)
}

/// Whole warps for `items` pieces of work, one a thread, as far as `most` threads go.
pub(crate) fn threads_for(items: usize, most: usize) -> u32 {
    items.next_multiple_of(32).clamp(32, most) as u32
}

/// The name of a kernel that goes through its rows in eights: `wide!("rmsnorm", activations, others)` is `rmsnorm_f32`
/// or `rmsnorm_bf16` where all activations are of that type, all others F32, and all are aligned for it; else
/// `rmsnorm_any`, which works on any.
macro_rules! wide {
    ($name:literal, $activations:expr, $others:expr) => {
        $crate::launch::wide_of(
            [concat!($name, "_f32"), concat!($name, "_bf16"), concat!($name, "_any")],
            $activations,
            $others,
        )
    };
}
pub(crate) use wide;

/// Which of the names for F32, BF16 and anything at all; see [`wide!`].
pub(crate) fn wide_of(names: [&'static str; 3], activations: &[Mat], others: &[Mat]) -> &'static str {
    let aligned = in_eights(activations) && in_eights(others) && others.iter().all(|m| m.dtype == 0);
    match Mat::common(activations) {
        Some(0) if aligned => names[0],
        Some(1) if aligned => names[1],
        _ => names[2],
    }
}
