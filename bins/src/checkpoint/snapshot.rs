//! A copy of a run's state in host memory, from which a checkpoint is written while training goes on.

use fathom_core::comm::{Comm, Solo};
use fathom_core::device::{Device, Kernels};
use fathom_core::error::{DeviceError, InvalidOp};
use fathom_core::model::Model;
use fathom_core::tensor::Tensor;
use fathom_core::train::{Ema, EmaMemory, Optimizer, Shards, Trainer};
use fathom_core::weights::Parameters;
use fathom_cpu::{Cpu, CpuError};
use fathom_dataprep::Tokenizer;

use super::commit::Draft;
use super::error::CheckpointError;
use super::state::State;
use super::together::{Files, Source, save_from};
use crate::hf::{Format, HfError};

/// Weights, moments, expert biases and the average of a trainer that is alone, as they were when they were
/// [taken](Self::take).
pub struct Snapshot {
    device: Cpu,
    shards: Shards,
    model: Model<Cpu>,
    optimizer: Optimizer<Cpu>,
    average: Option<Ema<Cpu>>,
    tokenizer: Option<Tokenizer>,
}

impl Snapshot {
    /// Makes room for the state of `trainer`, whose rank is alone, and takes the tokenizer of its checkpoints.
    ///
    /// # Errors
    /// Where the host has not enough memory.
    pub fn new<D: Kernels, C: Comm<D>>(
        trainer: &Trainer<D, C>,
        average: Option<&Ema<D>>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Self, HfError> {
        let (device, from) = (Cpu::open(1).map_err(failed())?, &trainer.model);
        let layout = from.architecture().layout();
        let whole: Vec<_> = layout.groups().iter().map(|group| 0..group.elements()).collect();
        let model = Model::part(&device, from.config(), from.precision(), whole.clone()).map_err(failed())?;
        let moments = trainer.optimizer.m.dtype();
        let optimizer = Optimizer::new(&device, layout, moments, whole).map_err(failed())?;
        let average = average.map(|_| Ema::new(&device, 0.0, layout, EmaMemory::Host)).transpose().map_err(failed())?;
        Ok(Self { shards: Shards::new(layout, 0, 1), model, optimizer, average, tokenizer: tokenizer.cloned(), device })
    }

    /// Copies the state as it is now. Waits for the device.
    ///
    /// # Errors
    /// Those of the device; a trainer of another model.
    pub fn take<D: Kernels, C: Comm<D>>(
        &mut self,
        trainer: &Trainer<D, C>,
        average: Option<&Ema<D>>,
    ) -> Result<(), HfError> {
        let (from, to) = (trainer.model.device(), &self.device);
        let optimizer = &trainer.optimizer;
        let pairs = [
            (trainer.model.weights(), self.model.weights_mut()),
            (&optimizer.m, &mut self.optimizer.m),
            (&optimizer.v, &mut self.optimizer.v),
        ];
        pairs.into_iter().try_for_each(|(source, copy)| copy_all(from, source, to, copy))?;
        for (router, copy) in trainer.model.routers.iter().zip(&mut self.model.routers) {
            copy_tensor(from, &router.bias, to, &mut copy.bias)?;
        }
        self.optimizer.step = optimizer.step;
        let (Some(average), Some(copy)) = (average, &mut self.average) else { return Ok(()) };
        copy.clear(to).map_err(failed())?;
        if average.updates() == 0 {
            return Ok(());
        }
        copy.restore(
            to,
            average.updates(),
            |parameter, values| average.read(from, parameter, bytemuck::cast_slice_mut(values)).map_err(failed()),
            |_, error| failed()(error),
        )
    }

    /// Writes a checkpoint of the copy into a draft, which may then be committed.
    ///
    /// # Errors
    /// As [`save`](super::save).
    pub fn save(
        &self,
        draft: &mut Draft<'_>,
        format: Format,
        shard_bytes: u64,
        state: &State,
    ) -> Result<(), CheckpointError> {
        let Self { shards, model, optimizer, average, tokenizer, .. } = self;
        let files = Files { average: average.as_ref(), tokenizer: tokenizer.as_ref(), format, shard_bytes };
        save_from(draft, Source { comm: &Solo, shards, model, optimizer }, files, state)
    }
}

fn failed<E: DeviceError>() -> impl FnOnce(E) -> HfError {
    HfError::device("copying the state for a checkpoint")
}

fn copy_all<D: Kernels>(from: &D, source: &Parameters<D>, to: &Cpu, copy: &mut Parameters<Cpu>) -> Result<(), HfError> {
    source.groups().iter().zip(copy.groups_mut()).try_for_each(|(source, copy)| copy_tensor(from, source, to, copy))
}

/// Copies a whole tensor to one of the same size, with no memory in between.
fn copy_tensor<D: Device>(from: &D, source: &Tensor<D>, to: &Cpu, copy: &mut Tensor<Cpu>) -> Result<(), HfError> {
    let bytes = source.bytes();
    let (view, mut target) = (source.view(), copy.view_mut());
    let offset = target.offset() * target.dtype().size();
    let place = to.host_bytes_mut(target.buffer_mut()).and_then(|place| place.get_mut(offset..offset + bytes));
    let other = || CpuError::from(InvalidOp::plain("snapshot", "has a tensor of another size"));
    let place = place.ok_or_else(other).map_err(failed())?;
    from.download(view.buffer(), view.offset() * view.dtype().size(), place).map_err(failed())
}
