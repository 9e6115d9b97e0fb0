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
use super::locate::{entries, list};
use super::manifest::{FORMAT, FileEntry, MANIFEST, Manifest, VERSION, hex};
use crate::hf::write::Fill;
use crate::hf::{Folder, HfError};
use fathom_dataprep::durable::{DurableFile, Files, create_dirs, folder_of, remove_tree};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A draft: a checkpoint, or another folder, that is being written. Dropped without [`commit`](Self::commit), it leaves
/// nothing.
pub struct Draft<'a> {
    store: &'a dyn Files,
    target: PathBuf,
    aside: PathBuf,
    /// Step of the checkpoint; `None` for a plain folder, which gets no manifest and whose files are not hashed.
    step: Option<u64>,
    files: Vec<FileEntry>,
    /// Folders below `aside` that hold files, to be synced.
    folders: Vec<PathBuf>,
    /// Another process commits it, or removes it.
    joined: bool,
    committed: bool,
}

/// A file of a draft, hashed as it is written.
pub struct DraftFile {
    file: Box<dyn DurableFile>,
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
    pub fn begin(store: &'a dyn Files, root: &Path, step: u64) -> Result<Self, CheckpointError> {
        Self::new(store, root.join(name(step)), Some(step))
    }

    /// Begins a folder that is no checkpoint. Nothing may be at `target` when it is committed.
    ///
    /// # Errors
    /// [`HfError::Io`].
    pub fn plain(store: &'a dyn Files, target: &Path) -> Result<Self, CheckpointError> {
        Self::new(store, target.to_path_buf(), None)
    }

    fn new(store: &'a dyn Files, target: PathBuf, step: Option<u64>) -> Result<Self, CheckpointError> {
        let aside = aside(&target, std::process::id());
        // Numbers of processes repeat: what one that was killed has left must not get into this draft.
        if aside.exists() {
            remove_tree(store, &aside).map_err(CheckpointError::io("remove", &aside))?;
        }
        create_dirs(store, &aside).map_err(CheckpointError::io("create", &aside))?;
        Ok(Self { store, target, aside, step, files: Vec::new(), folders: Vec::new(), joined: false, committed: false })
    }

    /// Takes part in the checkpoint of `step` that process `owner`, perhaps on another machine, has begun in the output
    /// folder `root`.
    pub fn join(store: &'a dyn Files, root: &Path, step: u64, owner: u32) -> Self {
        let target = root.join(name(step));
        let aside = aside(&target, owner);
        let (files, folders) = (Vec::new(), Vec::new());
        Self { store, target, aside, step: Some(step), files, folders, joined: true, committed: false }
    }

    /// Takes out the entry of the file that was written last.
    pub(super) fn take(&mut self) -> Option<FileEntry> {
        self.files.pop()
    }

    /// Adds the entry of a file that another process has written and synced.
    pub(super) fn add(&mut self, file: FileEntry) {
        self.files.push(file);
    }

    /// Folder of the checkpoint's files until the commit.
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
            create_dirs(self.store, folder).map_err(HfError::io("create", folder))?;
            self.folders.push(folder.to_path_buf());
        }
        Ok(target)
    }

    /// Commits the draft under its name. After a checkpoint, removes those that `keep` does not keep. Returns the
    /// folder.
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
        let root = folder_of(&target);
        if self.step.is_some() && target.exists() {
            // Not a complete checkpoint: a run does not save a step that it found saved.
            retire(self.store, root, &target)?;
        }
        self.store.rename(&self.aside, &target).map_err(CheckpointError::io("rename", &self.aside))?;
        self.committed = true;
        self.store.sync_dir(root).map_err(CheckpointError::io("sync", root))?;
        if self.step.is_some() {
            prune(self.store, root, keep)?;
        }
        Ok(target)
    }

    fn write_manifest(&mut self, step: u64) -> Result<(), CheckpointError> {
        let files = std::mem::take(&mut self.files);
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, step, files };
        // Other processes may have written some of them.
        manifest.check_sizes(&self.aside)?;
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
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.committed && !self.joined {
            // What cannot be removed now is removed at the next start.
            let _ = remove_tree(self.store, &self.aside);
        }
    }
}

/// Where process `owner` writes what becomes `target`.
fn aside(target: &Path, owner: u32) -> PathBuf {
    let mut aside = target.to_path_buf().into_os_string();
    aside.push(format!(".tmp-{owner}"));
    PathBuf::from(aside)
}

/// The folder name of a step's checkpoint.
pub fn name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Checkpoints to keep when a new one is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Number of newest checkpoints to keep, at least one.
    pub newest: usize,
    /// Step of the best checkpoint.
    pub best: Option<u64>,
    /// Steps between checkpoints that are kept for good; 0 for none.
    pub every: u64,
}

impl Keep {
    /// Keeps the newest `newest` checkpoints alone.
    pub fn newest(newest: usize) -> Self {
        Self { newest, ..Self::default() }
    }

    fn protects(&self, step: u64) -> bool {
        self.best == Some(step) || (self.every > 0 && step.is_multiple_of(self.every))
    }
}

fn prune(store: &dyn Files, root: &Path, keep: Keep) -> Result<(), CheckpointError> {
    let old = list(root)?.into_iter().skip(keep.newest.max(1)).filter(|(step, _)| !keep.protects(*step));
    for (_, old) in old {
        retire(store, root, &old)?;
    }
    Ok(())
}

/// Removes a checkpoint: first, for good, its name. Half a removed checkpoint must not look like one.
fn retire(store: &dyn Files, root: &Path, old: &Path) -> Result<(), CheckpointError> {
    let aside = root.join(format!("{}.tmp-old", old.file_name().unwrap_or_default().to_string_lossy()));
    if aside.exists() {
        remove_tree(store, &aside).map_err(CheckpointError::io("remove", &aside))?;
    }
    store.rename(old, &aside).map_err(CheckpointError::io("rename", old))?;
    store.sync_dir(root).map_err(CheckpointError::io("sync", root))?;
    remove_tree(store, &aside).map_err(CheckpointError::io("remove", &aside))
}

/// Removes leftovers of interrupted saves in an output folder.
///
/// # Errors
/// [`HfError::Io`].
pub fn clean(store: &dyn Files, root: &Path) -> Result<(), CheckpointError> {
    for path in entries(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("step-") && name.contains(".tmp-") {
            remove_tree(store, &path).map_err(CheckpointError::io("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
