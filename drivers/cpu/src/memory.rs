//! Buffers and the pool they come from.
//!
//! A freed buffer is kept for the next request of the same size, so a training step that repeats the sizes of the one
//! before asks the system for nothing. New memory is zeroed once: a buffer's contents are undefined to its user, but
//! always initialised as far as Rust is concerned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};
use fathom_core::device::MemoryUse;
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
pub(crate) struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    free: HashMap<usize, Vec<Box<[Line]>>>,
    usage: MemoryUse,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements below, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> MemoryUse {
        self.lock().usage
    }

    /// A buffer of `bytes` bytes, from the pool if it has one of that size.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CpuError> {
        let lines = bytes.div_ceil(size_of::<Line>());
        let mut state = self.lock();
        let reused = state.free.get_mut(&lines).and_then(Vec::pop);
        let data = match reused {
            Some(data) => data,
            None => state.fresh(lines).ok_or_else(|| {
                let message = format!(
                    "out of memory: no {bytes} bytes left beside the {} in use; use a smaller batch or model",
                    state.usage.in_use
                );
                CpuError::new(ErrorKind::OutOfMemory, message)
            })?,
        };
        state.usage.in_use += (lines * size_of::<Line>()) as u64;
        state.usage.peak = state.usage.peak.max(state.usage.in_use);
        Ok(Buffer { data, bytes, home: Arc::clone(self) })
    }
}

impl State {
    fn fresh(&mut self, lines: usize) -> Option<Box<[Line]>> {
        let size = (lines * size_of::<Line>()) as u64;
        let data = bytemuck::allocation::try_zeroed_slice_box(lines).or_else(|()| {
            // Give back what is kept for reuse, then try once more.
            let kept = self.free.drain().map(|(n, v)| n * v.len() * size_of::<Line>()).sum::<usize>();
            self.usage.reserved -= kept as u64;
            bytemuck::allocation::try_zeroed_slice_box(lines)
        });
        self.usage.reserved += size;
        self.usage.system_allocations += 1;
        data.ok()
    }
}

/// Memory of the CPU driver, aligned to 64 bytes. Dropping it gives it back to the device's pool.
pub struct Buffer {
    data: Box<[Line]>,
    bytes: usize,
    home: Arc<Memory>,
}

impl Buffer {
    /// Size in bytes, as asked for.
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
        let mut state = self.home.lock();
        state.usage.in_use -= size_of_val(&*data) as u64;
        state.free.entry(data.len()).or_default().push(data);
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
