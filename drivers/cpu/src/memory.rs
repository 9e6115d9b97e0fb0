//! Host buffers, and the pool that they come from.
//!
//! Which freed buffer serves which request is [`Pool`]'s to say. New memory is zeroed once: a buffer's contents are
//! undefined to its user, but always initialised as far as Rust is concerned.
//!
//! Large buffers ask for huge pages: weights are read once a token when decoding, and with pages of 4 KiB the processor
//! looks up addresses for a good part of that time.

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

/// Zeroed memory from the system.
enum Block {
    Heap(Box<[Line]>),
    #[cfg(target_os = "linux")]
    Huge(huge::Piece),
}

impl Block {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Heap(lines) => bytemuck::cast_slice(lines),
            #[cfg(target_os = "linux")]
            Self::Huge(piece) => piece.bytes(),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(lines) => bytemuck::cast_slice_mut(lines),
            #[cfg(target_os = "linux")]
            Self::Huge(piece) => piece.bytes_mut(),
        }
    }
}

/// Memory in pages of 2 MiB, where the system has them.
#[cfg(target_os = "linux")]
mod huge {
    use std::sync::Arc;

    use memmap2::{Advice, MmapMut, MmapRaw};

    /// Bytes of the smallest piece: less is not worth it.
    const SMALLEST: usize = 64 << 10;
    /// Bytes of memory that smaller pieces are cut from.
    const ARENA: usize = 32 << 20;
    /// Bytes from which a piece gets a separate mapping.
    const LARGE: usize = ARENA / 4;

    /// Part of a mapping that belongs to nobody else.
    pub(super) struct Piece {
        map: Arc<MmapRaw>,
        start: usize,
        len: usize,
    }

    impl Piece {
        pub(super) fn bytes(&self) -> &[u8] {
            // SAFETY: the piece lies inside the mapping, which lives as long as this, and was cut off once.
            unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start), self.len) }
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            // SAFETY: as above, and this is borrowed alone.
            unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start), self.len) }
        }
    }

    /// The mapping that pieces are cut from, and where the next begins.
    #[derive(Default)]
    pub(super) struct Arena(Option<(Arc<MmapRaw>, usize)>);

    impl Arena {
        /// A piece of `len` zero bytes, whole cache lines; `None` for a small one, or where there is no memory.
        pub(super) fn piece(&mut self, len: usize) -> Option<Piece> {
            if len < SMALLEST {
                return None;
            }
            if len >= LARGE {
                return Some(Piece { map: map(len)?, start: 0, len });
            }
            let (map, start) = match &self.0 {
                Some((map, start)) if ARENA - start >= len => (Arc::clone(map), *start),
                _ => (map(ARENA)?, 0),
            };
            self.0 = Some((Arc::clone(&map), start + len));
            Some(Piece { map, start, len })
        }
    }

    fn map(len: usize) -> Option<Arc<MmapRaw>> {
        let map = MmapMut::map_anon(len).ok()?;
        // A kernel without huge pages says so; the memory is as good.
        let _ = map.advise(Advice::HugePage);
        Some(Arc::new(MmapRaw::from(map)))
    }
}

/// What a device has of memory.
#[derive(Default)]
struct State {
    pool: Pool<Block>,
    #[cfg(target_os = "linux")]
    arena: huge::Arena,
}

impl State {
    /// New memory of `lines` lines.
    fn zeroed(&mut self, lines: usize) -> Option<Block> {
        #[cfg(target_os = "linux")]
        if let Some(piece) = lines.checked_mul(size_of::<Line>()).and_then(|len| self.arena.piece(len)) {
            return Some(Block::Huge(piece));
        }
        bytemuck::allocation::try_zeroed_slice_box(lines).ok().map(Block::Heap)
    }
}

/// The pool of a device.
#[derive(Default)]
pub(crate) struct Memory(Mutex<State>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The pool is consistent between any two statements below, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> MemoryUse {
        self.lock().pool.usage()
    }

    /// Allocates a buffer of `bytes` bytes, from the pool if it has one of about that size.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CpuError> {
        let lines = bytes.div_ceil(size_of::<Line>());
        let size = lines.saturating_mul(size_of::<Line>());
        let mut state = self.lock();
        let data = match state.pool.reuse(size) {
            Some((_, data)) => data,
            None => {
                // Give back what is kept for reuse where there is no memory, then try once more.
                let data = state.zeroed(lines).or_else(|| {
                    state.pool.drain().for_each(drop);
                    state.zeroed(lines)
                });
                let data = data.ok_or_else(|| {
                    let message = format!(
                        "out of memory: no {bytes} bytes left beside the {} in use; use a smaller batch or model",
                        state.pool.usage().in_use
                    );
                    CpuError::new(ErrorKind::OutOfMemory, message)
                })?;
                state.pool.fresh(size);
                data
            }
        };
        Ok(Buffer { data, bytes, home: Arc::clone(self) })
    }
}

/// A host buffer, aligned to 64 bytes. Dropping it returns it to the device's pool.
pub struct Buffer {
    data: Block,
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
        &bytemuck::cast_slice(self.data.bytes())[..n]
    }

    /// The contents as elements of type `T`, to write.
    pub(crate) fn elements_mut<T: Pod>(&mut self) -> &mut [T] {
        let n = self.bytes / size_of::<T>();
        &mut bytemuck::cast_slice_mut(self.data.bytes_mut())[..n]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::replace(&mut self.data, Block::Heap(Box::default()));
        self.home.lock().pool.give(data.bytes().len(), data);
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
