//! The input files of a preparation, cut into tasks by bytes alone, and the records in them.

use super::config::InputConfig;
use crate::document::{Document, Dropped};
use crate::error::{Error, Result};
use crate::hash;
use crate::read::{self, BINARY, Format, InputFile, PassedOver, ReadConfig, Reader, Record, Split, TOO_LARGE, Walked};
use crate::shard::InputsEntry;
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The files of a preparation and which task reads what of them.
#[derive(Debug)]
pub(super) struct Inputs {
    files: Vec<InputFile>,
    /// When each was changed last, before it was read.
    changed: Vec<SystemTime>,
    passed_over: Vec<PassedOver>,
    renamed: Vec<PassedOver>,
    /// Parts of files, in order.
    splits: Vec<Split>,
    /// The parts that each task reads.
    tasks: Vec<Range<usize>>,
}

impl Inputs {
    /// Finds the files and divides them into tasks of about `task_bytes`: large files are cut, small ones taken
    /// together.
    pub fn find(config: &InputConfig, task_bytes: u64) -> Result<Self> {
        let Walked { files, passed_over, renamed } = read::walk(&config.paths, config.format, &config.fields())?;
        if files.is_empty() {
            let found = if passed_over.is_empty() { "no files".into() } else { not_read(&passed_over).join("; ") };
            let what = format!("{found}; name files themselves to read them as text, or set input.format");
            return Err(Error::EmptyCorpus { paths: config.paths.clone(), what });
        }
        let changed = files.iter().map(|file| change(&file.path).map(|(_, time)| time)).collect::<Result<_>>()?;
        let splits = read::splits(&files, task_bytes)?;
        let (mut tasks, mut first, mut bytes) = (Vec::new(), 0, 0_u64);
        for (i, split) in splits.iter().enumerate() {
            let size = split.bytes.end.saturating_sub(split.bytes.start);
            // A part that is as large as a task is a task by itself.
            if i > first && bytes.saturating_add(size) > task_bytes {
                tasks.push(first..i);
                (first, bytes) = (i, 0);
            }
            bytes = bytes.saturating_add(size);
        }
        tasks.push(first..splits.len());
        Ok(Self { files, changed, passed_over, renamed, splits, tasks })
    }

    /// What the user is told of files that are not read, or not as their names say: the reasons, with examples.
    pub fn notes(&self) -> Vec<String> {
        let renamed = read::by_reason(&self.renamed, "read by content, not by suffix");
        not_read(&self.passed_over).into_iter().chain(renamed).collect()
    }

    /// How many files and folders were passed over, by reason.
    pub fn passed_over(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        self.passed_over.iter().for_each(|not| *counts.entry(not.why.clone()).or_default() += 1);
        counts
    }

    /// A line of JSON for each of them, in the order of the walk.
    pub fn passed_over_listing(&self) -> String {
        let line = |not: &PassedOver| json!({ "path": not.path.to_string_lossy(), "why": not.why }).to_string();
        self.passed_over.iter().map(|not| line(not) + "\n").collect()
    }

    /// Checks that the files of a task are as they were before they were read.
    fn check_unchanged(&self, task: usize) -> Result<()> {
        for split in &self.splits[self.tasks[task].clone()] {
            let (file, before) = (&self.files[split.file as usize], self.changed[split.file as usize]);
            let (bytes, now) = change(&file.path)?;
            if (bytes, now) != (file.bytes, before) {
                return Err(Error::InputChanged { path: file.path.clone(), before: file.bytes, now: bytes });
            }
        }
        Ok(())
    }

