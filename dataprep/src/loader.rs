//! Batches of fixed-length sequences out of shards: in order or shuffled, for ever or once.
//!
//! With a sequence length of `S`, sequence `i` of a stream of tokens is tokens `i·S ..= i·S + S`: `S` inputs and, one
//! further, their `S` targets. Neighbours share one token, so that every token but the first is a target exactly once.
//! A stream of `T` tokens has `(T − 1) / S` sequences; what is left over at its end is not trained on.
//!
//! Order is a function of seed and epoch alone: the `k`-th sequence of a run is sequence `permutation(seed, k / n)[k % n]`.
//! Any number of workers can therefore share a run by dividing the numbers `k` among themselves, and a resumed run only
//! needs to know the next `k`.

use crate::error::{Error, Result};
use crate::permute::Permutation;
use crate::shard::{ShardSet, Split};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How to cut a stream of tokens into sequences, and in which order to take them.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Input tokens a sequence, `S`.
    pub sequence_length: usize,
    /// True: a new order every epoch. False: the stream's order.
    pub shuffle: bool,
    /// Chooses the order.
    pub seed: u64,
    /// The model's vocabulary; a token outside it is an error when it is read.
    pub vocab_size: Option<u32>,
}

/// Sequences of tokens, and where documents begin in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of sequences, `B`.
    pub sequences: usize,
    /// Input tokens a sequence, `S`.
    pub sequence_length: usize,
    /// `[B, S + 1]`: the inputs are the first `S` of each row, the targets the last `S`.
    pub tokens: Vec<u32>,
    /// `[B, S]`: for each input position, the position in the same row where its document begins (0 when it begins
    /// before the row). Attention that respects documents lets position `p` see `document_starts[p] ..= p`.
    pub document_starts: Vec<u32>,
}

impl Batch {
    /// Row `b`'s `S + 1` tokens.
    ///
    /// # Panics
    /// If there is no row `b`.
    pub fn row(&self, b: usize) -> &[u32] {
        &self.tokens[b * (self.sequence_length + 1)..][..self.sequence_length + 1]
    }

    /// Sets the shape; allocates only when it is larger than ever before.
    fn reshape(&mut self, sequences: usize, sequence_length: usize) {
        (self.sequences, self.sequence_length) = (sequences, sequence_length);
        self.tokens.resize(sequences * (sequence_length + 1), 0);
        self.document_starts.resize(sequences * sequence_length, 0);
    }

    fn fill_row(&mut self, row: usize, data: &ShardSet, start: u64) -> Result<()> {
        let s = self.sequence_length;
        data.read(start, &mut self.tokens[row * (s + 1)..][..s + 1])?;
        data.document_starts(start, &mut self.document_starts[row * s..][..s]);
        Ok(())
    }
}

/// A place in the order of sequences, and what the order is made of.
///
/// Save it with a checkpoint and give it to [`Loader::seek`]: the run continues with the very next sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Times the whole stream was gone through.
    pub epoch: u64,
    /// Sequences taken in this epoch.
    pub position: u64,
    /// [`LoaderOptions::seed`].
    pub seed: u64,
    /// [`LoaderOptions::shuffle`].
    pub shuffle: bool,
    /// [`LoaderOptions::sequence_length`].
    pub sequence_length: u64,
    /// Tokens in the stream.
    pub tokens: u64,
    /// [`Manifest::fingerprint`](crate::shard::Manifest::fingerprint) of the data, where there is a manifest.
    pub fingerprint: Option<String>,
}

/// An endless run over the sequences of a stream of tokens.
#[derive(Debug)]
pub struct Loader {
    data: ShardSet,
    options: LoaderOptions,
    sequences: u64,
    next: u64,
    order: (u64, Permutation),
}

impl Loader {
    /// Opens the shards at `paths` (each as [`ShardSet::open`] takes it) as one stream.
    ///
    /// # Errors
    /// Those of [`ShardSet::open_all`] and of [`new`](Self::new).
    pub fn open<P: AsRef<Path>>(paths: &[P], split: Split, options: LoaderOptions) -> Result<Self> {
        Self::new(ShardSet::open_all(paths, split)?, options)
    }

    /// Takes sequences from `data`.
    ///
    /// # Errors
    /// [`Error::SequenceTooLong`] when there is not even one; [`Error::Config`] when the length is 0.
    pub fn new(mut data: ShardSet, options: LoaderOptions) -> Result<Self> {
        let sequences = count(&data, options.sequence_length)? / options.sequence_length as u64;
        if sequences == 0 {
            return Err(too_long(&data, options.sequence_length));
        }
        if let Some(vocab_size) = options.vocab_size {
            data.limit_vocabulary(vocab_size);
        }
        let order = (0, Permutation::new(sequences, options.seed, 0));
        Ok(Self { data, options, sequences, next: 0, order })
    }

    /// Sequences in an epoch, `n`.
    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// The shards it reads.
    pub fn data(&self) -> &ShardSet {
        &self.data
    }

    /// What it was opened with.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// Position in the stream of the first token of the run's `k`-th sequence; epochs follow one another.
    pub fn start_of(&self, k: u64) -> u64 {
        let (epoch, position) = (k / self.sequences, k % self.sequences);
        let sequence = if !self.options.shuffle {
            position
        } else if epoch == self.order.0 {
            self.order.1.get(position)
        } else {
            Permutation::new(self.sequences, self.options.seed, epoch).get(position)
        };
        sequence * self.options.sequence_length as u64
    }

