//! Host buffers, and the pool that they come from.
//!
//! Which freed buffer serves which request is [`Pool`]'s to say. New memory is zeroed once: a buffer's contents are
//! undefined to its user, but always initialised as far as Rust is concerned.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{MemoryUse, Pool};
use fathom_core::error::ErrorKind;

use crate::error::CpuError;

/// A cache line, which every buffer starts on.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: `Line` is 64 bytes without padding (size equals alignment), for which all zeros is a value.
unsafe impl Zeroable for Line {}
// SAFETY: `Line` is `Copy`, `repr(C)`, without padding, and every bit pattern of its bytes is a value.
unsafe impl Pod for Line {}

/// The pool of a device.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Pool<Box<[Line]>>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Pool<Box<[Line]>>> {
        // The pool is consistent between any two statements below, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> MemoryUse {
        self.lock().usage()
    }

    /// Allocates a buffer of `bytes` bytes, from the pool if it has one of about that size.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CpuError> {
        let lines = bytes.div_ceil(size_of::<Line>());
        let size = lines.saturating_mul(size_of::<Line>());
        let mut pool = self.lock();
        let data = match pool.reuse(size) {
            Some((_, data)) => data,
            None => {
                let zeroed = || bytemuck::allocation::try_zeroed_slice_box(lines);
                // Give back what is kept for reuse where there is no memory, then try once more.
                let data = zeroed().or_else(|()| {
                    pool.drain().for_each(drop);
                    zeroed()
                });
                let data = data.map_err(|()| {
                    let message = format!(
                        "out of memory: no {bytes} bytes left beside the {} in use; use a smaller batch or model",
                        pool.usage().in_use
                    );
                    CpuError::new(ErrorKind::OutOfMemory, message)
                })?;
                pool.fresh(size);
                data
            }
        };
        Ok(Buffer { data, bytes, home: Arc::clone(self) })
    }
}

/// A host buffer, aligned to 64 bytes. Dropping it returns it to the device's pool.
pub struct Buffer {
    data: Box<[Line]>,
    bytes: usize,
    home: Arc<Memory>,
}

impl Buffer {
    /// Size in bytes, as requested.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True for a buffer of no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The contents as elements of type `T`, as many as fit.
    pub(crate) fn elements<T: Pod>(&self) -> &[T] {
        let n = self.bytes / size_of::<T>();
        &bytemuck::cast_slice(&self.data)[..n]
    }

    /// The contents as elements of type `T`, to write.
    pub(crate) fn elements_mut<T: Pod>(&mut self) -> &mut [T] {
        let n = self.bytes / size_of::<T>();
        &mut bytemuck::cast_slice_mut(&mut self.data)[..n]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.home.lock().give(size_of_val(&*data), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_buffer_serves_the_next_request_of_its_size() {
        let memory = Arc::new(Memory::default());
        let (a, b) = (memory.alloc(1000).unwrap(), memory.alloc(1000).unwrap());
        assert_eq!(memory.usage().system_allocations, 2);
        drop((a, b));
        assert_eq!(memory.usage().in_use, 0);
        let (a, _b) = (memory.alloc(1000).unwrap(), memory.alloc(1020).unwrap());
        assert_eq!(memory.usage().system_allocations, 2, "both are 16 lines");
        assert_eq!(memory.usage().peak, 2048);
        assert_eq!(a.elements::<f32>().len(), 250);
        assert_eq!(a.elements::<f32>().as_ptr() as usize % 64, 0);
    }

    #[test]
    fn nothing_to_allocate_is_fine_and_too_much_is_an_error() {
        let memory = Arc::new(Memory::default());
        assert!(memory.alloc(0).unwrap().is_empty());
        let error = memory.alloc(isize::MAX as usize - 64).err().expect("no machine has this much");
        assert!(error.message().contains("out of memory"));
        assert_eq!(memory.usage().in_use, 0);
    }
}
