//! The reading of one task, with its counts and complaints.

use super::InputConfig;
use super::inputs::{Inputs, Item, Items};
use super::work::{Receipt, Work};
use crate::error::{Error, Result};
use crate::shard::StageReport;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Complaints that a receipt keeps, so that one process can name what another met.
const KEPT_COMPLAINTS: usize = 20;

/// What a task read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ReadReport {
    /// SHA-256 of the bytes that were there to read.
    pub digest: String,
    /// Bytes of text that were read.
    pub text_bytes: u64,
    /// Records that were bad.
    pub bad_records: u64,
    /// The first of them, and other things left out, each with its place.
    pub complaints: Vec<String>,
    /// What was passed on and what was not.
    pub stage: StageReport,
}

/// A task's items on their way out of their files.
pub(super) struct Reading<'a, 'w> {
    work: &'a Work<'w>,
    items: Items<'a>,
    report: ReadReport,
    digest: Box<dyn FnOnce() -> Result<String> + Send + 'a>,
}

impl<'a, 'w> Reading<'a, 'w> {
    /// Will read the items of `task`, at most `budget` bytes of text.
    pub fn new(work: &'a Work<'w>, inputs: &'a Inputs, task: usize, config: &InputConfig, budget: Option<u64>) -> Self {
        let mut config = config.clone();
        config.max_bytes = budget;
        Self {
            work,
            items: inputs.open(task, config),
            report: ReadReport::default(),
            digest: Box::new(move || inputs.digest(task)),
        }
    }

    /// As [`Items::batch`], telling the user how far it is and what was left out.
    pub fn batch(&mut self, bytes: u64, count: usize) -> Result<Vec<Item>> {
        let batch = self.items.batch(bytes, count)?;
        for warning in self.items.take_warnings() {
            self.work.message(&warning);
            if self.report.complaints.len() < KEPT_COMPLAINTS {
                self.report.complaints.push(warning);
            }
        }
        self.work.advance(self.items.progress(), batch.len() as u64);
        Ok(batch)
    }

    /// What was read, at the end.
    pub fn finish(mut self) -> Result<ReadReport> {
        // After reading: the bytes are in the system's cache then.
        self.report.digest = (self.digest)()?;
        self.report.text_bytes = self.items.text_bytes();
        self.report.bad_records = self.items.bad_records();
        self.report.stage = self.items.report();
        Ok(self.report)
    }
}

/// All tasks' reading: counts added up, after checking that no more was bad than may be.
pub(super) fn total<'r>(reports: impl Iterator<Item = &'r ReadReport>, config: &InputConfig) -> Result<ReadReport> {
    let mut all =
        ReadReport { stage: StageReport { name: "read".into(), ..StageReport::default() }, ..ReadReport::default() };
    for report in reports {
        all.text_bytes += report.text_bytes;
        all.bad_records += report.bad_records;
        all.complaints.extend_from_slice(&report.complaints);
        all.stage.add(&report.stage);
        if all.bad_records > config.max_bad_records {
            let example = report.complaints.first().map_or(Cow::Borrowed("no record named"), Cow::from);
            let (count, limit) = (all.bad_records, config.max_bad_records);
            return Err(Error::BadRecords { example: example.into_owned(), count, limit });
        }
    }
    Ok(all)
}

/// The digests of all tasks that read.
pub(super) fn digests<'r, R: 'r>(
    receipts: &'r [Receipt<R>],
    read: impl Fn(&'r R) -> Option<&'r ReadReport>,
) -> Vec<String> {
    receipts.iter().filter_map(|receipt| read(&receipt.report)).map(|report| report.digest.clone()).collect()
}
