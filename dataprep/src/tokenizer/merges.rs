//! Byte-pair merging: the rules, and their application to one word.

use rustc_hash::FxHashMap;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Words of more symbols are merged with a heap rather than by looking for the lowest rank each time.
const SHORT: usize = 64;

/// A rank and the id that the pair becomes, the rank in the upper half: the lowest merges first.
type Rule = u64;
/// No pair merges later than this.
const NONE: Rule = u64::MAX;

/// Which pairs of neighbours become which token, and in which order.
#[derive(Debug)]
pub(super) struct Merges {
    /// (pair + 1, rule) at the pair's place or the next free one behind it; 0 is free. Never more than half full.
    table: Vec<(u64, Rule)>,
    shift: u32,
}

impl Merges {
    /// The rules of a `model`, each written `"left right"` or `["left", "right"]`. `None` when one names a token that the
    /// vocabulary does not have.
    pub(super) fn from_json(model: &Value, vocab: &FxHashMap<&str, u32>) -> Option<Self> {
        let rules = model["merges"].as_array()?;
        let mut pairs = FxHashMap::with_capacity_and_hasher(rules.len(), Default::default());
        let mut whole = String::new();
        for (rank, rule) in (0_u32..).zip(rules) {
            let (left, right) = match rule {
                Value::String(both) => both.split_once(' ')?,
                pair => (pair[0].as_str()?, pair[1].as_str()?),
            };
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            // Of two rules for the same pair the later one holds, as in the `tokenizers` crate.
            pairs.insert((*vocab.get(left)?, *vocab.get(right)?), (rank, *vocab.get(whole.as_str())?));
        }
        Some(Self::new(&pairs))
    }

    fn new(pairs: &FxHashMap<(u32, u32), (u32, u32)>) -> Self {
        let size = (2 * pairs.len()).next_power_of_two().max(2);
        let shift = u64::BITS - size.trailing_zeros();
        let mut merges = Self { table: vec![(0, NONE); size], shift };
        for (&(left, right), &(rank, id)) in pairs {
            let pair = key(left, right);
            let mut at = merges.place(pair);
            while merges.table[at].0 != 0 {
                at = (at + 1) % size;
            }
            merges.table[at] = (pair, u64::from(rank) << 32 | u64::from(id));
        }
        merges
    }

    #[inline]
    fn place(&self, pair: u64) -> usize {
        (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// The rule for two neighbours, or [`NONE`].
    #[inline]
    fn get(&self, left: u32, right: u32) -> Rule {
        let pair = key(left, right);
        let mut at = self.place(pair);
        loop {
            let (known, rule) = self.table[at];
            if known == pair {
                return rule;
            }
            if known == 0 {
                return NONE;
            }
            at = (at + 1) & (self.table.len() - 1);
        }
    }

    /// Merges in place the leftmost pair of lowest rank until none is left; gives the remaining length.
    #[inline]
    pub(super) fn apply(&self, ids: &mut [u32]) -> usize {
        if ids.len() <= SHORT { self.apply_short(ids) } else { self.apply_long(ids) }
    }

    fn apply_short(&self, ids: &mut [u32]) -> usize {
        let mut length = ids.len();
        // The rule of each symbol with its right neighbour, found once and then only where a neighbour changes.
        let mut rules = [NONE; SHORT];
        for (rule, pair) in rules.iter_mut().zip(ids.windows(2)) {
            *rule = self.get(pair[0], pair[1]);
        }
        while length > 1 {
            let (mut best, mut at) = (NONE, 0);
            for (i, &rule) in rules[..length - 1].iter().enumerate() {
                if rule < best {
                    (best, at) = (rule, i);
                }
            }
            if best == NONE {
                break;
            }
            ids[at] = best as u32;
            ids.copy_within(at + 2..length, at + 1);
            rules.copy_within(at + 1..length - 1, at);
            length -= 1;
            rules[length - 1] = NONE;
            if at > 0 {
                rules[at - 1] = self.get(ids[at - 1], ids[at]);
            }
            if at + 1 < length {
                rules[at] = self.get(ids[at], ids[at + 1]);
            }
        }
        length
    }

    /// The same in O(n log n): a heap of candidate pairs over a doubly linked list of symbols.
    fn apply_long(&self, ids: &mut [u32]) -> usize {
        const GONE: u32 = u32::MAX;
        let n = ids.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let candidate = |ids: &[u32], left: usize, right: usize| {
            let rule = self.get(ids[left], ids[right]);
            (rule != NONE).then(|| Reverse((rule, left, ids[left], ids[right])))
        };
        let mut heap: BinaryHeap<_> = (1..n).filter_map(|i| candidate(ids, i - 1, i)).collect();
        while let Some(Reverse((rule, left, a, b))) = heap.pop() {
            let right = next[left];
            if right >= n || (ids[left], ids[right]) != (a, b) {
                continue;
            }
            (ids[left], ids[right]) = (rule as u32, GONE);
            let after = next[right];
            next[left] = after;
            if after < n {
                previous[after] = left;
                heap.extend(candidate(ids, left, after));
            }
            let before = previous[left];
            if before < n {
                heap.extend(candidate(ids, before, left));
            }
        }
        let mut length = 0;
        for i in 0..n {
            if ids[i] != GONE {
                ids[length] = ids[i];
                length += 1;
            }
        }
        length
    }

    /// What both ways of merging make of a word of up to [`SHORT`] symbols.
    #[cfg(test)]
    pub(super) fn apply_both(&self, ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let (mut short, mut long) = (ids.to_vec(), ids.to_vec());
        let (n, m) = (self.apply_short(&mut short), self.apply_long(&mut long));
        (short[..n].to_vec(), long[..m].to_vec())
    }
}

/// A pair as a number above 0.
#[inline]
fn key(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32 | u64::from(right)) + 1
}
