//! The scalar reference device: the specification of every kernel, its documentation and its oracle.
//!
//! [`Host`] keeps its tensors in ordinary memory and runs every kernel as plain loops over one number at a time. A
//! kernel reads its operands into f64, computes in f64 whatever the storage type, and rounds once, to nearest even,
//! when it stores a result; so a reader can take each body for the formula it implements, and a test can take its
//! result for the true one. The one exception is what must have the same bits everywhere: for logits up to f32 the
//! router follows [`routing`](crate::routing) in f32, and the exponential and sigmoid of f32 elements are
//! those of [`math`](crate::math).
//!
//! It is meant for tests and finite differences, where a factor of a hundred in speed buys a body one can check by eye.
//! Fresh buffers are filled with ones in every bit, which is NaN in each floating-point type and an index no table has,
//! so that reading an element that was never written shows.

mod attention;
mod decode;
mod elementwise;
mod gemm;
mod gemm_fp8;
mod gemv;
mod index;
mod loss;
mod matrix;
mod norm;
mod optimizer;
mod quantize;
mod reduce;
mod rope;
mod router;
mod sample;
mod sort;
mod swiglu;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;

use super::call;
use super::kernels::Kernels;
use super::pool::Pool;
use super::primitives::Primitives;
use super::{Capabilities, Device, MemoryUse};
use crate::error::{DeviceError, ErrorKind, InvalidOp};
use crate::for_each_kernel;
use crate::fp8::accumulate::Accumulation;

/// The scalar reference device. Clones share one pool.
#[derive(Clone)]
pub struct Host {
    pool: Arc<Mutex<Pool<Vec<u64>>>>,
    accumulation: Accumulation,
}

impl Host {
    /// A host device with an empty pool.
    pub fn new() -> Self {
        Self::with_accumulation(Accumulation::Exact)
    }

    /// A host device that sums products of FP8 matrices as `accumulation` says.
    pub fn with_accumulation(accumulation: Accumulation) -> Self {
        Self { pool: Arc::new(Mutex::new(Pool::new())), accumulation }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("memory", &self.memory()).finish()
    }
}

/// Memory of a [`Host`]: bytes in whole 64-bit words, so that any element type is aligned in them.
pub struct HostBuffer {
    words: Vec<u64>,
    bytes: usize,
    /// Bytes of the pool's block.
    size: usize,
    pool: Arc<Mutex<Pool<Vec<u64>>>>,
}

impl HostBuffer {
    /// The words, without the bytes that round them up.
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.bytes]
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.pool.lock().give(self.size, core::mem::take(&mut self.words));
    }
}

impl fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// An error of a device that lives in ordinary memory: its kind, and what to tell a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError {
    /// The kind.
    pub kind: ErrorKind,
    /// Which kernel failed, and why.
    pub message: String,
}

impl HostError {
    pub(super) fn new(kind: ErrorKind, message: String) -> Self {
        Self { kind, message }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for HostError {}

impl From<InvalidOp> for HostError {
    fn from(op: InvalidOp) -> Self {
        Self { kind: op.kind(), message: op.to_string() }
    }
}

impl DeviceError for HostError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

type Result = core::result::Result<(), HostError>;

impl Device for Host {
    type Error = HostError;
    type Buffer = HostBuffer;

    fn capabilities(&self) -> Capabilities {
        Capabilities { f64: true, ..Capabilities::new("host") }
    }

    fn alloc(&self, bytes: usize) -> core::result::Result<HostBuffer, HostError> {
        let count = bytes.div_ceil(size_of::<u64>());
        let recycled = self.pool.lock().reuse(bytes);
        let fresh = recycled.is_none();
        let (size, mut words) = recycled.unwrap_or((bytes, Vec::new()));
        if words.capacity() < count && words.try_reserve_exact(count).is_err() {
            let message = alloc::format!("alloc: the system has no {bytes} bytes left");
            return Err(HostError::new(ErrorKind::OutOfMemory, message));
        }
        if fresh {
            self.pool.lock().fresh(bytes);
        }
        words.clear();
        words.resize(count, u64::MAX);
        Ok(HostBuffer { words, bytes, size, pool: Arc::clone(&self.pool) })
    }

    fn upload(&self, buffer: &mut HostBuffer, offset: usize, bytes: &[u8]) -> Result {
        let range = inside("upload", offset, bytes.len(), buffer.bytes)?;
        buffer.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, buffer: &HostBuffer, offset: usize, bytes: &mut [u8]) -> Result {
        let range = inside("download", offset, bytes.len(), buffer.bytes)?;
        bytes.copy_from_slice(&buffer.bytes()[range]);
        Ok(())
    }

    fn flush(&self) -> Result {
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        self.pool.lock().usage()
    }
}

/// The bytes `offset..offset + length` of a buffer of `size` bytes, or an error.
pub(super) fn inside(
    op: &'static str,
    offset: usize,
    length: usize,
    size: usize,
) -> core::result::Result<core::ops::Range<usize>, InvalidOp> {
    let end = offset.saturating_add(length);
    if end <= size {
        Ok(offset..end)
    } else {
        Err(InvalidOp::above(op, "the end of the transfer", end, "the size of the buffer", size))
    }
}

/// Each method of the traits runs the method of the same name in the file of its subject.
macro_rules! forward {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        impl Primitives for Host {
            $(
                fn $p(&self, call: call::$P<'_, HostBuffer>) -> Result {
                    Self::$p(self, call)
                }
            )*
        }

        impl Kernels for Host {
            $(
                fn $f(&self, call: call::$F<'_, HostBuffer>) -> Result {
                    Self::$f(self, call)
                }
            )*
        }
    };
}
for_each_kernel!(forward);

#[cfg(test)]
mod tests;
