//! A trainer from a checkpoint, or one rank's part of it.

use std::ops::Range;
use std::path::Path;

use fathom_core::comm::Comm;
use fathom_core::device::Kernels;
use fathom_core::train::{Ema, Trainer};
use fathom_core::weights::{Parameter, Parameters};

use super::error::CheckpointError;
use super::state::{FIRST_MOMENTS, SECOND_MOMENTS, State, WEIGHTS};
use super::together;
use crate::hf::names::AVERAGE;
use crate::hf::safetensors::{ElementType, TensorFile};
use crate::hf::{HfError, load_weights};

/// Fills `average` from the checkpoint in `folder`, as far as it is kept here; it stays empty where the run kept none
/// until then.
///
/// # Errors
/// A tensor that is missing, or of the wrong shape or type.
pub fn load_average<D: Kernels>(device: &D, average: &mut Ema<D>, folder: &Path, state: &State) -> Result<(), HfError> {
    if state.ema_updates == 0 {
        return Ok(());
    }
    let path = folder.join(AVERAGE);
    let (mut file, mut bytes) = (TensorFile::open(&path)?, Vec::new());
    let (layout, held) = (average.layout().clone(), average.held().to_vec());
    let fill = |parameter: &Parameter, values: &mut [f32]| {
        let range = layout.within(parameter, &held[parameter.slot.group()]);
        read_parameter(&mut file, parameter, range, ElementType::F32, &mut bytes)?;
        bytemuck::cast_slice_mut(values).copy_from_slice(&bytes);
        Ok(())
    };
    average.restore(device, state.ema_updates, fill, |parameter, error| HfError::device(&parameter.name)(error))
}

/// Fills `trainer` from the checkpoint in `folder`: weights, expert biases and moments, all verified by checksum. Each
/// of several ranks verifies some of the files, and reads what it keeps.
///
/// # Errors
/// [`CheckpointError::Changed`] where a file is not what was written; those of [`load_weights`].
pub fn load_trainer<D: Kernels, C: Comm<D>>(
    trainer: &mut Trainer<D, C>,
    folder: &Path,
    state: &State,
) -> Result<(), CheckpointError> {
    together::verify(trainer.comm(), folder)?;
    load_weights(&mut trainer.model, folder)?;
    let device = trainer.model.device().clone();
    let weights = folder.join(WEIGHTS);
    if weights.exists() {
        load_parameters(&device, trainer.model.weights_mut(), &weights)?;
    }
    load_parameters(&device, &mut trainer.optimizer.m, &folder.join(FIRST_MOMENTS))?;
    load_parameters(&device, &mut trainer.optimizer.v, &folder.join(SECOND_MOMENTS))?;
    trainer.optimizer.step = state.optimizer_step;
    Ok(())
}

fn load_parameters<D: Kernels>(device: &D, values: &mut Parameters<D>, path: &Path) -> Result<(), HfError> {
    let mut file = TensorFile::open(path)?;
    let (mut bytes, dtype) = (Vec::new(), ElementType::of(values.dtype()));
    for parameter in values.layout().clone().parameters() {
        let range = values.held_of(parameter);
        read_parameter(&mut file, parameter, range.clone(), dtype, &mut bytes)?;
        values.write_range(device, parameter, range, &bytes).map_err(HfError::device(&parameter.name))?;
    }
    Ok(())
}

/// Replaces `bytes` by those of elements `range` of a parameter, which must have its shape and be of `dtype`.
fn read_parameter(
    file: &mut TensorFile,
    parameter: &Parameter,
    range: Range<usize>,
    dtype: ElementType,
    bytes: &mut Vec<u8>,
) -> Result<(), HfError> {
    let (path, tensor, expected) = (file.path().to_path_buf(), parameter.name.clone(), parameter.shape());
    let Some(entry) = file.entry(&tensor).cloned() else {
        return Err(HfError::MissingTensor { path, tensor });
    };
    if entry.shape != expected {
        return Err(HfError::WrongShape { path, tensor, expected, found: entry.shape });
    }
    if entry.dtype != dtype {
        let remedy = "training in this precision keeps it in another type: set train.precision back";
        return Err(HfError::WrongType { path, tensor, dtype: entry.dtype.name().into(), remedy });
    }
    bytes.clear();
    file.read_bytes(&entry, range, bytes)
}
