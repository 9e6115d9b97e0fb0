//! Runs a whole preparation: reading, cleaning, deduplication, tokenization, shards.
//!
//! It is a row of stages, each a list of tasks over storage that any number of processes share; see [`Rank`]. Every
//! task's result depends on its number and the settings alone, is published by a rename and never made twice. So the
//! output is the same bytes for any number of threads and processes, and a process that is killed, at any moment, only
//! repeats what it had not published.
//!
//! Between stages lie files in the folder `work` of the output, which the first process removes when it
//! has written the manifest.

mod clean;
mod config;
mod divide;

mod flow;
mod identity;
mod inputs;
mod output;
mod packed;
mod progress;
mod provenance;
mod rank;
mod reading;
mod removed;
mod sign;
mod stage;

mod trace;
mod watch;

mod work;

pub use config::{InputConfig, OutputConfig, PrepConfig, TokenizerConfig};
pub use output::Summary;
pub(crate) use output::{DROPPED, SOURCES};
#[doc(hidden)]
pub use packed::fuzz_stored;
pub use progress::{Progress, Silent};
pub use provenance::Provenance;
pub use rank::Rank;
pub(crate) use trace::Lines;
pub use trace::{SourceFile, Trace, trace};

use crate::durable::{DISK, Files};
use crate::error::{Error, Result};
use crate::shard::{Dtype, FORMAT, Manifest, StageReport, VERSION};
use crate::tokenizer::Tokenizer;
use clean::{Account, Cleaner};
use divide::Division;
use identity::Identity;
use inputs::Inputs;
use reading::ReadReport;
use removed::Removed;
use serde_json::json;
use sign::Signer;
use stage::dedup;
use stage::documents::{self, DocumentsReport, Stored};
use stage::shards;
use stage::tokens::{self, Tokens, TokensReport};
use stage::vocabulary::{self, Trained};
use work::{Receipt, Work};

/// Prepares a corpus. Equal configuration and inputs give equal bytes, for any number of threads and of processes.
///
/// When the output folder already holds the result of this very preparation nothing is written. A run that is
/// interrupted leaves no manifest; the next one goes on with the tasks that were not done. One of several processes
/// returns when the whole preparation is complete.
///
/// # Errors
/// [`Error::Config`] for settings that contradict one another, [`Error::EmptyCorpus`], [`Error::OutputExists`],
/// [`Error::Stalled`] when other processes do not get on, and whatever reading, tokenising and writing report.
pub fn run(config: &PrepConfig, progress: &mut dyn Progress) -> Result<Summary> {
    run_on(&DISK, config, progress)
}

/// As [`run`], through the given file operations: for tests of what happens where one of them fails.
///
/// # Errors
/// As [`run`].
pub fn run_on(files: &dyn Files, config: &PrepConfig, progress: &mut dyn Progress) -> Result<Summary> {
    config.validate()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
    let pool = pool.map_err(|e| Error::Config { field: "prep.threads", what: e.to_string() })?;
    let inputs = Inputs::find(&config.input, config.split_bytes)?;
    let identity = Identity::new(config)?;
    let before = watch::ManifestWatch::now(config);
    if let Some(summary) = output::reuse(&identity, &inputs, &pool)? {
        // A process that was killed after it wrote the manifest has left its work folder.
        if config.rank.is_first()
            && let Err(error) = output::clear_work(files, &config.output.dir)
        {
            progress.message(&format!("{error}; the prepared data is complete all the same"));
        }
        return Ok(summary);
    }
    output::prepare(files, config)?;
    let folder = output::work_folder(config, &identity.of(&json!(inputs.identity())));
    let work = Work::new(files, folder, config, before.clone(), pool, progress);
    let preparation = Preparation { config, identity: &identity, inputs: &inputs, work: &work };
    match preparation.run() {
        // The first process ends a preparation when all tasks are done, and takes the work folder away. Another that is
        // still reading there, or only now begins to, fails in one way or another: it is done all the same. So is a
        // first process that was thought dead and was started twice.
        Err(error) if !config.rank.is_first() || matches!(error, Error::WorkGone { .. }) => {
            let made = output::made_meanwhile(config, &before)?.ok_or(error)?;
            output::clear_late_work(files, config, work.folder());
            Ok(made)
        }
        other => other,
    }
}

