//! `ShardSet`: several shards read as one stream of tokens.

use super::index::{ShardFile, with_suffix};
use super::manifest::{MANIFEST, Manifest};
use super::split::Split;
use crate::error::{Error, Result};
use crate::hash;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The shards of one split, in order, as one stream of tokens.
#[derive(Debug)]
pub struct ShardSet {
    path: PathBuf,
    files: Vec<ShardFile>,
    /// Position of each file's first token in the stream.
    starts: Vec<u64>,
    tokens: u64,
    text_bytes: Option<u64>,
    vocab_limit: u32,
    /// The folders that have a manifest.
    manifests: Vec<(PathBuf, Manifest)>,
}

/// Place of a token: file, document, position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenPlace {
    /// Index into [`ShardSet::files`].
    pub file: usize,
    /// Index of the document in that file.
    pub document: u64,
    /// Position in the stream of the document's first token.
    pub start: u64,
    /// Position behind its last.
    pub end: u64,
}

/// Above every id an `i32` can hold: the limit when no vocabulary is known, which still finds negative ids.
const NO_VOCABULARY: u32 = 1 << 31;

impl ShardSet {
    /// Opens what `path` holds of `split`.
    ///
    /// `path` is a folder written by prep; or the prefix `PATH` of any Megatron pair `PATH.bin`, `PATH.idx` (either
    /// file's own name does as well); or a folder with no manifest and one such set of pairs. Only the first knows of
    /// splits: the others hold a single set, which is what is opened.
    ///
    /// # Errors
    /// Every error of [`ShardFile::open`] and [`Manifest::read`]; [`Error::NoShards`]; [`Error::SizeMismatch`] and
    /// [`Error::ManifestCorrupt`] when shards are not the ones the manifest describes.
    pub fn open(path: &Path, split: Split) -> Result<Self> {
        if path.is_dir() {
            if path.join(MANIFEST).exists() {
                return Self::from_manifest(path, split);
            }
            return Self::from_prefixes(path, &plain_prefixes(path, split)?);
        }
        let prefix = match path.extension().and_then(OsStr::to_str) {
            Some("bin" | "idx") if path.is_file() => path.with_extension(""),
            _ => path.to_path_buf(),
        };
        if !with_suffix(&prefix, "bin").exists() && !with_suffix(&prefix, "idx").exists() {
            let remedy = "give a folder written by prep or the prefix PATH of PATH.bin and PATH.idx";
            return Err(Error::NoShards { path: path.into(), split: split.name(), remedy });
        }
        Self::from_prefixes(path, &[prefix])
    }

    /// Opens several places as one stream, in the order given.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`Error::ShardsDiffer`] when their tokenizers are not the same.
    pub fn open_all<P: AsRef<Path>>(paths: &[P], split: Split) -> Result<Self> {
        let mut sets = paths.iter().map(|path| Self::open(path.as_ref(), split));
        let nowhere = || Error::Config { field: "data.path", what: "no path given; name a folder of shards".into() };
        let mut all = sets.next().ok_or_else(nowhere)??;
        for set in sets {
            all.append(set?)?;
        }
        Ok(all)
    }

