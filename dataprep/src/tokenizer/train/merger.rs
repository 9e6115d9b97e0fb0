//! BPE training: from words with counts to merge rules.

use rustc_hash::{FxHashMap, FxHashSet};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Two neighbouring tokens.
pub(super) type Pair = (u32, u32);

/// Pairs that occur less often are not worth a token.
const LOWEST_COUNT: u64 = 2;

/// Words as rows of tokens, and where each pair of neighbours occurs.
///
/// A merge touches only the words that hold its pair, and in them only the pairs beside it. The next pair comes from a
/// heap whose entries may be too high but never too low: one that turns out too high goes back with its true count.
#[derive(Debug)]
pub(super) struct Merger {
    /// The bytes of each token; special tokens have none.
    tokens: Vec<Box<[u8]>>,
    ids: FxHashMap<Box<[u8]>, u32>,
    /// The tokens of all words, one word after the other; a word that was merged leaves a gap behind it.
    symbols: Vec<u32>,
    words: Vec<Word>,
    pairs: FxHashMap<Pair, Occurrences>,
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    rules: Vec<Pair>,
}

#[derive(Clone, Copy, Debug)]
struct Word {
    start: usize,
    length: u32,
    count: u64,
}

#[derive(Debug, Default)]
struct Occurrences {
    /// In the whole corpus.
    count: u64,
    /// Words that hold the pair, or once did; each once or more.
    places: Vec<u32>,
}

impl Merger {
    /// Words of at most 2³² − 1 bytes, at most as many of them, in an order that the texts alone decide. The first
    /// tokens are `specials` without bytes, then the bytes in the order of `alphabet`.
    pub(super) fn new(words: &[(Box<[u8]>, u64)], specials: usize, alphabet: &[u8; 256]) -> Self {
        let mut tokens = vec![Box::default(); specials];
        let mut ids = FxHashMap::default();
        let mut id_of = [0; 256];
        for &byte in alphabet {
            id_of[usize::from(byte)] = tokens.len() as u32;
            ids.insert([byte].into(), tokens.len() as u32);
            tokens.push([byte].into());
        }
        let mut merger = Self {
            tokens,
            ids,
            symbols: Vec::with_capacity(words.iter().map(|(word, _)| word.len()).sum()),
            words: Vec::with_capacity(words.len()),
            pairs: FxHashMap::default(),
            heap: BinaryHeap::new(),
            rules: Vec::new(),
        };
        for ((word, count), at) in words.iter().zip(0..) {
            let start = merger.symbols.len();
            merger.symbols.extend(word.iter().map(|&byte| id_of[usize::from(byte)]));
            merger.words.push(Word { start, length: word.len() as u32, count: *count });
            for i in start + 1..merger.symbols.len() {
                merger.add((merger.symbols[i - 1], merger.symbols[i]), *count, at);
            }
        }
        merger.heap = merger.pairs.iter().map(|(&pair, found)| (found.count, Reverse(pair))).collect();
        merger
    }

    /// Merges until there are `vocab_size` tokens, or no pair occurs twice. Of equally frequent pairs the one with the
    /// lower ids comes first.
    pub(super) fn run(&mut self, vocab_size: usize) {
        while self.tokens.len() < vocab_size {
            let Some((count, Reverse(pair))) = self.heap.pop() else {
                break;
            };
            let now = self.pairs.get(&pair).map_or(0, |found| found.count);
            if now != count {
                if now > 0 {
                    self.heap.push((now, Reverse(pair)));
                }
            } else if now < LOWEST_COUNT {
                break;
            } else {
                self.merge(pair);
            }
        }
    }

    /// The bytes of each token, and the pairs that were merged, in order.
    pub(super) fn into_parts(self) -> (Vec<Box<[u8]>>, Vec<Pair>) {
        (self.tokens, self.rules)
    }

    fn merge(&mut self, pair: Pair) {
        let id = self.token_of(pair);
        self.rules.push(pair);
        let Some(found) = self.pairs.remove(&pair) else {
            return;
        };
        let mut grown = FxHashSet::default();
        for at in found.places {
            self.merge_in_word(at, pair, id, &mut grown);
        }
        // Merging leaves some of the pair uncounted as it goes along; nothing of it is left.
        self.pairs.remove(&pair);
        for pair in grown {
            if let Some(found) = self.pairs.get(&pair).filter(|found| found.count > 0) {
                self.heap.push((found.count, Reverse(pair)));
            }
        }
    }

    /// Replaces the pair, from left to right, in one word; `grown` are the pairs that became more frequent.
    fn merge_in_word(&mut self, at: u32, pair: Pair, id: u32, grown: &mut FxHashSet<Pair>) {
        let Word { start, length, count } = self.words[at as usize];
        let end = start + length as usize;
        let (mut read, mut write) = (start, start);
        while read < end {
            let here = self.symbols[read];
            if read + 1 == end || (here, self.symbols[read + 1]) != pair {
                self.symbols[write] = here;
                (read, write) = (read + 1, write + 1);
                continue;
            }
            if write > start {
                let before = self.symbols[write - 1];
                self.take((before, here), count);
                self.add((before, id), count, at);
                grown.insert((before, id));
            }
            if read + 2 < end {
                let after = self.symbols[read + 2];
                self.take((pair.1, after), count);
                self.add((id, after), count, at);
                grown.insert((id, after));
            }
            self.symbols[write] = id;
            (read, write) = (read + 2, write + 1);
        }
        self.words[at as usize].length = (write - start) as u32;
    }

    fn add(&mut self, pair: Pair, count: u64, at: u32) {
        let found = self.pairs.entry(pair).or_default();
        found.count = found.count.saturating_add(count);
        if found.places.last() != Some(&at) {
            found.places.push(at);
        }
    }

    fn take(&mut self, pair: Pair, count: u64) {
        // Occurrences of the very pair that is being merged are no longer kept.
        if let Some(found) = self.pairs.get_mut(&pair) {
            found.count = found.count.saturating_sub(count);
        }
    }

    /// The token a pair becomes: a new one, or the one that other merges have already made of the same bytes.
    fn token_of(&mut self, (left, right): Pair) -> u32 {
        let bytes: Box<[u8]> = [&*self.tokens[left as usize], &*self.tokens[right as usize]].concat().into();
        if let Some(&id) = self.ids.get(&bytes) {
            return id;
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(bytes.clone());
        self.ids.insert(bytes, id);
        id
    }
}
