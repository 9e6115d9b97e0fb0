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

    /// Merges in place the leftmost pair of lowest rank until none is left; gives the remaining length. A word has fewer
    /// than 2³² symbols.
    #[inline]
    pub(super) fn apply(&self, ids: &mut [u32]) -> usize {
        if ids.len() <= SHORT { self.apply_short(ids) } else { self.apply_long(ids) }
    }

    fn apply_short(&self, ids: &mut [u32]) -> usize {
        let n = ids.len();
        // By symbol: the rank of its pair with the next one and its own place, and what the pair becomes. Found once, and
        // then only where a neighbour changed.
        let (mut candidates, mut becomes) = ([NONE; SHORT], [0; SHORT]);
        let find =
            |candidates: &mut [u64; SHORT], becomes: &mut [u32; SHORT], ids: &[u32], left: usize, right: usize| {
                let rule = self.get(ids[left], ids[right]);
                candidates[left] = if rule == NONE { NONE } else { rule >> 32 << 32 | left as u64 };
                becomes[left] = rule as u32;
            };
        for right in 1..n {
            find(&mut candidates, &mut becomes, ids, right - 1, right);
        }
        // One bit a symbol that is left.
        let mut left_over = if n == 0 { 0 } else { u64::MAX >> (SHORT - n) };
        while let Some(best) = candidates[..n].iter().copied().min().filter(|&best| best != NONE) {
            let at = best as u32 as usize;
            let behind = |left_over: u64| (left_over >> at >> 1).trailing_zeros() as usize + at + 1;
            let right = behind(left_over);
            ids[at] = becomes[at];
            left_over &= !(1 << right);
            (candidates[at], candidates[right]) = (NONE, NONE);
            let next = behind(left_over);
            if next < n {
                find(&mut candidates, &mut becomes, ids, at, next);
            }
            let before = left_over & ((1 << at) - 1);
            if before != 0 {
                find(&mut candidates, &mut becomes, ids, before.ilog2() as usize, at);
            }
        }
        let mut length = 0;
        while left_over != 0 {
            ids[length] = ids[left_over.trailing_zeros() as usize];
            left_over &= left_over - 1;
            length += 1;
        }
        length
    }

    /// The same in O(n log n): a heap of ranks and places over a doubly linked list of symbols.
    fn apply_long(&self, ids: &mut [u32]) -> usize {
        const GONE: u32 = u32::MAX;
        let n = ids.len();
        let end = n as u32;
        let mut next: Vec<u32> = (1..=end).collect();
        let mut previous: Vec<u32> = (0..end).map(|i| i.wrapping_sub(1)).collect();
        // The rule of each symbol with the next one; an entry of the heap counts as long as its rank is still there.
        let mut rules: Vec<Rule> = ids.windows(2).map(|pair| self.get(pair[0], pair[1])).chain([NONE]).collect();
        let entry = |rule: Rule, at: u32| Reverse(rule >> 32 << 32 | u64::from(at));
        let entries = rules.iter().zip(0..).filter(|(rule, _)| **rule != NONE);
        let mut heap: BinaryHeap<_> = entries.map(|(&rule, at)| entry(rule, at)).collect();
        while let Some(Reverse(best)) = heap.pop() {
            let left = best as u32 as usize;
            let rule = rules[left];
            if rule == NONE || rule >> 32 != best >> 32 {
                continue;
            }
            let right = next[left] as usize;
            (ids[left], ids[right]) = (rule as u32, GONE);
            (rules[left], rules[right]) = (NONE, NONE);
            let after = next[right];
            next[left] = after;
            let mut look = |at: usize, behind: usize| {
                rules[at] = self.get(ids[at], ids[behind]);
                if rules[at] != NONE {
                    heap.push(entry(rules[at], at as u32));
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