    /// Whether there may be web pages among the documents.
    pub fn have_pages(&self) -> bool {
        self.files.iter().any(|file| matches!(file.format, Format::Html | Format::Warc))
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Bytes on disk that a task reads.
    pub fn size(&self, task: usize) -> u64 {
        let size = |split: &Split| split.bytes.end.saturating_sub(split.bytes.start);
        self.splits[self.tasks[task].clone()].iter().map(size).sum()
    }

    /// Bytes on disk that each task reads.
    pub fn sizes(&self) -> Vec<u64> {
        (0..self.tasks.len()).map(|task| self.size(task)).collect()
    }

    /// What is known of the files without reading them: enough to tell one preparation's intermediate results from
    /// another's.
    pub fn identity(&self) -> String {
        let mut text = String::new();
        for (file, changed) in self.files.iter().zip(&self.changed) {
            let age = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            text += &format!("{} {age} {}\n", file.bytes, file.name.display());
        }
        hash::of_bytes(text.as_bytes())
    }

    /// SHA-256 of a task's input bytes, which must be those that were found.
    pub fn digest(&self, task: usize) -> Result<String> {
        let sum = |split: &Split| hash::of_range(&self.files[split.file as usize].path, split.bytes.clone());
        let sums = self.splits[self.tasks[task].clone()].iter().map(sum).collect::<Result<Vec<_>>>()?;
        self.check_unchanged(task)?;
        Ok(hash::of_bytes(sums.concat().as_bytes()))
    }

    /// Manifest entry of the inputs, once the first tasks are done and found `digests`.
    pub fn entry(&self, digests: &[String]) -> InputsEntry {
        let names: String = self.files.iter().map(|file| format!("{} {}\n", file.bytes, file.name.display())).collect();
        InputsEntry {
            files: self.files.len() as u64,
            bytes: self.files.iter().map(|file| file.bytes).sum(),
            parts: digests.len() as u64,
            sha256: hash::of_bytes((names + &digests.concat()).as_bytes()),
        }
    }

    /// The entry again, from the files as they are now; `None` when there are fewer tasks now.
    pub fn read_entry(&self, parts: u64) -> Result<Option<InputsEntry>> {
        if parts > self.tasks.len() as u64 {
            return Ok(None);
        }
        let digests = (0..parts as usize).into_par_iter().map(|task| self.digest(task)).collect::<Result<Vec<_>>>()?;
        Ok(Some(self.entry(&digests)))
    }

    /// A line of JSON a file, in the order of [`Origin::file`](crate::document::Origin::file).
    pub fn listing(&self) -> String {
        let line = |file: &InputFile| json!({ "path": file.path.to_string_lossy(), "bytes": file.bytes }).to_string();
        self.files.iter().map(|file| line(file) + "\n").collect()
    }

    /// The items of a task, as far as they hold at most `budget` bytes of text, to the end of a document.
    pub fn open<'a>(&'a self, task: usize, config: &InputConfig, budget: Option<u64>) -> Items<'a> {
        Items {
            inputs: self,
            // Pages become text where there are threads for it, not here.
            reading: ReadConfig {
                fields: config.fields(),
                max_document_bytes: config.max_document_bytes,
                max_growth: config.max_growth,
                extract: None,
            },
            left: self.tasks[task].clone(),
            budget,
            open: None,
            bytes_read: 0,
            bytes_lost: 0,
            reported: 0,
            text_bytes: 0,
            bad_records: 0,
            bad_places: Vec::new(),
            records: 0,
            not_utf8: 0,
            broken_off: 0,
            warnings: Vec::new(),
            warned: 0,
        }
    }
}

/// Warnings that one task gives; the others are counted.
const MAX_WARNINGS: u64 = 20;
/// Bad records that one task names for the error at the end of reading.
const MAX_BAD_PLACES: usize = 3;

/// That a file is no text, and what to do.
fn not_text(why: &Dropped, file: &InputFile) -> String {
    let known = read::binary_format(&file.path);
    let what = match known {
        Some(format) => format!("this is {format}, not text"),
        None => format!("{:.0} % of the bytes are not text", 100.0 * why.value),
    };
    format!("{}: {what}, left out; convert the file to UTF-8 text", file.path.display())
}

/// `3 files not read (unknown suffix .png): a, b, c`
fn not_read(passed_over: &[PassedOver]) -> Vec<String> {
    read::by_reason(passed_over, "not read")
}

/// Length of a file, and when it was changed.
fn change(path: &Path) -> Result<(u64, SystemTime)> {
    let info = fs::metadata(path).and_then(|info| Ok((info.len(), info.modified()?)));
    info.map_err(Error::io("read the time of", path))
}

/// A document as it was read.
#[derive(Debug)]
pub(super) struct Item {
    /// The document, with U+FFFD for what is not UTF-8.
    pub document: Document,
    /// Its bytes where they are not UTF-8: some tokenizers take them as they are.
    pub raw: Option<Vec<u8>>,
    /// Whether the text is a web page.
    pub is_page: bool,
    /// Why its reader left it out, if it did.
    pub dropped: Option<Dropped>,
}

/// The items of a task, one after the other.
pub(super) struct Items<'a> {
    inputs: &'a Inputs,
    reading: ReadConfig,
    /// Parts that are not open yet.
    left: Range<usize>,
    budget: Option<u64>,
    open: Option<Reader>,
    /// By readers that are done.
    bytes_read: u64,
    bytes_lost: u64,
    reported: u64,
    text_bytes: u64,
    bad_records: u64,
    bad_places: Vec<String>,
    records: u64,
    not_utf8: u64,
    broken_off: u64,
    warnings: Vec<String>,
    warned: u64,
}

