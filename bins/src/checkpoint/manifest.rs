//! The manifest of a checkpoint: its files with sizes and SHA-256.

use super::error::CheckpointError;
use crate::hf::HfError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path};

/// The manifest's name in a checkpoint.
pub const MANIFEST: &str = "manifest.json";
pub(super) const FORMAT: &str = "fathom-checkpoint";
pub(super) const VERSION: u64 = 1;

/// The list of a checkpoint's files, with sizes and SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub(super) format: String,
    pub(super) version: u64,
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
        self.files.iter().try_for_each(|file| file.check(folder))
    }
}

impl FileEntry {
    /// Words that a file's length and SHA-256 take.
    pub(super) const WORDS: usize = 5;

    /// Length and SHA-256, to be told to another rank.
    pub(super) fn words(&self) -> [u64; Self::WORDS] {
        let part = |number: usize| {
            let digits = self.sha256.get(16 * number..16 * (number + 1));
            digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
        };
        [self.bytes, part(0), part(1), part(2), part(3)]
    }

    /// The entry of the file at `path` whose [words](Self::words) another rank told.
    pub(super) fn from_words(path: String, words: &[u64]) -> Self {
        let sha256 = words.iter().skip(1).map(|word| format!("{word:016x}")).collect();
        Self { path, bytes: words.first().copied().unwrap_or_default(), sha256 }
    }

    /// Checks that the file has its contents.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] where it has not.
    pub fn check(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(&self.path);
        let found = hash_file(&path).map_err(CheckpointError::io("read", &path))?;
        if found == self.sha256 {
            return Ok(());
        }
        let problem = format!("has SHA-256 {found} where {MANIFEST} says {}", self.sha256);
        Err(CheckpointError::Changed { path, problem })
    }
}

/// SHA-256 of a file's bytes, in hexadecimal.
pub(crate) fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash)),
            read => hash.update(&buffer[..read]),
        }
    }
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
