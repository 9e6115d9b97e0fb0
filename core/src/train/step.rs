//! One training step: gradients over micro-batches, clipping, AdamW, and the bias update that balances the experts.
//!
//! Nothing is read back inside a step. Losses, the gradient's norm and every expert's load are collected in one small
//! tensor that comes to the host at the end, once.

use alloc::vec::Vec;

use super::gate::{self, Gate, Limits, Withheld};
use super::gathered::Gathered;
use super::health::ExpertLoad;
use super::norm::Norm;
use super::optimizer::{Hyperparameters, Optimizer};
use super::parallel::{Parallel, Zero};
use super::schedule::Rates;
use super::shard::Shards;
use super::sum::{self, Sums};
use crate::DType;
use crate::comm::{AllGather, Comm};
use crate::device::{Cast, Fill, GatherRows, Kernels, SumColumns, UpdateBias};
use crate::error::{DeviceError, ErrorKind, at_most, ensure, multiple};
use crate::layer::moe::LoadCount;
use crate::model::{Batch, LossScales, Model, Scores};
use crate::tensor::Tensor;
use crate::weights::Parameters;

/// The report of a training step: losses, gradient norm, expert load.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Mean cross entropy of the next token over the batch, nats, before the update.
    pub loss: f64,
    /// Mean over the MTP modules of their mean cross entropy; none without modules.
    pub mtp_loss: Option<f64>,
    /// The balance loss, α included.
    pub balance_loss: f64,
    /// L2 norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Load of the experts.
    pub load: ExpertLoad,
    /// Σ cross entropy of the next token over the sequences of each source, in nats, over all ranks; empty where the
    /// batch does not say where its sequences come from.
    pub loss_sums: Vec<f64>,
    /// Why the update was not applied: weights, moments, biases and counters are then as they were (but for
    /// [`Withheld::Update`]).
    pub withheld: Option<Withheld>,
}

/// A trainer: a model, its optimizer state and its gradients, or one rank's share of them.
pub struct Trainer<D: Kernels, C: Comm<D>> {
    /// The model.
    pub model: Model<D>,
    /// The optimiser's state.
    pub optimizer: Optimizer<D>,
    /// Hyperparameters, the same over the run.
    pub hyper: Hyperparameters,
    comm: C,
    shards: Shards,
    parallel: Parallel,
    sums: Sums<D>,
    norm: Norm<D>,
    gate: Gate<D>,
    /// Tokens that went to each expert in the micro-batch under way.
    loads: LoadCount<D>,
    /// `[1, n]`: Σ nll of each depth, the balance loss, 0 or NaN for the state before the step, the routers' loads, and
    /// Σ nll of each source. Read once a step.
    report: Tensor<D>,
    /// `[k, 1]` u32: in which row of all ranks' the micro-batches' numbers come, in their order.
    order: Option<Tensor<D>>,
    /// `[1, n]`: the report, and NaN where the update is not applied.
    guarded: Tensor<D>,
}

impl<D: Kernels, C: Comm<D>> Trainer<D, C> {
    /// Creates a trainer for `model` on rank `comm.rank()`, with the [default](Parallel::default) way of sharing.
    pub fn new(model: Model<D>, comm: C, hyper: Hyperparameters) -> Result<Self, D::Error> {
        Self::sharing(model, comm, hyper, Parallel::default())
    }

