//! Shards out of what the tasks encoded: which document goes into which follows from their lengths alone, so every
//! process works it out for itself and makes its own.

use super::tokens;
use super::tokens::{SPLITS, TokensReport};
use crate::error::{Error, Result};
use crate::hash;
use crate::pipeline::config::PrepConfig;
use crate::pipeline::divide::Division;
use crate::pipeline::work::{Draft, Receipt, Stage, Work};
use crate::shard::{Dtype, FileEntry, ShardEntry, Split, SplitEntry, index_bytes};
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

/// Name of the stage's folder.
pub(in crate::pipeline) const STAGE: &str = "shards";
/// The files of a shard.
pub(in crate::pipeline) const SUFFIXES: [&str; 3] = ["bin", "idx", "docs.jsonl.zst"];

/// Consecutive documents of one task.
#[derive(Clone, Debug, Default)]
struct Piece {
    /// Place of the task's receipt.
    task: usize,
    /// Documents of the task before the piece, and in it.
    skip_documents: u64,
    documents: u64,
    /// Tokens likewise.
    skip_tokens: u64,
    tokens: u64,
}

/// One shard to be.
#[derive(Clone, Debug)]
struct Plan {
    split: Split,
    number: usize,
    pieces: Vec<Piece>,
}

impl Plan {
    fn bytes(&self, dtype: Dtype) -> u64 {
        self.pieces.iter().map(|piece| piece.tokens).sum::<u64>() * dtype.width()
    }
}

/// A side's shards, and for each the number of the task that made it.
pub(in crate::pipeline) struct Side {
    pub entry: SplitEntry,
    pub tasks: Vec<usize>,
}

/// Makes the shards of both sides.
pub(in crate::pipeline) fn run(
    work: &Work<'_>,
    config: &PrepConfig,
    dtype: Dtype,
    division: &Division,
    encoded: &[Receipt<TokensReport>],
) -> Result<[Side; 2]> {
    let folder = work.folder().join(tokens::folder(division));
    let mut plans = Vec::new();
    for split in SPLITS {
        plans.extend(plan(&folder, encoded, split, config.output.shard_bytes / dtype.width())?);
    }
    let sizes = plans.iter().map(|plan| plan.bytes(dtype)).collect();
    let stage = Stage { name: STAGE, title: "write shards", sizes };
    let receipts = work.run(&stage, |task, draft| {
        let writer = Writer { folder: &folder, encoded, plan: &plans[task], dtype };
        let entry = writer.write(draft)?;
        work.advance(entry.bin.bytes, entry.documents);
        Ok(entry)
    })?;
    let mut sides = [0, 1].map(|side| Side { entry: totals(encoded, side), tasks: Vec::new() });
    for (receipt, plan) in receipts.into_iter().zip(&plans) {
        let side = &mut sides[usize::from(plan.split == Split::Validation)];
        side.entry.shards.push(receipt.report);
        side.tasks.push(receipt.task);
    }
    Ok(sides)
}

/// A side's counts over all tasks.
fn totals(encoded: &[Receipt<TokensReport>], side: usize) -> SplitEntry {
    let mut all = tokens::SideReport::default();
    encoded.iter().for_each(|receipt| all.add(&receipt.report.sides[side]));
    SplitEntry {
        documents: all.documents,
        tokens: all.tokens,
        text_bytes: all.text_bytes,
        lengths: all.lengths,
        shards: Vec::new(),
    }
}

/// Divides a side's documents into shards of at most `limit` tokens; a longer document is a shard by itself.
fn plan(folder: &Path, encoded: &[Receipt<TokensReport>], split: Split, limit: u64) -> Result<Vec<Plan>> {
    let mut plans: Vec<Plan> = Vec::new();
    let mut filled = 0_u64;
    for (task, receipt) in encoded.iter().enumerate() {
        let lengths = lengths(folder, receipt, split)?;
        let mut piece = Piece { task, ..Piece::default() };
        for length in lengths {
            if plans.is_empty() || filled.saturating_add(length) > limit {
                if let Some(plan) = plans.last_mut().filter(|_| piece.documents > 0) {
                    plan.pieces.push(piece.clone());
                }
                piece.skip_documents += std::mem::take(&mut piece.documents);
                piece.skip_tokens += std::mem::take(&mut piece.tokens);
                plans.push(Plan { split, number: plans.len(), pieces: Vec::new() });
                filled = 0;
            }
            filled += length;
            piece.documents += 1;
            piece.tokens += length;
        }
        if let Some(plan) = plans.last_mut().filter(|_| piece.documents > 0) {
            plan.pieces.push(piece);
        }
    }
    Ok(plans)
}

/// Tokens of each document that a task encoded.
fn lengths(folder: &Path, receipt: &Receipt<TokensReport>, split: Split) -> Result<Vec<u64>> {
    let Some(mut input) = receipt.open(folder, &format!("{}.lengths", split.name()))? else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|e| input.damaged(e))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|four| u64::from(u32::from_le_bytes(*four))).collect())
}

