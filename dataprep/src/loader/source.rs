//! The sequences of one source: cut out of its stream, or packed.

use super::options::{LoaderOptions, Packing, count, too_long};
use crate::error::Result;
use crate::pack::{PackedRows, PackingReport};
use crate::permute::Permutation;
use crate::shard::ShardSet;

/// One source's sequences, and their order in each of its epochs.
#[derive(Debug)]
pub(super) struct Sequences {
    pub data: ShardSet,
    packed: Option<PackedRows>,
    /// What fills a packed row to its end.
    padding: u32,
    number: u64,
    sequence_length: u64,
    seed: Option<u64>,
}

impl Sequences {
    pub fn new(mut data: ShardSet, options: &LoaderOptions) -> Result<Self> {
        let windows = count(&data, options.sequence_length)? / options.sequence_length as u64;
        if windows == 0 {
            return Err(too_long(&data, options.sequence_length));
        }
        if let Some(vocab_size) = options.vocab_size {
            data.limit_vocabulary(vocab_size);
        }
        let packed = match options.packing {
            Packing::Concatenate => None,
            Packing::BestFit => Some(PackedRows::best_fit(&data, options.sequence_length)?),
        };
        let number = packed.as_ref().map_or(windows, PackedRows::rows);
        let padding = match data.manifest() {
            Some(manifest) => manifest.tokenizer.eos_id,
            None if packed.is_none() => 0,
            // Other programs' shards end every document with such a token, or with none that could be known.
            None => {
                let mut last = [0];
                data.read(data.tokens() - 1, &mut last)?;
                last[0]
            }
        };
        let seed = options.shuffle.then_some(options.seed);
        Ok(Self { data, packed, padding, number, sequence_length: options.sequence_length as u64, seed })
    }

    /// Number of sequences in an epoch.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Packing report of the source.
    pub fn report(&self) -> Result<PackingReport> {
        match &self.packed {
            Some(packed) => Ok(packed.report()),
            None => PackingReport::of_concatenation(&self.data, self.sequence_length as usize),
        }
    }

    /// The sequence that comes `index`-th, epoch after epoch.
    pub fn at(&self, index: u64) -> u64 {
        let (epoch, position) = (index / self.number, index % self.number);
        self.seed.map_or(position, |seed| Permutation::new(self.number, seed, epoch).get(position))
    }

    /// Reads a sequence: its tokens, one more than its inputs, and where in it each input's document begins.
    pub fn read(&self, sequence: u64, tokens: &mut [u32], starts: &mut [u32]) -> Result<()> {
        let Some(packed) = &self.packed else {
            let start = sequence * self.sequence_length;
            self.data.read(start, tokens)?;
            self.data.document_starts(start, starts)?;
            return self.data.unchanged(start, tokens.len() as u64);
        };
        let mut at = 0;
        for piece in packed.row(sequence) {
            let end = at + piece.length as usize;
            self.data.read(piece.start, &mut tokens[at..end])?;
            self.data.unchanged(piece.start, piece.length.into())?;
            // The last token of a full row is a target only.
            let inputs = starts.len().min(end);
            starts[at.min(inputs)..inputs].fill(at as u32);
            at = end;
        }
        tokens[at..].fill(self.padding);
        for (i, start) in starts.iter_mut().enumerate().skip(at) {
            *start = i as u32;
        }
        Ok(())
    }
}
