//! BPE merge rules, and their application to one word.
//!
//! What it costs is mostly looking for pairs in a table that no core's cache holds. So a word's pairs of bytes have a
//! separate table, of which text uses a corner, the table of all other pairs takes eight bytes a place, and a filter
//! before it says of most pairs that they are not there. Most words need no merging ([`pieces`](super::pieces)).

use super::pieces::{NONE, Pieces, Rank};
use rustc_hash::FxHashMap;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Words of more symbols are merged with a heap rather than by looking for the lowest rank each time.
const SHORT: usize = 64;
/// Bits of a place in a short word.
const PLACE_BITS: u32 = SHORT.ilog2();
/// Bits of a rank, so that a rank and a place fit into an `i32`.
const MAX_RANK_BITS: u32 = 24;

/// A rank and a place, the place in the lower bits; signed because the smallest of those are found faster.
type Candidate = i32;
const NO_CANDIDATE: Candidate = Candidate::MAX;
/// A place of the table that no rule takes.
const FREE: u64 = u64::MAX;

/// Which pairs of neighbours become which token, and in which order.
#[derive(Debug)]
pub(super) struct Merges {
    /// The token of each byte.
    byte_ids: [u32; 256],
    /// The rank of two bytes' tokens, by the first and the second byte.
    byte_pairs: Vec<Rank>,
    /// Result of each rule, by rank.
    becomes: Vec<u32>,
    /// Pair and rank at the pair's place or the next free one behind it. Never more than half full.
    table: Vec<u64>,
    shift: u32,
    id_bits: u32,
    rank_bits: u32,
    /// A bit for each rule, where its pair's hash says: most neighbours have no rule, and this is an eighth as large.
    filter: Vec<u64>,
    pieces: Pieces,
}

impl Merges {
    /// The rules of a `model`, each written `"left right"` or `["left", "right"]`. `None` when one names a token that
    /// the vocabulary does not have, or when ids and ranks do not fit together into 63 bits (2²¹ of each do).
    pub(super) fn from_json(model: &Value, vocab: &FxHashMap<&str, u32>, byte_ids: [u32; 256]) -> Option<Self> {
        let rules = model["merges"].as_array()?;
        let mut pairs = FxHashMap::with_capacity_and_hasher(rules.len(), Default::default());
        let mut becomes = Vec::with_capacity(rules.len());
        let (mut neighbours, mut whole) = (Vec::with_capacity(rules.len()), String::new());
        for (rank, rule) in (0_u32..).zip(rules) {
            let (left, right) = match rule {
                Value::String(both) => both.split_once(' ')?,
                pair => (pair[0].as_str()?, pair[1].as_str()?),
            };
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            // Of two rules for the same pair the later one holds, as in the `tokenizers` crate.
            let pair = (*vocab.get(left)?, *vocab.get(right)?);
            pairs.insert(pair, rank);
            neighbours.push([pair.0, pair.1]);
            becomes.push(*vocab.get(whole.as_str())?);
        }
        let largest = vocab.values().copied().max().unwrap_or(0);
        let mut merges = Self::new(&pairs, becomes, byte_ids, largest)?;
        let rules: Vec<_> = neighbours.into_iter().zip(merges.becomes.iter().copied()).collect();
        merges.pieces = Pieces::new(&byte_ids, &rules, largest, |left, right| merges.get(left, right));
        Some(merges)
    }

