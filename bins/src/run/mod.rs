//! A training run: data, model, steps, checkpoints, metrics and progress.

mod benchmarks;
mod data;
pub mod metrics;
pub mod progress;
mod ranks;
pub mod resolved;
pub mod watch;

pub use benchmarks::task_cost;
pub use data::{check, fit_to_data};
pub use ranks::Observed;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fathom_core::comm::{Comm, Solo};
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::model::{Architecture, Batch, Model};
use fathom_core::train::schedule::Schedule;
use fathom_core::train::{Ema, Hyperparameters, Shards, StepReport, Trainer, Zero};
use fathom_dataprep::durable::{DISK, Files, create_dirs};
use fathom_dataprep::{Evaluation, Loader, Tokenizer};

use crate::checkpoint::{self, Best, BestCheckpoint, CheckpointError, Draft, Keep, State};
use crate::error::{Error, Result};
use crate::evaluate::{Evaluated, evaluate_together};
use crate::hf;
use crate::infer::{Sampling, single};
use crate::settings::{KeepBest, Settings};
use benchmarks::Benchmarks;
use metrics::{Metrics, StepMetrics, TaskScores};
use progress::Progress;

/// Checkpoints that may fail to be written one after the other before the run gives up.
const FAILED_SAVES: u32 = 3;
/// Softmax temperature of samples during training.
const SAMPLE_TEMPERATURE: f64 = 0.8;

/// Result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps taken in all, earlier sessions included.
    pub step: u64,
    /// Tokens trained on in all.
    pub tokens: u64,
    /// True when the run was asked to stop before its end.
    pub interrupted: bool,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// The whole validation set at the end, where there is one and the end was reached.
    pub validation: Option<Evaluated>,
    /// The lowest validation loss that was measured on the way, where there is a validation set.
    pub best: Option<Best>,
    /// The checkpoint with the lowest validation loss, where it is still there.
    pub best_checkpoint: Option<BestCheckpoint>,
}

impl Outcome {
    /// Lines for the user that name the best checkpoint in `output` and the lowest validation loss; empty without a
    /// validation set.
    pub fn best_lines(&self, output: &Path) -> String {
        let at = |measured: u64, step: u64| match measured == step {
            true => String::new(),
            false => format!(", measured at step {measured}"),
        };
        let mut lines = self.best_checkpoint.map_or(String::new(), |best| {
            let folder = output.join(checkpoint::commit::name(best.step));
            let at = at(best.measured_at, best.step);
            format!("best checkpoint: {}, validation loss {:.4}{at}\n", folder.display(), best.validation_loss)
        });
        let saved = self.best_checkpoint.map(|best| best.measured_at);
        if let Some(best) = self.best.filter(|best| saved != Some(best.step)) {
            let Best { step, validation_loss } = best;
            lines += &format!(
                "lowest validation loss: {validation_loss:.4} at step {step} (no checkpoint there; \
                 checkpoint.keep_best=always keeps one)\n"
            );
        }
        lines
    }
}

