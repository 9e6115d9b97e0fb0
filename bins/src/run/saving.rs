//! Checkpoints that another thread writes while training goes on (`checkpoint.async`).
//!
//! The state is copied to host memory between two steps; what follows is the work of one thread: encoding, hashing,
//! writing, syncing, and the commit. A checkpoint counts from the commit on, as ever: until the thread has ended, the
//! run takes the one before for its newest. One is written at a time.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fathom_core::comm::Comm;
use fathom_core::device::Kernels;

use super::limit::Part;
use super::observer::{Event, Observer};
use super::progress::Progress;
use super::{Run, space};
use crate::checkpoint::{self, Best, CheckpointError, Draft, Snapshot, State};
use crate::error::{Error, Result};

/// A checkpoint that is being written.
pub(super) struct Saving {
    /// The state in it.
    state: State,
    /// The validation loss that it was measured with, if it was since the one before.
    measured: Option<Best>,
    started: Instant,
    thread: Option<JoinHandle<Written>>,
}

/// What the thread gives back: the copy, for the next one, and when it was done.
struct Written {
    snapshot: Snapshot,
    done: Result<(), CheckpointError>,
    at: Instant,
}

impl Drop for Saving {
    /// The thread writes into the run's folder, which another run may have after this one.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// Copies the present state and begins to write a checkpoint of it, unless there is one. None is being written.
    /// The inner result is of what can fail before that.
    pub(super) fn begin_saving(&mut self) -> Result<Result<()>> {
        if self.saved.as_ref().is_some_and(|(step, _)| *step == self.state.step) {
            return Ok(Ok(()));
        }
        let started = Instant::now();
        self.observed.progress.phase("copying the state for a checkpoint");
        let _patience = self.observed.progress.patient();
        if let Err(error) = self.ensure_finite()? {
            return Ok(Err(error));
        }
        Ok(self.copy_and_write(started).map(|saving| self.saving = Some(saving)))
    }

    fn copy_and_write(&mut self, started: Instant) -> Result<Saving> {
        if let Some(metrics) = &mut self.metrics {
            // A checkpoint never knows of steps that the metrics have lost.
            metrics.sync()?;
        }
        space::check(&self.output, self.checkpoint_bytes)?;
        let average = self.average.as_ref();
        let mut snapshot = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None => Snapshot::new(&self.trainer, average, self.tokenizer.as_ref())?,
        };
        snapshot.take(&self.trainer, average)?;
        let state = self.state_to_save();
        let (files, output, keep) = (self.files, self.output.clone(), self.keep(&state));
        let (format, shard_bytes) = (self.settings.checkpoint.format, self.settings.checkpoint.shard_bytes);
        let of_thread = state.clone();
        let write = move || {
            let save = || -> Result<(), CheckpointError> {
                let mut draft = Draft::begin(files, &output, of_thread.step)?;
                snapshot.save(&mut draft, format, shard_bytes, &of_thread)?;
                draft.commit(keep).map(drop)
            };
            let done = save();
            Written { snapshot, done, at: Instant::now() }
        };
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(write);
        let thread = thread.map_err(|error| Error::Run(format!("no thread to write a checkpoint: {error}")))?;
        Ok(Saving { state, measured: self.measured.take(), started, thread: Some(thread) })
    }

    /// Takes note of the checkpoint in the background: if it is written, or, with `wait`, once it is. Returns whether
    /// there is one of which note was taken.
    ///
    /// # Errors
    /// Its failure, where there were too many in a row.
    pub(super) fn written(&mut self, wait: bool) -> Result<bool> {
        let ended = |saving: &Saving| saving.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let Some(mut saving) = self.saving.take_if(|saving| wait || ended(saving)) else { return Ok(false) };
        if !ended(&saving) {
            self.observed.progress.phase("waiting for a checkpoint");
        }
        let _patience = self.observed.progress.patient();
        let step = saving.state.step;
        let done = match saving.thread.take().map(JoinHandle::join) {
            Some(Ok(Written { snapshot, done, at })) => {
                self.snapshot = Some(snapshot);
                done.map(|()| at.duration_since(saving.started)).map_err(Error::from)
            }
            _ => Err(Error::Run(format!("the thread that wrote the checkpoint of step {step} panicked"))),
        };
        match done {
            Ok(took) => self.take_up(&saving.state, took),
            Err(error) => {
                // The loss is still that of no checkpoint, unless there is a newer one.
                self.measured = self.measured.or(saving.measured);
                let notice = self.forgive(error, step)?;
                self.notices.extend(notice);
            }
        }
        Ok(true)
    }

    /// A checkpoint with `state` is the newest now.
    fn take_up(&mut self, state: &State, took: Duration) {
        self.limit.took(Part::Save, took);
        self.failed_saves = 0;
        self.state.best_checkpoint = state.best_checkpoint;
        self.state.spikes.in_a_row = self.state.spikes.in_a_row.min(state.spikes.in_a_row);
        self.saved = Some((state.step, self.output.join(checkpoint::commit::name(state.step))));
    }

    /// As [`written`](Self::written), and tells people and the observer.
    pub(super) fn tell_written(
        &mut self,
        wait: bool,
        progress: &mut Progress,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let written = self.written(wait)?;
        self.notices.drain(..).for_each(|notice| progress.message(&notice));
        if written {
            progress.messages(&observer.observe(Event::Saved));
        }
        Ok(())
    }
}