    /// Creates a trainer for `model` on rank `comm.rank()`. All ranks begin with the same weights, or with their
    /// [part](Model::part) of them where weights are divided.
    pub fn sharing(model: Model<D>, comm: C, hyper: Hyperparameters, parallel: Parallel) -> Result<Self, D::Error> {
        let (device, layout) = (model.device().clone(), model.architecture().layout().clone());
        let (master, dtype) = (model.precision().master(), model.precision().statistics());
        let moments = model.precision().moments();
        let shards = Shards::new(&layout, comm.rank(), comm.world());
        let divided = model.weights().held() == shards.all_own();
        ensure("trainer", "needs this rank's part of the weights", divided || parallel.zero != Zero::Weights)?;
        let held = match parallel.zero {
            Zero::Nothing => layout.groups().iter().map(|group| 0..group.elements()).collect(),
            _ => shards.all_own(),
        };
        let columns = columns(&model, 0);
        Ok(Self {
            optimizer: Optimizer::new(&device, &layout, moments, held)?,
            sums: Sums::new(&device, &layout, master, &shards, parallel)?,
            norm: Norm::new(&device, &layout, &shards, dtype)?,
            gate: Gate::new(&device, dtype)?,
            loads: model.load_count()?,
            report: Tensor::<D>::zeros(&device, &[1, columns], dtype)?,
            order: None,
            guarded: Tensor::<D>::zeros(&device, &[1, columns], dtype)?,
            model,
            comm,
            hyper,
            shards,
            parallel,
        })
    }

    /// The ranks.
    pub fn comm(&self) -> &C {
        &self.comm
    }

    /// Which rank owns what.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// How the ranks share work and state.
    pub fn parallel(&self) -> Parallel {
        self.parallel
    }

    /// The gradients of the last step, before clipping: all of them, or this rank's part where they are divided.
    pub fn gradients(&self) -> &Parameters<D> {
        &self.sums.total
    }

    /// Bytes of gradients that are kept between steps.
    pub fn gradient_bytes(&self) -> usize {
        self.sums.bytes()
    }

    /// Trains on `batch`, this rank's part of the whole, `micro_batch` sequences at a time: of the whole batch's
    /// micro-batches those whose number leaves the rank when divided by the number of ranks.
    ///
    /// # Errors
    /// Of kind [`NonFinite`](ErrorKind::NonFinite) where a number that the step computes from, or with, is not finite:
    /// weights, moments, biases and counters are then as they were, on all ranks; but for
    /// [`Withheld::Update`], after which the trainer is not to be used.
    pub fn step(&mut self, batch: &Batch<'_>, micro_batch: usize, rates: &Rates) -> Result<StepReport, D::Error> {
        let report = self.step_within(batch, micro_batch, rates, &Limits::NONE)?;
        match report.withheld {
            None => Ok(report),
            Some(why) => Err(D::Error::non_finite(why.problem())),
        }
    }

    /// As [`step`](Self::step), but the report says where the update was [withheld](StepReport::withheld): what is not
    /// finite is no error, and neither is a loss or a gradient above `limits`. Ranks with the same limits decide alike.
    ///
    /// # Errors
    /// Those of the device.
    pub fn step_within(
        &mut self,
        batch: &Batch<'_>,
        micro_batch: usize,
        rates: &Rates,
        limits: &Limits,
    ) -> Result<StepReport, D::Error> {
        self.accumulate(batch, micro_batch, rates)?;
        let device = self.model.device().clone();
        let Self { comm, shards, sums, norm, gate, .. } = self;
        norm.compute(&device, comm, shards, &sums.total)?;
        let (report, count) = (self.report.view(), (batch.targets(0) * comm.world()) as f64);
        let of = (norm.squared.view(), report.columns(0..1)?, report);
        gate.decide(&device, of, count, self.hyper.clip_norm, limits)?;
        let weights = self.model.weights_mut();
        self.optimizer.update(&device, weights, &sums.total, gate.clip.view(), rates.lr, &self.hyper)?;
        if matches!(self.parallel.zero, Zero::Moments | Zero::Gradients) {
            sum::gather(&device, comm, shards, weights)?;
        }
        self.update_biases(rates.bias_speed)?;

        let report = match self.read_report(batch, limits) {
            // A device that is asynchronous tells now what it met; its result was NaN, on which all ranks decided.
            Err(error) if error.kind() == ErrorKind::NonFinite => {
                let report = self.read_report(batch, limits)?;
                report.withheld.map(|_| report).ok_or(error)
            }
            report => report,
        }?;
        let report = self.agreed(report)?;
        self.optimizer.step -= u64::from(report.withheld.is_some());
        Ok(report)
    }

