//! Batches of fixed-length sequences out of shards: in order or shuffled, endlessly or once, from one source or
//! several.
//!
//! With a sequence length of `S`, sequence `i` of a stream of tokens is tokens `i·S ..= i·S + S`: `S` inputs and, one
//! further, their `S` targets. Neighbours share one token, so that every token but the first is a target exactly once.
//! A stream of `T` tokens has `(T − 1) / S` sequences; what is left over at its end is not trained on. Or documents are
//! [packed](crate::pack) whole, which cuts only those that are longer than a sequence.
//!
//! Order is a function of seed and epoch alone: the `j`-th sequence of a source with `n` is sequence
//! `permutation(seed, j / n)[j % n]`. With several sources, [`Mix`] maps `k` to a source and an index within
//! it, as a function of `k` alone. Any number of workers can therefore share a run by dividing the numbers `k`
//! among themselves, and a resumed run only needs to know the next `k`.

mod batch;
mod evaluation;
mod options;
mod source;

pub use batch::TokenBatch;
pub use evaluation::Evaluation;
pub use options::{LoaderOptions, Packing};

use crate::error::{Error, Result};
use crate::mix::Mix;
use crate::pack::PackingReport;
use crate::shard::{ShardSet, Split};
use crate::{hash, json};
use serde::{Deserialize, Serialize};
use serde_json::json;
use source::Sequences;
use std::path::Path;

/// A source of a mix.
#[derive(Debug)]
pub struct MixSource {
    /// Name in metrics and errors.
    pub name: String,
    /// Its shards.
    pub data: ShardSet,
    /// Its share of the sequences, in any unit. None: as many as it has, times its epochs.
    pub weight: Option<f64>,
    /// Maximum number of passes over the source, a fraction too; `None` is no limit.
    pub epochs: Option<f64>,
}

/// A place in the order of sequences, and what the order is made of.
///
/// Save it with a checkpoint and give it to [`Loader::seek`]: the run continues with the very next sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Times the whole stream was gone through; 0 where there are several sources, each of which has its own.
    pub epoch: u64,
    /// Sequences taken in this epoch.
    pub position: u64,
    /// [`LoaderOptions::seed`].
    pub seed: u64,
    /// [`LoaderOptions::shuffle`].
    pub shuffle: bool,
    /// [`LoaderOptions::sequence_length`].
    pub sequence_length: u64,
    /// Tokens in the stream, or in all streams.
    pub tokens: u64,
    /// [`Manifest::fingerprint`](crate::shard::Manifest::fingerprint) of the data, where there is a manifest. Of
    /// several sources, a hash of theirs, their names, weights and epochs.
    pub fingerprint: Option<String>,
    /// [`LoaderOptions::packing`].
    #[serde(default)]
    pub packing: Packing,
}

/// A run over the sequences of one source or several; endless unless each has a limit of epochs.
#[derive(Debug)]
pub struct Loader {
    sources: Vec<Sequences>,
    names: Vec<String>,
    mix: Mix,
    options: LoaderOptions,
    fingerprint: Option<String>,
    next: u64,
}

impl Loader {
    /// Opens the shards at `paths` (each as [`ShardSet::open`] takes it) as one stream.
    ///
    /// # Errors
    /// Those of [`ShardSet::open_all`] and of [`new`](Self::new).
    pub fn open<P: AsRef<Path>>(paths: &[P], split: Split, options: LoaderOptions) -> Result<Self> {
        Self::new(ShardSet::open_all(paths, split)?, options)
    }

    /// Opens a loader over `data`, without end.
    ///
    /// # Errors
    /// [`Error::SequenceTooLong`] when there is not even one; [`Error::Config`] when the length is 0.
    pub fn new(data: ShardSet, options: LoaderOptions) -> Result<Self> {
        let fingerprint = data.manifest().map(|manifest| manifest.fingerprint.clone());
        let sources = vec![Sequences::new(data, &options)?];
        Ok(Self { sources, names: vec![String::new()], mix: Mix::new(&[(1.0, None)])?, options, fingerprint, next: 0 })
    }