/// An event of a run, for its [`Observer`].
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was taken and recorded in `metrics.jsonl`.
    Step(&'a StepMetrics),
    /// The newest line of `metrics.jsonl` was completed: an earlier session was stopped while it measured tasks.
    Completed(&'a StepMetrics),
    /// A checkpoint is due; it was written, or its failure reported.
    Saved,
    /// The run ended, with the loss of the whole validation set if it was measured.
    Finished(Option<&'a Evaluated>),
}

/// A listener to a run that writes its reports. It cannot end the run.
pub trait Observer {
    /// Takes an event. Returns messages for the user.
    fn observe(&mut self, event: Event<'_>) -> Vec<String>;
}

impl Observer for () {
    fn observe(&mut self, _: Event<'_>) -> Vec<String> {
        Vec::new()
    }
}

/// A training run, new or resumed, or one rank's share of it.
pub struct Run<D: Kernels, C: Comm<D> = Solo> {
    settings: Settings,
    schedule: Schedule,
    steps: u64,
    trainer: Trainer<D, C>,
    observed: Observed,
    average: Option<Ema>,
    loader: Loader,
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
    /// Whether tasks were due and not measured to their end, since the run was stopped.
    unmeasured: bool,
    /// Held by rank 0 as long as the run may write into `output`.
    _lock: Option<File>,
}

impl<D: Kernels> Run<D> {
    /// Opens the data, builds the model, and takes up the newest checkpoint in `output` if `resume` is set.
    ///
    /// # Errors
    /// Settings, data, model and checkpoint that do not fit each other, by name.
    pub fn open(device: &D, settings: Settings, output: &Path, resume: bool) -> Result<Self> {
        Self::open_with(device, Solo, Observed::default(), settings, output, resume)
    }
}

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// Opens a run as [`open`](Run::open) does, as rank `comm.rank()` of several. Rank 0 prints, and writes all files
    /// but those of checkpoints, which all ranks write.
    ///
    /// # Errors
    /// As [`open`](Run::open), and ranks that do not begin the same run.
    pub fn open_with(
        device: &D,
        comm: C,
        observed: Observed,
        settings: Settings,
        output: &Path,
        resume: bool,
    ) -> Result<Self> {
        Self::open_on(&DISK, device, comm, observed, settings, output, resume)
    }

    /// As [`open_with`](Self::open_with), through the given file operations: for tests of what happens where one fails.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open_on(
        files: &'static dyn Files,
        device: &D,
        comm: C,
        observed: Observed,
        mut settings: Settings,
        output: &Path,
        resume: bool,
    ) -> Result<Self> {
        let leads = comm.rank() == 0;
        if comm.world() == 1 && settings.parallel.how.zero == Zero::Weights {
            // One rank has them whole, and the same bits.
            settings.parallel.how.zero = Zero::Gradients;
        }
        let _patience = observed.progress.patient();
        observed.progress.phase("opening the data");
        let sources = data::open(&settings)?;
        let tokenizer = data::fit_vocabulary(&mut settings, &sources[0].data)?;
        data::check_samples(&settings, tokenizer.as_ref())?;
        needs_whole_weights(&settings)?;
        let benchmarks = if leads { Benchmarks::open(&settings, tokenizer.as_ref())? } else { None };
        let schedule = settings.schedule()?;
        let (_, steps) = settings.budget()?;
        ranks::fit(&settings, &schedule, steps, comm.world())?;
        let lock = leads.then(|| lock_on(files, output)).transpose()?;
        let newest = newest(output, resume, leads)?;
        let matter = resolved::that_matter(&settings);
        let saved = newest.as_deref().map(State::read).transpose()?;
        if let (Some(folder), Some(state)) = (&newest, &saved) {
            state.check(folder, &matter)?;
        }
        let mut loader = data::loader(&settings, sources, leads)?;
        let validation = data::validation(&settings)?;
        let same = ranks::Same {
            settings: resolved::that_ranks_share(&settings),
            training: format!("{:?}", loader.cursor()),
            validation: validation.as_ref().map_or(String::new(), |set| {
                format!("{:?} {}", set.data().manifest().map(|manifest| &manifest.fingerprint), set.targets())
            }),
            init: settings.train.init.as_deref().filter(|_| newest.is_none()).map_or(Ok(String::new()), initial)?,
            step: saved.as_ref().map(|state| state.step),
        };
        ranks::agree(&comm, &same)?;
        ranks::share_folder(&comm, output, lock.as_ref())?;
        observed.progress.phase("building the model");
        let model = build_model(device, &comm, &settings, newest.is_none())?;
        let trainer = Trainer::sharing(model, comm, hyperparameters(&settings), settings.parallel.how);
        let mut trainer = trainer.map_err(Error::device("preparing"))?;
        let decay = settings.train.ema_decay;
        let layout = trainer.model.architecture().layout();
        let mut average = (decay > 0.0).then(|| Ema::part(decay, layout, trainer.shards().all_own()));
        let mut state = match (&newest, saved) {
            (Some(folder), Some(state)) => {
                observed.progress.phase("reading the checkpoint");
                checkpoint::load_trainer(&mut trainer, folder, &state)?;
                if let Some(average) = &mut average {
                    checkpoint::load_average(average, folder, &state)?;
                }
                loader.seek(&state.cursor).map_err(|error| other_data(error, output, &settings))?;
                state
            }
            _ => State::new(0, 0, settings.train.seed, 0.0, loader.cursor()),
        };
        state.settings = matter;
        state.best_checkpoint = checkpoint::best(output)?;
        if validation.is_none() && settings.train.eval_every > 0 && leads {
            eprintln!(
                "the data has no validation split, so no validation loss is measured: prepare it with --set \
                 output.validation_tail=0.1, name other data as data.validation_path, or set train.eval_every=0"
            );
        }
        // Everything fits, on every rank: only now is anything changed in a folder that holds a run.
        ranks::all(trainer.comm(), Ok(()), "opening the run")?;
        let open = || -> Result<Option<Metrics>> {
            if !leads {
                return Ok(None);
            }
            checkpoint::clean(files, output)?;
            resolved::write(files, output, &settings)?;
            Ok(Some(Metrics::open_on(files, output, state.step)?))
        };
        let metrics = ranks::all(trainer.comm(), open(), "opening the run's files")?;
        Ok(Self {
            saved: newest.map(|folder| (state.step, folder)),
            output: output.into(),
            files,
            failed_saves: 0,
            unmeasured: false,
            schedule,
            steps,
            trainer,
            observed,
            average,
            loader,
            validation,
            tokenizer,
            benchmarks,
            metrics,
            state,
            measured: None,
            settings,
            _lock: lock,
        })
    }

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
        let interval = Duration::from_secs_f64(self.settings.train.report_seconds.clamp(0.0, 1e6));
        let mut progress = Progress::new(self.state.step, self.steps, interval, !self.leads());
        let mut batch = fathom_dataprep::TokenBatch::default();
        let mut measured = None;
        if let Some(metrics) = self.complete(stop, &mut progress)? {
            progress.messages(&observer.observe(Event::Completed(&metrics)));
        }
        while self.state.step < self.steps {
            let Some(mut metrics) = self.one_step(&mut batch, stop)? else { break };
            let last = self.state.step == self.steps;
            let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
            let mut improved = false;
            if due(self.settings.train.eval_every, self.state.step) {
                measured = self.validate(self.settings.train.eval_tokens)?;
                metrics.validation_loss = measured.map(|v| v.loss);
                improved = self.note(metrics.validation_loss);
            }
            let keep = &self.settings.checkpoint;
            let keep_best = keep.keep_best;
            improved &= keep_best == KeepBest::Always;
            let save = due(keep.every_steps, self.state.step) || due(keep.keep_every, self.state.step) || improved;
            if self.leads() {
                if self.sample_due() {
                    self.observed.progress.phase("writing a sample");
                    metrics.sample = self.sample(stop)?;
                }
                metrics.tasks = self.tasks(stop, &mut progress);
                if let Some(file) = &mut self.metrics {
                    file.write(&metrics)?;
                }
                progress.step(&metrics, self.state.best.filter(|_| keep_best != KeepBest::None));
                progress.messages(&observer.observe(Event::Step(&metrics)));
            }
            if save && !last {
                self.try_save(&mut progress)?;
                if self.leads() {
                    progress.messages(&observer.observe(Event::Saved));
                }
            }
        }
        progress.finish();
        let checkpoint = self.save()??;
        // Rank 0 alone measures tasks.
        let told = self.trainer.comm().tell(&[u64::from(self.unmeasured)]).map_err(Error::device("ending the run"))?;
        let interrupted = self.state.step < self.steps || told.iter().any(|&word| word != 0);
        let whole = self.settings.train.eval_tokens == 0
            && self.state.step.is_multiple_of(self.settings.train.eval_every.max(1));
        let validation = match measured.filter(|_| whole) {
            _ if interrupted => None,
            None => self.validate(0)?,
            whole => whole,
        };
        if self.leads() {
            progress.messages(&observer.observe(Event::Finished(validation.as_ref())));
        }
        let State { step, tokens, best, .. } = self.state;
        let best_checkpoint = checkpoint::best(&self.output)?;
        Ok(Outcome { step, tokens, interrupted, checkpoint, validation, best, best_checkpoint })
    }

    /// Scores of the benchmark tasks, if they are due. What fails then is said, and training goes on; what could have
    /// been known was checked at the beginning.
    fn tasks(&mut self, stop: &AtomicBool, progress: &mut Progress) -> TaskScores {
        let (Some(benchmarks), step) = (&self.benchmarks, self.state.step) else { return TaskScores::new() };
        if !self.settings.eval.due(step, self.steps) {
            return TaskScores::new();
        }
        let started = Instant::now();
        let go_on = || !stop.load(Ordering::Relaxed);
        let measured = benchmarks.measure(&self.trainer.model, &go_on, |done, of| progress.tasks(step, done, of));
        self.unmeasured = matches!(measured, Ok(None));
        match measured {
            Ok(Some(scores)) => {
                progress.scores(step, &scores, started.elapsed());
                scores
            }
            Ok(None) => TaskScores::new(),
            Err(error) => {
                progress.message(&format!("tasks after step {step} could not be measured; training goes on: {error}"));
                TaskScores::new()
            }
        }
    }

    /// Measures the tasks that an earlier session was stopped at, and completes the step's line with them.
    fn complete(&mut self, stop: &AtomicBool, progress: &mut Progress) -> Result<Option<StepMetrics>> {
        if self.benchmarks.is_none() || !self.settings.eval.due(self.state.step, self.steps) {
            return Ok(None);
        }
        let Some(file) = &mut self.metrics else { return Ok(None) };
        let newest = file.newest()?.filter(|row| row.step == self.state.step && row.tasks.is_empty());
        let Some(mut metrics) = newest else { return Ok(None) };
        metrics.tasks = self.tasks(stop, progress);
        if metrics.tasks.is_empty() {
            return Ok(None);
        }
        if let Some(file) = &mut self.metrics {
            file.replace_newest(&metrics)?;
        }
        Ok(Some(metrics))
    }

    /// Notes a validation loss. Returns whether it is below that of every checkpoint so far.
    fn note(&mut self, measured: Option<f64>) -> bool {
        let Some(validation_loss) = measured.filter(|loss| loss.is_finite()) else { return false };
        let measured = Best { step: self.state.step, validation_loss };
        if self.state.best.is_none_or(|best| validation_loss < best.validation_loss) {
            self.state.best = Some(measured);
        }
        self.measured = Some(measured);
        self.state.best_checkpoint.is_none_or(|best| validation_loss < best.validation_loss)
    }

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

    /// Trains on the next batch. `None` where a rank was asked to stop before.
    fn one_step(&mut self, batch: &mut fathom_dataprep::TokenBatch, stop: &AtomicBool) -> Result<Option<StepMetrics>> {
        let rates = self.schedule.at(self.state.tokens);
        let start = Instant::now();
        if let Some(meter) = &self.observed.meter {
            meter.take();
        }
        let progress = self.observed.progress.clone();
        progress.step(self.state.step + 1);
        progress.phase("reading data");
        let micro = self.settings.train.micro_batch_size.min(rates.batch_size);
        let (rank, world) = (self.trainer.comm().rank(), self.world());
        let (first, rounds) = (self.loader.next_index(), rates.batch_size / micro / world);
        // Micro-batches go round the ranks, so that each round brings consecutive ones.
        let sequence = |row: usize| (row / micro * world + rank) * micro + row % micro;
        let rows = (0..rounds * micro).map(|row| first.saturating_add(sequence(row) as u64));
        let read = self.loader.fill_sequences(rows, batch);
        let words = [u64::from(read.is_err()), u64::from(stop.load(Ordering::Relaxed))];
        // Rank 0 may be writing a sample, or measuring tasks.
        let alone = self.settings.eval.due(self.state.step, self.steps) || self.sample_due();
        let _patience = alone.then(|| progress.patient());
        let told = self.trainer.comm().tell(&words).map_err(Error::device("beginning a step"))?;
        read?;
        if let Some(rank) = told.chunks_exact(2).position(|words| words[0] != 0) {
            return Err(ranks::failed(rank, "reading its data"));
        }
        if told.chunks_exact(2).any(|words| words[1] != 0) {
            return Ok(None);
        }
        progress.phase("computing");
        let length = batch.sequence_length;
        let starts = self.settings.data.document_mask.then_some(batch.document_starts.as_slice());
        let tokens = Batch::new(&batch.tokens, length, starts, self.config().vocab_size)
            .and_then(|tokens| match self.settings.data.sources.len() {
                0 => Ok(tokens),
                count => tokens.with_sources(&batch.sources, count),
            })
            .map_err(|e| Error::Run(format!("training data: {e}")))?;
        let report = self.trainer.step(&tokens, micro, &rates).map_err(|error| self.failed_step(error))?;
        if let Some(average) = &mut self.average {
            let model = &self.trainer.model;
            average.update(model.device(), model.weights()).map_err(Error::device("averaging the weights"))?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let count = (rates.batch_size * length) as u64;
        self.loader.set_next_index(first.saturating_add(rates.batch_size as u64));
        self.state.step += 1;
        self.state.tokens += count;
        self.state.seconds += seconds;
        self.state.optimizer_step = self.trainer.optimizer.step;
        self.state.cursor = self.loader.cursor();
        let StepReport { loss, mtp_loss, balance_loss, grad_norm, load, loss_sums } = report;
        let every = self.settings.train.expert_load_every;
        let shown = every > 0 && self.state.step.is_multiple_of(every);
        let traffic = self.observed.meter.as_ref().map(watch::Meter::take);
        Ok(Some(StepMetrics {
            step: self.state.step,
            tokens: self.state.tokens,
            loss,
            loss_by_source: self.loss_by_source(&loss_sums, first..first + rates.batch_size as u64),
            mtp_loss,
            balance_loss,
            grad_norm,
            lr: rates.lr,
            tokens_per_second: count as f64 / seconds,
            max_violation: load.max_violation(),
            dead_experts: load.dead(),
            dropped: 0,
            seconds,
            comm_seconds: traffic.map(|traffic| traffic.seconds),
            comm_bytes: traffic.map(|traffic| traffic.bytes_sent),
            validation_loss: None,
            expert_load: if shown { load.layers } else { Vec::new() },
            sample: None,
            tasks: TaskScores::new(),
        }))
    }

    /// Mean loss over the sequences of each source among the run's sequences `batch`.
    fn loss_by_source(&self, sums: &[f64], batch: Range<u64>) -> BTreeMap<String, f64> {
        if sums.is_empty() {
            return BTreeMap::new();
        }
        let mut rows = vec![0; sums.len()];
        batch.filter_map(|k| self.loader.locate(k)).for_each(|(source, _)| rows[source] += 1);
        let mean = |(source, (name, sum)): (usize, (&String, &f64))| {
            let targets = rows[source] * self.settings.train.sequence_length;
            (targets > 0).then(|| (name.clone(), sum / targets as f64))
        };
        self.loader.source_names().iter().zip(sums).enumerate().filter_map(mean).collect()
    }

    fn failed_step(&self, error: D::Error) -> Error {
        let remedy = match error.kind() {
            ErrorKind::PeerLost => return Error::device(format!("training step {}", self.state.step + 1))(error),
            ErrorKind::NonFinite => "; nothing was updated: lower schedule.lr, or look at the data of this step",
            ErrorKind::OutOfMemory => "; lower train.micro_batch_size or train.sequence_length",
            _ => "",
        };
        let saved = match &self.saved {
            Some((_, folder)) => format!("the last checkpoint, {}, is untouched", folder.display()),
            None => "no checkpoint was written yet".into(),
        };
        let source = format!("{error}{remedy}; {saved}");
        Error::Device { doing: format!("training step {}", self.state.step + 1), source: source.into() }
    }

    /// The loss on validation data, over about `limit` tokens, or all of them for 0. The ranks share its windows.
    fn validate(&mut self, limit: u64) -> Result<Option<Evaluated>> {
        let Some(data) = &mut self.validation else { return Ok(None) };
        self.observed.progress.phase("validation");
        let _patience = self.observed.progress.patient();
        let mask = self.settings.data.document_mask;
        let (trainer, tokenizer) = (&self.trainer, self.tokenizer.as_ref());
        evaluate_together(trainer, data, tokenizer, mask, limit).map(Some)
    }

    fn sample_due(&self) -> bool {
        let every = self.settings.train.sample_every;
        every > 0 && self.state.step > 0 && self.state.step.is_multiple_of(every)
    }

    /// A text by the model as it is now. Training does not depend on it. None if `stop` is set before it is complete.
    fn sample(&mut self, stop: &AtomicBool) -> Result<Option<String>> {
        let (train, Some(tokenizer)) = (&self.settings.train, &self.tokenizer) else { return Ok(None) };
        let sampling = Sampling {
            max_new_tokens: train.sample_tokens,
            temperature: SAMPLE_TEMPERATURE,
            seed: train.seed,
            ..Sampling::default()
        };
        let (model, prompt) = (&self.trainer.model, &train.sample_prompt);
        let mut go_on = |_: &str| !stop.load(Ordering::Relaxed);
        let generated = single::continue_text(model, tokenizer, prompt, &sampling, &mut go_on)?;
        Ok((!stop.load(Ordering::Relaxed)).then(|| format!("{prompt}{}", generated.text)))
    }

    /// Writes a checkpoint of the present step, unless there is one. The inner result is the same on all ranks: all
    /// fail where one does.
    ///
    /// # Errors
    /// Ranks that are no longer together.
    fn save(&mut self) -> Result<Result<PathBuf>> {
        if let Some((_, folder)) = self.saved.as_ref().filter(|(step, _)| *step == self.state.step) {
            return Ok(Ok(folder.clone()));
        }
        self.observed.progress.phase("writing a checkpoint");
        let _patience = self.observed.progress.patient();
        let (settings, comm, step) = (&self.settings.checkpoint, self.trainer.comm(), self.state.step);
        let mut state = self.state.clone();
        state.best_checkpoint = self.best_checkpoint();
        let begun = match &mut self.metrics {
            Some(metrics) => metrics.sync().and_then(|()| Ok(Draft::begin(self.files, &self.output, step)?)).map(Some),
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
        let best = state.best_checkpoint.filter(|_| settings.keep_best != KeepBest::None).map(|best| best.step);
        let keep = Keep { newest: settings.keep, best, every: settings.keep_every };
        let committed = match written {
            Ok(()) if comm.rank() == 0 => draft.commit(keep).map(drop),
            Err(error @ CheckpointError::Exchange(_)) => return Err(error.into()),
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

    /// Saves. A failure is reported and forgiven until there were too many in a row.
    fn try_save(&mut self, progress: &mut Progress) -> Result<()> {
        let Err(error) = self.save()? else {
            self.failed_saves = 0;
            return Ok(());
        };
        self.failed_saves += 1;
        if self.failed_saves >= FAILED_SAVES {
            return Err(error);
        }
        let elsewhere = matches!(error, Error::Checkpoint(CheckpointError::OnRank { .. }));
        if elsewhere && !self.leads() {
            return Ok(());
        }
        let untouched = if self.saved.is_some() { "the last checkpoint is untouched and " } else { "" };
        progress.message(&format!(
            "could not save step {} ({} of {FAILED_SAVES} failures before giving up); {untouched}training goes on: \
             {error}",
            self.state.step, self.failed_saves
        ));
        Ok(())
    }
}

fn lock_path(output: &Path) -> PathBuf {
    output.join("run.lock")
}

/// Keeps a second run out of `output` for as long as the file is open.
pub(crate) fn lock(output: &Path) -> Result<File> {
    lock_on(&DISK, output)
}

fn lock_on(files: &dyn Files, output: &Path) -> Result<File> {
    create_dirs(files, output).map_err(Error::io("create", output))?;
    let path = lock_path(output);
    // Another run's mark stays in it.
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Run(format!(
            "{}: another run is writing there; wait for it, or choose another --output",
            output.display()
        ))),
        // A file system without locks: better to train without than not at all.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// The checkpoint to go on from, if that is what is wanted.
fn newest(output: &Path, resume: bool, leads: bool) -> Result<Option<PathBuf>> {
    let found = checkpoint::survey(output)?;
    let Some(first) = found.first() else {
        if resume && leads {
            eprintln!("{}: no checkpoint to resume from; starting from the beginning", output.display());
        }
        return Ok(None);
    };
    if !resume {
        return Err(Error::Run(format!(
            "{} already holds a run ({}): add --resume to go on with it, or choose another --output",
            output.display(),
            first.folder.display()
        )));
    }
    let located = checkpoint::locate(output)?;
    for note in located.notes().into_iter().filter(|_| leads) {
        eprintln!("{note}");
    }
    Ok(Some(located.folder))
}

/// Names both data folders where a saved data position does not belong to the data of this run.
fn other_data(error: fathom_dataprep::Error, output: &Path, settings: &Settings) -> Error {
    let before = resolved::read(output).ok().and_then(|saved| Some(saved.get("data.path")?.as_str()?.to_owned()));
    match (&error, before, &settings.data.path) {
        (fathom_dataprep::Error::CursorMismatch { .. }, Some(before), Some(now)) => Error::Run(format!(
            "{error}; {} was trained on {before}, and this command names {}",
            output.display(),
            now.display()
        )),
        _ => error.into(),
    }
}

/// What tells the weights in a folder from others at a glance: names and sizes of its files.
fn initial(folder: &Path) -> Result<String> {
    let folder = checkpoint::locate(folder)?.folder;
    let files = std::fs::read_dir(&folder).map_err(Error::io("read", &folder))?.flatten();
    let mut files: Vec<String> = files
        .map(|file| format!("{:?} {}", file.file_name(), file.metadata().map_or(0, |found| found.len())))
        .collect();
    files.sort();
    Ok(files.join(", "))
}

/// Refuses what needs all weights on one rank, where they are divided.
fn needs_whole_weights(settings: &Settings) -> Result<()> {
    if settings.parallel.how.zero != Zero::Weights {
        return Ok(());
    }
    let asked = [
        ("train.sample_every", settings.train.sample_every > 0, "set it to 0"),
        ("eval.tasks", !settings.eval.tasks.is_empty(), "leave it out"),
    ];
    match asked.iter().find(|(_, asked, _)| *asked) {
        None => Ok(()),
        Some((key, _, remedy)) => {
            let problem = format!(
                "needs the whole model on one rank, and parallel.zero = 3 divides its weights: {remedy} and measure \
                 checkpoints with `eval` and `generate`, or set parallel.zero to 2"
            );
            Err(settings.reject(key, problem).into())
        }
    }
}

fn hyperparameters(settings: &Settings) -> Hyperparameters {
    let train = &settings.train;
    Hyperparameters {
        beta1: train.beta1,
        beta2: train.beta2,
        eps: train.eps,
        weight_decay: train.weight_decay,
        clip_norm: if train.clip_norm > 0.0 { train.clip_norm } else { f64::INFINITY },
    }
}

fn build_model<D: Kernels, C: Comm<D>>(device: &D, comm: &C, settings: &Settings, fresh: bool) -> Result<Model<D>> {
    let (config, precision, leads) = (&settings.model, settings.train.precision, comm.rank() == 0);
    let model = match settings.parallel.how.zero {
        Zero::Weights => {
            let shards = Shards::new(Architecture::new(config).layout(), comm.rank(), comm.world());
            Model::part(device, config, precision, shards.all_own())
        }
        _ => Model::new(device, config, precision),
    };
    let mut model = model.map_err(Error::device("building the model"))?;
    match &settings.train.init {
        _ if !fresh => {} // the checkpoint brings the weights
        Some(folder) => {
            let located = checkpoint::locate(folder)?;
            located.verify(false)?;
            let notes = located.notes().into_iter().chain(hf::load_weights(&mut model, &located.folder)?);
            if leads {
                eprintln!("initial weights: {}", located.folder.display());
                notes.for_each(|note| eprintln!("{note}"));
            }
        }
        None => model.initialize(settings.train.seed).map_err(Error::device("initialising the model"))?,
    }
    Ok(model)
}
