//! What there is to read, divided into tasks by bytes alone, and the items in it.

use super::config::InputConfig;
use crate::document::{Document, Dropped};
use crate::error::{Error, Result};
use crate::hash;
use crate::read::{self, Format, InputFile, ReadConfig, Reader, Record, Split};
use crate::shard::InputsEntry;
use rayon::prelude::*;
use serde_json::json;
use std::fs;
use std::ops::Range;
use std::time::UNIX_EPOCH;

/// The files of a preparation and which task reads what of them.
#[derive(Debug)]
pub(super) struct Inputs {
    files: Vec<InputFile>,
    /// Parts of files, in order.
    splits: Vec<Split>,
    /// The parts that each task reads.
    tasks: Vec<Range<usize>>,
}

impl Inputs {
    /// Finds the files and divides them into tasks of about `task_bytes`: large files are cut, small ones taken together.
    pub fn find(config: &InputConfig, task_bytes: u64) -> Result<Self> {
        let files = read::walk(&config.paths, config.format)?;
        if files.is_empty() {
            let what = "no file with a known suffix; name files themselves, or set input.format";
            return Err(Error::EmptyCorpus { paths: config.paths.clone(), what: what.into() });
        }
        let splits = read::splits(&files, task_bytes)?;
        let (mut tasks, mut first, mut bytes) = (Vec::new(), 0, 0_u64);
        for (i, split) in splits.iter().enumerate() {
            let size = split.bytes.end.saturating_sub(split.bytes.start);
            // A part that is as large as a task is one of its own.
            if i > first && bytes.saturating_add(size) > task_bytes {
                tasks.push(first..i);
                (first, bytes) = (i, 0);
            }
            bytes = bytes.saturating_add(size);
        }
        tasks.push(first..splits.len());
        Ok(Self { files, splits, tasks })
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

    /// SHA-256 of the bytes that a task reads.
    pub fn digest(&self, task: usize) -> Result<String> {
        let sum = |split: &Split| hash::of_range(&self.files[split.file as usize].path, split.bytes.clone());
        let sums = self.splits[self.tasks[task].clone()].iter().map(sum);
        Ok(hash::of_bytes(sums.collect::<Result<Vec<_>>>()?.concat().as_bytes()))
    }

    /// What the manifest says of the inputs, when the first tasks were done and found `digests`.
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
            warnings: Vec::new(),
        }
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
    warnings: Vec<String>,
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
                    let (count, limit) = (self.bad_records, self.config.max_bad_records);
                    if count > limit {
                        return Err(Error::TooManyBad { bad: Box::new(bad), count, limit });
                    }
                    self.warnings.push(format!("{bad}, left out"));
                    continue;
                }
            };
            if item.dropped.is_none() {
                self.text_bytes += item.document.text.len() as u64;
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
        std::mem::replace(&mut self.reported, now).abs_diff(now)
    }

    /// What was bad since the last call, each with its place.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Bytes of text passed on.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Records that were bad.
    pub fn bad_records(&self) -> u64 {
        self.bad_records
    }
}
