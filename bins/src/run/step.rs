//! A training step of a run: the batch, the update, and what it measured.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use fathom_core::comm::Comm;
use fathom_core::device::Kernels;
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::model::Batch;
use fathom_core::train::StepReport;

use super::ahead::Rows;
use super::limit::Part;
use super::metrics::{StepMetrics, TaskScores};
use super::{Run, ranks, watch};
use crate::error::{Error, Result};

impl<D: Kernels, C: Comm<D>> Run<D, C> {
    /// Trains on the next batch. `None` where a rank was asked to stop before.
    pub(super) fn one_step(
        &mut self,
        batch: &mut fathom_dataprep::TokenBatch,
        stop: &AtomicBool,
    ) -> Result<Option<StepMetrics>> {
        let rates = self.schedule.at(self.state.tokens);
        let start = Instant::now();
        if let Some(meter) = &self.observed.meter {
            meter.take();
        }
        let progress = self.observed.progress.clone();
        progress.step(self.state.step + 1);
        progress.phase(self.reading.clone());
        let micro = self.settings.train.micro_batch_size.min(rates.batch_size);
        let rank = self.trainer.comm().rank();
        let first = self.loader.next_index();
        let rows = self.rows(first, rates.batch_size);
        // Where reading ahead failed, it is tried again, and fails here.
        let read = if self.ahead.take(rows, batch) { Ok(()) } else { self.loader.fill_sequences(rows.iter(), batch) };
        // One clock counts.
        let out_of_time = rank == 0 && self.is_out_of_time();
        let words = [u64::from(read.is_err()), u64::from(stop.load(Ordering::Relaxed) || out_of_time)];
        // Rank 0 may be writing a sample, or measuring tasks.
        let alone = self.settings.eval.due(self.state.step, self.steps) || self.sample_due();
        let _patience = alone.then(|| progress.patient());
        let told = self.trainer.comm().tell(&words).map_err(Error::device("beginning a step"))?;
        read?;
        if let Some(rank) = told.chunks_exact(2).position(|words| words[0] != 0) {
            return Err(ranks::failed(rank, "reading its data"));
        }
        if told.chunks_exact(2).any(|words| words[1] != 0) {
            progress.not_stepped();
            self.out_of_time = out_of_time && !stop.load(Ordering::Relaxed);
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
        let limits = self.limits();
        let after =
            (first.saturating_add(rates.batch_size as u64), self.state.tokens + (rates.batch_size * length) as u64);
        let next = (self.state.step + 1 < self.steps).then(|| self.rows(after.0, self.schedule.at(after.1).batch_size));
        let (trainer, loader, ahead) = (&mut self.trainer, &self.loader, &mut self.ahead);
        let step = || trainer.step_within(&tokens, micro, &rates, &limits);
        let reading = self.reading.clone();
        let report = ahead.read(loader, next, step, || progress.phase(reading));
        progress.phase("computing");
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                // The error names the newest checkpoint, which may be the one that is being written.
                if let Err(failed) = self.written(true) {
                    self.notices.push(failed.to_string());
                }
                return Err(self.failed_step(error));
            }
        };
        if !self.judge(&report, &limits, first.saturating_add(rates.batch_size as u64))? {
            return self.one_step(batch, stop);
        }
        if let Some(average) = self.average.as_mut().filter(|_| report.withheld.is_none()) {
            let model = &self.trainer.model;
            average.update(model.device(), model.weights()).map_err(Error::device("averaging the weights"))?;
        }
        let took = start.elapsed();
        self.limit.took(Part::Step, took);
        progress.stepped(took, report.loss);
        let seconds = took.as_secs_f64();
        let count = (rates.batch_size * length) as u64;
        self.loader.set_next_index(first.saturating_add(rates.batch_size as u64));
        self.state.step += 1;
        self.state.tokens += count;
        self.state.seconds += seconds;
        self.state.optimizer_step = self.trainer.optimizer.step;
        self.state.cursor = self.loader.cursor();
        let StepReport { loss, mtp_loss, balance_loss, grad_norm, load, loss_sums, .. } = report;
        let every = self.settings.train.expert_load_every;
        let finite = load.max_violation().is_finite();
        let shown = every > 0 && self.state.step.is_multiple_of(every) && finite;
        let traffic = self.observed.meter.as_ref().map(watch::Meter::take);
        Ok(Some(StepMetrics {
            step: self.state.step,
            tokens: self.state.tokens,
            loss,
            spikes: std::mem::take(&mut self.spikes),
            loss_by_source: self.loss_by_source(&loss_sums, first..first + rates.batch_size as u64),
            mtp_loss: mtp_loss.filter(|loss| loss.is_finite()),
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

    /// The sequences of this rank in a step whose batch begins with sequence `first`.
    fn rows(&self, first: u64, batch_size: usize) -> Rows {
        let (comm, micro) = (self.trainer.comm(), self.settings.train.micro_batch_size.min(batch_size));
        Rows { first, micro, rounds: batch_size / micro / comm.world(), rank: comm.rank(), world: comm.world() }
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
            (targets > 0 && sum.is_finite()).then(|| (name.clone(), sum / targets as f64))
        };
        self.loader.source_names().iter().zip(sums).enumerate().filter_map(mean).collect()
    }

    pub(super) fn failed_step(&self, error: D::Error) -> Error {
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
}
