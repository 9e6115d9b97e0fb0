//! Best-fit packing: whole documents in every sequence, instead of cutting one long stream wherever a sequence ends.
//!
//! Ding et al., *Fewer Truncations Improve Language Modeling* (ICML 2024): documents that are longer than a sequence
//! are cut into pieces of full length and a rest; then pieces go, the longest first, each into the sequence with the
//! least room that still holds it. Only documents longer than a sequence are cut at all, and next to nothing stays
//! empty, since text has short documents in plenty. DeepSeek-V3 packs documents for the same reason (V3 report §4.1).
//!
//! With lengths below a bound, "the least room that still holds it" is one look at a bit set: packing `n` pieces into
//! sequences of `S` tokens takes `O(n + S)` memory and `O(n · S / 4096)` time at the very most.
//!
//! A row of a batch has room for `S + 1` tokens, of which the first `S` are inputs and the last `S` targets. The pieces
//! of a long document overlap by one token, so that each of its tokens but the first is a target exactly once. What
//! stays empty at the end of a row is filled with the end-of-document token, each of which is one document.

use crate::error::{Error, Result};
use crate::shard::ShardSet;

/// A piece of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position of its first token in the stream.
    pub start: u64,
    /// Number of tokens, at least 1 and at most the room of a row.
    pub length: u32,
}

/// Rows of packed documents: the pieces in each.
#[derive(Clone, Debug)]
pub struct PackedRows {
    /// Pieces, row after row, and within a row in the order of the stream.
    pieces: Vec<Piece>,
    /// First piece of each row, and the number of pieces.
    rows: Vec<u64>,
    report: PackingReport,
}

/// Packing report: how many documents were cut, padded or left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackingReport {
    /// Documents that are not empty.
    pub documents: u64,
    /// Documents that do not lie in one row.
    pub documents_cut: u64,
    /// Cuts in all: a document in three rows has two.
    pub cuts: u64,
    /// Rows.
    pub rows: u64,
    /// Tokens of padding in all rows.
    pub padding: u64,
    /// Tokens at the end of the stream that belong to no row.
    pub left_over: u64,
}

impl PackedRows {
    /// Packs the documents of `data` into rows for sequences of `sequence_length` inputs.
    ///
    /// # Errors
    /// [`Error::Config`] when the length is 0 or beyond 2²⁴, or there are more than 2³² pieces;
    /// [`Error::ShardChanged`], [`Error::Io`].
    pub fn best_fit(data: &ShardSet, sequence_length: usize) -> Result<Self> {
        let room = u32::try_from(sequence_length).ok().filter(|&s| s > 0 && s <= 1 << 24).map(|s| s + 1);
        let room = room.ok_or_else(|| Error::Config {
            field: "train.sequence_length",
            what: format!("{sequence_length} tokens; best-fit packing takes between 1 and 16777216"),
        })?;
        let documents: Vec<_> = filled(data).collect::<Result<_>>()?;
        let documents = || documents.iter().copied();
        let pieces: u64 = documents().map(|(_, length)| (length - 1).div_ceil(u64::from(room) - 1).max(1)).sum();
        if u32::try_from(pieces).is_err() {
            let what = format!("best fit of {pieces} pieces of documents; it keeps at most 2^32, use \"concatenate\"");
            return Err(Error::Config { field: "data.packing", what });
        }
        Ok(Self::of_documents(documents(), room))
    }

    /// Packs documents, each its first position and its length above 0, into rows of `room` tokens, at least 2.
    fn of_documents(documents: impl Iterator<Item = (u64, u64)>, room: u32) -> Self {
        let (pieces, mut report) = cut(documents, room);
        let row_of = place(&pieces, room);
        report.rows = row_of.iter().max().map_or(0, |&last| u64::from(last) + 1);
        // Counting sort by row, which keeps the order of the stream within each.
        let mut rows = vec![0_u64; report.rows as usize + 1];
        for &row in &row_of {
            rows[row as usize + 1] += 1;
        }
        for i in 1..rows.len() {
            rows[i] += rows[i - 1];
        }
        let mut next = rows.clone();
        let mut sorted = vec![Piece { start: 0, length: 0 }; pieces.len()];
        for (piece, &row) in pieces.iter().zip(&row_of) {
            let at = &mut next[row as usize];
            sorted[*at as usize] = *piece;
            *at += 1;
        }
        let used: u64 = pieces.iter().map(|piece| u64::from(piece.length)).sum();
        report.padding = report.rows * u64::from(room) - used;
        Self { pieces: sorted, rows, report }
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.report.rows
    }

    /// The pieces in a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: u64) -> &[Piece] {
        &self.pieces[self.rows[row as usize] as usize..self.rows[row as usize + 1] as usize]
    }

    /// Packing report of these rows.
    pub fn report(&self) -> PackingReport {
        self.report
    }
}

