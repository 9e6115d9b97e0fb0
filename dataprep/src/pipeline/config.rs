//! The settings of a preparation.

use super::rank::Rank;
use crate::dedup::{DecontaminateConfig, DedupConfig};
use crate::error::{Error, Result};
use crate::extract::ExtractConfig;
use crate::filter::FilterConfig;
use crate::fim::FimConfig;
use crate::read::{FieldNames, Format, GROWTH};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::train::SMALLEST_VOCABULARY;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// All settings of a preparation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrepConfig {
    /// Input: files, formats, limits.
    pub input: InputConfig,
    /// How the main text of web pages is found; without it, a page with its markup is the document.
    pub extract: Option<ExtractConfig>,
    /// Quality filters.
    pub filter: FilterConfig,
    /// Deduplication.
    pub dedup: DedupConfig,
    /// Decontamination.
    pub decontaminate: DecontaminateConfig,
    /// Tokenizer, loaded or trained.
    pub tokenizer: TokenizerConfig,
    /// Fill-in-the-middle.
    pub fim: FimConfig,
    /// Output: folder, split, shards.
    pub output: OutputConfig,
    /// Threads; 0 takes one a core. Does not change the result.
    pub threads: usize,
    /// Decides, with its content, on which side of the split a document falls.
    pub seed: u64,
    /// Bytes of input that one task reads, about: files are never divided by the number of workers.
    pub split_bytes: u64,
    /// Seconds to wait for other processes' tasks while none is completed.
    pub wait_seconds: u64,
    /// Rank of this process among several. Does not change the result.
    #[serde(skip)]
    pub rank: Rank,
}

impl Default for PrepConfig {
    fn default() -> Self {
        Self {
            input: InputConfig::default(),
            extract: Some(ExtractConfig::default()),
            filter: FilterConfig::off(),
            dedup: DedupConfig::off(),
            decontaminate: DecontaminateConfig::default(),
            tokenizer: TokenizerConfig::default(),
            fim: FimConfig::default(),
            output: OutputConfig::default(),
            threads: 0,
            seed: 0,
            split_bytes: 64 << 20,
            wait_seconds: 3600,
            rank: Rank::default(),
        }
    }
}

/// Settings of the input: files, formats, limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// Files, folders and globs.
    pub paths: Vec<PathBuf>,
    /// Format of every file, whatever its suffix.
    pub format: Option<Format>,
    /// Field of a record that holds the text: a column, or a path of JSON keys with dots between.
    pub text_field: String,
    /// Field that holds a record's identifier, where it has one.
    pub id_field: String,
    /// Field that holds the address it came from, where it has one.
    pub url_field: String,
    /// The largest share of all records that may be bad, and of the files' bytes that may lie behind damage. Where
    /// neither this nor `max_bad_records` is set, that is one in a hundred, and 100 bad records and 16 MiB are passed
    /// over in any corpus.
    pub max_bad_fraction: Option<f64>,
    /// The largest number of records that may be bad, besides the share if that is set too.
    pub max_bad_records: Option<u64>,
    /// Larger documents are left out, which also bounds what a small compressed file can become.
    pub max_document_bytes: u64,
    /// Decompressed bytes that may come of each compressed one, beyond the first 256 MiB of a file.
    pub max_growth: u64,
    /// Stop after about this much text, at the end of a document; of web pages, with their markup.
    pub max_bytes: Option<u64>,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            format: None,
            text_field: "text".into(),
            id_field: "id".into(),
            url_field: "url".into(),
            max_bad_fraction: None,
            max_bad_records: None,
            max_document_bytes: 256 << 20,
            max_growth: GROWTH,
            max_bytes: None,
        }
    }
}

/// Bad records that are passed over in any corpus, where no limit is set.
const FEWEST_BAD: u64 = 100;
/// Share of all records that may be bad, where no limit is set.
const BAD_FRACTION: f64 = 0.01;

/// Bytes on disk that may lie behind damage in any corpus, where no limit is set.
const FEWEST_LOST: u64 = 16 << 20;