impl Items<'_> {
    /// Items until they hold `bytes` bytes of text or are `count` many; none at the end.
    pub fn batch(&mut self, bytes: u64, count: usize) -> Result<Vec<Item>> {
        let (mut batch, mut total) = (Vec::new(), 0);
        while total < bytes && batch.len() < count {
            let Some(item) = self.item()? else {
                break;
            };
            total += item.document.text.len() as u64;
            batch.push(item);
        }
        Ok(batch)
    }

    fn item(&mut self) -> Result<Option<Item>> {
        loop {
            if self.budget.is_some_and(|most| self.text_bytes >= most) {
                return Ok(None);
            }
            let Some(record) = self.record()? else {
                return Ok(None);
            };
            let item = |document| Item { document, raw: None, is_page: false, dropped: None };
            let item = match record {
                Record::Document(document) => item(document),
                Record::Bytes(document, bytes) => Item { raw: Some(bytes), ..item(document) },
                Record::Page(document) => Item { is_page: true, ..item(document) },
                Record::Dropped(document, why) => Item { dropped: Some(why), ..item(document) },
                Record::Bad(bad) => {
                    self.bad_records += 1;
                    if self.bad_places.len() < MAX_BAD_PLACES {
                        self.bad_places.push(bad.to_string());
                    }
                    self.warn(|| format!("{bad}, left out"));
                    continue;
                }
                Record::Ignored(what) => {
                    self.warn(|| what.to_string());
                    continue;
                }
            };
            self.records += 1;
            let path = || self.inputs.files[item.document.origin.file as usize].path.display();
            match &item.dropped {
                Some(why) if why.rule == BINARY => {
                    let what = not_text(why, &self.inputs.files[item.document.origin.file as usize]);
                    self.warn(|| what);
                }
                Some(why) if why.rule == TOO_LARGE => {
                    let start = item.document.origin.bytes.start;
                    let what = format!(
                        "{}: the record at {start} has {} bytes or more, above input.max_document_bytes = {}, left out",
                        path(),
                        why.value,
                        why.threshold
                    );
                    self.warn(|| what);
                }
                Some(_) => {}
                None => {
                    self.text_bytes += item.document.text.len() as u64;
                    self.broken_off += u64::from(item.document.broken_off);
                    if let Some(bytes) = &item.raw {
                        let first = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len);
                        let what = format!(
                            "{}: not UTF-8 from byte {first} on; the bytes tokenizer keeps such bytes, others read \
                             U+FFFD: \
                             convert the file if it is in another encoding (iconv -f LATIN1 -t UTF-8)",
                            path()
                        );
                        self.not_utf8 += 1;
                        self.warn(|| what);
                    }
                }
            }
            return Ok(Some(item));
        }
    }

    fn record(&mut self) -> Result<Option<Record>> {
        loop {
            if self.open.is_none() {
                let Some(part) = self.left.next() else {
                    return Ok(None);
                };
                let split = &self.inputs.splits[part];
                self.open = Some(Reader::open(&self.inputs.files[split.file as usize], split, &self.reading)?);
            }
            let reader = self.open.as_mut().expect("opened above");
            match reader.next() {
                Some(record) => return record.map(Some),
                None => {
                    self.bytes_read += reader.bytes_read();
                    self.bytes_lost += reader.bytes_lost();
                    self.open = None;
                }
            }
        }
    }

    /// Bytes read from disk since the last call.
    pub fn progress(&mut self) -> u64 {
        let now = self.bytes_read + self.open.as_ref().map_or(0, Reader::bytes_read);
        std::mem::replace(&mut self.reported, now).abs_diff(now)
    }

    /// Takes the warnings since the last call: bad records, each with its place.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Keeps what to tell the user, as long as nobody is flooded.
    fn warn(&mut self, what: impl FnOnce() -> String) {
        if self.warned < MAX_WARNINGS {
            self.warnings.push(what());
        }
        self.warned += 1;
    }

    /// Number of warnings that were not kept, since there were too many.
    pub fn unwarned(&self) -> u64 {
        self.warned.saturating_sub(MAX_WARNINGS)
    }

    /// Bytes on disk that lie behind damage.
    pub fn bytes_lost(&self) -> u64 {
        self.bytes_lost
    }

    /// Number of good records.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Documents that are not UTF-8 throughout.
    pub fn not_utf8(&self) -> u64 {
        self.not_utf8
    }

    /// Pages that break off.
    pub fn broken_off(&self) -> u64 {
        self.broken_off
    }

    /// Bytes of text passed on.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Number of bad records.
    pub fn bad_records(&self) -> u64 {
        self.bad_records
    }

    /// Takes the places of the first bad records, and what is wrong there.
    pub fn take_bad_places(&mut self) -> Vec<String> {
        std::mem::take(&mut self.bad_places)
    }
}
