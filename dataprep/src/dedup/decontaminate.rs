//! Decontamination: finds documents that share a word n-gram with an item of an evaluation.
//!
//! Sequences of 13 words, in the form in which near-duplicates are compared, as in Brown et al., *Language Models are
//! Few-Shot Learners*, 2020, appendix C. Which items were hit is counted, so that scores can be reported with and
//! without them.

use super::minhash::shingle;
use super::normalise::Normaliser;
use crate::document::Dropped;
use crate::error::{Error, Result};
use crate::filter::words::{self, Word};
use flate2::read::MultiGzDecoder;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Settings of decontamination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecontaminateConfig {
    /// Evaluation files: `.jsonl` and `.csv` with an item a record, anything else with an item a line; `.gz` and `.zst`
    /// of them.
    pub files: Vec<PathBuf>,
    /// Fields of a JSON record to look at, with all that is in them; none looks at all.
    pub fields: Vec<String>,
    /// n-gram size in words.
    pub ngram: usize,
    /// Minimum words of a text shorter than an n-gram, which is compared as a whole.
    pub min_words: usize,
    /// Minimum number of different n-grams that a contaminated document shares with an item.
    pub min_matches: usize,
    /// Whether contaminated documents are dropped, or only reported.
    pub drop: bool,
}

impl Default for DecontaminateConfig {
    fn default() -> Self {
        Self { files: Vec::new(), fields: Vec::new(), ngram: 13, min_words: 13, min_matches: 1, drop: true }
    }
}

/// Longest line of an evaluation file.
const LONGEST_LINE: u64 = 64 << 20;
/// Longest CSV file, undone: the parser itself has no limit on a record.
const LONGEST_CSV: u64 = 1 << 30;
/// Longest sequence that may be asked for.
const LONGEST_NGRAM: usize = 1024;

/// An evaluation file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvaluationFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Items in it.
    pub items: u64,
    /// Items without a text long enough to compare.
    pub too_short: u64,
}

/// An evaluation item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Index of its file.
    pub file: u32,
    /// Number of its record in the file, from 1: the line, where no record has line breaks in it.
    pub record: u64,
}

/// A decontaminator: the n-grams of all evaluation items, indexed.
#[derive(Debug)]
pub struct Decontaminator {
    config: DecontaminateConfig,
    files: Vec<EvaluationFile>,
    items: Vec<Item>,
    /// `(sequence, item)`, in order.
    sequences: Vec<(u64, u32)>,
    /// Where the items of a sequence begin in `sequences`.
    index: FxHashMap<u64, u32>,
    /// The lengths of all sequences.
    lengths: Vec<usize>,
}

/// Scratch buffers of a thread that searches for n-grams.
#[derive(Default)]
pub struct DecontaminateScratch {
    normaliser: Normaliser,
    words: Vec<Word>,
    shingles: Vec<u64>,
}

/// Number of different n-grams that a document shares with each item, by index into [`Decontaminator::items`].
pub type Shared = BTreeMap<u32, usize>;

impl Decontaminator {
    /// Reads the evaluation files.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::BadArchive`] for a file that cannot be read, [`Error::Config`] for one that holds
    /// something else, or an invalid number.
    pub fn new(config: &DecontaminateConfig) -> Result<Self> {
        let mut found = Self::empty(config)?;
        let mut scratch = DecontaminateScratch::default();
        for path in &config.files {
            let file = File::open(path).map_err(Error::io("open", path))?;
            found.read(path, file, &mut scratch)?;
        }
        found.sort()?;
        Ok(found)
    }

