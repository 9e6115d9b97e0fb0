//! A training run: data, model, steps, checkpoints, metrics and progress.

mod ahead;
mod benchmarks;
mod data;
mod folder;
mod judge;
mod limit;
mod measure;
pub mod metrics;
mod observer;
mod open;
mod outcome;
pub mod progress;
mod ranks;
pub mod resolved;
mod save;
mod saving;
pub(crate) mod space;
pub mod spike;
mod step;
pub mod watch;

pub use benchmarks::task_cost;
pub use data::{check, fit_to_data};
pub(crate) use folder::{is_locked, lock, newest};
pub use observer::{Event, Observer};
pub(crate) use open::{needs_one_rank, open_data, tokenizer_bytes};
pub use outcome::Outcome;
pub use ranks::Observed;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use fathom_core::comm::{Comm, Solo};
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::train::schedule::Schedule;
use fathom_core::train::{Ema, Trainer};
use fathom_dataprep::durable::Files;
use fathom_dataprep::{Evaluation, Loader, Tokenizer};

use crate::checkpoint::{self, Best, Snapshot, State};
use crate::error::{Error, Result};
use crate::settings::{KeepBest, Settings};
use ahead::Ahead;
use benchmarks::Benchmarks;
use limit::{Part, TimeLimit};
use metrics::Metrics;
use progress::Progress;
use saving::Saving;

