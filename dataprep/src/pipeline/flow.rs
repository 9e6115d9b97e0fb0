//! One task's stream of items: read on one thread, processed on all, collected in order.

use super::work::Work;
use crate::error::Result;
use rayon::prelude::*;
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

/// Text that is in a task's memory at a time, twice: one batch being read, one being worked on.
pub(super) const BATCH_BYTES: u64 = 4 << 20;
/// Items in memory at a time, likewise.
pub(super) const BATCH_ITEMS: usize = 4096;

/// Gives every item of the batches that `next` makes (an empty one is the last) to `map`, on the threads of `work`, and
/// the results to `sink`, in order. `state` makes what a thread keeps between items.
pub(super) fn flow<I, O, S>(
    work: &Work<'_>,
    mut next: impl FnMut() -> Result<Vec<I>> + Send,
    state: impl Fn() -> S + Sync,
    map: impl Fn(&mut S, I) -> Result<O> + Sync,
    mut sink: impl FnMut(O) -> Result<()>,
) -> Result<()>
where
    I: Send,
    O: Send,
{
    let mut handle = |batch: Vec<I>| {
        let results: Vec<O> =
            work.pool().install(|| batch.into_par_iter().map_init(&state, &map).collect::<Result<_>>())?;
        results.into_iter().try_for_each(&mut sink)
    };
    if work.threads() == 1 {
        loop {
            match next()? {
                batch if batch.is_empty() => return Ok(()),
                batch => handle(batch)?,
            }
        }
    }
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel(1);
        scope.spawn(move || {
            loop {
                let batch = next();
                let last = batch.as_ref().map_or(true, Vec::is_empty);
                // The receiver is gone when handling failed: its error is the one to report.
                if sender.send(batch).is_err() || last {
                    return;
                }
            }
        });
        for batch in batches {
            let batch = batch?;
            if batch.is_empty() {
                break;
            }
            handle(batch)?;
        }
        Ok(())
    })
}

/// A pool of things that are costly to make.
pub(super) struct Stash<T> {
    idle: Mutex<Vec<T>>,
}

impl<T> Default for Stash<T> {
    fn default() -> Self {
        Self { idle: Mutex::new(Vec::new()) }
    }
}

/// A thing that goes back where it came from.
pub(super) struct Lent<'s, T> {
    thing: Option<T>,
    stash: &'s Stash<T>,
}

impl<T> Stash<T> {
    /// One that is idle, or a new one.
    pub fn lend(&self, make: impl FnOnce() -> T) -> Lent<'_, T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Lent { thing: Some(idle.unwrap_or_else(make)), stash: self }
    }
}

impl<T> Deref for Lent<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("it is here until it is dropped")
    }
}

impl<T> DerefMut for Lent<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("it is here until it is dropped")
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take() {
            self.stash.idle.lock().unwrap_or_else(PoisonError::into_inner).push(thing);
        }
    }
}
