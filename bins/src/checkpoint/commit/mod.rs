//! Atomic commit of a checkpoint: files are written aside, synced and renamed; only then are old checkpoints removed.
//!
//! ```text
//! OUTPUT/step-00001000.tmp-4711/...    1 every file is written and synced
//!                         /manifest.json   2 sizes and SHA-256 of all of them, last; then the folders are synced
//! OUTPUT/step-00001000/                3 renamed, and OUTPUT synced: from here on it counts
//! OUTPUT/step-00000400/                4 removed, where there are more than are to be kept
//! ```
//!
//! Whatever stops a save before 3 leaves the earlier checkpoints as they were. Nothing says which is the latest: it is
//! the highest step whose folder has a manifest that its files agree with.

use super::error::CheckpointError;
use super::store::{Store, StoreFile};
use crate::hf::names::AVERAGE;
use crate::hf::write::Fill;
use crate::hf::{CONFIG, Folder, HfError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The manifest's name in a checkpoint.
pub const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "fathom-checkpoint";
const VERSION: u64 = 1;

/// The list of a checkpoint's files, with sizes and SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u64,
    /// Steps taken when it was written.
    pub step: u64,
    /// Its files.
    pub files: Vec<FileEntry>,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path below the checkpoint's folder, parts divided by `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of the checkpoint in `folder`.
    ///
    /// # Errors
    /// [`HfError::Io`]; [`HfError::Json`] where it is not one, or names files outside the folder.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(MANIFEST);
        let bytes = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        let bad = |problem: String| CheckpointError::from(HfError::Json { path: path.clone(), problem });
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let (format, version) = (&manifest.format, manifest.version);
            return Err(bad(format!("{format} {version}, where this program reads {FORMAT} {VERSION}")));
        }
        let plain = |path: &str| Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        match manifest.files.iter().find(|file| file.path.is_empty() || !plain(&file.path)) {
            Some(file) => Err(bad(format!("`{}` is no path inside the checkpoint", file.path))),
            None => Ok(manifest),
        }
    }

    /// Checks that every file has its size.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] names the first that has not, [`HfError::Io`] one that cannot be found.
    pub fn check_sizes(&self, folder: &Path) -> Result<(), CheckpointError> {
        for file in &self.files {
            let path = folder.join(&file.path);
            let found = fs::metadata(&path).map_err(CheckpointError::io("find", &path))?.len();
            if found != file.bytes {
                let problem = format!("has {found} bytes where {MANIFEST} says {}", file.bytes);
                return Err(CheckpointError::Changed { path, problem });
            }
        }
        Ok(())
    }

    /// Checks that every file has its contents.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] names the first that has not.
    pub fn check_contents(&self, folder: &Path) -> Result<(), CheckpointError> {
        self.check_sizes(folder)?;
        for file in &self.files {
            let path = folder.join(&file.path);
            let found = hash_file(&path).map_err(CheckpointError::io("read", &path))?;
            if found != file.sha256 {
                let problem = format!("has SHA-256 {found} where {MANIFEST} says {}", file.sha256);
                return Err(CheckpointError::Changed { path, problem });
            }
        }
        Ok(())
    }
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash)),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A checkpoint, or another folder, being written. Dropped without [`commit`](Self::commit), it leaves nothing.
pub struct Draft<'a> {
    store: &'a dyn Store,
    target: PathBuf,
    aside: PathBuf,
    /// Of a checkpoint. A plain folder gets no manifest, and its files are not hashed.
    step: Option<u64>,
    files: Vec<FileEntry>,
    /// Folders below `aside` that hold files, to be synced.
    folders: Vec<PathBuf>,
    committed: bool,
}

/// A file of a draft, hashed as it is written.
pub struct DraftFile {
    file: Box<dyn StoreFile>,
    hash: Option<Sha256>,
    bytes: u64,
}

