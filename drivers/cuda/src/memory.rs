//! Device memory and the pool it comes from.
//!
//! All work of a device runs in one order, so memory that was given back may be handed out again at once: what still
//! uses it was asked for earlier and runs earlier.

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
    /// Addresses by size.
    pool: Mutex<Pool<u64>>,
}

impl Memory {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, pool: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Pool<u64>> {
        // The pool is consistent between any two statements below, so a panic elsewhere does not spoil it.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> MemoryUse {
        self.lock().usage()
    }

    /// A buffer of `bytes` bytes, from the pool if it has one of about that size.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer, CudaError> {
        let size = bytes.checked_next_multiple_of(GRAIN).unwrap_or(usize::MAX);
        let mut pool = self.lock();
        let reused = if size == 0 { Some((0, 0)) } else { pool.reuse(size) };
        let (size, address) = match reused {
            Some(block) => block,
            None => {
                let fresh = self.engine.alloc(size).or_else(|_| {
                    // Give back what is kept for reuse, once nothing uses it any more, and try again.
                    self.engine.wait()?;
                    for address in pool.drain() {
                        self.engine.free(address);
                    }
                    self.engine.alloc(size)
                });
                let address = fresh.map_err(|e| match fathom_core::error::DeviceError::kind(&e) {
                    ErrorKind::OutOfMemory => {
                        let used = pool.usage().in_use;
                        let message = format!(
                            "out of memory: no {bytes} bytes left on the device beside the {used} in use; use a \
                             smaller batch or model"
                        );
                        CudaError::new(ErrorKind::OutOfMemory, message)
                    }
                    _ => e,
                })?;
                pool.fresh(size);
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