/// A training run, new or resumed, or one rank's share of it.
pub struct Run<D: Kernels, C: Comm<D> = Solo> {
    settings: Settings,
    schedule: Schedule,
    steps: u64,
    trainer: Trainer<D, C>,
    observed: Observed,
    average: Option<Ema<D>>,
    loader: Loader,
    ahead: Ahead,
    validation: Option<Evaluation>,
    tokenizer: Option<Tokenizer>,
    benchmarks: Option<Benchmarks>,
    output: PathBuf,
    /// What durable files are written through.
    files: &'static dyn Files,
    /// Rank 0 writes them.
    metrics: Option<Metrics>,
    state: State,
    /// The last validation loss since the newest checkpoint.
    measured: Option<Best>,
    /// The newest checkpoint and its step.
    saved: Option<(u64, PathBuf)>,
    failed_saves: u32,
    /// The checkpoint that is being written in the background.
    saving: Option<Saving>,
    /// Memory for what the next one is written from.
    snapshot: Option<Snapshot>,
    /// What is to be said of checkpoints in the background.
    notices: Vec<String>,
    /// Spikes that no line of the metrics tells of yet.
    spikes: Vec<spike::Spike>,
    /// Whether the newest line of metrics lacks its sample or scores, since the run was stopped.
    unmeasured: bool,
    /// What a step does first, with the place of the data.
    reading: String,
    /// When to stop, and whether this rank did for that.
    limit: TimeLimit,
    out_of_time: bool,
    /// Bytes of a checkpoint.
    checkpoint_bytes: u64,
    /// The watch of a rank that is alone and was not watched before.
    _watch: Option<watch::Watch>,
    /// Held by rank 0 as long as the run may write into `output`.
    _lock: Option<File>,
}

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// Whether this rank prints and writes the run's files: rank 0.
    pub fn leads(&self) -> bool {
        self.trainer.comm().rank() == 0
    }

    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.trainer.comm().world()
    }

    /// Steps taken so far.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The folder that the run writes into.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// The settings, with the vocabulary of the data.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        self.trainer.model.config()
    }

    /// Trains to the end, or until `stop` is set on one rank: the step under way is then finished and saved. `observer`
    /// is told of every step and checkpoint; `&mut ()` is one that ignores them. Of several ranks only rank 0 tells it,
    /// and prints.
    ///
    /// # Errors
    /// A loss that is not finite, data that cannot be read, or three checkpoints in a row that cannot be written;
    /// another rank that failed.
    pub fn train(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Outcome> {
        let done = self.take_steps(stop, observer);
        if done.is_err() {
            // What was begun in the background is written nevertheless; the run ends with the error that it has.
            if let Err(failed) = self.written(true) {
                self.notices.push(failed.to_string());
            }
            self.notices.drain(..).for_each(|notice| eprintln!("{notice}"));
        }
        if let (Err(error), 1) = (&done, self.world()) {
            // Of several ranks, each says it where it leaves the others.
            self.observed.progress.failed(error.to_string());
        }
        done
    }

    fn take_steps(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Outcome> {
        let interval = Duration::from_secs_f64(self.settings.train.report_seconds.clamp(0.0, 1e6));
        let mut progress = Progress::new(self.state.step, self.steps, interval, !self.leads());
        let mut batch = fathom_dataprep::TokenBatch::default();
        let mut measured = None;
        if let Some(metrics) = self.complete(stop, &mut progress)? {
            progress.messages(&observer.observe(Event::Completed(&metrics)));
        }
        while self.state.step < self.steps {
            self.tell_written(false, &mut progress, observer)?;
            let Some(mut metrics) = self.one_step(&mut batch, stop)? else { break };
            let last = self.state.step == self.steps;
            let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
            let mut improved = false;
            if due(self.settings.train.eval_every, self.state.step) {
                let started = Instant::now();
                // It is part of the step's line, so it is not broken off.
                measured = self.validate(self.settings.train.eval_tokens, &AtomicBool::new(false))?;
                self.limit.took(Part::Validation, started.elapsed());
                metrics.validation_loss = measured.map(|v| v.loss);
                if self.settings.checkpoint.keep_best == KeepBest::Always {
                    // Whether it is the lowest depends on whether the checkpoint in the background counts.
                    self.tell_written(true, &mut progress, observer)?;
                }
                improved = self.note(metrics.validation_loss);
            }
            let keep = &self.settings.checkpoint;
            let keep_best = keep.keep_best;
            improved &= keep_best == KeepBest::Always;
            let save = due(keep.every_steps, self.state.step) || due(keep.keep_every, self.state.step) || improved;
            if self.leads() {
                if self.sample_due() {
                    self.observed.progress.phase("writing a sample");
                    let started = Instant::now();
                    metrics.sample = self.sample(stop)?;
                    self.limit.took(Part::Sample, started.elapsed());
                }
                metrics.tasks = self.tasks(stop, &mut progress);
                if let Some(file) = &mut self.metrics {
                    file.write(&metrics)?;
                }
                progress.step(&metrics, self.state.best.filter(|_| keep_best != KeepBest::None));
                metrics.spikes.iter().for_each(|spike| progress.message(&spike.to_string()));
                // Reports of steps that were taken back begin again from the file.
                let back = metrics.spikes.iter().any(|spike| spike.back_to.is_some());
                let event = if back { Event::Completed(&metrics) } else { Event::Step(&metrics) };
                progress.messages(&observer.observe(event));
            }
            if save && !last {
                // One checkpoint at a time is written in the background.
                self.tell_written(true, &mut progress, observer)?;
                if self.try_save(&mut progress)? && self.leads() {
                    progress.messages(&observer.observe(Event::Saved));
                }
            }
        }
        self.tell_written(true, &mut progress, observer)?;
        progress.finish();
        if self.out_of_time {
            let hours = self.settings.train.max_hours;
            progress.message(&format!(
                "stopping before step {}, to have a checkpoint within train.max_hours = {hours}",
                self.state.step + 1
            ));
        }
        let checkpoint = self.save()??;
        // Rank 0 alone measures tasks.
        let told = self.trainer.comm().tell(&[u64::from(self.unmeasured)]).map_err(Error::device("ending the run"))?;
        let mut interrupted = self.state.step < self.steps || told.iter().any(|&word| word != 0);
        let whole = self.settings.train.eval_tokens == 0
            && self.state.step.is_multiple_of(self.settings.train.eval_every.max(1));
        let validation = match measured.filter(|_| whole) {
            _ if interrupted => None,
            None => self.validate(0, stop)?,
            whole => whole,
        };
        // Everything is saved, and another start measures it.
        interrupted |= validation.is_none() && self.validation.is_some();
        if self.leads() {
            progress.messages(&observer.observe(Event::Finished(validation.as_ref())));
        }
        let State { step, tokens, best, .. } = self.state;
        let best_checkpoint = checkpoint::best(&self.output)?;
        Ok(Outcome { step, tokens, interrupted, checkpoint, validation, best, best_checkpoint })
    }
}