/// Whether `part` is more than this share of `all`.
fn is_beyond(part: u64, all: u64, share: f64) -> bool {
    part as f64 > share * all as f64
}

impl InputConfig {
    /// What is wrong where `bad` of `records` (good and bad) are too many, and the limit that they exceed.
    pub(super) fn exceeded(&self, bad: u64, records: u64) -> Option<(String, String)> {
        let limit = match (self.max_bad_records, self.max_bad_fraction) {
            (Some(most), _) if bad > most => format!("input.max_bad_records = {most} allows"),
            (_, Some(share)) if is_beyond(bad, records, share) => format!("input.max_bad_fraction = {share} allows"),
            (None, None) if bad > FEWEST_BAD && is_beyond(bad, records, BAD_FRACTION) => {
                format!("input.max_bad_fraction allows by default: {BAD_FRACTION}, and {FEWEST_BAD} records")
            }
            _ => return None,
        };
        let share = 100.0 * bad as f64 / records.max(1) as f64;
        Some((format!("{bad} of {records} records are bad ({share:.3} %)"), limit))
    }

    /// The limit that `lost` of `bytes` bytes on disk exceed, if they do. A damaged stream is one bad record, however
    /// much of the corpus lies behind the damage.
    pub(super) fn lost(&self, lost: u64, bytes: u64) -> Option<String> {
        match (self.max_bad_records, self.max_bad_fraction) {
            (_, Some(share)) => {
                is_beyond(lost, bytes, share).then(|| format!("input.max_bad_fraction = {share} allows"))
            }
            (Some(_), None) => None,
            (None, None) => (lost > FEWEST_LOST && is_beyond(lost, bytes, BAD_FRACTION))
                .then(|| format!("input.max_bad_fraction allows by default: {BAD_FRACTION}, and {FEWEST_LOST} bytes")),
        }
    }

    /// Where the parts of a document are in a record.
    pub(super) fn fields(&self) -> FieldNames {
        let optional = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
        FieldNames { text: self.text_field.clone(), id: optional(&self.id_field), url: optional(&self.url_field) }
    }
}

/// Settings of the tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// `bytes`, a `tokenizer.json`, or a folder that holds one. Bytes when neither this nor `vocab_size` is set.
    pub path: Option<PathBuf>,
    /// Train a tokenizer with this many tokens on the corpus.
    pub vocab_size: Option<u32>,
    /// Text of the token that ends a document, where the tokenizer's files do not say.
    pub eos: Option<String>,
    /// Turn added tokens that are written out in documents, such as `<｜User｜>`, into their ids: for corpora in chat
    /// form.
    pub parse_added: bool,
    /// Training: distinct words held in memory, about 100 bytes each.
    pub max_words: usize,
    /// Training: text to learn from, from the start of the corpus.
    pub train_bytes: u64,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self { path: None, vocab_size: None, eos: None, parse_added: false, max_words: 4 << 20, train_bytes: 1 << 30 }
    }
}

impl TokenizerConfig {
    /// The tokenizer named, or `None` when one is to be trained.
    pub(super) fn load(&self) -> Result<Option<Tokenizer>> {
        match (&self.path, self.vocab_size) {
            (None, Some(_)) => Ok(None),
            (path, _) => {
                let path = path.as_deref().unwrap_or(Path::new("bytes"));
                Tokenizer::load_with_eos(path, self.eos.as_deref()).map(Some)
            }
        }
    }
}

/// Settings of the output: folder, split, shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// The folder.
    pub dir: PathBuf,
    /// Share of documents to hold out for validation, chosen by hash of seed and content. 0 writes no validation set.
    pub validation_fraction: f64,
    /// Hold out this last share of the bytes of every document instead, if above 0. By default the last part is held
    /// out where no document is, as with a single file: 128 KiB of text in all, at least `validation_fraction` and at
    /// most a tenth. 0 turns that off.
    pub validation_tail: Option<f64>,
    /// Begin a new shard before its tokens take more than this.
    pub shard_bytes: u64,
    /// Whether dropped documents are written into `dropped/`, with the rule, the measured value and the threshold.
    pub dropped: bool,
    /// Replace what the folder holds.
    pub overwrite: bool,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            validation_fraction: 0.01,
            validation_tail: None,
            shard_bytes: 512 << 20,
            dropped: false,
            overwrite: false,
        }
    }
}