impl Write for DraftFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&bytes[..written]);
        }
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<'a> Draft<'a> {
    /// Begins the checkpoint of `step` in the output folder `root`.
    ///
    /// # Errors
    /// [`HfError::Io`].
    pub fn begin(store: &'a dyn Store, root: &Path, step: u64) -> Result<Self, CheckpointError> {
        Self::new(store, root.join(name(step)), Some(step))
    }

    /// Begins a folder that is no checkpoint. Nothing may be at `target` when it is committed.
    ///
    /// # Errors
    /// [`HfError::Io`].
    pub fn plain(store: &'a dyn Store, target: &Path) -> Result<Self, CheckpointError> {
        Self::new(store, target.to_path_buf(), None)
    }

    fn new(store: &'a dyn Store, target: PathBuf, step: Option<u64>) -> Result<Self, CheckpointError> {
        let mut aside = target.clone().into_os_string();
        aside.push(format!(".tmp-{}", std::process::id()));
        let aside = PathBuf::from(aside);
        store.create_dir(&aside).map_err(CheckpointError::io("create", &aside))?;
        Ok(Self { store, target, aside, step, files: Vec::new(), folders: Vec::new(), committed: false })
    }

    /// Where the checkpoint's files are until it is committed.
    pub fn folder(&self) -> &Path {
        &self.aside
    }

    /// Writes `bytes` as the file at `path`.
    ///
    /// # Errors
    /// [`HfError::Io`].
    pub fn write_bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), HfError> {
        self.write(path, &mut |file, target| file.write_all(bytes).map_err(HfError::io("write", target)))
    }

    fn target(&mut self, path: &str) -> Result<PathBuf, HfError> {
        let target = self.aside.join(path);
        if let Some(folder) = target.parent().filter(|folder| **folder != self.aside)
            && !self.folders.iter().any(|known| known == folder)
        {
            self.store.create_dir(folder).map_err(HfError::io("create", folder))?;
            self.folders.push(folder.to_path_buf());
        }
        Ok(target)
    }

    /// Gives the draft its name. After a checkpoint, those that `keep` does not keep are removed. Returns the folder.
    ///
    /// # Errors
    /// [`HfError::Io`]; unless it happened while an old one was removed, there is no new folder then.
    pub fn commit(mut self, keep: Keep) -> Result<PathBuf, CheckpointError> {
        if let Some(step) = self.step {
            self.write_manifest(step)?;
        }
        for folder in self.folders.iter().chain([&self.aside]) {
            self.store.sync_dir(folder).map_err(CheckpointError::io("sync", folder))?;
        }
        let target = self.target.clone();
        if self.step.is_some() && target.exists() {
            // Not a complete checkpoint: a run does not save a step that it found saved.
            self.store.remove_dir(&target).map_err(CheckpointError::io("remove", &target))?;
        }
        self.store.rename(&self.aside, &target).map_err(CheckpointError::io("rename", &self.aside))?;
        self.committed = true;
        let root = target.parent().filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.store.sync_dir(root).map_err(CheckpointError::io("sync", root))?;
        if self.step.is_some() {
            prune(self.store, root, keep)?;
        }
        Ok(target)
    }

    fn write_manifest(&mut self, step: u64) -> Result<(), CheckpointError> {
        let files = std::mem::take(&mut self.files);
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, step, files };
        let json = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| HfError::Json { path: self.aside.join(MANIFEST), problem: error.to_string() })?;
        Ok(self.write_bytes(MANIFEST, &json)?)
    }
}

impl Folder for Draft<'_> {
    fn path(&self) -> &Path {
        &self.aside
    }

    /// Writes the file, hashes it, and syncs it.
    fn write(&mut self, path: &str, fill: Fill<'_>) -> Result<(), HfError> {
        let target = self.target(path)?;
        let file = self.store.create(&target).map_err(HfError::io("create", &target))?;
        let mut file = DraftFile { file, hash: self.step.map(|_| Sha256::new()), bytes: 0 };
        fill(&mut file, &target)?;
        file.file.sync().map_err(HfError::io("sync", &target))?;
        if let Some(hash) = file.hash {
            self.files.push(FileEntry { path: path.into(), bytes: file.bytes, sha256: hex(hash) });
        }
        Ok(())
    }

    fn adopt(&mut self, path: &str) -> Result<(), HfError> {
        let target = self.aside.join(path);
        self.store.sync_file(&target).map_err(HfError::io("sync", &target))?;
        let bytes = fs::metadata(&target).map_err(HfError::io("find", &target))?.len();
        let sha256 = hash_file(&target).map_err(HfError::io("read", &target))?;
        self.files.push(FileEntry { path: path.into(), bytes, sha256 });
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // What cannot be removed now is removed at the next start.
            let _ = self.store.remove_dir(&self.aside);
        }
    }
}

