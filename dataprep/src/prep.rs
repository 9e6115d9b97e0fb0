//! The whole preparation: read, split, tokenise, shard.

mod config;
mod output;

pub use config::{InputConfig, OutputConfig, PrepConfig, TokenizerConfig};

use crate::error::{Error, Result};
use crate::shard::{Dtype, InputsEntry, Manifest, ShardWriter, Split, StageReport};
use crate::shard::{FORMAT, VERSION};
use crate::source::{self, Documents, InputFile, ReadCounts};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::train::WordCounter;
use crate::{hash, json};
use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Text in memory at a time: one batch being read, one being encoded.
const BATCH_BYTES: u64 = 16 << 20;
/// Documents in memory at a time.
const BATCH_DOCUMENTS: usize = 8192;
/// Part of the fingerprint: raised whenever the same input would give other shards than before.
const REVISION: u64 = 1;

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

/// Prepares a corpus. Equal configuration and inputs give equal bytes, for any number of threads.
///
/// When the output folder already holds the result of this very preparation nothing is written. A run that is
/// interrupted leaves no manifest, and the next one starts over.
///
/// # Errors
/// [`Error::Config`] for settings that contradict one another, [`Error::EmptyCorpus`], [`Error::OutputExists`], and
/// whatever reading, tokenising and writing report.
pub fn run(config: &PrepConfig, progress: &mut dyn Progress) -> Result<Summary> {
    config.validate()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build();
    let no_threads = |e: rayon::ThreadPoolBuildError| Error::Config { field: "threads", what: e.to_string() };
    pool.map_err(no_threads)?.install(|| run_here(config, progress))
}

fn run_here(config: &PrepConfig, progress: &mut dyn Progress) -> Result<Summary> {
    let files = source::walk(&config.input.paths)?;
    if files.is_empty() {
        let what = "no file with a known suffix; name files themselves, or give .txt, .md, .jsonl or source files";
        return Err(Error::EmptyCorpus { paths: config.input.paths.clone(), what: what.into() });
    }
    let loaded = config.tokenizer.load()?;
    let inputs = source::digest(&files)?;
    let fingerprint = fingerprint(config, &inputs, loaded.as_ref());
    if let Some(summary) = output::reuse(config, &fingerprint)? {
        return Ok(summary);
    }
    output::prepare(&config.output)?;
    let mut stages = Vec::new();
    let tokenizer = match loaded {
        Some(tokenizer) => tokenizer,
        None => train_tokenizer(config, &files, &mut stages, progress)?,
    };
    let (train, validation) = encode(config, &files, &tokenizer, &mut stages, progress)?;
    let manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION,
        fingerprint,
        tokenizer: tokenizer.entry(),
        inputs,
        pipeline: config.recipe(),
        stages,
        train: train.entry().clone(),
        validation: validation.as_ref().map(|shards| shards.entry().clone()),
    };
    output::commit(&config.output, &tokenizer, &manifest, [Some(train), validation])?;
    Ok(Summary { dir: config.output.dir.clone(), manifest, tokenizer, reused: false })
}