impl PackingReport {
    /// Packing report of plain concatenation: rows are the stream's tokens, `sequence_length` by `sequence_length`.
    ///
    /// # Errors
    /// [`Error::ShardChanged`], [`Error::Io`].
    pub fn of_concatenation(data: &ShardSet, sequence_length: usize) -> Result<Self> {
        let s = sequence_length.max(1) as u64;
        let rows = data.tokens().saturating_sub(1) / s;
        let mut report = Self { rows, left_over: data.tokens() - (rows * s).min(data.tokens()), ..Self::default() };
        for document in filled(data) {
            let (start, length) = document?;
            let cuts = (start + length - 1) / s - start / s;
            report.documents += 1;
            report.documents_cut += u64::from(cuts > 0);
            report.cuts += cuts;
        }
        Ok(report)
    }
}

/// The documents that have tokens.
fn filled(data: &ShardSet) -> impl Iterator<Item = Result<(u64, u64)>> + '_ {
    data.document_ranges().filter(|document| !matches!(document, Ok((_, 0))))
}

impl std::fmt::Display for PackingReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { documents, documents_cut, cuts, rows, padding, left_over } = self;
        let share = |part: &u64, whole: &u64| *part as f64 * 100.0 / (*whole).max(1) as f64;
        let cut = share(documents_cut, documents);
        write!(f, "{documents} documents in {rows} sequences, {documents_cut} of them cut ({cut:.2} %), {cuts} cuts")?;
        write!(f, "; {padding} tokens of padding, {left_over} left over")
    }
}

/// The pieces of all documents in the order of the stream; fills in what the report says of documents.
fn cut(documents: impl Iterator<Item = (u64, u64)>, room: u32) -> (Vec<Piece>, PackingReport) {
    let (mut pieces, mut report) = (Vec::new(), PackingReport::default());
    let (room, stride) = (u64::from(room), u64::from(room) - 1);
    for (start, length) in documents {
        report.documents += 1;
        report.documents_cut += u64::from(length > room);
        let mut at = 0;
        loop {
            let rest = length - at;
            pieces.push(Piece { start: start + at, length: rest.min(room) as u32 });
            if rest <= room {
                break;
            }
            at += stride;
            report.cuts += 1;
        }
    }
    (pieces, report)
}

/// Best-fit decreasing: the row of each piece. Among equally long pieces the earlier comes first, and among rows with
/// equal room the one that has had it longest, so the result depends on the lengths alone.
fn place(pieces: &[Piece], room: u32) -> Vec<u32> {
    let mut row_of = vec![0_u32; pieces.len()];
    // Rows by the room that is left in them, and which rooms there are.
    let mut rows_with: Vec<std::collections::VecDeque<u32>> = vec![Default::default(); room as usize + 1];
    let mut rooms = BitSet::new(room as usize + 1);
    let mut rows = 0;
    for i in longest_first(pieces, room) {
        let length = pieces[i as usize].length as usize;
        let (row, left) = match rooms.first_from(length) {
            Some(left) => {
                let waiting = &mut rows_with[left];
                let row = waiting.pop_front().expect("a room in the set has rows");
                if waiting.is_empty() {
                    rooms.remove(left);
                }
                (row, left)
            }
            None => {
                rows += 1;
                (rows - 1, room as usize)
            }
        };
        row_of[i as usize] = row;
        if left > length {
            rows_with[left - length].push_back(row);
            rooms.insert(left - length);
        }
    }
    row_of
}

/// Numbers of the pieces by falling length, equal ones in order.
fn longest_first(pieces: &[Piece], room: u32) -> Vec<u32> {
    let mut first = vec![0_usize; room as usize + 2];
    for piece in pieces {
        first[(room - piece.length) as usize + 1] += 1;
    }
    for i in 1..first.len() {
        first[i] += first[i - 1];
    }
    let mut order = vec![0; pieces.len()];
    for (i, piece) in pieces.iter().enumerate() {
        let at = &mut first[(room - piece.length) as usize];
        order[*at] = i as u32;
        *at += 1;
    }
    order
}

/// A set of small numbers that finds the next one from any number on.
struct BitSet {
    words: Vec<u64>,
    /// Which words are not 0.
    groups: Vec<u64>,
}

impl BitSet {
    fn new(size: usize) -> Self {
        Self { words: vec![0; size / 64 + 1], groups: vec![0; size / 4096 + 1] }
    }

    fn insert(&mut self, n: usize) {
        self.words[n / 64] |= 1 << (n % 64);
        self.groups[n / 4096] |= 1 << (n / 64 % 64);
    }

    fn remove(&mut self, n: usize) {
        self.words[n / 64] &= !(1 << (n % 64));
        if self.words[n / 64] == 0 {
            self.groups[n / 4096] &= !(1 << (n / 64 % 64));
        }
    }

