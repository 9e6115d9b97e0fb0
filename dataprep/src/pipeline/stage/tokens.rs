//! Encodes text as token ids: each task writes, for each side of the split, the tokens of its documents in order, their
//! lengths, and a line on each document.

use super::documents::{DocumentsReport, Stored, StoredItem};
use crate::error::{Error, Result};
use crate::fim::Fim;
use crate::pipeline::clean::{Aside, Cleaner};
use crate::pipeline::config::PrepConfig;
use crate::pipeline::divide::Division;
use crate::pipeline::flow::{BATCH_BYTES, BATCH_ITEMS, Stash, flow};
use crate::pipeline::inputs::Inputs;
use crate::pipeline::packed::{Packed, Record};
use crate::pipeline::provenance::{Provenance, duplicate_line, rearranged};
use crate::pipeline::reading::{ReadReport, Reading, in_order};
use crate::pipeline::work::{Draft, DraftFile, Receipt, Stage, Work};
use crate::shard::{Dtype, Split};
use crate::tokenizer::{Encoder, Tokenizer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;

/// Name of the stage's folder.
pub(in crate::pipeline) fn folder(division: &Division) -> &'static str {
    division.stage("tokens", "tokens-tail")
}
/// Name of the stage that removes duplicates, as the manifest has it.
pub(in crate::pipeline) const DEDUPLICATE: &str = "deduplicate";
/// Both sides, in the order of [`TokensReport::sides`].
pub(in crate::pipeline) const SPLITS: [Split; 2] = [Split::Train, Split::Validation];

/// What a task wrote for one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::pipeline) struct SideReport {
    /// Documents.
    pub documents: u64,
    /// Their tokens, with one at the end of each.
    pub tokens: u64,
    /// Bytes of text the tokens stand for.
    pub text_bytes: u64,
    /// How many documents have 2^i to 2^(i+1) − 1 tokens.
    pub lengths: Vec<u64>,
}

/// What a task found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::pipeline) struct TokensReport {
    /// What was read and cleaned, where this is the stage that does it.
    pub documents: Option<DocumentsReport>,
    /// Documents that were encoded, on either side.
    pub documents_encoded: u64,
    /// Documents that were left out because others are kept in their place, by rule.
    pub duplicates: BTreeMap<String, u64>,
    /// Documents with bytes that had to be replaced because they were not UTF-8.
    pub repaired: u64,
    /// Documents that were rearranged to fill in the middle.
    pub rearranged: u64,
    /// Training and validation.
    pub sides: [SideReport; 2],
}

impl SideReport {
    /// Adds `other`'s counts to these.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.text_bytes += other.text_bytes;
        if self.lengths.len() < other.lengths.len() {
            self.lengths.resize(other.lengths.len(), 0);
        }
        self.lengths.iter_mut().zip(&other.lengths).for_each(|(mine, theirs)| *mine += theirs);
    }
}

fn reading(report: &TokensReport) -> Option<&ReadReport> {
    report.documents.as_ref().map(|documents| &documents.read)
}

/// What the stage works with.
pub(in crate::pipeline) struct Tokens<'a> {
    config: &'a PrepConfig,
    division: Division,
    tokenizer: &'a Tokenizer,
    fim: Option<Fim>,
    encoders: Stash<Encoder<'a>>,
}

impl<'a> Tokens<'a> {
    /// Will encode with `tokenizer`.
    pub fn new(config: &'a PrepConfig, division: Division, tokenizer: &'a Tokenizer) -> Result<Self> {
        let fim = Fim::new(&config.fim, tokenizer, config.seed)?;
        Ok(Self { config, division, tokenizer, fim, encoders: Stash::default() })
    }

    fn dtype(&self) -> Dtype {
        Dtype::for_vocab(self.tokenizer.vocab_size())
    }

