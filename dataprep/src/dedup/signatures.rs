//! Signature files: the MinHash signatures of one split of the corpus.
//!
//! A task computes the signatures of its documents and writes one file, bucket after bucket; a bucket's merge then
//! reads its section of every file and nothing else.

use super::minhash::MinHashConfig;
use super::records::{Kind, RecordFile, RecordWriter};
use crate::durable::Target;
use crate::error::{Error, Result};
use std::path::Path;

const SIGNATURES: Kind = *b"bands   ";

/// Gathers the signatures of a split and writes them: 16 bytes a bucket and document in memory until then.
pub struct SignatureWriter {
    fingerprint: u64,
    /// `[band, document]` of every bucket.
    buckets: Vec<Vec<[u64; 2]>>,
    /// `[document, length]`.
    lengths: Vec<[u64; 2]>,
}

impl SignatureWriter {
    /// An empty split.
    pub fn new(config: &MinHashConfig) -> Self {
        Self { fingerprint: config.fingerprint(), buckets: vec![Vec::new(); config.buckets], lengths: Vec::new() }
    }

    /// Adds a document by its number, which no other document of the corpus may have: its bands, as
    /// [`MinHasher::bands`](super::MinHasher::bands) gives them, and its length, by which the longest of several
    /// duplicates is found. A document without bands is left out.
    pub fn push(&mut self, document: u64, bands: &[u64], length: u64) {
        if bands.len() != self.buckets.len() {
            return;
        }
        for (bucket, band) in self.buckets.iter_mut().zip(bands) {
            bucket.push([*band, document]);
        }
        self.lengths.push([document, length]);
    }

    /// Writes `target`. The content depends on the documents alone, not on the order of [`Self::push`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish<'a>(mut self, target: impl Into<Target<'a>>) -> Result<()> {
        let mut out = RecordWriter::create(target, SIGNATURES, self.fingerprint)?;
        for section in self.buckets.iter_mut().chain([&mut self.lengths]) {
            section.sort_unstable();
            section.iter().try_for_each(|record| out.push(record))?;
            out.end_section()?;
        }
        out.publish().map(drop)
    }
}

/// A file of signatures.
pub(super) struct SignatureFile {
    /// Sections of `[band, document]`, one a bucket, then one of `[document, length]`.
    pub file: RecordFile<2>,
}

impl SignatureFile {
    /// Opens a file that was written with the same parameters.
    pub fn open(path: &Path, config: &MinHashConfig) -> Result<Self> {
        let file = RecordFile::<2>::open(path, SIGNATURES, Some(config.fingerprint()))?;
        if file.sections() != config.buckets as u64 + 1 {
            let what = format!("has {} sections where {} belong", file.sections(), config.buckets + 1);
            return Err(Error::CorruptIndex { path: path.to_path_buf(), offset: 32, what });
        }
        Ok(Self { file })
    }

    /// The section with the documents' lengths.
    pub fn lengths(&self) -> u64 {
        self.file.sections() - 1
    }
}
