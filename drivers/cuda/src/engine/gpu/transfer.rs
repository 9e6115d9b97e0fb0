//! Copies between host and device, through pinned memory.
//!
//! Uploads that come before any other work run on a second stream at once. Small ones that come later join the list of
//! commands; large ones are cut into pieces, and the host fills one piece while the GPU copies another.

use std::ptr;

use super::State;
use super::driver::{Event, Stream};
use super::staging::{PIECE, SMALL, Staging};
use crate::error::CudaError;

/// Pinned memory and the copy stream.
pub(super) struct Transfers {
    pub(super) staging: Staging,
    stream: Stream,
    /// Recorded behind the copies that the compute stream must wait for.
    copied: Event,
    /// Whether there are such copies.
    pending: bool,
}

impl Transfers {
    pub(super) fn new() -> Result<Self, CudaError> {
        Ok(Self { staging: Staging::default(), stream: Stream::new()?, copied: Event::new(false)?, pending: false })
    }

    /// Orders later work of `compute` after the copies on the copy stream; true if there were any.
    pub(super) fn join(&mut self, compute: &Stream) -> Result<bool, CudaError> {
        if !self.pending {
            return Ok(false);
        }
        self.stream.record(&self.copied)?;
        compute.after(&self.copied)?;
        self.pending = false;
        Ok(true)
    }
}

impl State {
    /// Copies `bytes` to device address `to`. The context must be current here and below.
    pub(super) fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        // If nothing is queued or running, nothing uses the destination: the copy may begin at once.
        let idle = self.list.commands.is_empty() && !self.running;
        if bytes.len() > SMALL {
            return self.upload_large(to, bytes, idle);
        }
        let kept = match self.transfers.staging.keep(bytes)? {
            Some(kept) => Some(kept),
            None => {
                // The GPU is not waited for: it goes on with what was submitted while the host fills another arena.
                self.submit()?;
                self.transfers.staging.turn(&self.compute, &self.watches)?;
                self.transfers.staging.keep(bytes)?
            }
        };
        let Some(from) = kept else { return self.upload_large(to, bytes, false) };
        if idle && !self.running {
            // SAFETY: `from` is a piece of the arena, which is not reused before a wait; the caller checked `to`.
            unsafe { self.transfers.stream.upload(to, from, bytes.len()) }?;
            self.transfers.pending = true;
        } else {
            self.list.commands.upload(to, from as u64, bytes.len() as u64);
        }
        Ok(())
    }

    fn upload_large(&mut self, to: u64, bytes: &[u8], idle: bool) -> Result<(), CudaError> {
        if !idle {
            self.submit()?;
            self.running = true;
        }
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let place = self.transfers.staging.slot(&self.watches)?;
            let slot = self.transfers.staging.at(place);
            let stream = if idle { &self.transfers.stream } else { &self.compute };
            // SAFETY: the slot is free and as large as a piece; it is not reused before its event. The caller checked
            // that the whole destination lies in device memory.
            unsafe {
                ptr::copy_nonoverlapping(piece.as_ptr(), slot.memory.host(), piece.len());
                stream.upload(to + (i * PIECE) as u64, slot.memory.host(), piece.len())?;
            }
            self.transfers.pending |= idle;
            stream.record(&slot.event)?;
        }
        Ok(())
    }

    /// Copies from device address `from` into `bytes`, after all earlier work.
    pub(super) fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.submit()?;
        self.running = true;
        // The host copies one piece while the GPU copies the next.
        let mut last: Option<(usize, &mut [u8])> = None;
        for (i, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let place = self.transfers.staging.slot(&self.watches)?;
            let slot = self.transfers.staging.at(place);
            // SAFETY: the slot is free and as large as a piece; the caller checked that the source lies in device
            // memory.
            unsafe { self.compute.download(slot.memory.host(), from + (i * PIECE) as u64, piece.len()) }?;
            self.compute.record(&slot.event)?;
            if let Some((place, piece)) = last.replace((place, piece)) {
                self.watches.wait(&self.transfers.staging.at(place).event)?;
                self.take(place, piece);
            }
        }
        self.settle()?;
        if let Some((place, piece)) = last {
            self.take(place, piece);
        }
        Ok(())
    }

    /// Copies a piece out of its slot, once the copy into the slot is done.
    fn take(&self, slot: usize, piece: &mut [u8]) {
        // SAFETY: the slot is as large as a piece, and the copy into it is done.
        unsafe {
            let from = self.transfers.staging.at(slot).memory.host();
            ptr::copy_nonoverlapping(from, piece.as_mut_ptr(), piece.len());
        }
    }
}