    /// Reads, cleans, encodes and writes in one go.
    pub fn of_inputs(&self, work: &Work<'_>, inputs: &Inputs, cleaner: &Cleaner) -> Result<Vec<Receipt<TokensReport>>> {
        let stage = Stage { name: folder(&self.division), title: "tokenize", sizes: inputs.sizes() };
        in_order(work, &stage, &self.config.input, reading, |task, budget, draft| {
            let mut reading = Reading::new(work, inputs, task, &self.config.input, budget);
            if self.division.chosen_tail().is_some() {
                reading.be_quiet();
            }
            let mut report = DocumentsReport::default();
            let (mut sides, mut changed) = (self.writers(), [0; 2]);
            let mut aside = Aside::new(self.config.output.dropped);
            flow(
                work,
                || reading.batch(BATCH_BYTES, BATCH_ITEMS),
                || self.encoders.lend(|| self.tokenizer.encoder()),
                |encoder, item| {
                    let cleaned = cleaner.clean(item)?;
                    if cleaned.dropped.is_some() {
                        return Ok((cleaned, None));
                    }
                    let header = Provenance::of(&cleaned.document).line();
                    let text = cleaned.raw.as_deref().unwrap_or(cleaned.document.text.as_bytes());
                    let encoded = self.encode(encoder, header, text)?;
                    Ok((cleaned, Some(encoded)))
                },
                |(cleaned, encoded)| {
                    report.account.enter(&cleaned);
                    match (&cleaned.dropped, encoded) {
                        (Some((stage, why)), _) => aside.push(draft, &cleaned.document, stage, why),
                        (None, Some(encoded)) => write_document(encoded, draft, &mut sides, &mut changed),
                        (None, None) => Ok(()),
                    }
                },
            )?;
            aside.finish(draft)?;
            report.read = reading.finish()?;
            let documents_encoded = report.account.kept();
            let (documents, duplicates) = (Some(report), BTreeMap::new());
            let ([repaired, rearranged], sides) = (changed, finish(sides, draft)?);
            Ok(TokensReport { documents, documents_encoded, duplicates, repaired, rearranged, sides })
        })
    }

    /// Encodes and writes what was written down before.
    pub fn of_stored(&self, work: &Work<'_>, stored: &Stored<'_>) -> Result<Vec<Receipt<TokensReport>>> {
        let stage = Stage { name: folder(&self.division), title: "tokenize", sizes: stored.sizes() };
        work.run(&stage, |task, draft| {
            let mut items = stored.open(task)?;
            let (mut sides, mut changed, mut documents_encoded) = (self.writers(), [0; 2], 0);
            let mut duplicates = BTreeMap::<String, u64>::new();
            let mut aside = Aside::new(self.config.output.dropped);
            flow(
                work,
                || {
                    let batch = items.batch(BATCH_BYTES, BATCH_ITEMS)?;
                    work.advance(batch.iter().map(|item| item.record.text.len() as u64).sum(), batch.len() as u64);
                    Ok(batch)
                },
                || self.encoders.lend(|| self.tokenizer.encoder()),
                |encoder, StoredItem { record: Record { header, text }, removed }| match removed {
                    Some((rule, kept)) => {
                        let text = String::from_utf8_lossy(&text);
                        Ok(Err((rule, duplicate_line(DEDUPLICATE, &header, &text, rule, kept))))
                    }
                    None => self.encode(encoder, header, &text).map(Ok),
                },
                |outcome| match outcome {
                    Ok(encoded) => {
                        documents_encoded += 1;
                        write_document(encoded, draft, &mut sides, &mut changed)
                    }
                    Err((rule, line)) => {
                        *duplicates.entry(rule.to_owned()).or_default() += 1;
                        aside.line(draft, &line)
                    }
                },
            )?;
            aside.finish(draft)?;
            let ([repaired, rearranged], sides) = (changed, finish(sides, draft)?);
            Ok(TokensReport { documents: None, documents_encoded, duplicates, repaired, rearranged, sides })
        })
    }

    fn writers(&self) -> [SideWriter; 2] {
        SPLITS.map(|split| SideWriter { split, open: None, lengths: Vec::new(), report: SideReport::default() })
    }