    /// Compares what the ranks decided, from numbers that should be the same: on one of them a device may have erred.
    fn agreed(&self, mut report: StepReport) -> Result<StepReport, D::Error> {
        if self.comm.world() > 1 {
            let bits = |x: f64| if x.is_finite() { x.to_bits() } else { u64::MAX };
            let decided = report.withheld.map_or(0, |why| 1 + why as u64);
            let mine = [decided, bits(report.loss), bits(report.grad_norm)];
            let told = self.comm.tell(&mine)?;
            if told.chunks_exact(mine.len()).any(|other| other != &told[..mine.len()]) {
                report.withheld = Some(Withheld::Update);
            }
        }
        Ok(report)
    }

    /// Checks weights, moments and expert biases on all ranks.
    ///
    /// # Errors
    /// Of kind [`NonFinite`](ErrorKind::NonFinite) on every rank where one of them is not finite on one.
    pub fn ensure_finite(&self) -> Result<(), D::Error> {
        let device = self.model.device();
        let state = gate::state(device, &self.model, &self.optimizer, self.report.dtype())?;
        let told = self.comm.tell(&[u64::from(!read(device, &state)?.iter().all(|x| x.is_finite()))])?;
        if told.iter().any(|&word| word != 0) {
            return Err(D::Error::non_finite("a weight, a moment or an expert bias is not finite"));
        }
        Ok(())
    }

    /// Adds up the gradients, losses and loads of a batch over all ranks, without an update.
    pub fn accumulate(&mut self, batch: &Batch<'_>, micro_batch: usize, rates: &Rates) -> Result<(), D::Error> {
        let n = batch.sequences();
        multiple("step", "the number of sequences", n, "the micro-batch size", micro_batch)?;
        let depths = self.model.config().num_nextn_predict_layers;
        at_most("step", "the number of MTP modules + 1,", depths + 1, "the sequence length", batch.length)?;
        let device = self.model.device().clone();
        let scales = self.scales(batch, depths, rates);
        let sources = batch.sources.map_or(0, |s| s.count);
        let (columns, rounds, world) = (columns(&self.model, sources), n / micro_batch, self.comm.world());
        if self.report.shape().cols() != columns {
            self.report = Tensor::<D>::zeros(&device, &[1, columns], self.report.dtype())?;
            self.guarded = Tensor::<D>::zeros(&device, &[1, columns], self.report.dtype())?;
        }
        // One row a micro-batch, those of a rank under each other.
        let mut rows = Tensor::<D>::empty(&device, &[world * rounds, columns], self.report.dtype())?;
        let state = gate::state(&device, &self.model, &self.optimizer, self.report.dtype())?;
        let fine = Tensor::<D>::zeros(&device, &[1, 1], self.report.dtype())?;
        self.sums.clear(&device, world)?;
        for round in 0..rounds {
            let start = round * micro_batch;
            let inputs = self.model.inputs(&batch.slice(start..start + micro_batch), depths)?;
            let mut losses = self.model.losses(depths, sources)?;
            self.loads.clear(&device)?;
            let mut sink = self.sums.round(&self.comm, &self.shards, round, rounds);
            let model = &self.model;
            if self.parallel.zero == Zero::Weights {
                let (comm, shards, precision) = (&self.comm, &self.shards, model.precision());
                let mut store = Gathered::new(&device, comm, shards, model.weights(), precision)?;
                let kept = model.forward_with(&mut store, &inputs, &mut self.loads)?;
                model.backward_with(&mut store, &inputs, kept, &scales, &mut sink, &mut losses)?;
            } else {
                let kept = model.forward(&inputs, &mut self.loads)?;
                model.backward(&inputs, kept, &scales, &mut sink, &mut losses)?;
            }
            let row = self.comm.rank() * rounds + round;
            let mut column = 0;
            // The rank's state counts once.
            let state = if round == 0 { &state } else { &fine };
            let parts = [&losses.nll, &losses.balance, state].into_iter().chain(&self.loads.layers);
            for part in parts.chain(&losses.by_source) {
                let width = part.shape().elements();
                let to = rows.view_mut().row_range(row..row + 1)?.columns(column..column + width)?;
                device.cast(Cast::new(part.view().reshape(1, width)?, to)?)?;
                column += width;
            }
        }
        self.sums.complete(&device, &self.comm, &self.shards)?;
        self.add_rows(rows, rounds)
    }

