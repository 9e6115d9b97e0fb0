//! Pinned memory of the host, through which copies go: the GPU reads and writes it while the host does other things.

use super::driver::{Event, Pinned};
use crate::error::CudaError;

/// Copies of at most this size share the arena, and can be part of a graph.
pub(super) const SMALL: usize = 256 << 10;
const ARENA: usize = 8 << 20;
/// Larger ones go in pieces of this size.
pub(super) const PIECE: usize = 8 << 20;
const SLOTS: usize = 3;
/// What pieces of the arena are multiples of.
const GRAIN: usize = 64;

/// Room for one piece, and when it is free again.
pub(super) struct Slot {
    pub(super) memory: Pinned,
    pub(super) event: Event,
    busy: bool,
}

/// All of it, taken when first needed.
#[derive(Default)]
pub(super) struct Staging {
    arena: Option<Pinned>,
    used: usize,
    slots: Vec<Slot>,
    next: usize,
}

impl Staging {
    /// Copies `bytes` to a place of the arena of their own, which stays as it is until [`reset`](Staging::reset);
    /// `None` where the arena is full.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Result<Option<*const u8>, CudaError> {
        if self.arena.is_none() {
            self.arena = Some(Pinned::new(ARENA)?);
        }
        let Some(arena) = &self.arena else { return Ok(None) };
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

    /// Frees the arena: no copy from it is under way. The next pieces lie where the first ones did, so that a step that
    /// repeats the copies of the last one repeats their addresses.
    pub(super) fn reset(&mut self) {
        self.used = 0;
    }

    /// The place of a slot that no copy uses; the caller records its event behind the copy that will.
    pub(super) fn slot(&mut self) -> Result<usize, CudaError> {
        if self.slots.len() < SLOTS {
            self.slots.push(Slot { memory: Pinned::new(PIECE)?, event: Event::new(false)?, busy: true });
            return Ok(self.slots.len() - 1);
        }
        let place = self.next % SLOTS;
        self.next = place + 1;
        let slot = &mut self.slots[place];
        if slot.busy {
            slot.event.wait()?;
        }
        slot.busy = true;
        Ok(place)
    }

    pub(super) fn at(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }
}
