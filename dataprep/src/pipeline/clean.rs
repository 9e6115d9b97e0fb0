//! Cleaning of documents between reading and tokenization: extraction and filters, with counts of what they did.

use super::config::PrepConfig;
use super::flow::Stash;
use super::inputs::Item;
use super::packed::Packed;
use super::provenance::{Provenance, dropped_line};
use super::work::Draft;
use crate::dedup::{ContaminatedItem, DecontaminateScratch, Decontaminator, ItemHits, Shared};
use crate::document::{Document, Dropped};
use crate::error::Result;
use crate::extract::{ExtractConfig, Extractor};
use crate::filter::{FilterConfig, Filters};
use crate::shard::StageReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Suffix of the file with what a task dropped.
pub(super) const DROPPED: &str = "dropped.jsonl.zst";

/// Everything that looks at one document at a time.
pub(super) struct Cleaner {
    /// Extraction settings, if there are web pages.
    extract: Option<ExtractConfig>,
    extractors: Stash<Extractor>,
    filters: Option<Filters>,
    evaluations: Option<Decontaminator>,
    scratches: Stash<DecontaminateScratch>,
}

/// A document that was looked at.
pub(super) struct Cleaned {
    /// The document after the last rule.
    pub document: Document,
    /// See [`Item::raw`].
    pub raw: Option<Vec<u8>>,
    /// The stage and the rule that dropped it.
    pub dropped: Option<(&'static str, Dropped)>,
    /// n-grams shared with evaluations.
    pub shared: Shared,
}

impl Cleaner {
    /// Builds the cleaner with the rules that `config` turns on; `have_pages` says whether inputs can hold web pages.
    pub fn new(config: &PrepConfig, have_pages: bool) -> Result<Self> {
        let filters = filters_on(&config.filter).then(|| Filters::new(&config.filter)).transpose()?;
        let compare = !config.decontaminate.files.is_empty();
        let evaluations = compare.then(|| Decontaminator::new(&config.decontaminate)).transpose()?;
        Ok(Self {
            extract: config.extract.clone().filter(|_| have_pages),
            extractors: Stash::default(),
            filters,
            evaluations,
            scratches: Stash::default(),
        })
    }

    /// Whether it does anything.
    pub fn is_on(&self) -> bool {
        self.extract.is_some() || self.filters.is_some() || self.evaluations.is_some()
    }

    /// Cleans a document: extracts its text and applies all rules.
    ///
    /// # Errors
    /// Those of [`Extractor::extract`].
    pub fn clean(&self, item: Item) -> Result<Cleaned> {
        let Item { document, raw, is_page, dropped } = item;
        // What rules have looked at and changed is text.
        let raw = raw.filter(|_| !self.is_on());
        let dropped = dropped.map(|why| (READ, why));
        let mut cleaned = Cleaned { document, raw, dropped, shared: Shared::new() };
        if is_page && cleaned.dropped.is_none() {
            cleaned.dropped = self.extract(&mut cleaned.document)?.map(|why| (EXTRACT, why));
        }
        if cleaned.dropped.is_none() {
            cleaned.dropped = self.judge(&mut cleaned.document, &mut cleaned.shared);
        }
        Ok(cleaned)
    }

    /// Puts a page's main text in the place of the page.
    fn extract(&self, document: &mut Document) -> Result<Option<Dropped>> {
        let Some(config) = &self.extract else {
            return Ok(None);
        };
        let page: Arc<str> = std::mem::take(&mut document.text).into();
        match self.extractors.lend(|| Extractor::new(config.clone())).extract(&page)? {
            Ok(text) => {
                document.text = text;
                Ok(None)
            }
            Err(why) => {
                document.text = page.as_ref().to_owned();
                Ok(Some(why))
            }
        }
    }

    fn judge(&self, document: &mut Document, shared: &mut Shared) -> Option<(&'static str, Dropped)> {
        if let Some(filters) = &self.filters
            && let Err(why) = filters.apply(document)
        {
            return Some((FILTER, why));
        }
        let evaluations = self.evaluations.as_ref()?;
        *shared = evaluations.shared(&document.text, &mut self.scratches.lend(DecontaminateScratch::default));
        evaluations.judge(shared).err().map(|why| (DECONTAMINATE, why))
    }