/// Encoded documents, and what encoded them.
struct Made {
    division: Division,
    /// Nothing where one was to be trained and there is no text.
    tokenizer: Option<Tokenizer>,
    /// What training a tokenizer reports.
    trained: Option<StageReport>,
    encoded: Vec<Receipt<TokensReport>>,
    /// Bytes of text on the validation side, where there is no tokenizer.
    held_out: u64,
}

impl Made {
    /// Bytes of text, where all of it is on one side.
    fn text_bytes_of_one_side(&self) -> Option<u64> {
        let bytes = |side: usize| self.encoded.iter().map(|receipt| receipt.report.sides[side].text_bytes).sum::<u64>();
        match (bytes(0), bytes(1) + self.held_out) {
            (0, 0) => None,
            (0, all) | (all, 0) => Some(all),
            _ => None,
        }
    }
}

/// What the stages have in common.
struct Preparation<'a, 'w> {
    config: &'a PrepConfig,
    identity: &'a Identity<'a>,
    inputs: &'a Inputs,
    work: &'a Work<'w>,
}

impl Preparation<'_, '_> {
    fn run(&self) -> Result<Summary> {
        let (config, work) = (self.config, self.work);
        if config.rank.is_first() {
            self.inputs.notes().iter().for_each(|what| work.message(what));
        }
        let loaded = self.identity.tokenizer.as_ref();
        let cleaner = Cleaner::new(config, self.inputs.have_pages())?;
        let signer = Signer::new(&config.dedup)?;
        // A tokenizer that is trained reads what it is trained on before that is encoded: cleaned once, not twice.
        let written = (signer.is_some() || (cleaner.is_on() && loaded.is_none()))
            .then(|| documents::run(work, config, self.inputs, &cleaner, signer.as_ref()))
            .transpose()?;
        // Before anything is made of what was read.
        if let Some(documents) = &written {
            reading::bad_records(documents.iter().map(|receipt| &receipt.report.read), &config.input)?;
        }
        let removed = match &written {
            Some(documents) if signer.is_some() => dedup::run(work, &config.dedup, documents)?,
            _ => Removed::default(),
        };
        let stored = written.as_ref().map(|receipts| Stored::new(work, receipts, &removed));
        let asked = Division::asked(config);
        let mut made = self.encode(asked, &cleaner, stored.as_ref())?;
        if let Some(instead) = made.text_bytes_of_one_side().and_then(|bytes| asked.instead(bytes)) {
            if config.rank.is_first() {
                work.message(&held_out(&instead, config));
            }
            made = self.encode(instead, &cleaner, stored.as_ref())?;
        }
        let Made { division, tokenizer, trained, encoded, .. } = made;
        let Some(tokenizer) = tokenizer else {
            return Err(self.nothing(&cleaner, stored.as_ref(), made.held_out)?);
        };
        let read: Vec<&DocumentsReport> = match &stored {
            Some(stored) => stored.receipts.iter().map(|receipt| &receipt.report).collect(),
            None => encoded.iter().filter_map(|receipt| receipt.report.documents.as_ref()).collect(),
        };
        let mut account = Account::default();
        read.iter().for_each(|report| account.add(&report.account));
        let bad = reading::bad_records(read.iter().map(|report| &report.read), &config.input)?;
        let sum = |count: fn(&ReadReport) -> u64| read.iter().map(|report| count(&report.read)).sum::<u64>();
        let met = [("not UTF-8", sum(|read| read.not_utf8)), ("pages that break off", sum(|read| read.broken_off))];
        let mut stages = account.reports(bad, &met, &cleaner);
        stages.extend(signer.as_ref().map(|_| duplicates(&encoded)));
        stages.extend(trained);
        stages.extend(self.division(&division, &stages, &encoded)?);
        let [train, validation] =
            shards::run(work, config, Dtype::for_vocab(tokenizer.vocab_size()), &division, &encoded)?;
        let digests: Vec<String> = read.iter().map(|report| report.read.digest.clone()).collect();
        let inputs = self.inputs.entry(&digests);
        let moves = self.moves(&[&train, &validation], &division, &encoded, stored.as_ref());
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            fingerprint: self.identity.fingerprint(&inputs),
            tokenizer: tokenizer.entry(),
            inputs,
            passed_over: self.inputs.passed_over(),
            pipeline: config.recipe(),
            stages,
            contaminated: cleaner.contaminated(&account),
            languages: account.languages,
            dedup: signer.map(|_| removed.entry.clone()),
            train: train.entry,
            validation: Some(validation.entry).filter(|entry| entry.documents > 0),
        };
        if config.rank.is_first() {
            let listings = [self.inputs.listing(), self.inputs.passed_over_listing()];
            output::commit(work.files(), config, &tokenizer, &manifest, &listings, &moves)?;
        } else {
            output::await_manifest(config, &manifest.fingerprint)?;
        }
        Ok(Summary { dir: config.output.dir.clone(), manifest, tokenizer, reused: false })
    }

    /// Trains a tokenizer, if none is loaded, and encodes the documents, divided so.
    fn encode(&self, division: Division, cleaner: &Cleaner, stored: Option<&Stored<'_>>) -> Result<Made> {
        let (config, work) = (self.config, self.work);
        let (tokenizer, trained) = match &self.identity.tokenizer {
            Some(tokenizer) => (tokenizer.clone(), None),
            None => match self.train(&division, stored)? {
                Trained::Tokenizer(tokenizer, report) => (tokenizer, Some(report)),
                Trained::NoText { held_out } => {
                    let encoded = Vec::new();
                    return Ok(Made { division, tokenizer: None, trained: None, encoded, held_out });
                }
            },
        };
        let tokens = Tokens::new(config, division, &tokenizer)?;
        let encoded = match stored {
            Some(stored) => tokens.of_stored(work, stored)?,
            None => tokens.of_inputs(work, self.inputs, cleaner)?,
        };
        drop(tokens);
        Ok(Made { division, tokenizer: Some(tokenizer), trained, encoded, held_out: 0 })
    }

    fn train(&self, division: &Division, stored: Option<&Stored<'_>>) -> Result<Trained> {
        let (config, work) = (self.config, self.work);
        match stored {
            Some(stored) => {
                let texts = documents::texts(work, stored);
                vocabulary::run(work, config, division, stored.sizes().iter().sum(), texts)
            }
            None => {
                let texts = vocabulary::of_inputs(work, self.inputs, config);
                vocabulary::run(work, config, division, self.inputs.sizes().iter().sum(), texts)
            }
        }
    }

    /// Why there is no text to learn from, where `held_out` bytes are held out.
    fn nothing(&self, cleaner: &Cleaner, stored: Option<&Stored<'_>>, held_out: u64) -> Result<Error> {
        let read;
        let receipts = match stored {
            Some(stored) => stored.receipts,
            None => {
                read = documents::run(self.work, self.config, self.inputs, cleaner, None)?;
                &read
            }
        };
        let bad = reading::bad_records(receipts.iter().map(|receipt| &receipt.report.read), &self.config.input)?;
        let mut account = Account::default();
        receipts.iter().for_each(|receipt| account.add(&receipt.report.account));
        let all = if held_out > 0 { account.kept() } else { 0 };
        Ok(empty(self.config, &account.reports(bad, &[], cleaner), all))
    }

    /// Which file of which task becomes which file of the output folder.
    fn moves(
        &self,
        sides: &[&shards::Side],
        division: &Division,
        encoded: &[Receipt<TokensReport>],
        stored: Option<&Stored<'_>>,
    ) -> output::Moves {
        let folder = |stage: &str| self.work.folder().join(stage);
        let mut moves = output::Moves::new();
        for (entry, task) in sides.iter().flat_map(|side| side.entry.shards.iter().zip(&side.tasks)) {
            let made = folder(shards::STAGE);
            let file = |suffix: &&str| (work::file_path(&made, *task, suffix), format!("{}.{suffix}", entry.name));
            moves.extend(shards::SUFFIXES.iter().map(file));
        }
        let dropped = clean::DROPPED;
        let mut aside = |stage: &str, task: usize, files: &[work::Published]| {
            if files.iter().any(|file| file.suffix == dropped) {
                let name = format!("{}/{stage}-{task:05}.jsonl.zst", output::DROPPED);
                moves.push((work::file_path(&folder(stage), task, dropped), name));
            }
        };
        let stored = stored.iter().flat_map(|stored| stored.receipts);
        stored.for_each(|receipt| aside(documents::STAGE, receipt.task, &receipt.files));
        encoded.iter().for_each(|receipt| aside(tokens::folder(division), receipt.task, &receipt.files));
        moves
    }

    /// What splitting and encoding did, after checking that something is left of what the stages before passed on.
    fn division(
        &self,
        division: &Division,
        before: &[StageReport],
        encoded: &[Receipt<TokensReport>],
    ) -> Result<[StageReport; 2]> {
        let documents = |side: usize| encoded.iter().map(|receipt| receipt.report.sides[side].documents).sum::<u64>();
        let (train, validation) = (documents(0), documents(1));
        if train == 0 {
            return Err(empty(self.config, before, train + validation));
        }
        if validation == 0 && division.holds_out() {
            let text_bytes: u64 = encoded.iter().map(|receipt| receipt.report.sides[0].text_bytes).sum();
            self.work.message(&format!(
                "no validation split: no document ({train} in all, {text_bytes} bytes of text) fell on that side by \
                 output.validation_fraction = {}; to hold out the last part of every document, set \
                 output.validation_tail=0.1",
                self.config.output.validation_fraction
            ));
        }
        let sum = |count: fn(&TokensReport) -> u64| encoded.iter().map(|receipt| count(&receipt.report)).sum();
        let changed = |entries: &[(&str, u64)]| {
            entries
                .iter()
                .filter(|(name, n)| *n > 0 && !name.is_empty())
                .map(|(reason, n)| ((*reason).to_owned(), *n))
                .collect()
        };
        let report = |name: &str, entries: &[(&str, u64)]| StageReport {
            name: name.into(),
            kept: train + validation,
            changed: changed(entries),
            ..StageReport::default()
        };
        // Without a chosen tail this is no entry.
        let cut =
            division.chosen_tail().map_or_else(String::new, |tail| format!("last {:.2} % held out", 100.0 * tail));
        Ok([
            report("split", &[("to training", train), ("to validation", validation), (&cut, validation)]),
            report(
                "tokenize",
                &[
                    ("invalid UTF-8 replaced", sum(|report| report.repaired)),
                    ("rearranged to fill in the middle", sum(|report| report.rearranged)),
                ],
            ),
        ])
    }
}

