//! Measurements of a run between its steps: validation loss, samples and benchmark tasks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use fathom_core::comm::Comm;
use fathom_core::device::Kernels;

use super::Run;
use super::limit::Part;
use super::metrics::{StepMetrics, TaskScores};
use super::progress::Progress;
use crate::checkpoint::Best;
use crate::error::Result;
use crate::evaluate::{Evaluated, evaluate_together};
use crate::infer::{Sampling, single};
use crate::uptime;

/// Softmax temperature of samples during training.
const SAMPLE_TEMPERATURE: f64 = 0.8;

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// Scores of the benchmark tasks, if they are due. What fails then is said, and training goes on; what could have
    /// been known was checked at the beginning.
    pub(super) fn tasks(&mut self, stop: &AtomicBool, progress: &mut Progress) -> TaskScores {
        let (Some(benchmarks), step) = (&self.benchmarks, self.state.step) else { return TaskScores::new() };
        if !self.settings.eval.due(step, self.steps) {
            return TaskScores::new();
        }
        self.observed.progress.phase("measuring tasks");
        let started = Instant::now();
        let go_on = || !stop.load(Ordering::Relaxed);
        let measured = benchmarks.measure(&self.trainer.model, &go_on, |done, of| progress.tasks(step, done, of));
        self.unmeasured |= matches!(measured, Ok(None));
        self.limit.took(Part::Tasks, started.elapsed());
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

    /// Writes the sample and measures the tasks that an earlier session was stopped at, and completes the step's line
    /// with them.
    pub(super) fn complete(&mut self, stop: &AtomicBool, progress: &mut Progress) -> Result<Option<StepMetrics>> {
        let tasks = self.benchmarks.is_some() && self.settings.eval.due(self.state.step, self.steps);
        if !tasks && !self.sample_due() {
            return Ok(None);
        }
        let Some(file) = &mut self.metrics else { return Ok(None) };
        let Some(mut metrics) = file.newest()?.filter(|row| row.step == self.state.step) else { return Ok(None) };
        let before = metrics.clone();
        if self.sample_due() && metrics.sample.is_none() {
            metrics.sample = self.sample(stop)?;
        }
        if tasks && metrics.tasks.is_empty() {
            metrics.tasks = self.tasks(stop, progress);
        }
        if metrics == before {
            return Ok(None);
        }
        if let Some(file) = &mut self.metrics {
            file.replace_newest(&metrics)?;
        }
        Ok(Some(metrics))
    }

    /// Notes a validation loss. Returns whether it is below that of every checkpoint so far.
    pub(super) fn note(&mut self, measured: Option<f64>) -> bool {
        let Some(validation_loss) = measured.filter(|loss| loss.is_finite()) else { return false };
        let measured = Best { step: self.state.step, validation_loss };
        if self.state.best.is_none_or(|best| validation_loss < best.validation_loss) {
            self.state.best = Some(measured);
        }
        self.measured = Some(measured);
        self.state.best_checkpoint.is_none_or(|best| validation_loss < best.validation_loss)
    }

    /// The loss on validation data, over about `limit` tokens, or all of them for 0; none if `stop` is set before it is
    /// complete. The ranks share its windows.
    pub(super) fn validate(&mut self, limit: u64, stop: &AtomicBool) -> Result<Option<Evaluated>> {
        let Some(data) = &mut self.validation else { return Ok(None) };
        self.observed.progress.phase("validation");
        let _patience = self.observed.progress.patient();
        let mask = self.settings.data.document_mask;
        let (trainer, tokenizer) = (&self.trainer, self.tokenizer.as_ref());
        evaluate_together(trainer, data, tokenizer, mask, limit, stop)
    }

    /// Whether the next step and a checkpoint would end after the time limit of the run.
    pub(super) fn is_out_of_time(&self) -> bool {
        let next = self.state.step.saturating_add(1);
        let due = |every: u64| every > 0 && next.is_multiple_of(every);
        let tasks = self.benchmarks.is_some() && self.settings.eval.due(next, self.steps);
        let parts = [
            (Part::Validation, due(self.settings.train.eval_every)),
            (Part::Sample, due(self.settings.train.sample_every)),
            (Part::Tasks, tasks),
            // The one in the background is waited for before the last is written.
            (Part::Save, self.saving.is_some()),
        ];
        let due: Vec<Part> = parts.into_iter().filter(|(_, due)| *due).map(|(part, _)| part).collect();
        self.limit.is_over(uptime::elapsed(), &due)
    }

    pub(super) fn sample_due(&self) -> bool {
        let every = self.settings.train.sample_every;
        every > 0 && self.state.step > 0 && self.state.step.is_multiple_of(every)
    }

    /// A text by the model as it is now. Training does not depend on it. None if `stop` is set before it is complete.
    pub(super) fn sample(&mut self, stop: &AtomicBool) -> Result<Option<String>> {
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
        let cut = stop.load(Ordering::Relaxed);
        self.unmeasured |= cut;
        Ok((!cut).then(|| format!("{prompt}{}", generated.text)))
    }
}
