//! The state of training beside the model (`trainer/` in a checkpoint): moments, EMA, counters, data position.

use super::error::CheckpointError;
use super::locate::list;
use crate::hf::HfError;
use fathom_dataprep::Cursor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub(super) const STATE: &str = "trainer/state.json";
/// The weights in f32, where the model's own files are in a format that rounds them.
pub(super) const WEIGHTS: &str = "trainer/weights.safetensors";
/// AdamW's moments, each a file of the model's tensors, in the type they have in training.
pub(super) const FIRST_MOMENTS: &str = "trainer/m.safetensors";
pub(super) const SECOND_MOMENTS: &str = "trainer/v.safetensors";
const VERSION: u64 = 1;
/// Settings that checkpoints of earlier versions do not have, and that change the last bits of a run at most.
const ADDED: &[&str] = &["train.sum"];

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
    /// The steps that a spike is measured against, where spikes are looked for.
    #[serde(default, skip_serializing_if = "SpikeWindow::is_empty")]
    pub spikes: SpikeWindow,
    /// `train.seed`.
    pub seed: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Data position: the next sequence.
    pub cursor: Cursor,
    /// Settings that the run's numbers depend on, by key.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// Gradient norms and losses of the last steps, the newest last. In f32, whose decimals are read back to the same bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpikeWindow {
    /// Spikes since the last step that was applied, or returns to the newest checkpoint.
    pub in_a_row: u64,
    /// L2 norms of all gradients, before clipping.
    pub grad_norm: Vec<f32>,
    /// Training losses, nats per token.
    pub loss: Vec<f32>,
}

impl SpikeWindow {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
            spikes: SpikeWindow::default(),
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
        for key in keys.filter(|key| !ADDED.contains(&key.as_str()) || self.settings.contains_key(*key)) {
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
