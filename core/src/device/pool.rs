//! A memory pool without the memory: which freed block serves which request, and the counters every pool reports.
//!
//! One policy for all devices, so that a plan made on [`Dry`](super::Dry) says what a driver's pool will take.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::MemoryUse;

/// Free blocks by size in bytes. `T` is what a block is made of.
///
/// A request is served by the smallest free block that is large enough and of which no more than a fifth is wasted. A
/// training step that repeats the sizes of the one before therefore asks the system for nothing, and sizes that are
/// nearly the same share their memory.
pub struct Pool<T> {
    free: BTreeMap<usize, Vec<T>>,
    usage: MemoryUse,
}

impl<T> Pool<T> {
    /// A pool that holds nothing.
    pub const fn new() -> Self {
        Self { free: BTreeMap::new(), usage: MemoryUse { in_use: 0, peak: 0, reserved: 0, system_allocations: 0 } }
    }

    /// A free block for `bytes` bytes, with its own size, now in use; `None` where the system must be asked for one.
    pub fn reuse(&mut self, bytes: usize) -> Option<(usize, T)> {
        let most = bytes.saturating_add(bytes / 4);
        let (&size, block) =
            self.free.range_mut(bytes..=most).find_map(|(size, blocks)| Some((size, blocks.pop()?)))?;
        self.lend(size);
        Some((size, block))
    }

    /// Counts a block of `bytes` bytes that came from the system, now in use.
    pub fn fresh(&mut self, bytes: usize) {
        self.usage.reserved = self.usage.reserved.saturating_add(bytes as u64);
        self.usage.system_allocations += 1;
        self.lend(bytes);
    }

    fn lend(&mut self, size: usize) {
        let usage = &mut self.usage;
        usage.in_use = usage.in_use.saturating_add(size as u64);
        usage.peak = usage.peak.max(usage.in_use);
    }

    /// Takes back a block of `size` bytes.
    pub fn give(&mut self, size: usize, block: T) {
        self.usage.in_use = self.usage.in_use.saturating_sub(size as u64);
        self.free.entry(size).or_default().push(block);
    }

    /// Gives all free blocks up, to be returned to the system.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let free = core::mem::take(&mut self.free);
        let kept: usize = free.iter().map(|(size, blocks)| size * blocks.len()).sum();
        self.usage.reserved = self.usage.reserved.saturating_sub(kept as u64);
        free.into_values().flatten()
    }

    /// Resets the peak to the bytes in use now.
    pub fn reset_peak(&mut self) {
        self.usage.peak = self.usage.in_use;
    }

    /// The counters.
    pub const fn usage(&self) -> MemoryUse {
        self.usage
    }
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_serves_what_is_nearly_of_its_size() {
        let mut pool = Pool::new();
        for size in [1000, 100] {
            pool.fresh(size);
            pool.give(size, size);
        }
        assert_eq!(pool.reuse(799), None, "more than a fifth would be wasted");
        assert_eq!(pool.reuse(1001), None);
        assert_eq!(pool.reuse(800), Some((1000, 1000)));
        assert_eq!(pool.reuse(90), Some((100, 100)));
        let usage = pool.usage();
        assert_eq!((usage.in_use, usage.peak, usage.reserved, usage.system_allocations), (1100, 1100, 1100, 2));
        pool.give(100, 100);
        assert_eq!(pool.drain().collect::<Vec<_>>(), [100]);
        assert_eq!(pool.usage().reserved, 1000);
    }
}