    fn new(pairs: &FxHashMap<(u32, u32), Rank>, becomes: Vec<u32>, byte_ids: [u32; 256], largest: u32) -> Option<Self> {
        let bits = |largest: usize| (usize::BITS - largest.leading_zeros()).max(1);
        let (id_bits, rank_bits) = (bits(largest as usize), bits(becomes.len()));
        // One bit less than there are, so that no rule looks like a free place.
        if rank_bits > MAX_RANK_BITS || 2 * id_bits + rank_bits > 63 {
            return None;
        }
        let size = (2 * pairs.len()).next_power_of_two().max(2);
        let shift = u64::BITS - size.trailing_zeros();
        let (byte_pairs, table) = (Vec::new(), vec![FREE; size]);
        let (filter, pieces) = (vec![0; (size / 8).max(1)], Pieces::default());
        let mut merges = Self { byte_ids, byte_pairs, becomes, table, shift, id_bits, rank_bits, filter, pieces };
        for (&(left, right), &rank) in pairs {
            let pair = merges.key(left, right);
            let mut at = merges.place(pair);
            while merges.table[at] != FREE {
                at = (at + 1) % size;
            }
            merges.table[at] = pair << rank_bits | u64::from(rank);
            let (word, bit) = merges.filter_place(pair);
            merges.filter[word] |= bit;
        }
        let bytes = || byte_ids.iter().copied();
        merges.byte_pairs = bytes()
            .flat_map(|left| bytes().map(move |right| (left, right)))
            .map(|pair| merges.get(pair.0, pair.1))
            .collect();
        Some(merges)
    }

    #[inline]
    fn key(&self, left: u32, right: u32) -> u64 {
        u64::from(left) << self.id_bits | u64::from(right)
    }

    #[inline]
    fn place(&self, pair: u64) -> usize {
        (hash(pair) >> self.shift) as usize
    }

    /// The number and the bit of the filter that stand for a pair.
    #[inline]
    fn filter_place(&self, pair: u64) -> (usize, u64) {
        let hash = hash(pair);
        ((hash >> 10) as usize & (self.filter.len() - 1), 1 << (hash >> 58))
    }

    /// The rank of the rule for two neighbours, or [`NONE`].
    #[inline]
    fn get(&self, left: u32, right: u32) -> Rank {
        let pair = self.key(left, right);
        let (word, bit) = self.filter_place(pair);
        if self.filter[word] & bit == 0 {
            return NONE;
        }
        let mut at = self.place(pair);
        loop {
            let slot = self.table[at];
            if slot >> self.rank_bits == pair {
                return slot as Rank & ((1 << self.rank_bits) - 1);
            }
            if slot == FREE {
                return NONE;
            }
            at = (at + 1) & (self.table.len() - 1);
        }
    }

    /// The rank of the tokens of two bytes, or [`NONE`].
    #[inline]
    fn get_bytes(&self, left: u8, right: u8) -> Rank {
        self.byte_pairs[usize::from(left) << 8 | usize::from(right)]
    }

    /// Appends the ids of a word of fewer than 2³² bytes: what is left of its bytes' when the leftmost pair of lowest
    /// rank is merged until there is none.
    #[inline]
    pub(super) fn apply(&self, word: &[u8], out: &mut Vec<u32>) {
        if self.pieces.find(word, |left, right| self.get(left, right), out) {
            return;
        }
        if word.len() <= SHORT { self.apply_short(word, out) } else { self.apply_long(word, out) }
    }

    fn apply_short(&self, word: &[u8], out: &mut Vec<u32>) {
        let n = word.len();
        // By symbol: its id, and the candidate of its pair with the next one. Found once, and then only where a
        // neighbour changed.
        let (mut ids, mut candidates) = ([0; SHORT], [NO_CANDIDATE; SHORT]);
        let candidate = |rank: Rank, place: usize| match rank {
            NONE => NO_CANDIDATE,
            rank => (rank << PLACE_BITS) as Candidate | place as Candidate,
        };
        for (id, &byte) in ids.iter_mut().zip(word) {
            *id = self.byte_ids[usize::from(byte)];
        }
        for (place, pair) in word.array_windows().enumerate() {
            let &[left, right] = pair;
            candidates[place] = candidate(self.get_bytes(left, right), place);
        }
        // One bit a symbol that is left.
        let mut left_over = if n == 0 { 0 } else { u64::MAX >> (SHORT - n) };
        let eights = n.div_ceil(8);
        while let Some(best) = least(&candidates.as_chunks().0[..eights]) {
            let at = best as usize % SHORT;
            let behind = |left_over: u64| (left_over >> at >> 1).trailing_zeros() as usize + at + 1;
            let right = behind(left_over);
            ids[at] = self.becomes[(best >> PLACE_BITS) as usize];
            left_over &= !(1 << right);
            (candidates[at], candidates[right]) = (NO_CANDIDATE, NO_CANDIDATE);
            let next = behind(left_over);
            if next < n {
                candidates[at] = candidate(self.get(ids[at], ids[next]), at);
            }
            let before = left_over & ((1 << at) - 1);
            if before != 0 {
                let before = before.ilog2() as usize;
                candidates[before] = candidate(self.get(ids[before], ids[at]), before);
            }
        }
        while left_over != 0 {
            out.push(ids[left_over.trailing_zeros() as usize]);
            left_over &= left_over - 1;
        }
    }

