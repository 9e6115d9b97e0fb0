//! A run's decision about a step whose update was withheld: skip it, go back, or end (`train.spike`).

use fathom_core::comm::Comm;
use fathom_core::device::Kernels;
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::train::{Limits, StepReport, Withheld};

use super::metrics::Metrics;
use super::spike::{self, Action, Cause, Spike};
use super::{Run, ranks};
use crate::checkpoint::{self, State};
use crate::error::{Error, Result};
use crate::settings::SpikePolicy;

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// The bounds of the next step.
    pub(super) fn limits(&self) -> Limits {
        spike::limits(&self.settings.train.spike, &self.state.spikes)
    }

    /// Judges a step that was computed within `limits`. `next` is the sequence behind its data. Returns whether the run
    /// goes on behind it; if not, it has returned to a checkpoint.
    ///
    /// # Errors
    /// A spike or a number that is not finite, where the settings or their number make it the run's end.
    pub(super) fn judge(&mut self, report: &StepReport, limits: &Limits, next: u64) -> Result<bool> {
        let settings = self.settings.train.spike;
        if report.withheld.is_some() {
            // The run may go back to the checkpoint that is being written.
            self.written(true)?;
        }
        let Some(why) = report.withheld else {
            spike::take(&settings, &mut self.state.spikes, report.grad_norm, report.loss);
            if settings.policy == SpikePolicy::Skip || self.saved.is_none() {
                self.state.spikes.in_a_row = 0;
            }
            return Ok(true);
        };
        if settings.policy == SpikePolicy::Off && !why.breaks_state() {
            return Err(self.failed_step(D::Error::non_finite(why.problem())));
        }
        let mut spike = self.describe(report, limits, why);
        let saved = self.saved.as_ref().map(|(step, _)| *step);
        let back = saved.filter(|_| settings.policy == SpikePolicy::Rollback);
        // Weights that are broken stay so: no step can be left out to mend them.
        let broken = why.breaks_state() && back.is_none();
        if settings.policy == SpikePolicy::Stop || broken || self.state.spikes.in_a_row >= settings.limit {
            return Err(self.end(&spike, why)?);
        }
        let in_a_row = self.state.spikes.in_a_row + 1;
        if let Some(step) = back {
            let returned = self.go_back(next);
            ranks::all(self.trainer.comm(), returned, "returning to a checkpoint")?;
            (spike.action, spike.back_to) = (Action::Rollback, Some(step));
        }
        self.state.spikes.in_a_row = in_a_row;
        self.spikes.push(spike);
        Ok(back.is_none())
    }

    fn describe(&self, report: &StepReport, limits: &Limits, why: Withheld) -> Spike {
        let (cause, value, limit) = match why {
            Withheld::NormLimit => (Cause::GradNorm, Some(report.grad_norm), Some(limits.grad_norm)),
            Withheld::LossLimit => (Cause::Loss, Some(report.loss), Some(limits.loss)),
            _ => (Cause::NonFinite, None, None),
        };
        Spike { step: self.state.step + 1, action: Action::Skip, cause, value, limit, back_to: None }
    }

    /// Saves the state before the step and makes the error that ends the run.
    fn end(&mut self, spike: &Spike, why: Withheld) -> Result<Error> {
        let what = match spike.cause {
            Cause::NonFinite => format!("step {}: {}", spike.step, why.problem()),
            _ => spike.to_string().replace("; its update was left out", ""),
        };
        let count = match self.state.spikes.in_a_row {
            0 => String::new(),
            n => format!(", after {n} spikes in a row (train.spike_limit)"),
        };
        let (place, remedy) = if why.breaks_state() {
            let place = match &self.saved {
                Some((_, folder)) => format!("the last checkpoint is {}", folder.display()),
                None => "no checkpoint was written yet".into(),
            };
            (place, "resume from it")
        } else {
            // A resumed run begins to count again.
            self.state.spikes.in_a_row = 0;
            let folder = self.save()??;
            let remedy = "look at the data of this step, lower schedule.lr, or resume with --set train.spike=skip";
            (format!("nothing was updated, and the state before it is saved in {}", folder.display()), remedy)
        };
        Ok(Error::Spike(format!("{what}{count}; {place}: {remedy}")))
    }

    /// Checks that a checkpoint of the present state would be one to go on from. The inner result is the same on all
    /// ranks.
    ///
    /// # Errors
    /// Ranks that are no longer together.
    pub(super) fn ensure_finite(&self) -> Result<Result<()>> {
        let doing = format!("checking the state after step {}", self.state.step);
        match self.trainer.ensure_finite() {
            Err(error) if error.kind() == ErrorKind::NonFinite => Ok(Err(Error::device(doing)(error))),
            checked => checked.map(Ok).map_err(Error::device(doing)),
        }
    }

    /// Takes up the newest checkpoint, to go on with sequence `next`.
    fn go_back(&mut self, next: u64) -> Result<()> {
        let Some((_, folder)) = self.saved.clone() else {
            return Err(Error::Run("there is no checkpoint to return to".into()));
        };
        let mut state = State::read(&folder)?;
        checkpoint::load_trainer(&mut self.trainer, &folder, &state)?;
        if let Some(average) = &mut self.average {
            let device = self.trainer.model.device();
            average.clear(device).map_err(Error::device("clearing the EMA"))?;
            checkpoint::load_average(device, average, &folder, &state)?;
        }
        state.settings = std::mem::take(&mut self.state.settings);
        state.best_checkpoint = self.state.best_checkpoint;
        self.state = state;
        self.loader.set_next_index(next);
        self.state.cursor = self.loader.cursor();
        self.measured = None;
        if let Some(metrics) = &mut self.metrics {
            metrics.sync()?;
            *metrics = Metrics::open(&self.output, self.state.step)?;
        }
        Ok(())
    }
}
