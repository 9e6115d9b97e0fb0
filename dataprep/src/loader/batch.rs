//! `TokenBatch`: sequences of token ids with their document boundaries.

/// A batch of token sequences with their document boundaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Number of sequences, `B`.
    pub sequences: usize,
    /// Input tokens per sequence, `S`.
    pub sequence_length: usize,
    /// `[B, S + 1]`: the inputs are the first `S` of each row, the targets the last `S`.
    pub tokens: Vec<u32>,
    /// `[B, S]`: for each input position, the position in the same row where its document begins (0 when it begins
    /// before the row). Attention that respects documents lets position `p` see `document_starts[p] ..= p`.
    pub document_starts: Vec<u32>,
    /// `[B]`: which of the loader's sources each row comes from.
    pub sources: Vec<u32>,
}

impl TokenBatch {
    /// The `S + 1` tokens of row `b`.
    ///
    /// # Panics
    /// If there is no row `b`.
    pub fn row(&self, b: usize) -> &[u32] {
        &self.tokens[b * (self.sequence_length + 1)..][..self.sequence_length + 1]
    }

    /// Sets the shape; allocates only when it is larger than ever before.
    pub(super) fn reshape(&mut self, sequences: usize, sequence_length: usize) {
        (self.sequences, self.sequence_length) = (sequences, sequence_length);
        self.tokens.resize(sequences * (sequence_length + 1), 0);
        self.document_starts.resize(sequences * sequence_length, 0);
        self.sources.resize(sequences, 0);
    }

    /// Row `b`'s tokens and document starts, to be filled.
    pub(super) fn row_mut(&mut self, b: usize) -> (&mut [u32], &mut [u32]) {
        let s = self.sequence_length;
        (&mut self.tokens[b * (s + 1)..][..s + 1], &mut self.document_starts[b * s..][..s])
    }
}