/// Everything the shards' bytes depend on. Paths do not matter, contents do.
fn fingerprint(config: &PrepConfig, inputs: &InputsEntry, tokenizer: Option<&Tokenizer>) -> String {
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

/// Trains on the training side alone, up to `tokenizer.train_bytes` of it.
fn train_tokenizer(
    config: &PrepConfig,
    files: &[InputFile],
    stages: &mut Vec<StageReport>,
    progress: &mut dyn Progress,
) -> Result<Tokenizer> {
    let vocab_size = config.tokenizer.vocab_size.expect("there is either a file or a size");
    progress.stage("train tokenizer", files.iter().map(|file| file.bytes).sum());
    let mut documents = Documents::new(files, &config.input);
    let mut counter = WordCounter::new(config.tokenizer.max_words);
    let (mut bytes, mut used) = (0, 0);
    while bytes < config.tokenizer.train_bytes {
        let batch = documents.batch(BATCH_BYTES, BATCH_DOCUMENTS)?;
        if batch.is_empty() {
            break;
        }
        let texts: Vec<_> = batch
            .par_iter()
            .map(|document| String::from_utf8_lossy(divide(document, config)[0].1))
            .filter(|text| !text.is_empty())
            .collect();
        bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
        used += texts.len() as u64;
        counter.count(&texts)?;
        progress.advance(documents.bytes_read(), used);
    }
    let (forgotten, too_long) = counter.uncounted();
    stages.push(StageReport {
        name: "train tokenizer".into(),
        kept: used,
        dropped: [("words forgotten", forgotten), ("words too long", too_long)]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
        ..StageReport::default()
    });
    let tokenizer = counter.train(vocab_size)?;
    if tokenizer.vocab_size() < vocab_size {
        let found = tokenizer.vocab_size();
        progress.message(&format!("the text gives only {found} of the {vocab_size} tokens asked for"));
    }
    Ok(tokenizer)
}

/// One document's tokens on one side, and how many bytes of text they stand for.
struct Encoded {
    split: Split,
    tokens: Vec<u32>,
    text_bytes: u64,
    repaired: bool,
}

type Written = (crate::shard::WrittenShards, Option<crate::shard::WrittenShards>);

/// Reads, encodes and writes everything: a batch is encoded while the next is read, and written in order.
fn encode(
    config: &PrepConfig,
    files: &[InputFile],
    tokenizer: &Tokenizer,
    stages: &mut Vec<StageReport>,
    progress: &mut dyn Progress,
) -> Result<Written> {
    progress.stage("tokenize", files.iter().map(|file| file.bytes).sum());
    let writer = |split: Split| {
        let dtype = Dtype::for_vocab(tokenizer.vocab_size());
        ShardWriter::new(&config.output.dir, split.name(), dtype, tokenizer.eos_id(), config.output.shard_bytes)
    };
    let (mut train, mut validation) = (writer(Split::Train), writer(Split::Validation));
    let mut documents = Documents::new(files, &config.input);
    let mut repaired = 0;
    let mut batch = documents.batch(BATCH_BYTES, BATCH_DOCUMENTS)?;
    while !batch.is_empty() {
        let (encoded, next) =
            rayon::join(|| encode_batch(&batch, config, tokenizer), || documents.batch(BATCH_BYTES, BATCH_DOCUMENTS));
        for document in encoded?.iter().flatten().flatten() {
            repaired += u64::from(document.repaired);
            match document.split {
                Split::Train => train.push(&document.tokens, document.text_bytes)?,
                Split::Validation => validation.push(&document.tokens, document.text_bytes)?,
            }
        }
        batch = next?;
        documents.take_warnings().iter().for_each(|warning| progress.message(warning));
        progress.advance(documents.bytes_read(), documents.counts().documents);
    }
    documents.take_warnings().iter().for_each(|warning| progress.message(warning));
    let (train, validation) = (train.finish()?, validation.finish()?);
    let counts = documents.counts();
    check_not_empty(config, counts, train.entry().documents)?;
    let held_out = validation.entry().documents;
    if held_out == 0 && (config.output.validation_fraction > 0.0 || config.output.validation_tail > 0.0) {
        progress.message("no document fell on the validation side; set output.validation_tail to hold out text anyway");
    }
    stages.extend(reports(counts, repaired, train.entry().documents, held_out));
    Ok((train, (held_out > 0).then_some(validation)))
}

fn encode_batch(batch: &[Vec<u8>], config: &PrepConfig, tokenizer: &Tokenizer) -> Result<Vec<[Option<Encoded>; 2]>> {
    let encode_one = |encoder: &mut crate::tokenizer::Encoder<'_>, split, text: &[u8]| {
        if text.is_empty() {
            return Ok(None);
        }
        let mut tokens = Vec::new();
        let repaired = encoder.encode_ordinary(text, &mut tokens)?;
        // Replacement makes text longer; what the tokens stand for is what counts.
        let text_bytes = if repaired { String::from_utf8_lossy(text).len() } else { text.len() } as u64;
        Ok(Some(Encoded { split, tokens, text_bytes, repaired }))
    };
    batch
        .par_iter()
        .map_init(
            || tokenizer.encoder(),
            |encoder, document| {
                let [train, validation] = divide(document, config);
                Ok([encode_one(encoder, train.0, train.1)?, encode_one(encoder, validation.0, validation.1)?])
            },
        )
        .collect()
}

fn check_not_empty(config: &PrepConfig, counts: ReadCounts, train: u64) -> Result<()> {
    let empty = |what| Err(Error::EmptyCorpus { paths: config.input.paths.clone(), what });
    if counts.documents == 0 {
        let ReadCounts { empty: none, too_large, bad_records, .. } = counts;
        return empty(format!(
            "{none} empty, {too_large} larger than input.max_document_bytes, {bad_records} bad records, and nothing else"
        ));
    }
    if train == 0 {
        return empty(format!(
            "all {} documents fell on the validation side; lower output.validation_fraction or change seed",
            counts.documents
        ));
    }
    Ok(())
}

fn reports(counts: ReadCounts, repaired: u64, train: u64, validation: u64) -> [StageReport; 3] {
    let some = |entries: &[(&str, u64)]| {
        entries.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| ((*reason).to_owned(), *n)).collect()
    };
    [
        StageReport {
            name: "read".into(),
            kept: counts.documents,
            dropped: some(&[
                ("empty", counts.empty),
                ("too large", counts.too_large),
                ("bad record", counts.bad_records),
            ]),
            ..StageReport::default()
        },
        StageReport {
            name: "split".into(),
            kept: train + validation,
            changed: some(&[("to training", train), ("to validation", validation)]),
            ..StageReport::default()
        },
        StageReport {
            name: "tokenize".into(),
            kept: train + validation,
            changed: some(&[("invalid UTF-8 replaced", repaired)]),
            ..StageReport::default()
        },
    ]
}

#[cfg(test)]
mod tests;
