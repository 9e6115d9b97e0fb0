//! What training needs beside the model to go on as if it had never stopped: `trainer/` in a checkpoint.

use super::commit::{Draft, Manifest};
use super::error::CheckpointError;
use super::model::{device_error, load_weights, write_json, write_tensors};
use super::safetensors::{TensorFile, TensorSpec};
use fathom_core::DType;
use fathom_core::comm::Comm;
use fathom_core::device::Kernels;
use fathom_core::model::{Parameter, Parameters};
use fathom_core::train::Trainer;
use fathom_dataprep::Cursor;
use half::bf16;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const STATE: &str = "trainer/state.json";
/// AdamW's moments, each a file of the model's tensors. The weights themselves are the model's: they are f32 there too.
const FIRST_MOMENTS: &str = "trainer/m.safetensors";
const SECOND_MOMENTS: &str = "trainer/v.safetensors";
const VERSION: u64 = 1;

/// The counters of a training run. Random numbers are a function of seed and counter, so the seed is all there is to
/// keep of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u64,
    /// Steps taken.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Updates of the optimiser.
    pub optimizer_step: u64,
    /// `train.seed`.
    pub seed: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The next sequence.
    pub cursor: Cursor,
    /// Settings that the run's numbers depend on, by key.
    pub settings: BTreeMap<String, serde_json::Value>,
}

impl State {
    /// Counters as they are now.
    pub fn new(step: u64, tokens: u64, seed: u64, seconds: f64, cursor: Cursor) -> Self {
        Self { version: VERSION, step, tokens, optimizer_step: step, seed, seconds, cursor, settings: BTreeMap::new() }
    }

    /// Reads the counters of the checkpoint in `folder`.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::Json`].
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(STATE);
        let bytes = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        let bad = |problem: String| CheckpointError::Json { path: path.clone(), problem };
        let state: State = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        match state.version {
            VERSION => Ok(state),
            other => Err(bad(format!("version {other}, where this program reads {VERSION}"))),
        }
    }

    /// Refuses to go on with settings that would make another run of it.
    ///
    /// # Errors
    /// [`CheckpointError::ConfigDiffers`] names the first key.
    pub fn check(&self, folder: &Path, now: &BTreeMap<String, serde_json::Value>) -> Result<(), CheckpointError> {
        let keys = self.settings.keys().chain(now.keys().filter(|key| !self.settings.contains_key(*key)));
        let text = |value: Option<&serde_json::Value>| value.map_or("not set".into(), ToString::to_string);
        for key in keys {
            let (saved, current) = (self.settings.get(key), now.get(key));
            if saved != current {
                let (saved, current) = (text(saved), text(current));
                return Err(CheckpointError::ConfigDiffers { path: folder.into(), key: key.clone(), saved, current });
            }
        }
        Ok(())
    }
}

/// Writes `trainer/` into a draft.
///
/// # Errors
/// [`CheckpointError::Io`], [`CheckpointError::Device`].
pub fn save_trainer<D: Kernels, C: Comm<D>>(
    draft: &mut Draft<'_>,
    trainer: &Trainer<D, C>,
    state: &State,
) -> Result<(), CheckpointError> {
    for (path, moments) in [(FIRST_MOMENTS, &trainer.optimizer.m), (SECOND_MOMENTS, &trainer.optimizer.v)] {
        let parameters = moments.layout().parameters();
        let specs: Vec<TensorSpec> =
            parameters.iter().map(|p| TensorSpec { name: p.name.clone(), shape: p.shape() }).collect();
        let device = trainer.model.device();
        write_tensors(draft, path, &specs, |index, bytes| read_f32(device, moments, &parameters[index], bytes))?;
    }
    let state = State { optimizer_step: trainer.optimizer.step, ..state.clone() };
    write_json(draft, STATE, &state)
}

/// Fills `trainer` from the checkpoint in `folder`: weights, expert biases and moments, all verified by checksum.
///
/// # Errors
/// [`CheckpointError::Changed`] where a file is not what was written; those of [`load_weights`].
pub fn load_trainer<D: Kernels, C: Comm<D>>(
    trainer: &mut Trainer<D, C>,
    folder: &Path,
    state: &State,
) -> Result<(), CheckpointError> {
    Manifest::read(folder)?.check_contents(folder)?;
    load_weights(&mut trainer.model, folder)?;
    let device = trainer.model.device().clone();
    load_moments(&device, &mut trainer.optimizer.m, &folder.join(FIRST_MOMENTS))?;
    load_moments(&device, &mut trainer.optimizer.v, &folder.join(SECOND_MOMENTS))?;
    trainer.optimizer.step = state.optimizer_step;
    Ok(())
}

fn load_moments<D: Kernels>(device: &D, moments: &mut Parameters<D>, path: &Path) -> Result<(), CheckpointError> {
    let mut file = TensorFile::open(path)?;
    let mut values = Vec::new();
    for parameter in moments.layout().clone().parameters() {
        let found = file.entry(&parameter.name).map(|entry| entry.shape.clone());
        if let Some(found) = found.filter(|found| *found != parameter.shape()) {
            return Err(CheckpointError::WrongShape {
                path: path.into(),
                tensor: parameter.name.clone(),
                expected: parameter.shape(),
                found,
            });
        }
        file.read_f32(&parameter.name, &mut values)?;
        write_f32(device, moments, parameter, &values).map_err(device_error(&parameter.name))?;
    }
    Ok(())
}

/// A parameter's moments as f32, whatever they are kept in.
fn read_f32<D: Kernels>(
    device: &D,
    moments: &Parameters<D>,
    parameter: &Parameter,
    bytes: &mut [u8],
) -> Result<(), D::Error> {
    if moments.dtype() != DType::BF16 {
        return moments.read(device, parameter, bytes);
    }
    let mut narrow = vec![bf16::ZERO; parameter.elements()];
    moments.read(device, parameter, bytemuck::cast_slice_mut(&mut narrow))?;
    for (to, x) in bytes.chunks_exact_mut(4).zip(narrow) {
        to.copy_from_slice(&x.to_f32().to_le_bytes());
    }
    Ok(())
}

fn write_f32<D: Kernels>(
    device: &D,
    moments: &mut Parameters<D>,
    parameter: &Parameter,
    values: &[f32],
) -> Result<(), D::Error> {
    if moments.dtype() != DType::BF16 {
        return moments.write(device, parameter, bytemuck::cast_slice(values));
    }
    let narrow: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
    moments.write(device, parameter, bytemuck::cast_slice(&narrow))
}
