//! One training step: gradients over micro-batches, clipping, AdamW, and the bias update that balances the experts.
//!
//! Nothing is read back inside a step. Losses, the gradient's norm and every expert's load are collected in one small
//! tensor that comes to the host at the end, once.

use alloc::vec::Vec;

use super::health::ExpertLoad;
use super::optimizer::{self, Hyperparameters, Optimizer};
use super::schedule::Rates;
use crate::comm::Comm;
use crate::device::{Cast, Fill, Kernels, UpdateBias};
use crate::error::{DeviceError, at_most, multiple};
use crate::layer::moe::LoadCount;
use crate::model::{Batch, LossScales, Model};
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
}

/// A trainer: a model, its optimizer state and its gradients.
pub struct Trainer<D: Kernels, C: Comm<D>> {
    /// The model.
    pub model: Model<D>,
    /// The optimiser's state.
    pub optimizer: Optimizer<D>,
    /// Hyperparameters, the same over the run.
    pub hyper: Hyperparameters,
    comm: C,
    gradients: Parameters<D>,
    /// Tokens that went to each expert in the last batch.
    loads: LoadCount<D>,
    /// `[1, n]`: Σ nll of each depth, the balance loss, the routers' loads, and Σ nll of each source. Read once a step.
    report: Tensor<D>,
    squared: Tensor<D>,
    clip: Tensor<D>,
}

impl<D: Kernels, C: Comm<D>> Trainer<D, C> {
    /// Creates a trainer for `model` on rank `comm.rank()`.
    pub fn new(model: Model<D>, comm: C, hyper: Hyperparameters) -> Result<Self, D::Error> {
        let (device, layout) = (model.device().clone(), model.architecture().layout().clone());
        let (master, dtype) = (model.precision().master(), model.precision().statistics());
        let moments = model.precision().moments();
        let columns = columns(&model, 0);
        Ok(Self {
            optimizer: Optimizer::new(&device, &layout, moments)?,
            gradients: Parameters::zeros(&device, &layout, master)?,
            loads: model.load_count()?,
            report: Tensor::<D>::zeros(&device, &[1, columns], dtype)?,
            squared: Tensor::<D>::zeros(&device, &[1, 1], dtype)?,
            clip: Tensor::<D>::zeros(&device, &[1, 1], dtype)?,
            model,
            comm,
            hyper,
        })
    }

    /// Tokens that went to each expert in the last batch, on this rank.
    pub fn loads(&self) -> &LoadCount<D> {
        &self.loads
    }

    /// The gradients of the last step, before clipping.
    pub fn gradients(&self) -> &Parameters<D> {
        &self.gradients
    }

    /// Trains on `batch`, this rank's part of the whole, `micro_batch` sequences at a time.
    ///
    /// # Errors
    /// Of kind [`NonFinite`](crate::error::ErrorKind::NonFinite) where the loss or the gradient is not finite; weights
    /// and moments are then as they were.
    pub fn step(&mut self, batch: &Batch<'_>, micro_batch: usize, rates: &Rates) -> Result<StepReport, D::Error> {
        self.accumulate(batch, micro_batch, rates)?;
        let device = self.model.device().clone();
        let (squared, clip) = (&mut self.squared, &mut self.clip);
        optimizer::clip(&device, &self.gradients, self.hyper.clip_norm, squared, clip)?;
        let weights = self.model.weights_mut();
        self.optimizer.update(&device, weights, &self.gradients, clip.view(), rates.lr, &self.hyper)?;
        self.update_biases(rates.bias_speed)?;

        let report = self.read_report(batch)?;
        if !(report.loss.is_finite() && report.grad_norm.is_finite()) {
            self.optimizer.step -= 1;
            return Err(D::Error::non_finite("the loss or the gradient is not finite"));
        }
        Ok(report)
    }