/// The folder name of a step's checkpoint.
pub fn name(step: u64) -> String {
    format!("step-{step:08}")
}

fn step_of(folder: &Path) -> Option<u64> {
    let digits = folder.file_name()?.to_str()?.strip_prefix("step-")?;
    let plain = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// A folder that is named like a checkpoint.
#[derive(Debug)]
pub struct Found {
    /// Its step.
    pub step: u64,
    /// Where it is.
    pub folder: PathBuf,
    /// What keeps it from being a complete checkpoint, if anything.
    pub damage: Option<CheckpointError>,
}

/// Every folder of an output folder that is named like a checkpoint, newest first.
///
/// # Errors
/// [`HfError::Io`] when the folder cannot be listed; a folder that does not exist holds none.
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

/// The complete checkpoints in an output folder, newest first: `(step, folder)`.
///
/// # Errors
/// As [`survey`].
pub fn list(root: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let complete = survey(root)?.into_iter().filter(|found| found.damage.is_none());
    Ok(complete.map(|found| (found.step, found.folder)).collect())
}

/// The newest complete checkpoint in an output folder; `None` where there is not even a damaged one.
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

/// The model folder that a path leads to.
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
fn manifest_of(folder: &Path) -> Result<Option<Manifest>, CheckpointError> {
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
fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors") && !path.starts_with("trainer/")
}

/// The model folder that a user means by `path`: itself, or the newest complete checkpoint of the run in it.
///
/// A folder that is named is never replaced by another; its weights must have the sizes in its manifest, if it has one.
///
/// # Errors
/// [`HfError::NoModel`] where there is none; [`CheckpointError::Changed`] for a damaged folder that was named.
pub fn locate(path: &Path) -> Result<Located, CheckpointError> {
    if path.join(CONFIG).is_file() || step_of(path).is_some() {
        if let Some(mut manifest) = manifest_of(path)? {
            manifest.files.retain(|file| is_weights(&file.path));
            manifest.check_sizes(path)?;
        }
        if !path.join(CONFIG).is_file() {
            return Err(HfError::NoModel { path: path.into(), missing: CONFIG }.into());
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
    Err(damage.unwrap_or_else(|| HfError::NoModel { path: path.into(), missing: CONFIG }.into()))
}

/// Which checkpoints stay when a new one is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest ones, at least one.
    pub newest: usize,
    /// The step of the best one.
    pub best: Option<u64>,
    /// Those of steps that are a multiple of this; 0 for none.
    pub every: u64,
}

impl Keep {
    /// The newest `newest` checkpoints alone.
    pub fn newest(newest: usize) -> Self {
        Self { newest, ..Self::default() }
    }

    fn protects(&self, step: u64) -> bool {
        self.best == Some(step) || (self.every > 0 && step.is_multiple_of(self.every))
    }
}

fn prune(store: &dyn Store, root: &Path, keep: Keep) -> Result<(), CheckpointError> {
    let old = list(root)?.into_iter().skip(keep.newest.max(1)).filter(|(step, _)| !keep.protects(*step));
    for (_, old) in old {
        // First to a name that does not count: half a removed checkpoint must not look like one.
        let aside = root.join(format!("{}.tmp-old", old.file_name().unwrap_or_default().to_string_lossy()));
        store.rename(&old, &aside).map_err(CheckpointError::io("rename", &old))?;
        store.remove_dir(&aside).map_err(CheckpointError::io("remove", &aside))?;
    }
    Ok(())
}

/// Removes what saves that were cut short left in an output folder.
///
/// # Errors
/// [`HfError::Io`].
pub fn clean(store: &dyn Store, root: &Path) -> Result<(), CheckpointError> {
    for path in entries(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("step-") && name.contains(".tmp-") {
            store.remove_dir(&path).map_err(CheckpointError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn entries(root: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let failed = CheckpointError::io("list", root);
    let listing = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
        Ok(listing) => listing,
    };
    let paths: io::Result<Vec<PathBuf>> = listing.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(failed)
}

#[cfg(test)]
mod tests;
