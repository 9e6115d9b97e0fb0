//! The whole preparation: read, split, tokenise, shard.
//!
//! It is a row of stages, each a list of tasks over storage that any number of processes share; see [`Rank`]. Every task's
//! result depends on its number and the settings alone, is published by a rename and never made twice. So the output is
//! the same bytes for any number of threads and processes, and a process that is killed, at any moment, only repeats what
//! it had not published.
//!
//! Between stages lie files in `OUT/work/`, which the first process removes when it has written the manifest.

mod config;
mod flow;
mod inputs;
mod output;
mod rank;
mod read;
mod records;
mod shards;
mod tokens;
mod vocabulary;
mod work;

pub use config::{InputConfig, OutputConfig, PrepConfig, TokenizerConfig};
pub use rank::Rank;
pub use records::Provenance;

use crate::error::{Error, Result};
use crate::shard::{Dtype, InputsEntry, Manifest, Split, StageReport};
use crate::shard::{FORMAT, VERSION};
use crate::tokenizer::Tokenizer;
use crate::{hash, json};
use inputs::Inputs;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use tokens::{Tokens, TokensReport};
use work::{Receipt, Work};

/// Part of the fingerprint: raised whenever the same input would give other shards than before.
const REVISION: u64 = 2;

/// Where a preparation reports how far it is.
pub trait Progress: Send {
    /// A stage begins; it will read `total` bytes of files.
    fn stage(&mut self, name: &str, total: u64);
    /// The stage has read `done` bytes of files, and passed on `documents` documents.
    fn advance(&mut self, done: u64, documents: u64);
    /// Something the user should know: what was left out, with its place.
    fn message(&mut self, text: &str);
}

/// Reports to no one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&mut self, _name: &str, _total: u64) {}
    fn advance(&mut self, _done: u64, _documents: u64) {}
    fn message(&mut self, _text: &str) {}
}

/// What a preparation made.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The folder.
    pub dir: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// The tokenizer, as it was saved there.
    pub tokenizer: Tokenizer,
    /// True when the folder already held exactly this and was left as it was.
    pub reused: bool,
}

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
    config.validate()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
    let pool = pool.map_err(|e| Error::Config { field: "prep.threads", what: e.to_string() })?;
    let inputs = Inputs::find(&config.input, config.split_bytes)?;
    let loaded = config.tokenizer.load()?;
    if let Some(summary) = output::reuse(config, &inputs, loaded.as_ref(), &pool)? {
        return Ok(summary);
    }
    output::prepare(config)?;
    let folder = output::work_folder(config, &key(config, &inputs, loaded.as_ref())?);
    let work = Work::new(folder, config, pool, progress);
    let preparation = Preparation { config, inputs: &inputs, work: &work };
    match preparation.run(loaded) {
        Err(gone @ Error::WorkGone { .. }) => output::made_meanwhile(config)?.ok_or(gone),
        other => other,
    }
}

/// What the stages have in common.
struct Preparation<'a, 'w> {
    config: &'a PrepConfig,
    inputs: &'a Inputs,
    work: &'a Work<'w>,
}

