//! Launches: a kernel, its grid, and its argument in the binary layout of `fathom.cuh`.

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
    /// The file that holds the kernel.
    pub(crate) module: Module,
    /// The kernel's name.
    pub(crate) name: &'static str,
    /// Blocks along x, y and z, none of them 0.
    pub(crate) grid: [usize; 3],
    /// Threads per block.
    pub(crate) threads: u32,
    /// Bytes of shared memory per block.
    pub(crate) shared: usize,
    /// The argument's bytes.
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
    /// An absent optional operand: kernels see no rows.
    pub(crate) const NONE: Self = Self { data: 0, stride: 0, rows: 0, cols: 0, dtype: 0, reserved: 0 };

    /// A dense `[rows, cols]` matrix of f32 at the start of `scratch`.
    pub(crate) fn f32(op: &'static str, scratch: &Buffer, rows: usize, cols: usize) -> Result<Self, CudaError> {
        debug_assert!(rows * cols * 4 <= scratch.len(), "scratch holds what is put there");
        let (rows, stride, cols) = (extent(op, rows)?, cols as i64, extent(op, cols)?);
        Ok(Self { data: scratch.address(), stride, rows, cols, dtype: 0, reserved: 0 })
    }

    /// A dense `[rows, cols]` matrix of E4M3 codes at the start of `scratch`.
    pub(crate) fn e4m3(op: &'static str, scratch: &Buffer, rows: usize, cols: usize) -> Result<Self, CudaError> {
        debug_assert!(rows * cols <= scratch.len(), "scratch holds what is put there");
        let (rows, stride, cols) = (extent(op, rows)?, cols as i64, extent(op, cols)?);
        Ok(Self { data: scratch.address(), stride, rows, cols, dtype: 4, reserved: 0 })
    }

    /// A dense `[rows, cols]` matrix at the start of a buffer, with an element type given by number.
    #[cfg(test)]
    pub(crate) fn of(buffer: &Buffer, rows: usize, cols: usize, dtype: i32) -> Self {
        let (rows, cols) = (rows as i32, cols as i32);
        Self { data: buffer.address(), stride: cols.into(), rows, cols, dtype, reserved: 0 }
    }

    /// The common element type of some matrices, if they have one.
    pub(crate) fn common(mats: &[Self]) -> Option<i32> {
        let first = mats.first()?.dtype;
        mats.iter().all(|m| m.dtype == first).then_some(first)
    }

    /// The device address of the first element.
    pub(crate) fn address(&self) -> u64 {
        self.data
    }

    /// These elements as one row, if there are no gaps between rows and their number fits in an i32.
    pub(crate) fn flat(self) -> Self {
        match self.rows.checked_mul(self.cols) {
            Some(n) if self.stride == i64::from(self.cols) => Self { rows: 1, cols: n, stride: n.into(), ..self },
            _ => self,
        }
    }

    /// The number of blocks of `threads` threads, eight elements per thread, as `eighth` of `fathom.cuh` numbers them.
    pub(crate) fn eighths(&self, op: &'static str, threads: u32) -> Result<usize, CudaError> {
        blocks(op, self.rows as usize, (self.cols as usize).div_ceil(8), threads)
    }

    /// Row stride in elements.
    pub(crate) fn stride(&self) -> i64 {
        self.stride
    }

    pub(crate) fn rows(&self) -> i32 {
        self.rows
    }

    pub(crate) fn cols(&self) -> i32 {
        self.cols
    }

    /// The element type, as `fathom.cuh` numbers it.
    pub(crate) fn dtype(&self) -> i32 {
        self.dtype
    }

    /// Bytes per element.
    pub(crate) fn size(&self) -> u64 {
        match self.dtype {
            1 | 2 => 2,
            4 | 5 => 1,
            6 => 3,
            _ => 4,
        }
    }

    /// Whether rows start on a multiple of `bytes` however many there are: also the next one of a single row.
    pub(crate) fn is_aligned_in_any_number(&self, bytes: u64) -> bool {
        self.data.is_multiple_of(bytes) && (self.stride as u64 * self.size()).is_multiple_of(bytes)
    }

    /// Whether every row starts on a multiple of `bytes`.
    pub(crate) fn is_aligned(&self, bytes: u64) -> bool {
        self.data.is_multiple_of(bytes) && (self.rows <= 1 || (self.stride as u64 * self.size()).is_multiple_of(bytes))
    }
}

/// The number of an element type in `fathom.cuh`; an error if kernels do not support it.
fn code(op: &'static str, dtype: DType) -> Result<i32, CudaError> {
    Ok(match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
        DType::U32 => 3,
        DType::E4M3 => 4,
        DType::E5M2 => 5,
        DType::E5M6Pair => 6,
        other => return Err(unsupported(op, format!("does not support {other}"))),
    })
}

/// The error for a call that this driver has no kernel for, of kind `Unsupported`.
pub(crate) fn unsupported(op: &'static str, why: impl std::fmt::Display) -> CudaError {
    CudaError::new(ErrorKind::Unsupported, format!("{op} {why} on a CUDA device"))
}

fn extent(op: &'static str, n: usize) -> Result<i32, CudaError> {
    i32::try_from(n).map_err(|_| unsupported(op, format!("does not support {n} rows or columns (at most 2^31 - 1)")))
}

/// The number of blocks of `threads` threads for `rows · pieces` pieces of work, which kernels count in 32 bits.
pub(crate) fn blocks(op: &'static str, rows: usize, pieces: usize, threads: u32) -> Result<usize, CudaError> {
    // Room for the threads of the last block.
    let most = (u32::MAX - 1024) as usize;
    match rows.checked_mul(pieces) {
        Some(n) if n <= most => Ok(n.div_ceil(threads as usize)),
        _ => Err(unsupported(op, format!("does not support {rows} rows of {pieces} pieces (at most {most} together)"))),
    }
}

/// A view in the layout of a kernel's argument.
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

/// A view to write, in the layout of a kernel's argument.
pub(crate) fn mat_mut(op: &'static str, m: &MatMut<'_, Buffer>) -> Result<Mat, CudaError> {
    mat(op, &m.as_ref())
}

/// Whether kernels may read every row of these in groups of eight elements, 16 bytes per access.
pub(crate) fn in_eights(mats: &[Mat]) -> bool {
    mats.iter().all(|m| m.cols % 8 == 0 && m.is_aligned(16))
}

/// The number of groups of eight columns in a row; the last one may be short.
pub(crate) fn eights(cols: usize) -> usize {
    cols.div_ceil(8)
}

/// The number of threads for `items` pieces of work, one per thread: whole warps, and at most `most`.
pub(crate) fn threads_for(items: usize, most: usize) -> u32 {
    items.next_multiple_of(32).clamp(32, most) as u32
}

/// Selects a variant of a kernel by the types and alignment of its operands.
///
/// `wide!("rmsnorm", activations, others)` is `rmsnorm_f32` or `rmsnorm_bf16` if all activations have that type, all
/// others are F32, and all rows are aligned; else `rmsnorm_any`, which takes any operands.
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

/// Selects one of the names for F32, BF16 and any operands; see [`wide!`].
pub(crate) fn wide_of(names: [&'static str; 3], activations: &[Mat], others: &[Mat]) -> &'static str {
    let aligned = in_eights(activations) && in_eights(others) && others.iter().all(|m| m.dtype == 0);
    match Mat::common(activations) {
        Some(0) if aligned => names[0],
        Some(1) if aligned => names[1],
        _ => names[2],
    }
}