/// What deduplication removed.
fn duplicates(encoded: &[Receipt<TokensReport>]) -> StageReport {
    let mut all = StageReport { name: tokens::DEDUPLICATE.into(), ..StageReport::default() };
    for report in encoded.iter().map(|receipt| &receipt.report) {
        all.kept += report.documents_encoded;
        report.duplicates.iter().for_each(|(rule, n)| *all.dropped.entry(rule.clone()).or_default() += n);
    }
    all
}

/// Why nothing is left to train on, when `all` documents came to the division.
fn empty(config: &PrepConfig, stages: &[StageReport], all: u64) -> Error {
    let reasons = stages.iter().flat_map(|stage| &stage.dropped).map(|(reason, count)| format!("{count} {reason}"));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    let what = match (all, reasons.as_str()) {
        (0, "") => "there are no records in them".to_owned(),
        (0, reasons) => format!("every document was dropped: {reasons}"),
        _ => {
            format!("all {all} documents fell on the validation side; lower output.validation_fraction or change seed")
        }
    };
    Error::EmptyCorpus { paths: config.input.paths.clone(), what }
}

/// That the last part of documents is held out although whole documents were asked for.
fn held_out(division: &Division, config: &PrepConfig) -> String {
    format!(
        "validation split: no document falls on one of the sides by output.validation_fraction = {}, so the last \
         {:.2} % of every document are held out; set output.validation_tail=0 to leave documents whole",
        config.output.validation_fraction,
        100.0 * division.chosen_tail().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests;