    /// Both sides of a document. Only what is trained on is rearranged: what it is measured on is text as it is.
    fn encode(&self, encoder: &mut Encoder<'_>, header: String, text: &[u8]) -> Result<Encoded> {
        let mut encoded = Encoded { header, sides: [None, None], repaired: false, rearranged: false };
        for ((split, part), side) in self.division.divide(text).into_iter().zip(0..) {
            if part.is_empty() {
                continue;
            }
            let mut tokens = Vec::new();
            let repaired = match self.fim.as_ref().filter(|_| split == Split::Train) {
                Some(fim) => {
                    let done = fim.encode(encoder, part, &mut tokens)?;
                    encoded.rearranged |= done.rearranged;
                    done.repaired
                }
                None if self.config.tokenizer.parse_added => encoder.encode_parsed(part, &mut tokens)?,
                None => encoder.encode_ordinary(part, &mut tokens)?,
            };
            // Replacement makes text longer; what the tokens stand for is what counts.
            let text_bytes = if repaired { String::from_utf8_lossy(part).len() } else { part.len() } as u64;
            tokens.push(self.tokenizer.eos_id());
            let bytes = self.to_bytes(&tokens)?;
            encoded.sides[side] = Some(EncodedSide { tokens: tokens.len() as u64, bytes, text_bytes });
            encoded.repaired |= repaired;
        }
        if encoded.rearranged {
            encoded.header = rearranged(encoded.header);
        }
        Ok(encoded)
    }

    fn to_bytes(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        if i32::try_from(tokens.len()).is_err() {
            let what = format!("a document of {} tokens: shards hold at most 2^31 - 1", tokens.len());
            return Err(Error::Tokenize(what));
        }
        let misfit = |token: u32| Error::Tokenize(format!("token {token} does not fit {:?}", self.dtype()));
        let mut bytes = Vec::with_capacity(tokens.len() * self.dtype().width() as usize);
        for &token in tokens {
            match self.dtype() {
                Dtype::U16 => bytes.extend(u16::try_from(token).map_err(|_| misfit(token))?.to_le_bytes()),
                Dtype::I32 => bytes.extend(i32::try_from(token).map_err(|_| misfit(token))?.to_le_bytes()),
            }
        }
        Ok(bytes)
    }
}

struct EncodedSide {
    bytes: Vec<u8>,
    tokens: u64,
    text_bytes: u64,
}

struct Encoded {
    header: String,
    sides: [Option<EncodedSide>; 2],
    repaired: bool,
    rearranged: bool,
}

/// The files of one side while a task writes them.
struct SideWriter {
    split: Split,
    open: Option<(DraftFile, Packed)>,
    lengths: Vec<u8>,
    report: SideReport,
}

/// Writes both sides of a document, and counts it among those that were repaired and rearranged.
fn write_document(
    document: Encoded,
    draft: &Draft<'_>,
    sides: &mut [SideWriter; 2],
    [repaired, rearranged]: &mut [u64; 2],
) -> Result<()> {
    *repaired += u64::from(document.repaired);
    *rearranged += u64::from(document.rearranged);
    for (writer, side) in sides.iter_mut().zip(document.sides) {
        if let Some(side) = side {
            writer.push(&document.header, &side, draft)?;
        }
    }
    Ok(())
}

impl SideWriter {
    fn push(&mut self, header: &str, document: &EncodedSide, draft: &Draft<'_>) -> Result<()> {
        if self.open.is_none() {
            let name = self.split.name();
            let tokens = draft.create(&format!("{name}.tokens"))?;
            self.open = Some((tokens, Packed::new(draft.create(&format!("{name}.docs"))?)?));
        }
        let (tokens, docs) = self.open.as_mut().expect("opened above");
        tokens.write_all(&document.bytes).map_err(|e| Error::io("write", tokens.temporary())(e))?;
        docs.line(header)?;
        // Lengths were checked to fit when the tokens became bytes.
        self.lengths.extend((document.tokens as u32).to_le_bytes());
        let lengths = &mut self.report.lengths;
        let bucket = document.tokens.ilog2() as usize;
        if lengths.len() <= bucket {
            lengths.resize(bucket + 1, 0);
        }
        lengths[bucket] += 1;
        self.report.documents += 1;
        self.report.tokens += document.tokens;
        self.report.text_bytes += document.text_bytes;
        Ok(())
    }
}

fn finish(sides: [SideWriter; 2], draft: &mut Draft<'_>) -> Result<[SideReport; 2]> {
    let mut reports = [SideReport::default(), SideReport::default()];
    for (side, report) in sides.into_iter().zip(&mut reports) {
        if let Some((tokens, docs)) = side.open {
            let mut lengths = draft.create(&format!("{}.lengths", side.split.name()))?;
            lengths.write_all(&side.lengths).map_err(|e| Error::io("write", lengths.temporary())(e))?;
            draft.publish(tokens)?;
            draft.publish(docs.finish()?)?;
            draft.publish(lengths)?;
        }
        *report = side.report;
    }
    Ok(reports)
}
