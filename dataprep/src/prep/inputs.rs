//! What there is to read, divided into tasks by bytes alone, and the items in it.

use super::InputConfig;
use crate::document::{Document, Dropped, Origin};
use crate::error::{Error, Result};
use crate::hash;
use crate::shard::InputsEntry;
use crate::source::{self, Documents, InputFile};
use rayon::prelude::*;
use serde_json::json;
use std::fs;
use std::ops::Range;
use std::time::UNIX_EPOCH;

/// The files of a preparation and which task reads what of them.
#[derive(Debug)]
pub(super) struct Inputs {
    files: Vec<InputFile>,
    tasks: Vec<Range<usize>>,
}

impl Inputs {
    /// Finds the files and divides them into tasks of about `task_bytes`.
    pub fn find(config: &InputConfig, task_bytes: u64) -> Result<Self> {
        let files = source::walk(&config.paths)?;
        if files.is_empty() {
            let what = "no file with a known suffix; name files themselves, or give .txt, .md, .jsonl or source files";
            return Err(Error::EmptyCorpus { paths: config.paths.clone(), what: what.into() });
        }
        let (mut tasks, mut first, mut bytes) = (Vec::new(), 0, 0_u64);
        for (i, file) in files.iter().enumerate() {
            bytes = bytes.saturating_add(file.bytes);
            if bytes >= task_bytes || i + 1 == files.len() {
                tasks.push(first..i + 1);
                (first, bytes) = (i + 1, 0);
            }
        }
        Ok(Self { files, tasks })
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Bytes on disk that each task reads.
    pub fn sizes(&self) -> Vec<u64> {
        let size = |task: &Range<usize>| self.files[task.clone()].iter().map(|file| file.bytes).sum();
        self.tasks.iter().map(size).collect()
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
        let sums = self.files[self.tasks[task].clone()].iter().map(|file| hash::of_file(&file.path));
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

    /// A line of JSON a file, in the order of [`Origin::file`].
    pub fn listing(&self) -> String {
        let line = |file: &InputFile| json!({ "path": file.path.to_string_lossy(), "bytes": file.bytes }).to_string();
        self.files.iter().map(|file| line(file) + "\n").collect()
    }

    /// The items of a task.
    pub fn open(&self, task: usize, config: InputConfig) -> Items<'_> {
        let range = self.tasks[task].clone();
        Items { documents: Documents::new(&self.files[range.clone()], config), first: range.start as u32, before: 0 }
    }
}

/// A document as it was read.
#[derive(Debug)]
pub(super) struct Item {
    /// The document, with U+FFFD for what is not UTF-8.
    pub document: Document,
    /// Its bytes where they are not UTF-8: some tokenizers take them as they are.
    pub raw: Option<Vec<u8>>,
    /// Why its reader left it out, if it did.
    pub dropped: Option<Dropped>,
}

/// The items of a task, one after the other.
pub(super) struct Items<'a> {
    documents: Documents<'a>,
    first: u32,
    before: u64,
}

impl Items<'_> {
    /// Items until they hold `bytes` bytes of text or are `count` many; none at the end.
    pub fn batch(&mut self, bytes: u64, count: usize) -> Result<Vec<Item>> {
        let before = self.documents.counts();
        let read = self.documents.batch(bytes, count)?;
        let item = |(text, mut origin): (Vec<u8>, Origin)| {
            origin.file += self.first;
            match String::from_utf8(text) {
                Ok(text) => Item { document: Document::new(origin, text), raw: None, dropped: None },
                Err(e) => {
                    let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
                    Item { document: Document::new(origin, text), raw: Some(e.into_bytes()), dropped: None }
                }
            }
        };
        let mut items: Vec<Item> = read.into_iter().map(item).collect();
        let now = self.documents.counts();
        for (rule, n) in
            [("input.empty", now.empty - before.empty), ("input.max_document_bytes", now.too_large - before.too_large)]
        {
            let origin = || Origin { file: self.first, bytes: 0..0, id: None };
            let dropped = Some(Dropped { rule, value: 0.0, threshold: 0.0 });
            let left_out = || Item { document: Document::new(origin(), String::new()), raw: None, dropped };
            items.extend((0..n).map(|_| left_out()));
        }
        Ok(items)
    }

    /// Bytes read from disk since the last call.
    pub fn progress(&mut self) -> u64 {
        let now = self.documents.bytes_read();
        std::mem::replace(&mut self.before, now).abs_diff(now)
    }

    /// What was left out since the last call, each with its place.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.documents.take_warnings()
    }

    /// Bytes of text passed on.
    pub fn text_bytes(&self) -> u64 {
        self.documents.counts().bytes
    }

    /// Records that were bad.
    pub fn bad_records(&self) -> u64 {
        self.documents.counts().bad_records
    }
}