    /// Fills `batch` with the run's sequences `ks`, without moving the cursor: how several workers share one run.
    /// Allocates nothing once `batch` has had this shape.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn fill_sequences(&self, ks: impl ExactSizeIterator<Item = u64>, batch: &mut Batch) -> Result<()> {
        batch.reshape(ks.len(), self.options.sequence_length);
        for (row, k) in ks.enumerate() {
            batch.fill_row(row, &self.data, self.start_of(k))?;
        }
        Ok(())
    }

    /// Fills `batch` with the next `n` sequences and moves on. Allocates nothing once `batch` has had this shape.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`]; the cursor has then not moved.
    pub fn fill_batch(&mut self, n: usize, batch: &mut Batch) -> Result<()> {
        let epoch = self.next / self.sequences;
        if self.order.0 != epoch {
            self.order = (epoch, Permutation::new(self.sequences, self.options.seed, epoch));
        }
        let first = self.next;
        self.fill_sequences((0..n).map(|i| first + i as u64), batch)?;
        self.next += n as u64;
        Ok(())
    }

    /// The next `n` sequences.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn next_batch(&mut self, n: usize) -> Result<Batch> {
        let mut batch = Batch::default();
        self.fill_batch(n, &mut batch)?;
        Ok(batch)
    }

    /// Number `k` of the sequence that comes next.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// Makes sequence `k` of the run the next.
    pub fn set_next_index(&mut self, k: u64) {
        self.next = k;
    }

    /// Where the run stands.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.next / self.sequences,
            position: self.next % self.sequences,
            seed: self.options.seed,
            shuffle: self.options.shuffle,
            sequence_length: self.options.sequence_length as u64,
            tokens: self.data.tokens(),
            fingerprint: self.data.manifest().map(|manifest| manifest.fingerprint.clone()),
        }
    }

    /// Continues where `cursor` was taken.
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
        check("seed", cursor.seed.to_string(), now.seed.to_string())?;
        check("data fingerprint", text(&cursor.fingerprint), text(&now.fingerprint))?;
        check("tokens", cursor.tokens.to_string(), now.tokens.to_string())?;
        let index = cursor.epoch.checked_mul(self.sequences).and_then(|k| k.checked_add(cursor.position));
        self.next = index.filter(|_| cursor.position < self.sequences).ok_or_else(|| Error::CursorMismatch {
            field: "position",
            saved: format!("{} of epoch {}", cursor.position, cursor.epoch),
            current: format!("{} sequences an epoch", self.sequences),
        })?;
        Ok(())
    }
}

/// Every token of a stream as a target exactly once, in order: what evaluation runs over.
///
/// Windows do not overlap but for the one token that is a target in one and an input in the next; the last window may be
/// shorter and comes in a batch of its own.
#[derive(Debug)]
pub struct Evaluation {
    data: ShardSet,
    sequence_length: usize,
    next: u64,
}

impl Evaluation {
    /// Windows of `sequence_length` inputs over the shards at `paths`, checked against `vocab_size` if given.
    ///
    /// # Errors
    /// Those of [`ShardSet::open_all`]; [`Error::SequenceTooLong`] when there are fewer than two tokens.
    pub fn open<P: AsRef<Path>>(
        paths: &[P],
        split: Split,
        sequence_length: usize,
        vocab_size: Option<u32>,
    ) -> Result<Self> {
        let mut data = ShardSet::open_all(paths, split)?;
        if let Some(vocab_size) = vocab_size {
            data.limit_vocabulary(vocab_size);
        }
        Self::new(data, sequence_length)
    }

    /// Windows of `sequence_length` inputs over `data`.
    ///
    /// # Errors
    /// [`Error::SequenceTooLong`] when there are fewer than two tokens; [`Error::Config`] when the length is 0.
    pub fn new(data: ShardSet, sequence_length: usize) -> Result<Self> {
        if count(&data, sequence_length)? == 0 {
            return Err(too_long(&data, 1));
        }
        Ok(Self { data, sequence_length, next: 0 })
    }

    /// Number of targets in all: every token but the first.
    pub fn targets(&self) -> u64 {
        self.data.tokens() - 1
    }

    /// Number of windows, the last and shorter one included.
    pub fn windows(&self) -> u64 {
        self.targets().div_ceil(self.sequence_length as u64)
    }

    /// The shards it reads.
    pub fn data(&self) -> &ShardSet {
        &self.data
    }

    /// Starts again at the first window.
    pub fn restart(&mut self) {
        self.next = 0;
    }

    /// Fills `batch` with at most `n` further windows, all of the length that [`Batch::sequence_length`] then says, and
    /// gives their number; 0 at the end. `sequences · sequence_length` is the number of targets in the batch.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn fill_batch(&mut self, n: usize, batch: &mut Batch) -> Result<usize> {
        let s = self.sequence_length as u64;
        let full = self.targets() / s;
        let (rows, length) = if self.next < full {
            ((full - self.next).min(n as u64) as usize, self.sequence_length)
        } else if self.next < self.windows() && n > 0 {
            (1, (self.targets() % s) as usize)
        } else {
            (0, self.sequence_length)
        };
        batch.reshape(rows, length);
        for row in 0..rows {
            batch.fill_row(row, &self.data, (self.next + row as u64) * s)?;
        }
        self.next += rows as u64;
        Ok(rows)
    }
}

/// Targets in `data`, after checking that the length can be asked for at all.
fn count(data: &ShardSet, sequence_length: usize) -> Result<u64> {
    if sequence_length == 0 || u32::try_from(sequence_length).is_err() {
        let what = format!("{sequence_length} tokens; it must be between 1 and 4294967295");
        return Err(Error::Config { field: "train.sequence_length", what });
    }
    Ok(data.tokens().saturating_sub(1))
}

fn too_long(data: &ShardSet, sequence_length: usize) -> Error {
    Error::SequenceTooLong { path: data.path().into(), sequence_length, tokens: data.tokens() }
}

#[cfg(test)]
mod tests;