    /// The same in O(n log n): a heap of ranks and places over a doubly linked list of symbols.
    fn apply_long(&self, word: &[u8], out: &mut Vec<u32>) {
        const GONE: u32 = u32::MAX;
        let n = word.len();
        let end = n as u32;
        let mut ids: Vec<u32> = word.iter().map(|&byte| self.byte_ids[usize::from(byte)]).collect();
        let mut next: Vec<u32> = (1..=end).collect();
        let mut previous: Vec<u32> = (0..end).map(|i| i.wrapping_sub(1)).collect();
        // The rank of each symbol with the next one; an entry of the heap counts as long as its rank is still there.
        let pairs = word.array_windows().map(|&[left, right]| self.get_bytes(left, right));
        let mut ranks: Vec<Rank> = pairs.chain([NONE]).collect();
        let entry = |rank: Rank, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
        let entries = ranks.iter().zip(0..).filter(|(rank, _)| **rank != NONE);
        let mut heap: BinaryHeap<_> = entries.map(|(&rank, at)| entry(rank, at)).collect();
        while let Some(Reverse(best)) = heap.pop() {
            let left = best as u32 as usize;
            let rank = ranks[left];
            if rank == NONE || u64::from(rank) != best >> 32 {
                continue;
            }
            let right = next[left] as usize;
            (ids[left], ids[right]) = (self.becomes[rank as usize], GONE);
            (ranks[left], ranks[right]) = (NONE, NONE);
            let after = next[right];
            next[left] = after;
            let mut look = |at: usize, behind: usize| {
                ranks[at] = self.get(ids[at], ids[behind]);
                if ranks[at] != NONE {
                    heap.push(entry(ranks[at], at as u32));
                }
            };
            if after < end {
                previous[after as usize] = left as u32;
                look(left, after as usize);
            }
            let before = previous[left];
            if before < end {
                look(before as usize, left);
            }
        }
        out.extend(ids.into_iter().filter(|&id| id != GONE));
    }

    /// What both ways of merging make of a word of up to [`SHORT`] bytes, and what is found without, if anything is.
    #[cfg(test)]
    pub(super) fn apply_all(&self, word: &[u8]) -> (Vec<u32>, Vec<u32>, Option<Vec<u32>>) {
        let (mut short, mut long, mut found) = (Vec::new(), Vec::new(), Vec::new());
        self.apply_short(word, &mut short);
        self.apply_long(word, &mut long);
        let is_found = self.pieces.find(word, |left, right| self.get(left, right), &mut found);
        (short, long, is_found.then_some(found))
    }
}

#[inline]
fn hash(pair: u64) -> u64 {
    pair.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The least candidate, if there is one: eight at a time, which compilers know instructions for.
#[inline]
fn least(candidates: &[[Candidate; 8]]) -> Option<Candidate> {
    let mut best = [NO_CANDIDATE; 8];
    for eight in candidates {
        for (best, candidate) in best.iter_mut().zip(eight) {
            *best = (*best).min(*candidate);
        }
    }
    best.into_iter().min().filter(|&best| best != NO_CANDIDATE)
}
