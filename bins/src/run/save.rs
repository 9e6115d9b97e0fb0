//! The checkpoints of a run: when one fails, and which is the best.

use std::path::PathBuf;
use std::time::Instant;

use fathom_core::comm::Comm;
use fathom_core::device::Kernels;

use super::limit::Part;
use super::progress::Progress;
use super::{Run, space};
use crate::checkpoint::{self, Best, BestCheckpoint, CheckpointError, Draft, Keep, State};
use crate::error::{Error, Result};
use crate::settings::{KeepBest, SpikePolicy};

/// Checkpoints that may fail to be written one after the other before the run gives up.
const FAILED_SAVES: u32 = 3;

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// The best checkpoint once one of the present step is written.
    fn best_checkpoint(&self) -> Option<BestCheckpoint> {
        let before = self.state.best_checkpoint;
        let lower = |new: &Best| before.is_none_or(|best| new.validation_loss < best.validation_loss);
        let Best { step: measured_at, validation_loss } = match self.measured.filter(lower) {
            Some(measured) => measured,
            None => return before,
        };
        Some(BestCheckpoint { step: self.state.step, measured_at, validation_loss })
    }

    /// Writes a checkpoint of the present step, unless there is one. The inner result is the same on all ranks: all
    /// fail where one does.
    ///
    /// # Errors
    /// Ranks that are no longer together.
    pub(super) fn save(&mut self) -> Result<Result<PathBuf>> {
        // What is written in the background may be of this step, and would else be committed after this one.
        self.written(true)?;
        if let Some((_, folder)) = self.saved.as_ref().filter(|(step, _)| *step == self.state.step) {
            return Ok(Ok(folder.clone()));
        }
        let started = Instant::now();
        let written = self.write()?;
        if written.is_ok() {
            self.limit.took(Part::Save, started.elapsed());
        }
        Ok(written)
    }

    /// The state as a checkpoint of the present step holds it.
    pub(super) fn state_to_save(&self) -> State {
        let mut state = self.state.clone();
        if self.settings.train.spike.policy == SpikePolicy::Rollback {
            state.spikes.in_a_row = 0;
        }
        state.best_checkpoint = self.best_checkpoint();
        state
    }

    /// What a checkpoint with `state` leaves of those before it.
    pub(super) fn keep(&self, state: &State) -> Keep {
        let settings = &self.settings.checkpoint;
        let best = state.best_checkpoint.filter(|_| settings.keep_best != KeepBest::None).map(|best| best.step);
        Keep { newest: settings.keep, best, every: settings.keep_every }
    }

    /// Writes a checkpoint of the present step, where the disk has room for it. As [`save`](Self::save) otherwise.
    fn write(&mut self) -> Result<Result<PathBuf>> {
        self.observed.progress.phase("writing a checkpoint");
        let _patience = self.observed.progress.patient();
        if let Err(error) = self.ensure_finite()? {
            return Ok(Err(error));
        }
        let (settings, comm, step) = (&self.settings.checkpoint, self.trainer.comm(), self.state.step);
        let state = self.state_to_save();
        let begun = match &mut self.metrics {
            Some(metrics) => metrics
                .sync()
                .and_then(|()| Ok(space::check(&self.output, self.checkpoint_bytes)?))
                .and_then(|()| Ok(Some(Draft::begin(self.files, &self.output, step)?))),
            None => Ok(None),
        };
        let words = [u64::from(begun.is_err()), u64::from(std::process::id())];
        let told = comm.tell(&words).map_err(Error::device("beginning a checkpoint"))?;
        let mut draft = match begun {
            Err(error) => return Ok(Err(error)),
            Ok(Some(draft)) => draft,
            Ok(None) if told[0] != 0 => return Ok(Err(CheckpointError::OnRank { rank: 0, doing: "begin it" }.into())),
            Ok(None) => Draft::join(self.files, &self.output, step, told[1] as u32),
        };
        let files = checkpoint::Files {
            average: self.average.as_ref(),
            tokenizer: self.tokenizer.as_ref(),
            format: settings.format,
            shard_bytes: settings.shard_bytes,
        };
        let written = checkpoint::save(&mut draft, &self.trainer, files, &state);
        let committed = match written {
            Ok(()) if comm.rank() == 0 => draft.commit(self.keep(&state)).map(drop),
            Err(error) if error.parts_the_ranks() => return Err(error.into()),
            written => written,
        };
        let told = comm.tell(&[u64::from(committed.is_err())]).map_err(Error::device("writing a checkpoint"))?;
        if let Err(error) = committed {
            return Ok(Err(error.into()));
        }
        if let Some(rank) = told.iter().position(|&word| word != 0) {
            return Ok(Err(CheckpointError::OnRank { rank, doing: "write the checkpoint" }.into()));
        }
        (self.state, self.measured) = (state, None);
        let folder = self.output.join(checkpoint::commit::name(step));
        self.saved = Some((step, folder.clone()));
        Ok(Ok(folder))
    }

    /// Saves, or begins to save in the background. A failure is reported and forgiven until there were too many in a
    /// row. Returns whether the checkpoint is written, or its failure reported.
    pub(super) fn try_save(&mut self, progress: &mut Progress) -> Result<bool> {
        let behind = self.settings.checkpoint.asynchronous;
        let saved = if behind { self.begin_saving()? } else { self.save()?.map(drop) };
        match saved {
            Ok(()) if behind => return Ok(false),
            Ok(()) => self.failed_saves = 0,
            Err(error) => {
                if let Some(notice) = self.forgive(error, self.state.step)? {
                    progress.message(&notice);
                }
            }
        }
        Ok(true)
    }

    /// Counts a checkpoint of `step` that could not be written. Returns what this rank says of it.
    ///
    /// # Errors
    /// The failure itself, where there were too many in a row.
    pub(super) fn forgive(&mut self, error: Error, step: u64) -> Result<Option<String>> {
        self.failed_saves += 1;
        if self.failed_saves >= FAILED_SAVES {
            return Err(error);
        }
        let elsewhere = matches!(error, Error::Checkpoint(CheckpointError::OnRank { .. }));
        if elsewhere && !self.leads() {
            return Ok(None);
        }
        let untouched = if self.saved.is_some() { "the last checkpoint is untouched and " } else { "" };
        Ok(Some(format!(
            "could not save step {step} ({} of {FAILED_SAVES} failures before giving up); {untouched}training goes \
             on: {error}",
            self.failed_saves
        )))
    }
}
