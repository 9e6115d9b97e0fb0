//! The documents stage: writes cleaned documents to files, where a later stage needs all of them before the first can
//! be encoded.

use crate::dedup::MinHashScratch;
use crate::error::Result;
use crate::pipeline::clean::{Account, Aside, Cleaner};
use crate::pipeline::config::PrepConfig;
use crate::pipeline::flow::{BATCH_BYTES, BATCH_ITEMS, Stash, flow};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::packed::{Packed, Record, Records};
use crate::pipeline::provenance::Provenance;
use crate::pipeline::reading::{ReadReport, Reading, in_order};
use crate::pipeline::removed::{Removed, RemovedFrom, number};
use crate::pipeline::sign::Signer;
use crate::pipeline::work::{Receipt, Stage, Work};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Name of the stage's folder.
pub(in crate::pipeline) const STAGE: &str = "documents";
/// Suffix of its files.
const SUFFIX: &str = "docs";

/// What a task read and kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::pipeline) struct DocumentsReport {
    /// What was read.
    pub read: ReadReport,
    /// Counts of what was kept, dropped and changed.
    pub account: Account,
    /// Bytes of the text that was kept.
    pub kept_bytes: u64,
}

/// Reads and cleans all inputs and writes down what is kept, with what `signer` computes of it.
pub(in crate::pipeline) fn run(
    work: &Work<'_>,
    config: &PrepConfig,
    inputs: &Inputs,
    cleaner: &Cleaner,
    signer: Option<&Signer>,
) -> Result<Vec<Receipt<DocumentsReport>>> {
    let stage = Stage { name: STAGE, title: "read documents", sizes: inputs.sizes() };
    let scratches = Stash::<MinHashScratch>::default();
    in_order(
        work,
        &stage,
        &config.input,
        |report: &DocumentsReport| Some(&report.read),
        |task, budget, draft| {
            let mut reading = Reading::new(work, inputs, task, &config.input, budget);
            let mut aside = Aside::new(config.output.dropped);
            let mut report = DocumentsReport::default();
            let mut kept = Packed::new(draft.create(SUFFIX)?)?;
            let mut signed = signer.map(Signer::writer);
            let mut place = 0;
            flow(
                work,
                || reading.batch(BATCH_BYTES, BATCH_ITEMS),
                || scratches.lend(MinHashScratch::default),
                |scratch, item| {
                    let cleaned = cleaner.clean(item)?;
                    let signer = signer.filter(|_| cleaned.dropped.is_none());
                    let bands = signer.map(|signer| signer.bands(&cleaned.document.text, scratch));
                    Ok((cleaned, bands.unwrap_or_default()))
                },
                |(cleaned, bands)| {
                    report.account.enter(&cleaned);
                    if let Some((stage, why)) = &cleaned.dropped {
                        return aside.push(draft, &cleaned.document, stage, why);
                    }
                    let mut header = Provenance::of(&cleaned.document);
                    if let Some(signed) = &mut signed {
                        let number = number(task, place);
                        header.document = Some(number);
                        signed.push(number, &cleaned.document, &bands);
                    }
                    place += 1;
                    let text = cleaned.raw.as_deref().unwrap_or(cleaned.document.text.as_bytes());
                    report.kept_bytes += text.len() as u64;
                    kept.record(&header.line(), text)
                },
            )?;
            draft.publish(kept.finish()?)?;
            aside.finish(draft)?;
            if let Some(signed) = signed {
                signed.publish(draft)?;
            }
            report.read = reading.finish()?;
            Ok(report)
        },
    )
}

/// Documents that were written down, without those that were removed since.
pub(in crate::pipeline) struct Stored<'a> {
    folder: PathBuf,
    pub receipts: &'a [Receipt<DocumentsReport>],
    /// The documents to leave out.
    removed: &'a Removed,
}

impl<'a> Stored<'a> {
    /// What the tasks of `receipts` wrote in the folder of `work`.
    pub fn new(work: &Work<'_>, receipts: &'a [Receipt<DocumentsReport>], removed: &'a Removed) -> Self {
        Self { folder: work.folder().join(STAGE), receipts, removed }
    }

    /// Bytes of text that each task kept.
    pub fn sizes(&self) -> Vec<u64> {
        self.receipts.iter().map(|receipt| receipt.report.kept_bytes).collect()
    }

    /// The documents of one task.
    pub fn open(&self, task: usize) -> Result<StoredItems> {
        let receipt = &self.receipts[task];
        let input = receipt.open(&self.folder, SUFFIX)?;
        let missing = || {
            crate::pipeline::work::damaged(
                &crate::pipeline::work::file_path(&self.folder, receipt.task, SUFFIX),
                "not in its receipt",
            )
        };
        let removed = self.removed.of_task(receipt.task)?;
        Ok(StoredItems { records: Records::new(input.ok_or_else(missing)?)?, removed })
    }
}

/// A document that was written down.
pub(in crate::pipeline) struct StoredItem {
    /// The document.
    pub record: Record,
    /// The rule that removes it, and the number of the document that is kept in its place.
    pub removed: Option<(&'static str, u64)>,
}

/// The documents of one task, one after the other.
pub(in crate::pipeline) struct StoredItems {
    records: Records,
    removed: RemovedFrom,
}

impl StoredItems {
    /// Documents until they hold `bytes` bytes of text or are `count` many; none at the end.
    pub fn batch(&mut self, bytes: u64, count: usize) -> Result<Vec<StoredItem>> {
        let (mut batch, mut total) = (Vec::new(), 0);
        while total < bytes && batch.len() < count {
            let Some(record) = self.records.next()? else {
                break;
            };
            total += record.text.len() as u64;
            batch.push(StoredItem { record, removed: self.removed.next()? });
        }
        Ok(batch)
    }
}

/// Batches of the text of all tasks, one after the other.
pub(in crate::pipeline) fn texts<'a>(
    work: &'a Work<'_>,
    stored: &'a Stored<'_>,
) -> impl FnMut() -> Result<Vec<Vec<u8>>> + Send + 'a {
    let mut task = 0;
    let mut open: Option<StoredItems> = None;
    move || {
        loop {
            let items = match &mut open {
                Some(items) => items,
                None if task == stored.receipts.len() => return Ok(Vec::new()),
                None => open.insert(stored.open(task)?),
            };
            let batch = items.batch(BATCH_BYTES, BATCH_ITEMS)?;
            if batch.is_empty() {
                (task, open) = (task + 1, None);
                continue;
            }
            let bytes = batch.iter().map(|item| item.record.text.len() as u64).sum();
            work.advance(bytes, batch.len() as u64);
            let kept: Vec<_> =
                batch.into_iter().filter(|item| item.removed.is_none()).map(|item| item.record.text).collect();
            if !kept.is_empty() {
                return Ok(kept);
            }
        }
    }
}
