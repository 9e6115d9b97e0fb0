//! The accounting of a memory pool: freed blocks are kept by size and handed out again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::MemoryUse;

/// Free blocks by size in bytes, and the counters every pool reports. `T` is what a block is made of.
pub(super) struct Pool<T> {
    free: BTreeMap<usize, Vec<T>>,
    usage: MemoryUse,
}

impl<T> Pool<T> {
    pub(super) const fn new() -> Self {
        Self { free: BTreeMap::new(), usage: MemoryUse { in_use: 0, peak: 0, reserved: 0, system_allocations: 0 } }
    }

    /// A free block of exactly `bytes`, or `None` where the system must be asked for one.
    pub(super) fn reuse(&mut self, bytes: usize) -> Option<T> {
        self.free.get_mut(&bytes).and_then(Vec::pop)
    }

    /// Counts a block of `bytes` as in use; `fresh` where it came from the system.
    pub(super) fn lent(&mut self, bytes: usize, fresh: bool) {
        let usage = &mut self.usage;
        if fresh {
            usage.reserved = usage.reserved.saturating_add(bytes as u64);
            usage.system_allocations += 1;
        }
        usage.in_use = usage.in_use.saturating_add(bytes as u64);
        usage.peak = usage.peak.max(usage.in_use);
    }

    /// Takes a block back.
    pub(super) fn give(&mut self, bytes: usize, block: T) {
        self.usage.in_use = self.usage.in_use.saturating_sub(bytes as u64);
        self.free.entry(bytes).or_default().push(block);
    }

    /// Measures the peak anew from what is in use now.
    pub(super) fn reset_peak(&mut self) {
        self.usage.peak = self.usage.in_use;
    }

    pub(super) const fn usage(&self) -> MemoryUse {
        self.usage
    }
}
