//! `manifest.json`: what a folder of shards holds and how it was made.

use super::split::Split;
use crate::dedup::ContaminatedItem;
use crate::durable::{DISK, Files, replace};
use crate::error::{Error, Result};
use crate::{hash, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// Value of the manifest's `format` field.
pub const FORMAT: &str = "fathom-shards";
/// Value of the manifest's `version` field.
pub const VERSION: u64 = 1;

/// The content of `manifest.json`.
///
/// Nothing in it depends on when, where or with how many threads it was made, so equal preparations give equal files.
/// The file has one more field, `checksum`: the SHA-256 of everything else in it as canonical JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`VERSION`].
    pub version: u64,
    /// SHA-256 over pipeline, inputs and tokenizer: equal fingerprints mean equal shards.
    pub fingerprint: String,
    /// The tokenizer the text was encoded with.
    pub tokenizer: TokenizerEntry,
    /// The text that was read.
    pub inputs: InputsEntry,
    /// How many files and folders were found and not read, by reason; `passed_over.jsonl` names each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub passed_over: BTreeMap<String, u64>,
    /// The whole configuration of the preparation, but for what cannot change the result.
    pub pipeline: Value,
    /// Reports of the stages, in order: documents kept and dropped, by rule.
    pub stages: Vec<StageReport>,
    /// Documents that were kept by language (ISO 639-3), where languages were identified.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub languages: BTreeMap<String, u64>,
    /// Counts of deduplication, if it was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupEntry>,
    /// Items of evaluation data that documents held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contaminated: Vec<ContaminatedItem>,
    /// The training shards.
    pub train: SplitEntry,
    /// The validation shards, if any were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<SplitEntry>,
}

/// The tokenizer of a folder of shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// "bytes" or "huggingface".
    pub kind: String,
    /// SHA-256 of its canonical `tokenizer.json`.
    pub fingerprint: String,
    /// Largest token id + 1.
    pub vocab_size: u32,
    /// The token that ends each document.
    pub eos_id: u32,
    /// The token that may begin a text, if the tokenizer has one. Shards do not hold it.
    pub bos_id: Option<u32>,
}

/// The files a folder of shards was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputsEntry {
    /// Number of files.
    pub files: u64,
    /// Their size on disk in bytes.
    pub bytes: u64,
    /// Parts that were read, of those the files were divided into by size; fewer than all where `input.max_bytes` was
    /// reached.
    #[serde(default)]
    pub parts: u64,
    /// SHA-256 over the name and size of each file, in order, and the SHA-256 of each part that was read.
    pub sha256: String,
}

/// Report of one pipeline stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// The stage.
    pub name: String,
    /// Documents it passed on.
    pub kept: u64,
    /// Documents it dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Documents it changed and passed on, by reason.
    pub changed: BTreeMap<String, u64>,
}

/// Counts of deduplication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupEntry {
    /// Documents removed because an earlier one had their address.
    pub urls: u64,
    /// Documents removed as exact duplicates of an earlier text, after those with equal URLs.
    pub exact: u64,
    /// Documents removed as near-duplicates, after exact ones.
    pub near: u64,
    /// Clusters of near-duplicates.
    pub clusters: u64,
    /// Documents in the largest of them.
    pub largest_cluster: u64,
}

impl StageReport {
    /// Adds the counts of `other`, of the same stage.
    pub fn add(&mut self, other: &Self) {
        self.kept += other.kept;
        for (mine, theirs) in [(&mut self.dropped, &other.dropped), (&mut self.changed, &other.changed)] {
            theirs.iter().for_each(|(reason, count)| *mine.entry(reason.clone()).or_insert(0) += count);
        }
    }
}

/// The shards of one side of the split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitEntry {
    /// Number of documents.
    pub documents: u64,
    /// Number of tokens, one end-of-document token a document included.
    pub tokens: u64,
    /// Bytes of UTF-8 text that the tokens stand for, for bits per byte. End-of-document tokens stand for no bytes.
    pub text_bytes: u64,
    /// Histogram of document lengths: number of documents of 2^i to 2^(i+1) − 1 tokens, for each i from 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<u64>,
    /// The shards in order.
    pub shards: Vec<ShardEntry>,
}

/// One `.bin`/`.idx` pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name of both files without suffix.
    pub name: String,
    /// Number of documents.
    pub documents: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// The `.bin` file.
    pub bin: FileEntry,
    /// The `.idx` file.
    pub idx: FileEntry,
    /// The `.docs.jsonl.zst` file: a line of JSON on each document, with where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docs: Option<FileEntry>,
}

/// Size and checksum of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads `FOLDER/manifest.json`.
    ///
    /// # Errors
    /// [`Error::ManifestMissing`], [`Error::ManifestVersion`], [`Error::ManifestCorrupt`] or [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::ManifestMissing { path: folder.into() });
            }
            other => other.map_err(Error::io("read", &path))?,
        };
        Self::from_bytes(&bytes, &path)
    }

    /// A manifest out of the content of its file, which errors call `path`.
    ///
    /// # Errors
    /// [`Error::ManifestVersion`] or [`Error::ManifestCorrupt`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let corrupt = |what: String| Error::ManifestCorrupt { path: path.into(), what };
        let mut value: Value = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(corrupt(format!("field `format` is not \"{FORMAT}\"")));
        }
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(found) => {
                return Err(Error::ManifestVersion { path: path.into(), found, known: VERSION });
            }
            None => {
                return Err(corrupt("field `version` is missing or no number".to_owned()));
            }
        }
        let stated = value.as_object_mut().and_then(|map| map.remove("checksum"));
        let actual = hash::of_bytes(json::canonical(&value).as_bytes());
        if stated.as_ref().and_then(Value::as_str) != Some(actual.as_str()) {
            return Err(corrupt(format!("field `checksum` is not {actual}, the checksum of the rest")));
        }
        let manifest: Self = serde_json::from_value(value).map_err(|e| corrupt(e.to_string()))?;
        let splits = std::iter::once(&manifest.train).chain(&manifest.validation);
        for shard in splits.flat_map(|split| &split.shards) {
            if shard.name.is_empty() || shard.name.contains(['/', '\\']) {
                return Err(corrupt(format!("shard name {:?} is not the name of a file here", shard.name)));
            }
        }
        Ok(manifest)
    }

    /// Writes `FOLDER/manifest.json`: under a temporary name, synced, renamed, and the folder synced.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.write_on(&DISK, folder)
    }

    /// As [`write`](Self::write), through the given file operations.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_on(&self, files: &dyn Files, folder: &Path) -> Result<()> {
        let mut value = serde_json::to_value(self).expect("a manifest has string keys and finite numbers");
        let checksum = hash::of_bytes(json::canonical(&value).as_bytes());
        value["checksum"] = checksum.into();
        let mut text = serde_json::to_string_pretty(&value).expect("a JSON value can be written");
        text.push('\n');
        let path = folder.join(MANIFEST);
        replace(files, &path, text.as_bytes()).map_err(Error::io("write", &path))
    }

    /// The entry of one side of the split, if it has shards.
    pub fn split(&self, split: Split) -> Option<&SplitEntry> {
        match split {
            Split::Train => Some(&self.train),
            Split::Validation => self.validation.as_ref(),
        }
    }
}