struct Writer<'a> {
    folder: &'a Path,
    encoded: &'a [Receipt<TokensReport>],
    plan: &'a Plan,
    dtype: Dtype,
}

impl Writer<'_> {
    fn write(&self, draft: &mut Draft<'_>) -> Result<ShardEntry> {
        let name = format!("{}-{:05}", self.plan.split.name(), self.plan.number);
        let mut bin = Sum::new(draft.create(SUFFIXES[0])?);
        let mut docs = Sum::new(draft.create(SUFFIXES[2])?);
        let mut all = Vec::new();
        for piece in &self.plan.pieces {
            let lengths = lengths(self.folder, &self.encoded[piece.task], self.plan.split)?;
            let mine = lengths.into_iter().skip(piece.skip_documents as usize).take(piece.documents as usize);
            all.extend(mine.map(|length| length as i32));
            self.copy_tokens(piece, &mut bin)?;
            self.copy_lines(piece, &mut docs)?;
        }
        let mut idx = Sum::new(draft.create(SUFFIXES[1])?);
        idx.write_all(&index_bytes(&all, self.dtype)).map_err(|e| idx.failed(e))?;
        let tokens = bin.bytes / self.dtype.width();
        let documents = all.len() as u64;
        Ok(ShardEntry {
            name,
            documents,
            tokens,
            bin: bin.publish(draft)?,
            idx: idx.publish(draft)?,
            docs: Some(docs.publish(draft)?),
        })
    }

    fn is_whole(&self, piece: &Piece) -> bool {
        let side = &self.encoded[piece.task].report.sides[usize::from(self.plan.split == Split::Validation)];
        side.documents == piece.documents
    }

    fn copy_tokens(&self, piece: &Piece, bin: &mut Sum) -> Result<()> {
        let suffix = format!("{}.tokens", self.plan.split.name());
        let mut input = self.open(piece, &suffix)?;
        let width = self.dtype.width();
        let mut copy = || {
            io::copy(&mut input.by_ref().take(piece.skip_tokens * width), &mut io::sink())?;
            let copied = io::copy(&mut input.by_ref().take(piece.tokens * width), bin)?;
            // To the end, which compares the checksum.
            io::copy(&mut input, &mut io::sink())?;
            Ok(copied)
        };
        let copied = copy().map_err(|e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData => input.damaged(e),
            _ => Error::io("copy to", bin.path())(e),
        })?;
        if copied != piece.tokens * width {
            return Err(input.damaged(format!("{copied} bytes where {} should be", piece.tokens * width)));
        }
        Ok(())
    }

    /// A task's lines, as they are where all are wanted, else packed again.
    fn copy_lines(&self, piece: &Piece, docs: &mut Sum) -> Result<()> {
        let suffix = format!("{}.docs", self.plan.split.name());
        let mut input = self.open(piece, &suffix)?;
        if self.is_whole(piece) {
            io::copy(&mut input, docs).map_err(|e| input.damaged(e))?;
            return Ok(());
        }
        let path = input.path().to_path_buf();
        let damaged = |e: io::Error| crate::pipeline::work::damaged(&path, e);
        let mut lines = BufReader::new(zstd::Decoder::new(input).map_err(damaged)?);
        let mut packed = zstd::Encoder::new(docs, crate::pipeline::packed::FAST).map_err(damaged)?;
        let mut line = Vec::new();
        let (first, end) = (piece.skip_documents, piece.skip_documents + piece.documents);
        for number in 0.. {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(damaged)? == 0 {
                break;
            }
            if (first..end).contains(&number) {
                packed.write_all(&line).map_err(damaged)?;
            }
        }
        packed.finish().map_err(damaged)?;
        Ok(())
    }

    fn open(&self, piece: &Piece, suffix: &str) -> Result<crate::pipeline::work::Input> {
        let receipt = &self.encoded[piece.task];
        let missing = || {
            crate::pipeline::work::damaged(
                &crate::pipeline::work::file_path(self.folder, receipt.task, suffix),
                "not in its receipt",
            )
        };
        receipt.open(self.folder, suffix)?.ok_or_else(missing)
    }
}

/// A file with its length and SHA-256.
struct Sum {
    file: crate::pipeline::work::DraftFile,
    hasher: Sha256,
    bytes: u64,
}

impl Sum {
    fn new(file: crate::pipeline::work::DraftFile) -> Self {
        Self { file, hasher: Sha256::new(), bytes: 0 }
    }

    fn path(&self) -> &Path {
        self.file.temporary()
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io("write", self.path())(error)
    }

    fn publish(self, draft: &mut Draft<'_>) -> Result<FileEntry> {
        draft.publish(self.file)?;
        Ok(FileEntry { bytes: self.bytes, sha256: hash::hex(&self.hasher.finalize()) })
    }
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