    /// The items of evaluations that documents held.
    pub fn contaminated(&self, account: &Account) -> Vec<ContaminatedItem> {
        let hits = ItemHits::from_counts(account.hits.clone());
        self.evaluations.as_ref().map(|evaluations| hits.report(evaluations)).unwrap_or_default()
    }
}

/// Whether any filter is on.
fn filters_on(config: &FilterConfig) -> bool {
    let groups = [
        config.url.enabled,
        config.language.enabled,
        config.gopher_repetition.enabled,
        config.gopher_quality.enabled,
        config.c4.enabled,
        config.fineweb.enabled,
        config.pii.enabled,
    ];
    groups.contains(&true)
}

/// Names of stages, as the manifest has them.
pub(super) const READ: &str = "read";
/// What the report of reading calls a record that is bad.
pub(super) const BAD_RECORD: &str = "bad record";
const EXTRACT: &str = "extract";
const FILTER: &str = "filter";
const DECONTAMINATE: &str = "decontaminate";

/// Counts of the documents of a task, or of all tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
    /// Documents that were read.
    pub read: u64,
    /// Documents dropped, by stage and rule.
    pub dropped: BTreeMap<String, BTreeMap<String, u64>>,
    /// Documents changed, by what was done to them.
    pub changed: BTreeMap<String, u64>,
    /// Documents kept, by language, where it was identified.
    pub languages: BTreeMap<String, u64>,
    /// Documents that hold an item of evaluation data, by the item's number.
    pub hits: BTreeMap<u32, u64>,
}

impl Account {
    /// Records the outcome for a document.
    pub fn enter(&mut self, cleaned: &Cleaned) {
        self.read += 1;
        cleaned.shared.keys().for_each(|item| *self.hits.entry(*item).or_default() += 1);
        if let Some((stage, why)) = &cleaned.dropped {
            let rules = self.dropped.entry((*stage).to_owned()).or_default();
            *rules.entry(why.rule.to_owned()).or_default() += 1;
            return;
        }
        let document = &cleaned.document;
        if let Some(language) = document.language {
            *self.languages.entry(language.to_owned()).or_default() += 1;
        }
        for (score, what) in MASKED {
            if document.scores.get(score).is_some_and(|&n| n > 0.0) {
                *self.changed.entry(what.to_owned()).or_default() += 1;
            }
        }
    }

    /// Adds `other`'s counts to these.
    pub fn add(&mut self, other: &Self) {
        let add = |mine: &mut BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>| {
            theirs.iter().for_each(|(key, n)| *mine.entry(key.clone()).or_default() += n);
        };
        self.read += other.read;
        other.dropped.iter().for_each(|(stage, rules)| add(self.dropped.entry(stage.clone()).or_default(), rules));
        add(&mut self.changed, &other.changed);
        add(&mut self.languages, &other.languages);
        other.hits.iter().for_each(|(item, n)| *self.hits.entry(*item).or_default() += n);
    }

    /// Documents that were kept.
    pub fn kept(&self) -> u64 {
        self.read - self.dropped.values().flat_map(BTreeMap::values).sum::<u64>()
    }

    /// A report a stage, in their order: reading, which dropped `bad` records besides and `met` kinds of documents, and
    /// the filters if they are on.
    pub fn reports(&self, bad: u64, met: &[(&str, u64)], cleaner: &Cleaner) -> Vec<StageReport> {
        let rules = |stage: &str| self.dropped.get(stage).cloned().unwrap_or_default();
        let mut dropped = rules(READ);
        let mut kept = self.read - dropped.values().sum::<u64>();
        if bad > 0 {
            dropped.insert(BAD_RECORD.into(), bad);
        }
        let changed = met.iter().filter(|(_, n)| *n > 0).map(|(what, n)| ((*what).to_owned(), *n)).collect();
        let mut reports = vec![StageReport { name: READ.into(), kept, dropped, changed }];
        let stages = [
            (EXTRACT, cleaner.extract.is_some(), BTreeMap::new()),
            (FILTER, cleaner.filters.is_some(), self.changed.clone()),
            (DECONTAMINATE, cleaner.evaluations.is_some(), BTreeMap::new()),
        ];
        for (name, _, changed) in stages.into_iter().filter(|(_, on, _)| *on) {
            let dropped = rules(name);
            kept -= dropped.values().sum::<u64>();
            reports.push(StageReport { name: name.into(), kept, dropped, changed });
        }
        reports
    }
}

/// Scores that count what was masked, and what that is in a report.
const MASKED: [(&str, &str); 2] = [("pii.emails", "e-mail addresses masked"), ("pii.ips", "IP addresses masked")];

/// The file with what a task drops; made when there is something to write.
pub(super) struct Aside {
    on: bool,
    file: Option<Packed>,
}

impl Aside {
    /// Writes documents aside, if that is `on`.
    pub fn new(on: bool) -> Self {
        Self { on, file: None }
    }

    /// A document that was dropped.
    pub fn push(&mut self, draft: &Draft<'_>, document: &Document, stage: &str, why: &Dropped) -> Result<()> {
        if !self.on {
            return Ok(());
        }
        self.line(draft, &dropped_line(stage, &Provenance::of(document).line(), &document.text, why))
    }

    /// A line as [`dropped_line`] makes it.
    pub fn line(&mut self, draft: &Draft<'_>, line: &str) -> Result<()> {
        if !self.on {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(Packed::new(draft.create(DROPPED)?)?);
        }
        self.file.as_mut().expect("made above").line(line)
    }

    /// Ends and publishes it.
    pub fn finish(self, draft: &mut Draft<'_>) -> Result<()> {
        match self.file {
            Some(file) => draft.publish(file.finish()?),
            None => Ok(()),
        }
    }
}
