//! Pinned host memory for copies, which the GPU reads and writes while the host works on.

use super::driver::{Event, Pinned, Stream};
use super::watches::Watches;
use crate::error::CudaError;

/// Largest copy in bytes that goes through the arena and can be part of a graph.
pub(super) const SMALL: usize = 256 << 10;
const ARENA: usize = 8 << 20;
/// Number of arenas: while copies out of one are under way, the host fills another.
const ARENAS: usize = 2;
/// Size in bytes of the pieces of a larger copy.
pub(super) const PIECE: usize = 8 << 20;
const SLOTS: usize = 3;
/// Alignment of copies in the arena in bytes.
const GRAIN: usize = 64;

/// Memory for one piece, and the event after which it is free.
pub(super) struct Slot {
    pub(super) memory: Pinned,
    pub(super) event: Event,
    busy: bool,
}

/// The arenas and the slots, allocated on first use.
#[derive(Default)]
pub(super) struct Staging {
    arenas: Vec<Slot>,
    /// The arena that is filled, and the bytes used of it.
    arena: usize,
    used: usize,
    slots: Vec<Slot>,
    next: usize,
}

impl Staging {
    /// Copies `bytes` into the arena, where they stay until [`reset`](Staging::reset) or until the arena's next
    /// [`turn`](Staging::turn); `None` if the arena is full.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Result<Option<*const u8>, CudaError> {
        if self.arena == self.arenas.len() {
            self.arenas.push(Slot { memory: Pinned::new(ARENA)?, event: Event::new(false)?, busy: false });
        }
        let arena = &self.arenas[self.arena].memory;
        let end = self.used + bytes.len();
        if end > arena.len() {
            return Ok(None);
        }
        // SAFETY: `used..end` lies in the arena, and no copy reads what was not handed out.
        let place = unsafe {
            let place = arena.host().add(self.used);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
            place
        };
        self.used = end.next_multiple_of(GRAIN);
        Ok(Some(place))
    }

    /// Goes on in the next arena, once copies out of it are done; those out of this one must be on `stream`, or before
    /// work on it.
    pub(super) fn turn(&mut self, stream: &Stream, watches: &Watches) -> Result<(), CudaError> {
        if let Some(full) = self.arenas.get_mut(self.arena) {
            stream.record(&full.event)?;
            full.busy = true;
        }
        self.arena = (self.arena + 1) % ARENAS;
        self.used = 0;
        if let Some(next) = self.arenas.get_mut(self.arena).filter(|next| next.busy) {
            watches.wait(&next.event)?;
            next.busy = false;
        }
        Ok(())
    }

    /// Empties the arenas, from which no copy may be running. A step that repeats the copies of the last one then gets
    /// the same addresses.
    pub(super) fn reset(&mut self) {
        (self.arena, self.used) = (0, 0);
        self.arenas.iter_mut().for_each(|arena| arena.busy = false);
    }

    /// The index of a free slot, after a wait if needed; the caller records the slot's event behind its copy.
    pub(super) fn slot(&mut self, watches: &Watches) -> Result<usize, CudaError> {
        if self.slots.len() < SLOTS {
            self.slots.push(Slot { memory: Pinned::new(PIECE)?, event: Event::new(false)?, busy: true });
            return Ok(self.slots.len() - 1);
        }
        let place = self.next % SLOTS;
        self.next = place + 1;
        let slot = &mut self.slots[place];
        if slot.busy {
            watches.wait(&slot.event)?;
        }
        slot.busy = true;
        Ok(place)
    }

    pub(super) fn at(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }
}
