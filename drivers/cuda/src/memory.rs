//! Device memory and the pool it comes from.
//!
//! All work of a device runs in one order, so memory that was given back may be handed out again at once: what still
//! uses it was asked for earlier and runs earlier. Of several free blocks the one at the lowest address is taken, so that
//! a training step that gives back all it took finds the same blocks again: its kernels have the same arguments each time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fathom_core::device::{MemoryUse, Pool};
use fathom_core::error::ErrorKind;

use crate::engine::Engine;
use crate::error::CudaError;

/// What every block is a multiple of, and aligned to, in bytes.
const GRAIN: usize = 256;

/// The pool of a device.
pub(crate) struct Memory {
    pub(crate) engine: Arc<dyn Engine>,
    blocks: Mutex<Blocks>,
}

/// Blocks of memory that nothing uses.
#[derive(Default)]
struct Blocks {
    /// Says which size serves a request, and counts.
    pool: Pool<()>,
    /// Addresses by size.
    free: BTreeMap<usize, BTreeSet<u64>>,
}

impl Blocks {
    fn reuse(&mut self, bytes: usize) -> Option<(usize, u64)> {
        let (size, ()) = self.pool.reuse(bytes)?;
        Some((size, self.free.get_mut(&size)?.pop_first()?))
    }

    fn give(&mut self, size: usize, address: u64) {
        self.pool.give(size, ());
        self.free.entry(size).or_default().insert(address);
    }

    fn drain(&mut self) -> impl Iterator<Item = u64> + use<> {
        self.pool.drain().for_each(drop);
        std::mem::take(&mut self.free).into_values().flatten()
    }
}

impl Memory {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, blocks: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        // The blocks are consistent between any two statements below, so a panic elsewhere does not spoil it.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> MemoryUse {
        self.lock().pool.usage()
    }

    /// A buffer of `bytes` bytes, from the pool if it has one of about that size.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CudaError> {
        let size = bytes.checked_next_multiple_of(GRAIN).unwrap_or(usize::MAX);
        let mut blocks = self.lock();
        let reused = if size == 0 { Some((0, 0)) } else { blocks.reuse(size) };
        let (size, address) = match reused {
            Some(block) => block,
            None => {
                let fresh = self.engine.alloc(size).or_else(|_| {
                    // Give back what is kept for reuse, once nothing uses it any more, and try again.
                    self.engine.wait()?;
                    for address in blocks.drain() {
                        self.engine.free(address);
                    }
                    self.engine.alloc(size)
                });
                let address = fresh.map_err(|e| match fathom_core::error::DeviceError::kind(&e) {
                    ErrorKind::OutOfMemory => {
                        let used = blocks.pool.usage().in_use;
                        let message = format!(
                            "out of memory: no {bytes} bytes left on the device beside the {used} in use; use a \
                             smaller batch or model"
                        );
                        CudaError::new(ErrorKind::OutOfMemory, message)
                    }
                    _ => e,
                })?;
                blocks.pool.fresh(size);
                (size, address)
            }
        };
        Ok(Buffer { address, bytes, size, home: Arc::clone(self) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // An error here was or will be reported by whoever waits for results.
        let _ = self.engine.wait();
        for address in self.lock().drain() {
            self.engine.free(address);
        }
    }
}

/// Memory of a CUDA device, aligned to 256 bytes. Dropping it gives it back to the device's pool.
pub struct Buffer {
    address: u64,
    bytes: usize,
    size: usize,
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

    /// Where it lies in the device's memory.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.size > 0 {
            self.home.lock().give(self.size, self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_gives_all_back_finds_it_again() {
        let mut blocks = Blocks::default();
        for address in [512, 0, 256] {
            blocks.pool.fresh(256);
            blocks.give(256, address);
        }
        let take = |blocks: &mut Blocks| [(); 3].map(|()| blocks.reuse(256));
        let first = take(&mut blocks);
        assert_eq!(first, [0, 256, 512].map(|address| Some((256, address))));
        assert_eq!(blocks.reuse(256), None);
        for address in [256, 512, 0] {
            blocks.give(256, address);
        }
        assert_eq!(take(&mut blocks), first);
        blocks.give(256, 0);
        assert_eq!(blocks.drain().collect::<Vec<_>>(), [0]);
        assert_eq!(blocks.pool.usage().reserved, 512);
    }
}
