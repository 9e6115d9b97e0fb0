//! Text into tokens: each task writes, for each side of the split, the tokens of its documents in order, their lengths,
//! and a line on each document.

use super::flow::{BATCH_BYTES, BATCH_ITEMS, Stash, flow};
use super::inputs::Inputs;
use super::read::{ReadReport, Reading};
use super::records::{Packed, Provenance};
use super::work::{Draft, DraftFile, Receipt, Stage, Work};
use super::{PrepConfig, divide};
use crate::error::{Error, Result};
use crate::shard::{Dtype, Split};
use crate::tokenizer::{Encoder, Tokenizer};
use serde::{Deserialize, Serialize};
use std::io::Write;

/// Name of the stage's folder.
pub(super) const STAGE: &str = "tokens";
/// Both sides, in the order of [`TokensReport::sides`].
pub(super) const SPLITS: [Split; 2] = [Split::Train, Split::Validation];

/// What a task wrote for one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SideReport {
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
pub(super) struct TokensReport {
    /// What was read, where this is the stage that reads.
    pub read: Option<ReadReport>,
    /// Documents with bytes that had to be replaced because they were not UTF-8.
    pub repaired: u64,
    /// Training and validation.
    pub sides: [SideReport; 2],
}

impl SideReport {
    /// Adds up.
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

/// What the stage works with.
pub(super) struct Tokens<'a> {
    pub config: &'a PrepConfig,
    pub tokenizer: &'a Tokenizer,
    pub encoders: Stash<Encoder<'a>>,
}

impl<'a> Tokens<'a> {
    /// Will encode with `tokenizer`.
    pub fn new(config: &'a PrepConfig, tokenizer: &'a Tokenizer) -> Self {
        Self { config, tokenizer, encoders: Stash::default() }
    }

    fn dtype(&self) -> Dtype {
        Dtype::for_vocab(self.tokenizer.vocab_size())
    }

    /// Reads, encodes and writes in one go.
    pub fn of_inputs(&self, work: &Work<'_>, inputs: &Inputs) -> Result<Vec<Receipt<TokensReport>>> {
        let stage = Stage { name: STAGE, title: "tokenize", sizes: inputs.sizes() };
        let body = |task: usize, budget: Option<u64>, draft: &mut Draft| {
            self.read_and_encode(work, inputs, task, budget, draft)
        };
        let Some(most) = self.config.input.max_bytes else {
            return work.run(&stage, |task, draft| body(task, None, draft));
        };
        let read = |before: &[Receipt<TokensReport>]| {
            before.iter().filter_map(|receipt| receipt.report.read.as_ref()).map(|read| read.text_bytes).sum::<u64>()
        };
        let more = |before: &[Receipt<TokensReport>]| read(before) < most;
        work.run_in_order(&stage, more, |task, before, draft| {
            body(task, Some(most.saturating_sub(read(before))), draft)
        })
    }

    fn read_and_encode(
        &self,
        work: &Work<'_>,
        inputs: &Inputs,
        task: usize,
        budget: Option<u64>,
        draft: &mut Draft,
    ) -> Result<TokensReport> {
        let mut reading = Reading::new(work, inputs, task, &self.config.input, budget);
        let mut sides = self.writers();
        let mut repaired = 0;
        flow(
            work,
            || reading.batch(BATCH_BYTES, BATCH_ITEMS),
            || self.encoders.lend(|| self.tokenizer.encoder()),
            |encoder, item| {
                let header = Provenance::of(&item.document).line();
                let text = item.raw.as_deref().unwrap_or(item.document.text.as_bytes());
                self.encode(encoder, &header, text)
            },
            |document| write_document(document, draft, &mut sides, &mut repaired),
        )?;
        let read = Some(reading.finish()?);
        Ok(TokensReport { read, repaired, sides: finish(sides, draft)? })
    }

    fn writers(&self) -> [SideWriter; 2] {
        SPLITS.map(|split| SideWriter { split, open: None, lengths: Vec::new(), report: SideReport::default() })
    }

    /// Both sides of a document.
    fn encode(&self, encoder: &mut Encoder<'_>, header: &str, text: &[u8]) -> Result<Encoded> {
        let mut sides = [None, None];
        let mut repaired = false;
        for ((_, part), side) in divide(text, self.config).into_iter().zip(&mut sides) {
            if part.is_empty() {
                continue;
            }
            let mut tokens = Vec::new();
            let changed = encoder.encode_ordinary(part, &mut tokens)?;
            // Replacement makes text longer; what the tokens stand for is what counts.
            let text_bytes = if changed { String::from_utf8_lossy(part).len() } else { part.len() } as u64;
            tokens.push(self.tokenizer.eos_id());
            *side = Some(EncodedSide { tokens: tokens.len() as u64, bytes: self.to_bytes(&tokens)?, text_bytes });
            repaired |= changed;
        }
        Ok(Encoded { header: header.to_owned(), sides, repaired })
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
}

/// The files of one side while a task writes them.
struct SideWriter {
    split: Split,
    open: Option<(DraftFile, Packed)>,
    lengths: Vec<u8>,
    report: SideReport,
}

fn write_document(document: Encoded, draft: &Draft, sides: &mut [SideWriter; 2], repaired: &mut u64) -> Result<()> {
    *repaired += u64::from(document.repaired);
    for (writer, side) in sides.iter_mut().zip(document.sides) {
        if let Some(side) = side {
            writer.push(&document.header, &side, draft)?;
        }
    }
    Ok(())
}

impl SideWriter {
    fn push(&mut self, header: &str, document: &EncodedSide, draft: &Draft) -> Result<()> {
        if self.open.is_none() {
            let name = self.split.name();
            let tokens = draft.create(&format!("{name}.tokens"))?;
            self.open = Some((tokens, Packed::new(draft.create(&format!("{name}.docs"))?)?));
        }
        let (tokens, docs) = self.open.as_mut().expect("opened above");
        tokens.write_all(&document.bytes).map_err(|e| Error::io("write", tokens.path())(e))?;
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

fn finish(sides: [SideWriter; 2], draft: &mut Draft) -> Result<[SideReport; 2]> {
    let mut reports = [SideReport::default(), SideReport::default()];
    for (side, report) in sides.into_iter().zip(&mut reports) {
        if let Some((tokens, docs)) = side.open {
            let mut lengths = draft.create(&format!("{}.lengths", side.split.name()))?;
            lengths.write_all(&side.lengths).map_err(|e| Error::io("write", lengths.path())(e))?;
            draft.publish(tokens)?;
            draft.publish(docs.finish()?)?;
            draft.publish(lengths)?;
        }
        *report = side.report;
    }
    Ok(reports)
}