    /// Scores the targets of a batch, as [`Model::score`] does. Where weights are divided, all ranks do it together,
    /// each with its own batch.
    pub fn score(&self, batch: &Batch<'_>) -> Result<Scores, D::Error> {
        let model = &self.model;
        if self.parallel.zero != Zero::Weights {
            return model.score(batch);
        }
        let (device, precision) = (model.device(), model.precision());
        let mut store = Gathered::new(device, &self.comm, &self.shards, model.weights(), precision)?;
        model.score_with(&mut store, batch)
    }

    /// Adds up the micro-batches' rows of all ranks, `[world · rounds, n]`, to the report of the batch.
    fn add_rows(&mut self, mut rows: Tensor<D>, rounds: usize) -> Result<(), D::Error> {
        let (device, world) = (self.model.device(), self.comm.world());
        let (count, columns) = (rows.shape().rows(), rows.shape().cols());
        if world > 1 {
            let lengths = alloc::vec![rounds * columns; world];
            let whole = rows.view_mut().reshape(1, count * columns)?;
            self.comm.all_gather(device, AllGather::new(whole, &lengths)?)?;
            // It depends on the number of micro-batches alone.
            let order = match self.order.take().filter(|order| order.shape().rows() == count) {
                Some(order) => order,
                None => {
                    let order: Vec<u32> = (0..count).map(|j| (j % world * rounds + j / world) as u32).collect();
                    Tensor::<D>::from_slice(device, &[count, 1], DType::U32, &order)?
                }
            };
            let mut ordered = Tensor::<D>::empty(device, &[count, columns], rows.dtype())?;
            device.gather_rows(GatherRows::new(rows.view(), order.view(), 1, ordered.view_mut())?)?;
            self.order = Some(order);
            rows = ordered;
        }
        device.fill(Fill::new(self.report.view_mut(), 0.0))?;
        device.sum_columns(SumColumns::new(rows.view(), self.report.view_mut())?)
    }

    fn scales(&self, batch: &Batch<'_>, depths: usize, rates: &Rates) -> LossScales {
        let over = |count: usize| 1.0 / (count * self.comm.world()) as f64;
        let module = |k| rates.mtp_weight / depths as f64 * over(batch.targets(k));
        LossScales {
            main: over(batch.targets(0)),
            mtp: (1..=depths).map(module).collect(),
            balance: rates.balance_alpha * over(batch.sequences()),
        }
    }

    /// Moves the expert biases by the loads of the whole batch, where the update is applied.
    fn update_biases(&mut self, speed: f64) -> Result<(), D::Error> {
        let device = self.model.device().clone();
        let mut column = loads_from(&self.model);
        device.cast(Cast::new(self.report.view(), self.guarded.view_mut())?)?;
        self.gate.guard(&device, self.guarded.view_mut())?;
        for router in &mut self.model.routers {
            let width = router.bias.shape().elements();
            if router.bias_name.is_some() && speed != 0.0 {
                let load = self.guarded.view().columns(column..column + width)?;
                device.update_bias(UpdateBias::new(load, speed, router.bias.view_mut())?)?;
            }
            column += width;
        }
        Ok(())
    }