    /// Reads one evaluation file from `reader`; `path` says by its suffixes what it holds.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_reader(config: &DecontaminateConfig, path: &Path, reader: impl Read) -> Result<Self> {
        let mut found = Self::empty(config)?;
        found.read(path, reader, &mut DecontaminateScratch::default())?;
        found.sort()?;
        Ok(found)
    }

    fn empty(config: &DecontaminateConfig) -> Result<Self> {
        let lengths = [("decontaminate.ngram", config.ngram), ("decontaminate.min_words", config.min_words)];
        for (field, value) in lengths {
            if !(1..=LONGEST_NGRAM).contains(&value) {
                let what = format!("{value} words: 1 to {LONGEST_NGRAM} are possible");
                return Err(Error::Config { field, what });
            }
        }
        Ok(Self {
            config: config.clone(),
            files: Vec::new(),
            items: Vec::new(),
            sequences: Vec::new(),
            index: FxHashMap::default(),
            lengths: Vec::new(),
        })
    }

    /// Puts what was read in order, so that it can be looked up.
    fn sort(&mut self) -> Result<()> {
        self.sequences.sort_unstable();
        self.sequences.dedup();
        if u32::try_from(self.sequences.len()).is_err() {
            let what = format!("{} sequences are more than can be numbered: give fewer files", self.sequences.len());
            return Err(Error::Config { field: "decontaminate.files", what });
        }
        for ((sequence, _), at) in self.sequences.iter().zip(0..) {
            self.index.entry(*sequence).or_insert(at);
        }
        self.lengths.sort_unstable();
        self.lengths.dedup();
        Ok(())
    }

    /// The files that were read.
    pub fn files(&self) -> &[EvaluationFile] {
        &self.files
    }

    /// All evaluation items that a document can share n-grams with.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Fingerprint of the items and their n-grams: counts under different fingerprints cannot be merged.
    pub fn fingerprint(&self) -> u64 {
        self.sequences.iter().fold(self.config.ngram as u64, |hash, (sequence, item)| {
            xxh3_64(&[hash, *sequence, u64::from(*item)].map(u64::to_le_bytes).concat())
        })
    }

    /// Finds the items that a text shares enough n-grams with.
    pub fn shared(&self, text: &str, scratch: &mut DecontaminateScratch) -> Shared {
        let DecontaminateScratch { normaliser, words, shingles } = scratch;
        let mut shared = Shared::new();
        if self.index.is_empty() {
            return shared;
        }
        let text = normaliser.normalise(text);
        words::split(text, words);
        let mut hits: Vec<u32> = Vec::new();
        for length in &self.lengths {
            shingle(text, words, *length, shingles);
            hits.extend(shingles.iter().filter_map(|sequence| self.index.get(sequence)).copied());
        }
        hits.sort_unstable();
        hits.dedup();
        for start in hits {
            let rest = self.sequences.get(start as usize..).unwrap_or_default();
            let Some((sequence, _)) = rest.first() else { continue };
            for (_, item) in rest.iter().take_while(|(other, _)| other == sequence) {
                *shared.entry(*item).or_default() += 1;
            }
        }
        shared.retain(|_, count| *count >= self.config.min_matches.max(1));
        shared
    }

    /// The verdict on a document that shares this much.
    ///
    /// # Errors
    /// The drop, with the greatest number of sequences shared with one item.
    pub fn judge(&self, shared: &Shared) -> Result<(), Dropped> {
        match shared.values().max() {
            Some(most) if self.config.drop => Err(Dropped {
                rule: "decontaminate.min_matches",
                value: *most as f64,
                threshold: self.config.min_matches.max(1) as f64,
            }),
            _ => Ok(()),
        }
    }

    fn read(&mut self, path: &Path, file: impl Read, scratch: &mut DecontaminateScratch) -> Result<()> {
        let (name, reader) = undo_compression(path, file)?;
        let file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(EvaluationFile { path: path.to_path_buf(), items: 0, too_short: 0 });
        let mut each = |record: u64, texts: &[&str]| self.add(Item { file, record }, texts, scratch);
        if name.ends_with(".csv") {
            let mut records =
                csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader.take(LONGEST_CSV));
            let mut fields = csv::StringRecord::new();
            for number in 1.. {
                let more = records.read_record(&mut fields);
                if !more.map_err(|e| unusable(path, number, &e.to_string()))? {
                    break;
                }
                each(number, &fields.iter().collect::<Vec<_>>());
                if records.position().byte() >= LONGEST_CSV {
                    return Err(unusable(path, number, &format!("the file is longer than {LONGEST_CSV} bytes")));
                }
            }
            return Ok(());
        }
        let json = name.ends_with(".jsonl") || name.ends_with(".ndjson");
        let fields = self.config.fields.clone();
        let mut each = |record: u64, texts: &[&str]| self.add(Item { file, record }, texts, scratch);
        for_each_line(path, reader, |number, line| {
            if !json {
                each(number, &[line]);
                return Ok(());
            }
            let value: Value = serde_json::from_str(line).map_err(|e| unusable(path, number, &e.to_string()))?;
            let mut texts = Vec::new();
            match (&value, fields.as_slice()) {
                (Value::Object(map), [_, ..]) => {
                    fields.iter().filter_map(|field| map.get(field)).for_each(|value| strings(value, &mut texts));
                }
                _ => strings(&value, &mut texts),
            }
            each(number, &texts);
            Ok(())
        })
    }

    /// Adds an item by its texts. Sequences do not reach from one text into the next.
    fn add(&mut self, item: Item, texts: &[&str], scratch: &mut DecontaminateScratch) {
        let DecontaminateScratch { normaliser, words, shingles } = scratch;
        let number = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        let before = self.sequences.len();
        for text in texts {
            let text = normaliser.normalise(text);
            words::split(text, words);
            if words.len() < self.config.min_words.min(self.config.ngram) {
                continue;
            }
            let length = words.len().min(self.config.ngram);
            shingle(text, words, length, shingles);
            self.sequences.extend(shingles.iter().map(|sequence| (*sequence, number)));
            if !self.lengths.contains(&length) {
                self.lengths.push(length);
            }
        }
        let short = self.sequences.len() == before;
        if let Some(file) = self.files.last_mut() {
            file.items += 1;
            file.too_short += u64::from(short);
        }
        if !short {
            self.items.push(item);
        }
    }
}

