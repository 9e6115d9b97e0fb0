//! Reads the inputs of one task, and counts and reports bad records.

use super::config::InputConfig;
use super::inputs::{Inputs, Item, Items};
use super::work::{Draft, Receipt, Stage, Work};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a task read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ReadReport {
    /// SHA-256 of the bytes that were there to read.
    pub digest: String,
    /// Bytes of text read.
    pub text_bytes: u64,
    /// Records that were bad.
    pub bad_records: u64,
    /// The first of them: their places, and what is wrong.
    #[serde(default)]
    pub bad_places: Vec<String>,
    /// Bytes of the files that lie behind damage after which nothing can be found.
    #[serde(default)]
    pub bytes_lost: u64,
    /// Bytes of the files.
    #[serde(default)]
    pub bytes: u64,
    /// Records that were not.
    pub records: u64,
    /// Documents that are not UTF-8 throughout.
    pub not_utf8: u64,
    /// Pages that break off: what was received of them is kept.
    pub broken_off: u64,
    /// What the user was told, each with its place, so that one process can name what another met.
    pub complaints: Vec<String>,
}

/// A task's items on their way out of their files.
pub(super) struct Reading<'a, 'w> {
    work: &'a Work<'w>,
    items: Items<'a>,
    report: ReadReport,
    quiet: bool,
    bytes: u64,
    digest: Box<dyn FnOnce() -> Result<String> + Send + 'a>,
}

impl<'a, 'w> Reading<'a, 'w> {
    /// Will read the items of `task`, at most `budget` bytes of text.
    pub fn new(
        work: &'a Work<'w>,
        inputs: &'a Inputs,
        task: usize,
        config: &'a InputConfig,
        budget: Option<u64>,
    ) -> Self {
        Self {
            work,
            items: inputs.open(task, config, budget),
            report: ReadReport::default(),
            quiet: false,
            bytes: inputs.size(task),
            digest: Box::new(move || inputs.digest(task)),
        }
    }

    /// Tells the user nothing: all was said when the same was read before.
    pub fn be_quiet(&mut self) {
        self.quiet = true;
    }

    fn tell(&self, text: &str) {
        if !self.quiet {
            self.work.message(text);
        }
    }

    /// As [`Items::batch`], telling the user how far it is and what was left out.
    pub fn batch(&mut self, bytes: u64, count: usize) -> Result<Vec<Item>> {
        let batch = self.items.batch(bytes, count)?;
        for warning in self.items.take_warnings() {
            self.tell(&warning);
            self.report.complaints.push(warning);
        }
        self.work.advance(self.items.progress(), batch.len() as u64);
        Ok(batch)
    }

    /// What was read, at the end.
    pub fn finish(mut self) -> Result<ReadReport> {
        if self.items.unwarned() > 0 {
            self.tell(&format!(
                "{} more such messages about this part of the input are left out",
                self.items.unwarned()
            ));
        }
        // After reading: the bytes are in the system's cache then.
        self.report.digest = (self.digest)()?;
        self.report.text_bytes = self.items.text_bytes();
        self.report.bad_records = self.items.bad_records();
        self.report.bad_places = self.items.take_bad_places();
        self.report.bytes_lost = self.items.bytes_lost();
        self.report.bytes = self.bytes;
        self.report.records = self.items.records();
        self.report.not_utf8 = self.items.not_utf8();
        self.report.broken_off = self.items.broken_off();
        Ok(self.report)
    }
}

/// Runs a stage that reads inputs: its tasks one after the other, each with what is left of `input.max_bytes`, if that
/// is set; else several at once. `read` finds a task's reading in its report.
pub(super) fn in_order<R, F>(
    work: &Work<'_>,
    stage: &Stage,
    config: &InputConfig,
    read: impl Fn(&R) -> Option<&ReadReport>,
    body: F,
) -> Result<Vec<Receipt<R>>>
where
    R: Serialize + DeserializeOwned + Send,
    F: Fn(usize, Option<u64>, &mut Draft) -> Result<R> + Sync,
{
    let Some(most) = config.max_bytes else {
        return work.run(stage, |task, draft| body(task, None, draft));
    };
    let so_far = |before: &[Receipt<R>]| {
        before.iter().filter_map(|receipt| read(&receipt.report)).map(|read| read.text_bytes).sum::<u64>()
    };
    let more = |before: &[Receipt<R>]| so_far(before) < most;
    work.run_in_order(stage, more, |task, before, draft| body(task, Some(most.saturating_sub(so_far(before))), draft))
}

/// Bad records that an error names.
const NAMED: usize = 5;

/// Bad records in all tasks' reading, after checking that there are no more than may be, and that no more of the files
/// lies behind damage. Every process comes to the same, since all of them go by the receipts.
pub(super) fn bad_records<'r>(
    reports: impl Iterator<Item = &'r ReadReport> + Clone,
    config: &InputConfig,
) -> Result<u64> {
    let sum = |count: fn(&ReadReport) -> u64| reports.clone().map(count).sum::<u64>();
    let count = sum(|report| report.bad_records);
    let records = count + sum(|report| report.records);
    let (lost, bytes) = (sum(|report| report.bytes_lost), sum(|report| report.bytes));
    let exceeded = config.exceeded(count, records).or_else(|| {
        Some((format!("{lost} of {bytes} bytes of the files lie behind damage"), config.lost(lost, bytes)?))
    });
    if let Some((what, limit)) = exceeded {
        let places = reports.flat_map(|report| &report.bad_places).take(NAMED).cloned().collect();
        return Err(Error::BadRecords { what, limit, places });
    }
    Ok(count)
}