    /// Opens a loader that draws sequences from several sources, by their weights.
    ///
    /// # Errors
    /// Those of [`new`](Self::new) for each source; [`Error::ShardsDiffer`] when their tokenizers are not the same;
    /// [`Error::Config`] when some sources have a weight and others none, or weights or epochs make no sense.
    pub fn mixed(sources: Vec<MixSource>, options: LoaderOptions) -> Result<Self> {
        if let Some((first, others)) = sources.split_first() {
            others.iter().try_for_each(|other| first.data.check_same_tokenizer(&other.data))?;
        }
        let (mut names, mut shares, mut parts, mut sequences) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for source in sources {
            parts.push(json!({
                "name": source.name, "weight": source.weight, "epochs": source.epochs, "tokens": source.data.tokens(),
                "fingerprint": source.data.manifest().map(|manifest| &manifest.fingerprint),
            }));
            let (name, weight, epochs) = (source.name, source.weight, source.epochs);
            let data = Sequences::new(source.data, &options)?;
            shares.push((weight, share(&name, weight, epochs, data.number())?));
            names.push(name);
            sequences.push(data);
        }
        let weighted = shares.iter().filter(|(weight, _)| weight.is_some()).count();
        if weighted != 0 && weighted != shares.len() {
            let without: Vec<_> = names.iter().zip(&shares).filter(|(_, s)| s.0.is_none()).map(|(n, _)| &**n).collect();
            let what = format!("{} has no weight and others have; give every source one, or none", without.join(", "));
            return Err(Error::Config { field: "data.sources", what });
        }
        let mix = Mix::new(&shares.into_iter().map(|(_, share)| share).collect::<Vec<_>>())?;
        let fingerprint = Some(hash::of_bytes(json::canonical(&parts.into()).as_bytes()));
        Ok(Self { sources: sequences, names, mix, options, fingerprint, next: 0 })
    }

    /// Number of sequences in an epoch of all sources together.
    pub fn sequences(&self) -> u64 {
        self.sources.iter().map(Sequences::number).sum()
    }

    /// Number of sequences of the whole run, if the sources have a limit of epochs; `u64::MAX` where there is no end.
    pub fn total(&self) -> u64 {
        self.mix.total()
    }

    /// Names of the sources, in the order of [`TokenBatch::sources`]; one empty name where there is a single stream.
    pub fn source_names(&self) -> &[String] {
        &self.names
    }

    /// Packing report of each source: what cutting or packing did to its documents.
    ///
    /// # Errors
    /// [`Error::ShardChanged`], [`Error::Io`].
    pub fn packing_reports(&self) -> Result<Vec<PackingReport>> {
        self.sources.iter().map(Sequences::report).collect()
    }

    /// The shards of the first source.
    pub fn data(&self) -> &ShardSet {
        &self.sources[0].data
    }

    /// Options that the loader was opened with.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// The source of the run's `k`-th sequence, and its number among that source's; `None` behind the end.
    pub fn locate(&self, k: u64) -> Option<(usize, u64)> {
        let draw = self.mix.draw(k)?;
        Some((draw.source, self.sources[draw.source].at(draw.index)))
    }

    /// Fills `batch` with the run's sequences `ks`, without moving the cursor: how several workers share one run.
    /// Allocates nothing for the batch once it has had this shape.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`]; [`Error::MixExhausted`]; [`Error::ShardChanged`] where a file is no longer the one
    /// that was opened; [`Error::Io`].
    pub fn fill_sequences(&self, ks: impl ExactSizeIterator<Item = u64>, batch: &mut TokenBatch) -> Result<()> {
        batch.reshape(ks.len(), self.options.sequence_length);
        for (row, k) in ks.enumerate() {
            let (source, sequence) = self.locate(k).ok_or(Error::MixExhausted { total: self.total() })?;
            let (tokens, starts) = batch.row_mut(row);
            self.sources[source].read(sequence, tokens, starts)?;
            batch.sources[row] = source as u32;
        }
        Ok(())
    }