/// All strings in a value, in order.
fn strings<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, texts)),
        Value::Object(map) => map.values().for_each(|value| strings(value, texts)),
        _ => {}
    }
}

fn unusable(path: &Path, record: u64, what: &str) -> Error {
    Error::Config {
        field: "decontaminate.files",
        what: format!("{}: record {record}: {what}; correct the file or leave it out", path.display()),
    }
}

/// The name without the suffix of a compression, and the content.
fn undo_compression<'a>(path: &Path, file: impl Read + 'a) -> Result<(String, Box<dyn Read + 'a>)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if let Some(name) = name.strip_suffix(".gz") {
        return Ok((name.to_owned(), Box::new(MultiGzDecoder::new(BufReader::new(file)))));
    }
    if let Some(name) = name.strip_suffix(".zst") {
        let decoder = zstd::Decoder::new(file).map_err(Error::io("read", path))?;
        return Ok((name.to_owned(), Box::new(decoder)));
    }
    Ok((name, Box::new(file)))
}

/// Calls `each` with every line that is not blank, and its number from 1.
fn for_each_line(path: &Path, reader: impl Read, mut each: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(reader);
    let (mut line, mut offset) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|source| Error::BadArchive { path: path.to_path_buf(), offset, source })?;
        if read == 0 {
            break;
        }
        offset += read as u64;
        if read as u64 == LONGEST_LINE && !line.ends_with(b"\n") {
            return Err(unusable(path, number, &format!("is longer than {LONGEST_LINE} bytes")));
        }
        let text = std::str::from_utf8(&line).map_err(|e| unusable(path, number, &e.to_string()))?;
        if !text.trim().is_empty() {
            each(number, text.trim())?;
        }
    }
    Ok(())
}

/// Number of contaminated documents per evaluation item, over documents, tasks and ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemHits(BTreeMap<u32, u64>);

/// An item that occurs in training data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContaminatedItem {
    /// Its evaluation file.
    pub file: PathBuf,
    /// Number of its record in the file, from 1.
    pub record: u64,
    /// Documents it occurs in.
    pub documents: u64,
}

impl ItemHits {
    /// Counts a contaminated document.
    pub fn add(&mut self, shared: &Shared) {
        shared.keys().for_each(|item| *self.0.entry(*item).or_default() += 1);
    }

