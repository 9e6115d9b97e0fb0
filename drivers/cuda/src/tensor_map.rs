//! Tensor maps: matrices in device memory as Hopper's bulk copies of boxes see them.

use bytemuck::{Pod, Zeroable};
use fathom_core::error::ErrorKind;

use crate::error::CudaError;
use crate::launch::Mat;

/// `TensorMap` of `fathom.cuh`: an opaque part of a kernel's argument, made by an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(128))]
pub(crate) struct TensorMap {
    words: [u64; 16],
}

/// Order of the bytes of a box in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swizzle {
    /// Rows one after the other.
    #[cfg_attr(not(test), expect(dead_code, reason = "kernels multiply swizzled tiles"))]
    None,
    /// The chunks of 16 bytes of a row of 128 are exchanged by the row's number, so that rows lie in different banks.
    Bytes128,
}

/// A matrix, and the box of it that one copy brings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boxes {
    pub(crate) matrix: Mat,
    pub(crate) rows: u32,
    pub(crate) cols: u32,
    pub(crate) swizzle: Swizzle,
}

/// Largest extent of a box in elements.
const MOST: u32 = 256;

impl Boxes {
    /// Bytes from one row of the matrix to the next. A single row may have any stride, and gets an aligned one.
    pub(crate) fn stride(&self) -> u64 {
        let Self { matrix, .. } = self;
        let row = |cols: u64| (cols * matrix.size()).next_multiple_of(16);
        if matrix.rows() > 1 { matrix.stride() as u64 * matrix.size() } else { row(matrix.cols().max(0) as u64) }
    }

    /// Checks what the hardware demands.
    ///
    /// # Errors
    /// The matrix is empty or not aligned to 16 bytes, or the box is empty, too large, or not of whole chunks.
    pub(crate) fn check(&self) -> Result<(), CudaError> {
        let Self { matrix, rows, cols, swizzle } = self;
        let refused = |why: String| Err(CudaError::new(ErrorKind::Unsupported, format!("a tensor map {why}")));
        if matrix.rows() <= 0 || matrix.cols() <= 0 {
            return refused(format!("of {} rows and {} columns: it needs elements", matrix.rows(), matrix.cols()));
        }
        if !matrix.address().is_multiple_of(16) || !self.stride().is_multiple_of(16) {
            return refused("of a matrix whose rows do not start on multiples of 16 bytes".into());
        }
        if self.stride() >= 1 << 40 {
            return refused(format!("of rows {} bytes apart: at most 2^40 - 1", self.stride()));
        }
        if !(1..=MOST).contains(rows) || !(1..=MOST).contains(cols) {
            return refused(format!("with boxes of {rows} by {cols}: from 1 to {MOST}"));
        }
        let bytes = u64::from(*cols) * matrix.size();
        match swizzle {
            Swizzle::None if !bytes.is_multiple_of(16) => {
                refused(format!("with boxes of {bytes} bytes a row: not a multiple of 16"))
            }
            Swizzle::Bytes128 if bytes != 128 => refused(format!("with boxes of {bytes} bytes a row: not 128")),
            _ => Ok(()),
        }
    }

    /// The map as the emulator reads it (`copy_tile` of `emulate/async.h`): a mark, address, rows, bytes of a row,
    /// bytes between rows, extent of a box in rows and bytes, bytes of an element and of a swizzle.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn emulated(&self) -> Result<TensorMap, CudaError> {
        self.check()?;
        let Self { matrix, rows, cols, swizzle } = self;
        let pair = |low: u64, high: u64| low | high << 32;
        let swizzle = match swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 128,
        };
        let mut words = [0; 16];
        words[..7].copy_from_slice(&[
            MARK,
            matrix.address(),
            matrix.rows() as u64,
            matrix.cols() as u64 * matrix.size(),
            self.stride(),
            pair((*rows).into(), u64::from(*cols) * matrix.size()),
            pair(matrix.size(), swizzle),
        ]);
        Ok(TensorMap { words })
    }

    /// The map that CUDA's driver made.
    pub(crate) fn encoded(words: [u64; 16]) -> TensorMap {
        TensorMap { words }
    }
}

/// The first word of a map for the emulator: `ENSORMAP`.
const MARK: u64 = u64::from_le_bytes(*b"ENSORMAP");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buffer;

    fn matrix(buffer: &Buffer, rows: usize, cols: usize) -> Mat {
        Mat::of(buffer, rows, cols, 4)
    }

    #[test]
    fn what_the_hardware_refuses_is_refused() {
        let Ok(device) = crate::Cuda::emulated(crate::Emulation::default()) else { return };
        let buffer = fathom_core::device::Device::alloc(&device, 1 << 16).unwrap();
        let map = |m: Mat, rows, cols, swizzle| Boxes { matrix: m, rows, cols, swizzle }.emulated();
        map(matrix(&buffer, 64, 128), 64, 128, Swizzle::Bytes128).unwrap();
        map(matrix(&buffer, 64, 48), 64, 48, Swizzle::None).unwrap();
        map(matrix(&buffer, 1, 33), 1, 16, Swizzle::None).unwrap();
        let refused = |m: Mat, rows, cols, swizzle, why: &str| {
            let error = map(m, rows, cols, swizzle).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        };
        refused(matrix(&buffer, 0, 128), 64, 128, Swizzle::None, "needs elements");
        refused(matrix(&buffer, 64, 100), 64, 96, Swizzle::None, "do not start on multiples of 16");
        refused(matrix(&buffer, 64, 128), 257, 128, Swizzle::Bytes128, "from 1 to 256");
        refused(matrix(&buffer, 64, 128), 64, 0, Swizzle::None, "from 1 to 256");
        refused(matrix(&buffer, 64, 128), 64, 100, Swizzle::None, "not a multiple of 16");
        refused(matrix(&buffer, 64, 128), 64, 64, Swizzle::Bytes128, "not 128");
    }
}
