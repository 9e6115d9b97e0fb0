//! The input files of a preparation, cut into tasks by bytes alone, and the records in them.

use super::config::InputConfig;
use crate::document::{Document, Dropped};
use crate::error::{BadRecord, Error, Result};
use crate::hash;
use crate::read::{self, BINARY, Format, InputFile, ReadConfig, Reader, Record, Split, Walked};
use crate::shard::InputsEntry;
use rayon::prelude::*;
use serde_json::json;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// What this process has read so far, over all tasks.
#[derive(Debug, Default)]
struct Tally {
    bad: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Bytes on disk after which the rate of bad records tells something: much more than is read ahead.
const ENOUGH_TO_TELL: u64 = 16 << 20;

/// The files of a preparation and which task reads what of them.
#[derive(Debug)]
pub(super) struct Inputs {
    files: Vec<InputFile>,
    passed_over: Vec<String>,
    /// Parts of files, in order.
    splits: Vec<Split>,
    /// The parts that each task reads.
    tasks: Vec<Range<usize>>,
    tally: Tally,
}

impl Inputs {
    /// Finds the files and divides them into tasks of about `task_bytes`: large files are cut, small ones taken
    /// together.
    pub fn find(config: &InputConfig, task_bytes: u64) -> Result<Self> {
        let Walked { files, passed_over } = read::walk(&config.paths, config.format, &config.fields())?;
        let passed_over: Vec<String> =
            passed_over.iter().map(|(why, (count, first))| passed(*count, why, first)).collect();
        if files.is_empty() {
            let found = if passed_over.is_empty() { "no files".into() } else { passed_over.join("; ") };
            let what = format!("{found}; name files themselves to read them as text, or set input.format");
            return Err(Error::EmptyCorpus { paths: config.paths.clone(), what });
        }
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
        Ok(Self { files, passed_over, splits, tasks, tally: Tally::default() })
    }

    /// Files below folders that were passed over, each with the reason.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// Bytes of all files.
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether there may be web pages among the documents.
    pub fn have_pages(&self) -> bool {
        self.files.iter().any(|file| matches!(file.format, Format::Html | Format::Warc))
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Bytes on disk that each task reads.
    pub fn sizes(&self) -> Vec<u64> {
        let size = |split: &Split| split.bytes.end.saturating_sub(split.bytes.start);
        self.tasks.iter().map(|task| self.splits[task.clone()].iter().map(size).sum()).collect()
    }

    /// What is known of the files without reading them: enough to tell one preparation's intermediate results from
    /// another's.
    pub fn identity(&self) -> Result<String> {
        let mut text = String::new();
        for file in &self.files {
            let changed = fs::metadata(&file.path).and_then(|info| info.modified());
            let changed = changed.map_err(Error::io("read the time of", &file.path))?;
            let age = changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            text += &format!("{} {age} {}\n", file.bytes, file.name.display());
        }
        Ok(hash::of_bytes(text.as_bytes()))
    }

    /// SHA-256 of a task's input bytes.
    pub fn digest(&self, task: usize) -> Result<String> {
        let sum = |split: &Split| hash::of_range(&self.files[split.file as usize].path, split.bytes.clone());
        let sums = self.splits[self.tasks[task].clone()].iter().map(sum);
        Ok(hash::of_bytes(sums.collect::<Result<Vec<_>>>()?.concat().as_bytes()))
    }

    /// Manifest entry of the inputs, once the first tasks are done and found `digests`.
    pub fn entry(&self, digests: &[String]) -> InputsEntry {
        let names: String = self.files.iter().map(|file| format!("{} {}\n", file.bytes, file.name.display())).collect();
        InputsEntry {
            files: self.files.len() as u64,
            bytes: self.bytes(),
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
    pub fn open<'a>(&'a self, task: usize, config: &'a InputConfig, budget: Option<u64>) -> Items<'a> {
        Items {
            inputs: self,
            config,
            // Pages become text where there are threads for it, not here.
            reading: ReadConfig {
                fields: config.fields(),
                max_document_bytes: config.max_document_bytes,
                extract: None,
            },
            left: self.tasks[task].clone(),
            budget,
            open: None,
            bytes_read: 0,
            reported: 0,
            text_bytes: 0,
            bad_records: 0,
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

/// That a file is no text, and what to do.
fn not_text(why: &Dropped, file: &InputFile) -> String {
    let known = read::binary_format(&file.path);
    let what = match known {
        Some(format) => format!("this is {format}, not text"),
        None => format!("{:.0} % of the bytes are not text", 100.0 * why.value),
    };
    format!("{}: {what}, left out; convert the file to UTF-8 text", file.path.display())
}

/// `3 files passed over (unknown suffix .png), such as a/b.png`
fn passed(count: u64, why: &str, first: &Path) -> String {
    match count {
        1 => format!("1 file passed over ({why}): {}", first.display()),
        _ => format!("{count} files passed over ({why}), such as {}", first.display()),
    }
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
    config: &'a InputConfig,
    reading: ReadConfig,
    /// Parts that are not open yet.
    left: Range<usize>,
    budget: Option<u64>,
    open: Option<Reader>,
    /// By readers that are done.
    bytes_read: u64,
    reported: u64,
    text_bytes: u64,
    bad_records: u64,
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
                    self.check_rate(&bad)?;
                    self.warn(|| format!("{bad}, left out"));
                    continue;
                }
            };
            self.records += 1;
            self.inputs.tally.records.fetch_add(1, Ordering::Relaxed);
            let path = || self.inputs.files[item.document.origin.file as usize].path.display();
            match &item.dropped {
                Some(why) if why.rule == BINARY => {
                    let what = not_text(why, &self.inputs.files[item.document.origin.file as usize]);
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
                    self.open = None;
                }
            }
        }
    }

    /// Bytes read from disk since the last call.
    pub fn progress(&mut self) -> u64 {
        let now = self.bytes_read + self.open.as_ref().map_or(0, Reader::bytes_read);
        let since = std::mem::replace(&mut self.reported, now).abs_diff(now);
        self.inputs.tally.bytes.fetch_add(since, Ordering::Relaxed);
        since
    }

    /// Takes the warnings since the last call: bad records, each with its place.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Gives up early where bad records are so frequent that there will be too many in the end, and where a fixed
    /// number is exceeded already.
    fn check_rate(&self, bad: &BadRecord) -> Result<()> {
        let tally = &self.inputs.tally;
        let bad_records = tally.bad.fetch_add(1, Ordering::Relaxed) + 1;
        let records = bad_records + tally.records.load(Ordering::Relaxed);
        let read = self.bytes_read + self.open.as_ref().map_or(0, Reader::bytes_read);
        let bytes = tally.bytes.load(Ordering::Relaxed) + read.saturating_sub(self.reported);
        if bytes < ENOUGH_TO_TELL {
            return Ok(());
        }
        // What is read twice, for training a tokenizer, is counted twice here: hence the margin.
        let all = records as f64 * self.inputs.bytes() as f64 / bytes as f64;
        let limit = self.config.bad_limit(all as u64);
        if bad_records > limit.saturating_mul(4) {
            return Err(Error::TooManyBad { bad: Box::new(bad.clone()), count: bad_records, records, limit });
        }
        Ok(())
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
}