    /// Adds what another task counted.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(item, documents)| *self.0.entry(*item).or_default() += documents);
    }

    /// The items that were hit, in the order of the files.
    pub fn report(&self, decontaminator: &Decontaminator) -> Vec<ContaminatedItem> {
        let describe = |(item, documents): (&u32, &u64)| {
            let item = decontaminator.items.get(*item as usize)?;
            let file = decontaminator.files.get(item.file as usize)?.path.clone();
            Some(ContaminatedItem { file, record: item.record, documents: *documents })
        };
        self.0.iter().filter_map(describe).collect()
    }

    /// The counts by item, to be carried from one task to another.
    pub fn counts(&self) -> &BTreeMap<u32, u64> {
        &self.0
    }

    /// Restores counts that [`counts`](Self::counts) gave.
    pub fn from_counts(counts: BTreeMap<u32, u64>) -> Self {
        Self(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    const LONG: &str = "the quick brown fox jumps over the lazy dog while two small birds watch from above";

    fn with(name: &str, content: &[u8], config: DecontaminateConfig) -> Result<Decontaminator> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        Decontaminator::new(&DecontaminateConfig { files: vec![path], ..config })
    }

    fn hits(found: &Decontaminator, text: &str) -> Vec<u64> {
        let shared = found.shared(text, &mut DecontaminateScratch::default());
        shared.keys().map(|item| found.items()[*item as usize].record).collect()
    }

    #[test]
    fn finds_items_of_every_format() {
        let default = DecontaminateConfig::default;
        let json = format!("{{\"id\": 1, \"q\": \"too short\"}}\n{{\"q\": [\"{LONG}\"], \"n\": 3}}\n");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(json.as_bytes()).unwrap();
        let gz = gz.finish().unwrap();
        let zst = zstd::encode_all(json.as_bytes(), 1).unwrap();
        let csv = format!("a,b\n\"x, y\",\"{LONG}\"\n");
        let text = format!("short line\n{LONG}\n");
        let document = format!("Before it. THE QUICK, brown fox jumps: {} And after.", &LONG[26..]);
        for (name, content) in [
            ("a.jsonl", json.as_bytes()),
            ("a.jsonl.gz", &gz),
            ("a.jsonl.zst", &zst),
            ("a.csv", csv.as_bytes()),
            ("a.txt", text.as_bytes()),
        ] {
            let found = with(name, content, default()).unwrap();
            assert_eq!(hits(&found, &document), [2], "{name}");
            assert_eq!(hits(&found, "the quick brown fox jumps over nothing at all in this other text here"), [0; 0]);
            let file = &found.files()[0];
            assert_eq!((file.items, file.too_short), (2, 1), "{name}");
        }
    }

    #[test]
    fn reports_items_and_drops_documents() {
        let found = with("a.txt", LONG.as_bytes(), DecontaminateConfig::default()).unwrap();
        let shared = found.shared(LONG, &mut DecontaminateScratch::default());
        let dropped = found.judge(&shared).unwrap_err();
        // 16 words hold four sequences of 13.
        assert_eq!((dropped.rule, dropped.value), ("decontaminate.min_matches", 4.0));
        let mut hits = ItemHits::default();
        hits.add(&shared);
        let mut all = ItemHits::from_counts(hits.counts().clone());
        all.merge(&hits);
        let report = all.report(&found);
        assert_eq!((report.len(), report[0].record, report[0].documents), (1, 1, 2));
        let lenient = DecontaminateConfig { drop: false, ..DecontaminateConfig::default() };
        let found = with("a.txt", LONG.as_bytes(), lenient).unwrap();
        assert_eq!(found.judge(&shared), Ok(()));
    }

    #[test]
    fn short_items_can_be_looked_for_as_a_whole() {
        let config = DecontaminateConfig { min_words: 4, ..DecontaminateConfig::default() };
        let found = with("a.txt", b"one two three\nfour five six seven\n", config).unwrap();
        assert_eq!(hits(&found, "zero one two three four, five six seven eight"), [2]);
    }

    #[test]
    fn fields_can_be_chosen() {
        let json = format!("{{\"a\": \"{LONG}\", \"b\": \"{}\"}}", LONG.replace("fox", "cat"));
        let config = DecontaminateConfig { fields: vec!["b".into()], ..DecontaminateConfig::default() };
        let found = with("a.jsonl", json.as_bytes(), config).unwrap();
        assert!(hits(&found, LONG).is_empty());
        assert_eq!(hits(&found, &LONG.replace("fox", "cat")), [1]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
            name in 0..5_usize,
        ) {
            let name = ["a.jsonl", "a.csv", "a.txt", "a.csv.gz", "a.jsonl.zst"][name];
            let _ = Decontaminator::from_reader(&DecontaminateConfig::default(), Path::new(name), bytes.as_slice());
        }
    }

    #[test]
    fn bad_files_are_errors() {
        let bad = |name, content: &[u8]| with(name, content, DecontaminateConfig::default()).unwrap_err().to_string();
        assert!(bad("a.jsonl", b"{\"a\": 1}\n{").contains("record 2"));
        assert!(bad("a.txt", b"\xff").contains("record 1"));
        assert!(bad("a.txt.gz", b"no gzip").contains("a.txt.gz"));
        assert!(bad("a.txt.zst", b"no zstd").contains("a.txt.zst"));
        let config = DecontaminateConfig { ngram: 0, ..DecontaminateConfig::default() };
        assert!(matches!(Decontaminator::new(&config), Err(Error::Config { field: "decontaminate.ngram", .. })));
    }
}