    fn from_manifest(folder: &Path, split: Split) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let Some(entry) = manifest.split(split).filter(|entry| !entry.shards.is_empty()) else {
            let remedy = "prepare it with output.validation_fraction or output.validation_tail above 0";
            return Err(Error::NoShards { path: folder.into(), split: split.name(), remedy });
        };
        let mut files = Vec::with_capacity(entry.shards.len());
        for shard in &entry.shards {
            let prefix = folder.join(&shard.name);
            for (suffix, stated) in [("bin", &shard.bin), ("idx", &shard.idx)] {
                let path = with_suffix(&prefix, suffix);
                let found = std::fs::metadata(&path).map_err(Error::io("read the size of", &path))?.len();
                if found != stated.bytes {
                    return Err(Error::SizeMismatch { path, by: MANIFEST, expected: stated.bytes, found });
                }
            }
            let file = ShardFile::open(&prefix)?;
            if (file.documents(), file.tokens()) != (shard.documents, shard.tokens) {
                let what = format!(
                    "{} has {} documents and {} tokens, stated are {} and {}",
                    shard.name,
                    file.documents(),
                    file.tokens(),
                    shard.documents,
                    shard.tokens
                );
                return Err(Error::ManifestCorrupt { path: folder.join(MANIFEST), what });
            }
            files.push(file);
        }
        let mut set = Self::from_files(folder, files);
        set.text_bytes = Some(entry.text_bytes);
        set.vocab_limit = manifest.tokenizer.vocab_size.min(NO_VOCABULARY);
        set.manifests.push((folder.into(), manifest));
        Ok(set)
    }

    fn from_prefixes(path: &Path, prefixes: &[PathBuf]) -> Result<Self> {
        let files = prefixes.iter().map(|prefix| ShardFile::open(prefix)).collect::<Result<Vec<_>>>()?;
        Ok(Self::from_files(path, files))
    }

    fn from_files(path: &Path, files: Vec<ShardFile>) -> Self {
        let mut tokens = 0;
        let starts = files
            .iter()
            .map(|file| {
                let start = tokens;
                tokens += file.tokens();
                start
            })
            .collect();
        Self {
            path: path.into(),
            files,
            starts,
            tokens,
            text_bytes: None,
            vocab_limit: NO_VOCABULARY,
            manifests: Vec::new(),
        }
    }

    /// Whether tokens of both mean the same, as far as manifests say.
    ///
    /// # Errors
    /// [`Error::ShardsDiffer`] when their tokenizers are not the same.
    pub fn check_same_tokenizer(&self, other: &Self) -> Result<()> {
        if let (Some(a), Some(b)) = (self.manifest(), other.manifest()) {
            let differ = |field, left: String, right: String| Error::ShardsDiffer {
                first: self.path.clone(),
                second: other.path.clone(),
                field,
                left,
                right,
            };
            let (a, b) = (&a.tokenizer, &b.tokenizer);
            if a.fingerprint != b.fingerprint {
                return Err(differ("tokenizer fingerprint", a.fingerprint.clone(), b.fingerprint.clone()));
            }
            if a.eos_id != b.eos_id {
                return Err(differ("end-of-document token", a.eos_id.to_string(), b.eos_id.to_string()));
            }
        }
        Ok(())
    }

    fn append(&mut self, other: Self) -> Result<()> {
        self.check_same_tokenizer(&other)?;
        self.starts.extend(other.starts.iter().map(|start| start + self.tokens));
        self.tokens += other.tokens;
        self.files.extend(other.files);
        self.text_bytes = self.text_bytes.zip(other.text_bytes).map(|(a, b)| a + b);
        self.vocab_limit = self.vocab_limit.min(other.vocab_limit);
        self.manifests.extend(other.manifests);
        Ok(())
    }

    /// Limits tokens to ids below `vocab_size`, the model's, from now on; a smaller limit from the manifest stays.
    pub fn limit_vocabulary(&mut self, vocab_size: u32) {
        self.vocab_limit = self.vocab_limit.min(vocab_size);
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        self.files.iter().map(ShardFile::documents).sum()
    }

    /// Bytes of text that the tokens stand for, if every manifest says so.
    pub fn text_bytes(&self) -> Option<u64> {
        self.text_bytes
    }

    /// The first place's manifest, if it has one.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifests.first().map(|(_, manifest)| manifest)
    }

    /// The path it was opened with (the first, if several).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shards in order.
    pub fn files(&self) -> &[ShardFile] {
        &self.files
    }

    /// Position in the stream and number of tokens of each document, in order; or why an index cannot be read.
    pub fn document_ranges(&self) -> impl Iterator<Item = Result<(u64, u64)>> + '_ {
        self.files.iter().zip(&self.starts).flat_map(|(file, first)| {
            let mut next = 0;
            (1..=file.documents()).map(move |document| {
                let end = file.document_start(document)?;
                let start = std::mem::replace(&mut next, end);
                let what = || Error::ShardChanged { path: file.path().into(), what: "its index was written to".into() };
                Ok((first + start, end.checked_sub(start).ok_or_else(what)?))
            })
        })
    }

    /// Maps the tokens of all shards into memory, in place of reading them: see [`ShardFile::map`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn map(&mut self) -> Result<()> {
        self.files.iter_mut().try_for_each(ShardFile::map)
    }

    /// Checks that the files which hold tokens `start .. start + length` are those that were opened, there and as they
    /// were. Done after a read, it says that what was read is what was opened.
    ///
    /// # Errors
    /// [`Error::ShardChanged`] names the one that is not.
    pub fn unchanged(&self, start: u64, length: u64) -> Result<()> {
        let last = self.file_at((start + length).saturating_sub(1));
        self.files[self.file_at(start)..].iter().take(last + 1 - self.file_at(start)).try_for_each(ShardFile::unchanged)
    }

    /// Reads every shard that a manifest describes and compares its SHA-256.
    ///
    /// # Errors
    /// [`Error::ChecksumMismatch`] for the first file that changed.
    pub fn verify(&self) -> Result<()> {
        for (folder, manifest) in &self.manifests {
            for shard in std::iter::once(&manifest.train).chain(&manifest.validation).flat_map(|split| &split.shards) {
                for (suffix, stated) in [("bin", &shard.bin), ("idx", &shard.idx)] {
                    let path = with_suffix(&folder.join(&shard.name), suffix);
                    let found = hash::of_file(&path)?;
                    if found != stated.sha256 {
                        return Err(Error::ChecksumMismatch { path, expected: stated.sha256.clone(), found });
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies tokens `start .. start + out.len()` of the stream into `out`.
    ///
    /// # Errors
    /// Those of [`ShardFile::read`].
    ///
    /// # Panics
    /// If the range does not lie inside the stream.
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        assert!(start + out.len() as u64 <= self.tokens, "tokens past the end of the shards");
        let mut rest = out;
        let mut position = start;
        let mut at = self.file_at(start);
        while !rest.is_empty() {
            let (file, first) = (&self.files[at], self.starts[at]);
            let here = (file.tokens() - (position - first)).min(rest.len() as u64) as usize;
            let (part, more) = rest.split_at_mut(here);
            file.read(position - first, self.vocab_limit, part)?;
            position += here as u64;
            rest = more;
            at += 1;
        }
        Ok(())
    }

    /// For each of the positions `start .. start + out.len()`: where in this range its document begins, counted from
    /// `start`; 0 when it begins before. `[0, 0, 0, 3, 3]` is three tokens of one document and two of the next.
    ///
    /// # Errors
    /// [`Error::ShardChanged`], [`Error::Io`].
    ///
    /// # Panics
    /// If the range does not lie inside the stream.
    pub fn document_starts(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let end = start + out.len() as u64;
        assert!(end <= self.tokens, "positions past the end of the shards");
        for at in self.file_at(start)..self.files.len() {
            let (file, first) = (&self.files[at], self.starts[at]);
            if first >= end {
                break;
            }
            let mut document = file.document_at(start.saturating_sub(first))?;
            while document < file.documents() {
                let from = (first + file.document_start(document)?).max(start);
                let to = (first + file.document_start(document + 1)?).min(end);
                if from >= end {
                    break;
                }
                if from < to {
                    let begin = (from - start) as usize;
                    out[begin..(to - start) as usize].fill(begin as u32);
                }
                document += 1;
            }
        }
        Ok(())
    }

    /// The shard and the document that hold the token at `position`; `None` past the end.
    ///
    /// # Errors
    /// [`Error::ShardChanged`], [`Error::Io`].
    pub fn locate(&self, position: u64) -> Result<Option<TokenPlace>> {
        if position >= self.tokens {
            return Ok(None);
        }
        let file = self.file_at(position);
        let (shard, first) = (&self.files[file], self.starts[file]);
        let document = shard.document_at(position - first)?;
        let (start, end) = (shard.document_start(document)?, shard.document_start(document + 1)?);
        Ok(Some(TokenPlace { file, document, start: first + start, end: first + end }))
    }

    /// The file that holds the token at `position`.
    fn file_at(&self, position: u64) -> usize {
        // Empty files share their start with the next one: take the last that begins here or before.
        self.starts.partition_point(|&start| start <= position).saturating_sub(1)
    }
}

/// The prefixes in a folder without manifest, in order, when they clearly are one set.
fn plain_prefixes(folder: &Path, split: Split) -> Result<Vec<PathBuf>> {
    let mut prefixes = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.extension() == Some(OsStr::new("idx")) {
            prefixes.insert(path.with_extension(""));
        }
    }
    if prefixes.is_empty() {
        let remedy = "run prep to make some";
        return Err(Error::NoShards { path: folder.into(), split: split.name(), remedy });
    }
    // Prep leaves a tokenizer beside its shards: then the manifest is not absent by nature but missing.
    let series: BTreeSet<_> = prefixes.iter().map(|prefix| series_name(prefix)).collect();
    if series.len() > 1 || folder.join("tokenizer.json").exists() {
        return Err(Error::ManifestMissing { path: folder.into() });
    }
    Ok(prefixes.into_iter().collect())
}

/// `NAME` of `NAME-00012`, and of `NAME`.
fn series_name(prefix: &Path) -> String {
    let name = prefix.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.rsplit_once('-') {
        Some((base, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => base.to_owned(),
        _ => name,
    }
}