    fn read_report(&self, batch: &Batch<'_>, limits: &Limits) -> Result<StepReport, D::Error> {
        let device = self.model.device();
        let depths = self.model.config().num_nextn_predict_layers;
        let values = read(device, &self.report)?;
        let mean = |k: usize| values[k] / (batch.targets(k) * self.comm.world()) as f64;
        let mut rest = values[loads_from(&self.model)..].iter().map(|&x| x as f32);
        let layers = self.loads.layers.iter().map(|load| rest.by_ref().take(load.shape().elements()).collect());
        let (loss, grad_norm) = (mean(0), libm::sqrt(read(device, &self.norm.squared)?[0]));
        let (clip, guarded) = (read(device, &self.gate.clip)?[0], read(device, &self.guarded)?);
        // What decides was itself hit after the decision.
        let torn = !clip.is_nan() && (guarded != values || !clip.is_finite());
        let withheld = (clip.is_nan() || torn).then(|| {
            if torn {
                Withheld::Update
            } else if !values[depths + 2].is_finite() {
                Withheld::State
            } else if values.iter().any(|x| !x.is_finite()) {
                Withheld::Loss
            } else if !grad_norm.is_finite() {
                Withheld::Gradient
            } else if loss > limits.loss && grad_norm <= limits.grad_norm {
                Withheld::LossLimit
            } else {
                Withheld::NormLimit
            }
        });
        Ok(StepReport {
            loss,
            mtp_loss: (depths > 0).then(|| (1..=depths).map(mean).sum::<f64>() / depths as f64),
            balance_loss: values[depths + 1],
            grad_norm,
            load: ExpertLoad { layers: layers.collect() },
            loss_sums: values[values.len() - batch.sources.map_or(0, |s| s.count)..].to_vec(),
            withheld,
        })
    }
}

/// Numbers that a step reports.
fn columns<D: Kernels>(model: &Model<D>, sources: usize) -> usize {
    let loads: usize = model.routers.iter().map(|r| r.bias.shape().elements()).sum();
    loads_from(model) + loads + sources
}

/// The column of the report at which the routers' loads begin.
fn loads_from<D: Kernels>(model: &Model<D>) -> usize {
    3 + model.config().num_nextn_predict_layers
}

/// The elements of a tensor of statistics.
fn read<D: Kernels>(device: &D, x: &Tensor<D>) -> Result<Vec<f64>, D::Error> {
    match x.dtype() {
        DType::F64 => x.download(device),
        _ => Ok(x.download::<D, f32>(device)?.into_iter().map(f64::from).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Imagined;
    use crate::config::ModelConfig;
    use crate::device::Dry;
    use crate::precision::Precision;

    #[test]
    fn a_steady_step_sends_tokens_and_targets_and_reads_the_report() {
        let config = ModelConfig { num_nextn_predict_layers: 1, ..ModelConfig::tiny() };
        let rates = Rates { lr: 1e-4, batch_size: 4, bias_speed: 1e-3, mtp_weight: 0.3, balance_alpha: 1e-4 };
        let (length, world) = (16, 2);
        let (device, comm) = (Dry::new(), Imagined::new(0, world));
        let model = Model::new(&device, &config, Precision::BF16).expect("counts");
        let mut trainer = Trainer::new(model, &comm, Hyperparameters::default()).expect("counts");
        let tokens = alloc::vec![0; 4 * (length + 1)];
        let starts = alloc::vec![0; 4 * length];
        let mut sent = |starts: Option<&[u32]>| {
            let batch = Batch::new(&tokens, length, starts, config.vocab_size).expect("fits");
            trainer.step(&batch, 2, &rates).expect("counts");
            device.reset();
            trainer.step(&batch, 2, &rates).expect("counts");
            let numbers = columns(&trainer.model, 0);
            let tally = device.tally();
            assert_eq!(tally.downloaded as usize, 4 * (2 * numbers + 2), "the report twice, the norm, the clip factor");
            tally.uploaded as usize
        };
        // For the main model and for the MTP module a token and a target each, in 4 bytes.
        assert_eq!(sent(None), 4 * length * 2 * 2 * 4);
        // Where a sequence is of several documents, the start of each token's own too, once a micro-batch.
        assert_eq!(sent(Some(&starts)), 4 * length * (2 * 2 + 1) * 4);
    }
}