    /// Adds up the gradients, losses and loads of a batch over all ranks, without an update.
    pub fn accumulate(&mut self, batch: &Batch<'_>, micro_batch: usize, rates: &Rates) -> Result<(), D::Error> {
        let n = batch.sequences();
        multiple("step", "the number of sequences", n, "the micro-batch size", micro_batch)?;
        let depths = self.model.config().num_nextn_predict_layers;
        at_most("step", "the number of MTP modules + 1,", depths + 1, "the sequence length", batch.length)?;
        let device = self.model.device().clone();
        for group in self.gradients.groups_mut() {
            device.fill(Fill::new(group.view_mut(), 0.0))?;
        }
        self.loads.clear(&device)?;
        let scales = self.scales(batch, depths, rates);
        let sources = batch.sources.map_or(0, |s| s.count);
        let mut losses = self.model.losses(depths, sources)?;
        let columns = columns(&self.model, sources);
        if self.report.shape().cols() != columns {
            self.report = Tensor::<D>::zeros(&device, &[1, columns], self.report.dtype())?;
        }
        for start in (0..n).step_by(micro_batch) {
            let inputs = self.model.inputs(&batch.slice(start..start + micro_batch), depths)?;
            let kept = self.model.forward(&inputs, &mut self.loads)?;
            self.model.backward(&inputs, kept, &scales, &mut self.gradients, &mut losses)?;
        }
        let mut column = 0;
        for part in [&losses.nll, &losses.balance].into_iter().chain(&self.loads.layers).chain(&losses.by_source) {
            let width = part.shape().elements();
            let to = self.report.view_mut().columns(column..column + width)?;
            device.cast(Cast::new(part.view().reshape(1, width)?, to)?)?;
            column += width;
        }
        self.comm.all_reduce(&device, self.report.view_mut())?;
        for group in self.gradients.groups_mut() {
            self.comm.all_reduce(&device, group.view_mut())?;
        }
        Ok(())
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

    /// Moves the expert biases by the loads of the whole batch.
    fn update_biases(&mut self, speed: f64) -> Result<(), D::Error> {
        let device = self.model.device().clone();
        let mut column = 2 + self.model.config().num_nextn_predict_layers;
        for router in &mut self.model.routers {
            let width = router.bias.shape().elements();
            if router.bias_name.is_some() && speed != 0.0 {
                let load = self.report.view().columns(column..column + width)?;
                device.update_bias(UpdateBias::new(load, speed, router.bias.view_mut())?)?;
            }
            column += width;
        }
        Ok(())
    }

    fn read_report(&self, batch: &Batch<'_>) -> Result<StepReport, D::Error> {
        let device = self.model.device();
        let depths = self.model.config().num_nextn_predict_layers;
        let values = read(device, &self.report)?;
        let mean = |k: usize| values[k] / (batch.targets(k) * self.comm.world()) as f64;
        let mut rest = values[depths + 2..].iter().map(|&x| x as f32);
        let layers = self.loads.layers.iter().map(|load| rest.by_ref().take(load.shape().elements()).collect());
        Ok(StepReport {
            loss: mean(0),
            mtp_loss: (depths > 0).then(|| (1..=depths).map(mean).sum::<f64>() / depths as f64),
            balance_loss: values[depths + 1],
            grad_norm: libm::sqrt(read(device, &self.squared)?[0]),
            load: ExpertLoad { layers: layers.collect() },
            loss_sums: values[values.len() - batch.sources.map_or(0, |s| s.count)..].to_vec(),
        })
    }
}

/// Numbers that a step reports.
fn columns<D: Kernels>(model: &Model<D>, sources: usize) -> usize {
    let loads: usize = model.routers.iter().map(|r| r.bias.shape().elements()).sum();
    2 + model.config().num_nextn_predict_layers + loads + sources
}

/// The elements of a tensor of statistics.
fn read<D: Kernels>(device: &D, x: &Tensor<D>) -> Result<Vec<f64>, D::Error> {
    match x.dtype() {
        crate::DType::F64 => x.download(device),
        _ => Ok(x.download::<D, f32>(device)?.into_iter().map(f64::from).collect()),
    }
}