    /// The smallest member that is at least `n`.
    fn first_from(&self, n: usize) -> Option<usize> {
        let here = self.words.get(n / 64)? >> (n % 64);
        if here != 0 {
            return Some(n + here.trailing_zeros() as usize);
        }
        let after = n / 64 + 1;
        let mut group = self.groups.get(after / 64)? >> (after % 64) << (after % 64);
        let mut at = after / 64;
        while group == 0 {
            at += 1;
            group = *self.groups.get(at)?;
        }
        let word = at * 64 + group.trailing_zeros() as usize;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn documents(lengths: &[u64]) -> Vec<(u64, u64)> {
        let mut end = 0;
        let document = |&length: &u64| {
            end += length;
            (end - length, length)
        };
        lengths.iter().map(document).filter(|&(_, length)| length > 0).collect()
    }

    fn pack(lengths: &[u64], room: u32) -> PackedRows {
        PackedRows::of_documents(documents(lengths).into_iter(), room)
    }

    /// The room left in each row by best-fit decreasing as the paper words it, which is to look at every row. Which of
    /// several rows with equal room takes a piece makes no difference to that.
    fn slow(lengths: &[u64], room: u32) -> Vec<u32> {
        let (mut pieces, _) = cut(documents(lengths).into_iter(), room);
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.length));
        let mut rows: Vec<u32> = Vec::new();
        for piece in pieces {
            match rows.iter_mut().filter(|left| **left >= piece.length).min() {
                Some(left) => *left -= piece.length,
                None => rows.push(room - piece.length),
            }
        }
        rows
    }

    #[test]
    fn documents_stay_whole_where_they_fit() {
        let packing = pack(&[5, 3, 8, 2, 5, 5], 10);
        let lengths = |row| packing.row(row).iter().map(|piece| piece.length).collect::<Vec<_>>();
        assert_eq!((0..packing.rows()).map(lengths).collect::<Vec<_>>(), [vec![8, 2], vec![5, 5], vec![3, 5]]);
        let report = packing.report();
        assert_eq!((report.documents, report.documents_cut, report.cuts, report.padding), (6, 0, 0, 2));
    }

    #[test]
    fn long_documents_are_cut_with_one_token_of_overlap() {
        let packing = pack(&[25, 0, 1], 10);
        let mut pieces: Vec<_> = (0..packing.rows()).flat_map(|row| packing.row(row)).copied().collect();
        pieces.sort_by_key(|piece| piece.start);
        let expected = [(0, 10), (9, 10), (18, 7), (25, 1)].map(|(start, length)| Piece { start, length });
        assert_eq!(pieces, expected);
        let report = packing.report();
        assert_eq!((report.documents, report.documents_cut, report.cuts, report.rows), (2, 1, 2, 3));
    }

    #[test]
    fn nothing_packs_into_nothing() {
        assert_eq!(pack(&[], 10).report(), PackingReport::default());
    }

    proptest! {
        #[test]
        fn packing_is_what_the_paper_words(lengths in prop::collection::vec(0_u64..40, 0..80), room in 2_u32..20) {
            let packing = pack(&lengths, room);
            let used = |row| packing.row(row).iter().map(|piece| piece.length).sum::<u32>();
            let mut fast: Vec<u32> = (0..packing.rows()).map(|row| room - used(row)).collect();
            let mut slow = slow(&lengths, room);
            fast.sort();
            slow.sort();
            prop_assert_eq!(fast, slow);
            // Every token lies in some row, and every one but the first of its document is a target exactly once.
            let mut targets = BTreeSet::new();
            let mut tokens = BTreeSet::new();
            for row in 0..packing.rows() {
                let pieces = packing.row(row);
                prop_assert!(pieces.iter().map(|piece| piece.length).sum::<u32>() <= room);
                prop_assert!(pieces.is_sorted_by_key(|piece| piece.start));
                for piece in pieces {
                    let end = piece.start + u64::from(piece.length);
                    tokens.extend(piece.start..end);
                    for target in piece.start + 1..end {
                        prop_assert!(targets.insert(target), "{} is a target twice", target);
                    }
                }
            }
            prop_assert_eq!(tokens.len() as u64, lengths.iter().sum::<u64>());
            prop_assert_eq!(targets.len() as u64, lengths.iter().map(|length| length.saturating_sub(1)).sum::<u64>());
        }

        #[test]
        fn the_bit_set_finds_the_next_member(
            members in prop::collection::btree_set(0_usize..20_000, 0..40),
            gone in 0_usize..40,
            from in 0_usize..21_000,
        ) {
            let (mut set, mut members) = (BitSet::new(20_000), members);
            members.iter().for_each(|&n| set.insert(n));
            if let Some(&n) = members.iter().nth(gone) {
                set.remove(n);
                members.remove(&n);
            }
            prop_assert_eq!(set.first_from(from), members.range(from..).next().copied());
        }
    }
}
