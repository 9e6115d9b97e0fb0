//! The state of training beside the model (`trainer/` in a checkpoint): moments, EMA, counters, data position.

use super::error::CheckpointError;
use super::locate::list;
use super::manifest::Manifest;
use crate::hf::names::AVERAGE;
use crate::hf::safetensors::{ElementType, TensorFile, TensorSpec};
use crate::hf::write::{write_json, write_tensors};
use crate::hf::{Folder, Format, HfError, load_weights};
use fathom_core::comm::Comm;
use fathom_core::device::Kernels;
use fathom_core::train::{Ema, Trainer};
use fathom_core::weights::{Parameter, Parameters};
use fathom_dataprep::Cursor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const STATE: &str = "trainer/state.json";
/// The weights in f32, where the model's own files are in a format that rounds them.
const WEIGHTS: &str = "trainer/weights.safetensors";
/// AdamW's moments, each a file of the model's tensors, in the type they have in training.
const FIRST_MOMENTS: &str = "trainer/m.safetensors";
const SECOND_MOMENTS: &str = "trainer/v.safetensors";
const VERSION: u64 = 1;

/// Counters of a training run. Random numbers are a function of seed and counter, so no generator state is kept.
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
    /// Updates of the EMA of the weights; 0 without an EMA.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ema_updates: u64,
    /// The lowest validation loss measured so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// The checkpoint with the lowest validation loss so far, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_checkpoint: Option<BestCheckpoint>,
    /// `train.seed`.
    pub seed: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Data position: the next sequence.
    pub cursor: Cursor,
    /// Settings that the run's numbers depend on, by key.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// The step with the lowest validation loss of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Steps taken when it was measured.
    pub step: u64,
    /// The loss, nats per token.
    pub validation_loss: f64,
}

/// A checkpoint and its validation loss: the last one measured up to its step, and after the checkpoint before it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestCheckpoint {
    /// Steps taken when it was written.
    pub step: u64,
    /// Steps taken when its loss was measured.
    pub measured_at: u64,
    /// The loss, nats per token.
    pub validation_loss: f64,
}

impl State {
    /// A state with these counters.
    pub fn new(step: u64, tokens: u64, seed: u64, seconds: f64, cursor: Cursor) -> Self {
        Self {
            version: VERSION,
            step,
            tokens,
            optimizer_step: step,
            ema_updates: 0,
            best: None,
            best_checkpoint: None,
            seed,
            seconds,
            cursor,
            settings: BTreeMap::new(),
        }
    }

    /// Reads the counters of the checkpoint in `folder`.
    ///
    /// # Errors
    /// [`HfError::Io`], [`HfError::Json`].
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(STATE);
        let bytes = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        let bad = |problem: String| CheckpointError::from(HfError::Json { path: path.clone(), problem });
        let state: State = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        match state.version {
            VERSION => Ok(state),
            other => Err(bad(format!("version {other}, where this program reads {VERSION}"))),
        }
    }

    /// Checks that the settings that matter are those of the run that wrote the checkpoint.
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

/// The checkpoint with the lowest validation loss of the run in `root`, by what its newest complete checkpoint says;
/// `None` where it was removed.
///
/// # Errors
/// [`HfError::Io`], [`HfError::Json`].
pub fn best(root: &Path) -> Result<Option<BestCheckpoint>, CheckpointError> {
    let complete = list(root)?;
    let Some((_, newest)) = complete.first() else { return Ok(None) };
    let State { best, best_checkpoint, .. } = State::read(newest)?;
    // A state that names no checkpoint still names the step, at which there may be one.
    let at =
        |best: Best| BestCheckpoint { step: best.step, measured_at: best.step, validation_loss: best.validation_loss };
    let best = best_checkpoint.or(best.map(at));
    Ok(best.filter(|best| complete.iter().any(|(step, _)| *step == best.step)))
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Writes `trainer/` into a draft whose model was written in `format`.
///
/// # Errors
/// [`HfError::Io`], [`HfError::Device`].
pub fn save_trainer<D: Kernels, C: Comm<D>>(
    draft: &mut dyn Folder,
    trainer: &Trainer<D, C>,
    average: Option<&Ema>,
    format: Format,
    state: &State,
) -> Result<(), HfError> {
    let device = trainer.model.device();
    if format != Format::F32 {
        save_parameters(draft, device, trainer.model.weights(), WEIGHTS)?;
    }
    save_parameters(draft, device, &trainer.optimizer.m, FIRST_MOMENTS)?;
    save_parameters(draft, device, &trainer.optimizer.v, SECOND_MOMENTS)?;
    let average = average.filter(|average| average.updates() > 0);
    if let Some(average) = average {
        save_average(draft, average)?;
    }
    let ema_updates = average.map_or(0, Ema::updates);
    let state = State { optimizer_step: trainer.optimizer.step, ema_updates, ..state.clone() };
    write_json(draft, STATE, &state)
}

fn save_parameters<D: Kernels>(
    draft: &mut dyn Folder,
    device: &D,
    values: &Parameters<D>,
    path: &str,
) -> Result<(), HfError> {
    let (parameters, dtype) = (values.layout().parameters(), ElementType::of(values.dtype()));
    let specs: Vec<TensorSpec> =
        parameters.iter().map(|p| TensorSpec { name: p.name.clone(), shape: p.shape(), dtype }).collect();
    write_tensors(draft, path, &specs, |index, bytes| values.read(device, &parameters[index], bytes))
}

fn save_average(draft: &mut dyn Folder, average: &Ema) -> Result<(), HfError> {
    let parameters = average.layout().parameters();
    let spec = |p: &Parameter| TensorSpec { name: p.name.clone(), shape: p.shape(), dtype: ElementType::F32 };
    let specs: Vec<TensorSpec> = parameters.iter().map(spec).collect();
    write_tensors(draft, AVERAGE, &specs, |index, bytes| {
        bytes.copy_from_slice(bytemuck::cast_slice(average.parameter(&parameters[index])));
        Ok::<(), HfError>(())
    })
}

/// Fills `average` from the checkpoint in `folder`; it stays empty where the run kept none until then.
///
/// # Errors
/// A tensor that is missing, or of the wrong shape or type.
pub fn load_average(average: &mut Ema, folder: &Path, state: &State) -> Result<(), HfError> {
    if state.ema_updates == 0 {
        return Ok(());
    }
    let path = folder.join(AVERAGE);
    let (mut file, mut bytes) = (TensorFile::open(&path)?, Vec::new());
    average.restore(state.ema_updates, |parameter, values| {
        read_parameter(&mut file, parameter, ElementType::F32, &mut bytes)?;
        bytemuck::cast_slice_mut(values).copy_from_slice(&bytes);
        Ok(())
    })
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
        read_parameter(&mut file, parameter, dtype, &mut bytes)?;
        values.write(device, parameter, &bytes).map_err(HfError::device(&parameter.name))?;
    }
    Ok(())
}

/// Replaces `bytes` by those of a parameter, which must have its shape and be of `dtype`.
fn read_parameter(
    file: &mut TensorFile,
    parameter: &Parameter,
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
    file.read_bytes(&entry, 0..entry.elements(), bytes)
}