impl PrepConfig {
    /// Checks what can be checked without reading anything.
    ///
    /// # Errors
    /// [`Error::Config`] names the key.
    pub fn validate(&self) -> Result<()> {
        let bad = |field, what: String| Err(Error::Config { field, what });
        if self.input.paths.is_empty() {
            return bad("input.paths", "empty; name files or folders with --input".into());
        }
        if self.output.dir.as_os_str().is_empty() {
            return bad("output.dir", "empty; name a folder with --output".into());
        }
        if self.tokenizer.path.is_some() && self.tokenizer.vocab_size.is_some() {
            return bad("tokenizer.vocab_size", "a tokenizer is either loaded (path) or trained, not both".into());
        }
        if self.tokenizer.parse_added && self.fim.rate > 0.0 {
            let what = "documents in chat form cannot be rearranged to fill in the middle; set fim.rate = 0";
            return bad("tokenizer.parse_added", what.into());
        }
        if let Some(size) = self.tokenizer.vocab_size.filter(|&size| !(SMALLEST_VOCABULARY..=1 << 24).contains(&size)) {
            let what =
                format!("{size}; it must lie between {SMALLEST_VOCABULARY} (the bytes, 3 special tokens) and 2^24");
            return bad("tokenizer.vocab_size", what);
        }
        if let Some(share) = self.input.max_bad_fraction.filter(|share| !(0.0..=1.0).contains(share)) {
            return bad("input.max_bad_fraction", format!("{share}; it must lie between 0 and 1"));
        }
        if self.input.max_growth == 0 {
            return bad("input.max_growth", "0; a compressed file must become something".into());
        }
        let shares = [
            ("output.validation_fraction", self.output.validation_fraction),
            ("output.validation_tail", self.output.validation_tail.unwrap_or_default()),
        ];
        for (field, share) in shares {
            if !(0.0..1.0).contains(&share) {
                return bad(field, format!("{share}; it must be at least 0 and below 1"));
            }
        }
        if self.split_bytes == 0 {
            return bad("prep.split_bytes", "0; a task must read something".into());
        }
        if self.output.shard_bytes == 0 {
            return bad("output.shard_bytes", "0; a shard must hold something".into());
        }
        Ok(())
    }

    /// Files whose contents are part of the settings: lists of addresses and words, and evaluation data.
    pub(super) fn lists(&self) -> impl Iterator<Item = &Path> {
        let url = &self.filter.url;
        let lists = [&url.domains, &url.urls, &url.words, &url.soft_words, &url.subwords, &self.decontaminate.files];
        lists.into_iter().flatten().map(PathBuf::as_path)
    }

    /// The configuration without what cannot change the result: threads, patience, where the output goes, whether it
    /// may replace, and how many bad records are too many. So a run that failed for these goes on where it ended once
    /// the limit is raised.
    pub fn recipe(&self) -> Value {
        let mut recipe = serde_json::to_value(self).expect("shares are finite and keys are strings");
        let take = |section: Option<&mut Value>, keys: &[&str]| {
            if let Some(map) = section.and_then(Value::as_object_mut) {
                keys.iter().for_each(|key| drop(map.remove(*key)));
            }
        };
        take(recipe.get_mut("input"), &["max_bad_fraction", "max_bad_records"]);
        take(recipe.get_mut("output"), &["dir", "overwrite"]);
        take(recipe.get_mut("dedup"), &["memory_bytes"]);
        take(Some(&mut recipe), &["threads", "wait_seconds"]);
        recipe
    }
}
