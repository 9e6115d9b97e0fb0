//! Finds checkpoints: all of a run, the newest complete one, and the model folder that a user's path leads to.

use super::error::CheckpointError;
use super::manifest::{FORMAT, MANIFEST, Manifest};
use crate::hf::names::AVERAGE;
use crate::hf::{CONFIG, no_model};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder named like a checkpoint, complete or damaged.
#[derive(Debug)]
pub struct Found {
    /// Its step.
    pub step: u64,
    /// Path of the folder.
    pub folder: PathBuf,
    /// Damage that keeps it from being a complete checkpoint, if any.
    pub damage: Option<CheckpointError>,
}

/// Lists every folder in an output folder that is named like a checkpoint, newest first.
///
/// # Errors
/// [`HfError::Io`](crate::hf::HfError::Io) when the folder cannot be listed; a folder that does not exist holds none.
pub fn survey(root: &Path) -> Result<Vec<Found>, CheckpointError> {
    let check = |step: u64, folder: &Path| {
        let manifest = Manifest::read(folder)?;
        if manifest.step != step {
            let problem = format!("belongs to step {}, not to the folder it is in", manifest.step);
            return Err(CheckpointError::Changed { path: folder.join(MANIFEST), problem });
        }
        manifest.check_sizes(folder)
    };
    let mut found: Vec<Found> = entries(root)?
        .into_iter()
        .filter_map(|folder| {
            let step = step_of(&folder)?;
            Some(Found { step, damage: check(step, &folder).err(), folder })
        })
        .collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.step));
    Ok(found)
}

/// Lists the complete checkpoints in an output folder, newest first: `(step, folder)`.
///
/// # Errors
/// As [`survey`].
pub fn list(root: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let complete = survey(root)?.into_iter().filter(|found| found.damage.is_none());
    Ok(complete.map(|found| (found.step, found.folder)).collect())
}

/// Finds the newest complete checkpoint in an output folder; `None` where there is not even a damaged one.
///
/// # Errors
/// What is wrong with the newest where none is complete; those of [`survey`].
pub fn latest(root: &Path) -> Result<Option<(u64, PathBuf)>, CheckpointError> {
    let mut damage = None;
    for found in survey(root)? {
        match found.damage {
            None => return Ok(Some((found.step, found.folder))),
            Some(error) => damage = damage.or(Some(error)),
        }
    }
    damage.map_or(Ok(None), Err)
}

/// A located model folder, and the damaged checkpoints that were passed over.
#[derive(Debug)]
pub struct Located {
    /// The model folder.
    pub folder: PathBuf,
    /// Newer checkpoints of the same run that are incomplete or damaged, newest first.
    pub passed_over: Vec<Found>,
}

impl Located {
    /// One line for each checkpoint that was passed over, with the reason.
    pub fn notes(&self) -> Vec<String> {
        let note = |found: &Found| {
            let damage = found.damage.as_ref().map_or(String::new(), |damage| format!(": {damage}"));
            format!("passing over {}{damage}", found.folder.display())
        };
        self.passed_over.iter().map(note).collect()
    }

    /// Compares the model's weights with the SHA-256 in the manifest, and their moving average too if `average` is set.
    /// Text files may be edited; the state of training is not read. A folder without a manifest passes.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] names the first file that differs.
    pub fn verify(&self, average: bool) -> Result<(), CheckpointError> {
        let Some(mut manifest) = manifest_of(&self.folder)? else { return Ok(()) };
        manifest.files.retain(|file| is_weights(&file.path) || (average && file.path == AVERAGE));
        manifest.check_contents(&self.folder)
    }
}

/// The manifest of a model folder, if it has one. Other programs' model folders may hold a `manifest.json` of another
/// kind.
pub(super) fn manifest_of(folder: &Path) -> Result<Option<Manifest>, CheckpointError> {
    let path = folder.join(MANIFEST);
    if !path.is_file() {
        return Ok(None);
    }
    let foreign = || {
        let bytes = fs::read(&path).ok()?;
        let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        Some(json.get("format").and_then(|format| format.as_str()) != Some(FORMAT))
    };
    if step_of(folder).is_none() && foreign() == Some(true) { Ok(None) } else { Manifest::read(folder).map(Some) }
}

/// Whether a file of a checkpoint holds weights of the model.
pub(super) fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors") && !path.starts_with("trainer/")
}

/// The snapshot of a folder `models--OWNER--NAME` of the Hugging Face hub's cache: the one that `refs/main` names, or
/// else the only one. `None` for other folders.
fn snapshot(path: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let snapshots = path.join("snapshots");
    if path.join(CONFIG).is_file() || !snapshots.is_dir() {
        return Ok(None);
    }
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    let main = fs::read_to_string(path.join("refs/main")).ok();
    let named = main.as_deref().map(str::trim).filter(|name| plain(name)).map(|name| snapshots.join(name));
    if let Some(folder) = named.filter(|folder| folder.join(CONFIG).is_file()) {
        return Ok(Some(folder));
    }
    let mut whole: Vec<PathBuf> =
        entries(&snapshots)?.into_iter().filter(|folder| folder.join(CONFIG).is_file()).collect();
    Ok(if whole.len() == 1 { whole.pop() } else { None })
}

/// Locates the model folder that `path` leads to: itself, the newest complete checkpoint of the run in it, or the
/// snapshot of a model in the Hugging Face hub's cache.
///
/// A folder that is named is never replaced by another; its weights must have the sizes in its manifest, if it has one.
///
/// # Errors
/// [`HfError::NoModel`](crate::hf::HfError::NoModel) where there is none; [`CheckpointError::Changed`] for a damaged
/// folder that was named.
pub fn locate(path: &Path) -> Result<Located, CheckpointError> {
    if let Some(snapshot) = snapshot(path)? {
        return Ok(Located { folder: snapshot, passed_over: Vec::new() });
    }
    if path.join(CONFIG).is_file() || step_of(path).is_some() {
        if let Some(mut manifest) = manifest_of(path)? {
            manifest.files.retain(|file| is_weights(&file.path));
            manifest.check_sizes(path)?;
        }
        if !path.join(CONFIG).is_file() {
            return Err(no_model(path, CONFIG).into());
        }
        return Ok(Located { folder: path.into(), passed_over: Vec::new() });
    }
    let mut passed_over = Vec::new();
    for found in if path.is_dir() { survey(path)? } else { Vec::new() } {
        if found.damage.is_none() {
            return Ok(Located { folder: found.folder, passed_over });
        }
        passed_over.push(found);
    }
    // None is complete: what is wrong with the newest.
    let damage = passed_over.into_iter().next().and_then(|found| found.damage);
    Err(damage.unwrap_or_else(|| no_model(path, CONFIG).into()))
}

fn step_of(folder: &Path) -> Option<u64> {
    let digits = folder.file_name()?.to_str()?.strip_prefix("step-")?;
    let plain = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

pub(super) fn entries(root: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let failed = CheckpointError::io("list", root);
    let listing = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
        Ok(listing) => listing,
    };
    let paths: io::Result<Vec<PathBuf>> = listing.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(failed)
}
