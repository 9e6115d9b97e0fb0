//! Device memory and its pool.
//!
//! All work of a device runs in one order, so a returned block may be handed out again at once: work that still uses it
//! was queued earlier and runs earlier. Of several free blocks the pool takes the one at the lowest address, so a
//! training step that returns all its blocks gets the same ones in the next step, and its kernels have the same
//! arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fathom_core::device::{MemoryUse, Pool};
use fathom_core::error::ErrorKind;

use crate::error::CudaError;

/// Bytes that every block is a multiple of, and aligned to.
const GRAIN: usize = 256;

/// A source of device memory, in blocks.
pub(crate) trait Blocks: Send + Sync {
    /// Allocates `bytes` bytes, more than zero, aligned to 256; returns the device address.
    fn alloc(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Frees memory of [`alloc`](Blocks::alloc) that no queued work uses.
    fn free(&self, address: u64);

    /// Waits until all queued work is done.
    fn wait(&self) -> Result<(), CudaError>;
}

/// The memory pool of a device.
pub(crate) struct Memory {
    source: Arc<dyn Blocks>,
    unused: Mutex<Unused>,
}

/// Blocks that no buffer holds.
#[derive(Default)]
struct Unused {
    /// Decides which block size serves a request, and counts bytes.
    pool: Pool<()>,
    /// Addresses by size.
    free: BTreeMap<usize, BTreeSet<u64>>,
}

impl Unused {
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
    pub(crate) fn new(source: Arc<dyn Blocks>) -> Self {
        Self { source, unused: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Unused> {
        // The lists are consistent between any two statements below, so a panic of another thread does not spoil them.
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> MemoryUse {
        self.lock().pool.usage()
    }

    /// Allocates a buffer of `bytes` bytes, from the pool if it holds a block of about that size.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CudaError> {
        let size = bytes.checked_next_multiple_of(GRAIN).unwrap_or(usize::MAX);
        let mut unused = self.lock();
        let reused = if size == 0 { Some((0, 0)) } else { unused.reuse(size) };
        let (size, address) = match reused {
            Some(block) => block,
            None => {
                let fresh = self.source.alloc(size).or_else(|_| {
                    // Frees the unused blocks, once queued work is done with them, and tries again.
                    self.source.wait()?;
                    for address in unused.drain() {
                        self.source.free(address);
                    }
                    self.source.alloc(size)
                });
                let address = fresh.map_err(|e| match fathom_core::error::DeviceError::kind(&e) {
                    ErrorKind::OutOfMemory => {
                        let used = unused.pool.usage().in_use;
                        let message = format!(
                            "out of memory: the device has no {bytes} bytes left beside the {used} in use; use a \
                             smaller batch or model"
                        );
                        CudaError::new(ErrorKind::OutOfMemory, message)
                    }
                    _ => e,
                })?;
                unused.pool.fresh(size);
                (size, address)
            }
        };
        Ok(Buffer { address, bytes, size, home: Arc::clone(self) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // An error here was reported, or will be, by the next call that waits for results.
        let _ = self.source.wait();
        for address in self.lock().drain() {
            self.source.free(address);
        }
    }
}

/// Memory of a CUDA device, aligned to 256 bytes; dropping it returns the block to the device's pool.
pub struct Buffer {
    address: u64,
    bytes: usize,
    size: usize,
    home: Arc<Memory>,
}

impl Buffer {
    /// Size in bytes, as requested.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True if the buffer has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The device address of the first byte.
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
        let mut blocks = Unused::default();
        for address in [512, 0, 256] {
            blocks.pool.fresh(256);
            blocks.give(256, address);
        }
        let take = |blocks: &mut Unused| [(); 3].map(|()| blocks.reuse(256));
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