impl Preparation<'_, '_> {
    fn run(&self, loaded: Option<Tokenizer>) -> Result<Summary> {
        let mut stages = Vec::new();
        let tokenizer = match &loaded {
            Some(tokenizer) => tokenizer.clone(),
            None => {
                let texts = vocabulary::of_inputs(self.work, self.inputs, self.config);
                let size = self.inputs.sizes().iter().sum();
                let (tokenizer, report) = vocabulary::run(self.work, self.config, size, texts)?;
                stages.push(report);
                tokenizer
            }
        };
        let encoded = Tokens::new(self.config, &tokenizer).of_inputs(self.work, self.inputs)?;
        stages.extend(self.reports(&encoded)?);
        let dtype = Dtype::for_vocab(tokenizer.vocab_size());
        let [train, validation] = shards::run(self.work, self.config, dtype, &encoded)?;
        let mut moves = output::Moves::new();
        for (entry, task) in
            [&train, &validation].into_iter().flat_map(|side| side.entry.shards.iter().zip(&side.tasks))
        {
            let made = self.work.folder().join(shards::STAGE);
            let file = |suffix: &&str| (work::file_path(&made, *task, suffix), format!("{}.{suffix}", entry.name));
            moves.extend(shards::SUFFIXES.iter().map(file));
        }
        let inputs = self.inputs.entry(&read::digests(&encoded, |report| report.read.as_ref()));
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            fingerprint: fingerprint(self.config, &inputs, loaded.as_ref()),
            tokenizer: tokenizer.entry(),
            inputs,
            pipeline: self.config.recipe(),
            stages,
            train: train.entry,
            validation: Some(validation.entry).filter(|entry| entry.documents > 0),
        };
        if self.config.rank.is_first() {
            output::commit(self.config, &tokenizer, &manifest, &self.inputs.listing(), &moves)?;
        } else {
            output::await_manifest(self.config, &manifest.fingerprint)?;
        }
        Ok(Summary { dir: self.config.output.dir.clone(), manifest, tokenizer, reused: false })
    }

    /// What the stages did, after checking that something is left.
    fn reports(&self, encoded: &[Receipt<TokensReport>]) -> Result<[StageReport; 3]> {
        let reports = encoded.iter().filter_map(|receipt| receipt.report.read.as_ref());
        let read = read::total(reports, &self.config.input)?;
        let documents = |side: usize| encoded.iter().map(|receipt| receipt.report.sides[side].documents).sum::<u64>();
        let (train, validation) = (documents(0), documents(1));
        check_not_empty(self.config, &read.stage, train)?;
        let output = &self.config.output;
        if validation == 0 && (output.validation_fraction > 0.0 || output.validation_tail > 0.0) {
            let what = "no document fell on the validation side; set output.validation_tail to hold out text anyway";
            self.work.message(what);
        }
        let repaired = encoded.iter().map(|receipt| receipt.report.repaired).sum();
        let changed = |entries: &[(&str, u64)]| {
            entries.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| ((*reason).to_owned(), *n)).collect()
        };
        let report = |name: &str, entries: &[(&str, u64)]| StageReport {
            name: name.into(),
            kept: train + validation,
            changed: changed(entries),
            ..StageReport::default()
        };
        Ok([
            read.stage,
            report("split", &[("to training", train), ("to validation", validation)]),
            report("tokenize", &[("invalid UTF-8 replaced", repaired)]),
        ])
    }
}

/// What intermediate results belong to: everything they depend on that is known without reading the inputs.
fn key(config: &PrepConfig, inputs: &Inputs, tokenizer: Option<&Tokenizer>) -> Result<String> {
    Ok(hash_of(config, &json!(inputs.identity()?), tokenizer))
}

/// Everything the shards' bytes depend on. Paths do not matter, contents do.
fn fingerprint(config: &PrepConfig, inputs: &InputsEntry, tokenizer: Option<&Tokenizer>) -> String {
    hash_of(config, &json!(inputs), tokenizer)
}

fn hash_of(config: &PrepConfig, inputs: &serde_json::Value, tokenizer: Option<&Tokenizer>) -> String {
    let mut recipe = config.recipe();
    recipe["input"]["paths"] = json!(null);
    recipe["tokenizer"]["path"] = json!(tokenizer.map(Tokenizer::entry));
    let all = json!({ "revision": REVISION, "recipe": recipe, "inputs": inputs });
    hash::of_bytes(json::canonical(&all).as_bytes())
}

/// Divides a document between the two sides. Its side depends on its content and the seed only: documents come and go
/// without moving others.
fn divide<'d>(document: &'d [u8], config: &PrepConfig) -> [(Split, &'d [u8]); 2] {
    let tail = config.output.validation_tail;
    let cut = if tail > 0.0 {
        head_length(document, tail)
    } else if hash_fraction(document, config.seed) < config.output.validation_fraction {
        0
    } else {
        document.len()
    };
    let (head, tail) = document.split_at(cut);
    [(Split::Train, head), (Split::Validation, tail)]
}

/// Bytes before the last `tail` of a document, moved back to the start of a character.
fn head_length(document: &[u8], tail: f64) -> usize {
    let mut cut = ((document.len() as f64 * (1.0 - tail)) as usize).min(document.len());
    let wanted = cut;
    while cut > 0 && wanted - cut < 3 && document.get(cut).is_some_and(|byte| byte & 0xc0 == 0x80) {
        cut -= 1;
    }
    cut
}

/// A number in [0, 1) drawn from seed and content.
fn hash_fraction(document: &[u8], seed: u64) -> f64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(document).finalize();
    let first: [u8; 8] = digest[..8].try_into().expect("a digest has 32 bytes");
    // The upper 53 bits are exactly what an f64 holds.
    (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64
}

fn check_not_empty(config: &PrepConfig, read: &StageReport, train: u64) -> Result<()> {
    let empty = |what| Err(Error::EmptyCorpus { paths: config.input.paths.clone(), what });
    if read.kept == 0 {
        let dropped = |reason: &str| read.dropped.get(reason).copied().unwrap_or(0);
        return empty(format!(
            "{} empty, {} larger than input.max_document_bytes, {} bad records, and nothing else",
            dropped("empty"),
            dropped("too large"),
            dropped("bad record")
        ));
    }
    if train == 0 {
        return empty(format!(
            "all {} documents fell on the validation side; lower output.validation_fraction or change seed",
            read.kept
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
