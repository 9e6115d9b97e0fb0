//! Loader options: sequence length, packing, order and number of sequences.

use crate::error::{Error, Result};
use crate::shard::ShardSet;
use serde::{Deserialize, Serialize};

/// Packing of documents into sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One long stream, cut wherever a sequence ends.
    #[default]
    Concatenate,
    /// Whole documents as far as they fit: [`PackedRows`](crate::pack::PackedRows).
    BestFit,
}

/// Options of a loader: sequence length, packing, order.
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
    /// Packing of documents into sequences.
    pub packing: Packing,
}

/// Targets in `data`, after checking that the length can be asked for at all.
pub(super) fn count(data: &ShardSet, sequence_length: usize) -> Result<u64> {
    if sequence_length == 0 || u32::try_from(sequence_length).is_err() {
        let what = format!("{sequence_length} tokens; it must be between 1 and 4294967295");
        return Err(Error::Config { field: "train.sequence_length", what });
    }
    Ok(data.tokens().saturating_sub(1))
}

pub(super) fn too_long(data: &ShardSet, sequence_length: usize) -> Error {
    Error::SequenceTooLong { path: data.path().into(), sequence_length, tokens: data.tokens() }
}
