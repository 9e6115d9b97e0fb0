//! `Evaluation`: one pass over data, in order.

use super::batch::TokenBatch;
use super::options::{count, too_long};
use crate::error::Result;
use crate::shard::{ShardSet, Split};
use std::path::Path;

/// An evaluation pass: every token of a stream as a target exactly once, in order.
///
/// Windows do not overlap but for the one token that is a target in one and an input in the next; the last window may
/// be shorter and comes in a separate batch.
#[derive(Debug)]
pub struct Evaluation {
    data: ShardSet,
    sequence_length: usize,
    next: u64,
}

impl Evaluation {
    /// Opens windows of `sequence_length` inputs over the shards at `paths`, checked against `vocab_size` if given.
    ///
    /// # Errors
    /// Those of [`ShardSet::open_all`]; [`Error::SequenceTooLong`](crate::Error::SequenceTooLong) when there are fewer
    /// than two tokens.
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

    /// Makes windows of `sequence_length` inputs over `data`.
    ///
    /// # Errors
    /// [`SequenceTooLong`](crate::Error::SequenceTooLong) when there are fewer than two tokens;
    /// [`Config`](crate::Error::Config) when the length is 0.
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

    /// Restarts at the first window.
    pub fn restart(&mut self) {
        self.next = 0;
    }

    /// Fills `batch` with at most `n` further windows, all of the length that [`TokenBatch::sequence_length`] then
    /// says, and gives their number; 0 at the end. `sequences · sequence_length` is the number of targets in the batch.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange), [`Error::ShardChanged`](crate::Error::ShardChanged),
    /// [`Error::Io`](crate::Error::Io).
    pub fn fill_batch(&mut self, n: usize, batch: &mut TokenBatch) -> Result<usize> {
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
            let start = (self.next + row as u64) * s;
            let (tokens, starts) = batch.row_mut(row);
            self.data.read(start, tokens)?;
            self.data.document_starts(start, starts)?;
            self.data.unchanged(start, tokens.len() as u64)?;
        }
        self.next += rows as u64;
        Ok(rows)
    }
}