    /// Fills `batch` with the next `n` sequences and moves the cursor. Allocates nothing for the batch once it has had
    /// this shape.
    ///
    /// # Errors
    /// As [`fill_sequences`](Self::fill_sequences); the cursor has then not moved.
    pub fn fill_batch(&mut self, n: usize, batch: &mut TokenBatch) -> Result<()> {
        let first = self.next;
        self.fill_sequences((0..n).map(|i| first.saturating_add(i as u64)), batch)?;
        self.next = first.saturating_add(n as u64);
        Ok(())
    }

    /// The next `n` sequences.
    ///
    /// # Errors
    /// As [`fill_batch`](Self::fill_batch).
    pub fn next_batch(&mut self, n: usize) -> Result<TokenBatch> {
        let mut batch = TokenBatch::default();
        self.fill_batch(n, &mut batch)?;
        Ok(batch)
    }

    /// Number `k` of the sequence that comes next.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// Moves the cursor to sequence `k` of the run.
    pub fn set_next_index(&mut self, k: u64) {
        self.next = k;
    }

    /// Position of the run: the next sequence.
    pub fn cursor(&self) -> Cursor {
        let (epoch, position) = match self.sources.as_slice() {
            [one] => (self.next / one.number(), self.next % one.number()),
            _ => (0, self.next),
        };
        Cursor {
            epoch,
            position,
            seed: self.options.seed,
            shuffle: self.options.shuffle,
            sequence_length: self.options.sequence_length as u64,
            tokens: self.sources.iter().map(|source| source.data.tokens()).sum(),
            fingerprint: self.fingerprint.clone(),
            packing: self.options.packing,
        }
    }

    /// Moves the cursor to where `cursor` was taken.
    ///
    /// # Errors
    /// [`Error::CursorMismatch`] when it was taken over other data or in another order.
    pub fn seek(&mut self, cursor: &Cursor) -> Result<()> {
        let now = self.cursor();
        let check = |field, saved: String, current: String| {
            if saved == current { Ok(()) } else { Err(Error::CursorMismatch { field, saved, current }) }
        };
        let text = |f: &Option<String>| f.clone().unwrap_or_else(|| "none".into());
        check("sequence length", cursor.sequence_length.to_string(), now.sequence_length.to_string())?;
        check("shuffle", cursor.shuffle.to_string(), now.shuffle.to_string())?;
        check("packing", format!("{:?}", cursor.packing), format!("{:?}", now.packing))?;
        check("seed", cursor.seed.to_string(), now.seed.to_string())?;
        check("data fingerprint", text(&cursor.fingerprint), text(&now.fingerprint))?;
        check("tokens", cursor.tokens.to_string(), now.tokens.to_string())?;
        let epoch = match self.sources.as_slice() {
            [one] => one.number(),
            _ => self.total(),
        };
        let index = cursor.epoch.checked_mul(epoch).and_then(|k| k.checked_add(cursor.position));
        // A run that came to its end exactly stands behind its last sequence.
        let inside = cursor.position < epoch || (cursor.epoch == 0 && cursor.position == self.total());
        self.next = index.filter(|_| inside).ok_or_else(|| Error::CursorMismatch {
            field: "position",
            saved: format!("{} of epoch {}", cursor.position, cursor.epoch),
            current: format!("{epoch} sequences an epoch"),
        })?;
        Ok(())
    }
}

/// The weight a source is drawn by, and how many sequences it gives at most.
fn share(name: &str, weight: Option<f64>, epochs: Option<f64>, sequences: u64) -> Result<(f64, Option<u64>)> {
    let limit = epochs.map(|epochs| (epochs * sequences as f64).floor());
    // The largest whole number that an f64 holds exactly is far beyond any run.
    if let (Some(limit), Some(epochs)) = (limit, epochs)
        && !(1.0..=(1_u64 << 53) as f64).contains(&limit)
    {
        let what = format!("{name}: {epochs} epochs of {sequences} sequences; there must be at least one sequence");
        return Err(Error::Config { field: "data.sources", what });
    }
    let natural = sequences as f64 * epochs.unwrap_or(1.0);
    Ok((weight.unwrap_or(natural), limit.map(|limit| limit as u64)))
}

#[cfg(test)]
mod tests;
