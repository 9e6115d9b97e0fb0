//! Byte-pair encoding of byte-level tokenizers, ten and more times as fast as the general implementation.
//!
//! It covers what GPT-2, Llama 3, DeepSeek and everything trained here use, and gives the very same ids; whatever else a
//! `tokenizer.json` asks for goes to the `tokenizers` crate. It also needs no memory beyond its output, where the general
//! implementation keeps several copies of the text with alignments.

use super::byte_level;
use super::split::{Scratch, Splitter};
use crate::error::Result;
use aho_corasick::{AhoCorasick, MatchKind};
use rustc_hash::FxHashMap;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Words longer than this are merged with a heap rather than by looking at every pair each time.
const LONG_WORD: usize = 48;
/// Ids the cache of words holds before it starts anew.
const CACHE_IDS: usize = 1 << 20;
/// Longer words are not worth keeping.
const CACHE_WORD: usize = 64;

/// A byte-level BPE tokenizer, ready to encode.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Added tokens are looked for in two rounds, first those that match the raw text, then the others.
    added: [Option<AddedTokens>; 2],
    splitter: Splitter,
    byte_ids: [u32; 256],
    /// (left, right) → (rank, merged): the lowest rank merges first.
    merges: FxHashMap<(u32, u32), (u32, u32)>,
    /// Whole words that are tokens whatever the merges say (`ignore_merges`).
    whole_words: Option<FxHashMap<Box<[u8]>, u32>>,
}

#[derive(Debug)]
struct AddedTokens {
    automaton: AhoCorasick,
    /// Id and whether it is special, by pattern.
    tokens: Vec<(u32, bool)>,
}

/// Words seen lately and their ids, kept between calls.
#[derive(Debug, Default)]
pub(super) struct Cache {
    split: Scratch,
    words: Words,
}

#[derive(Debug, Default)]
struct Words {
    places: FxHashMap<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
}

impl Bpe {
    /// Reads a `tokenizer.json` that the `tokenizers` crate has accepted. `None` when it is of another kind.
    ///
    /// `ids` are the ids of all tokens, added ones included, as that crate gives them.
    pub(super) fn from_json(json: &Value, ids: &HashMap<String, u32>) -> Option<Self> {
        let model = &json["model"];
        let absent = |key: &str| model[key].is_null() || model[key] == "";
        let off = |key: &str| model[key].is_null() || model[key] == false;
        let no_normalizer = json["normalizer"].is_null()
            || (json["normalizer"]["type"] == "Sequence"
                && json["normalizer"]["normalizers"].as_array().is_some_and(Vec::is_empty));
        let plain = no_normalizer
            && model["type"] == "BPE"
            && (model["dropout"].is_null() || model["dropout"] == 0.0)
            && absent("continuing_subword_prefix")
            && absent("end_of_word_suffix")
            && off("byte_fallback");
        if !plain {
            return None;
        }
        let vocab: FxHashMap<&str, u32> = model["vocab"]
            .as_object()?
            .iter()
            .map(|(token, id)| Some((token.as_str(), u32::try_from(id.as_u64()?).ok()?)))
            .collect::<Option<_>>()?;
        let mut byte_ids = [0; 256];
        for (id, c) in byte_ids.iter_mut().zip(byte_level::alphabet()) {
            *id = *vocab.get(c.encode_utf8(&mut [0; 4]) as &str)?;
        }
        let whole_words = (model["ignore_merges"] == true)
            .then(|| vocab.iter().filter_map(|(token, &id)| Some((byte_level::to_bytes(token)?, id))).collect());
        Some(Self {
            added: [added_tokens(json, ids, false)?, added_tokens(json, ids, true)?],
            splitter: Splitter::from_json(&json["pre_tokenizer"])?,
            byte_ids,
            merges: merges(model, &vocab)?,
            whole_words,
        })
    }

    /// Appends the ids of `text`. Special tokens written out in the text become their ids only when `specials` is true.
    pub(super) fn encode(&self, text: &str, specials: bool, cache: &mut Cache, out: &mut Vec<u32>) -> Result<()> {
        self.encode_round(0, text, specials, cache, out)
    }

    fn encode_round(
        &self,
        round: usize,
        text: &str,
        specials: bool,
        cache: &mut Cache,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let Some(added) = self.added.get(round) else {
            let Cache { split, words } = cache;
            return self.splitter.split(text, split, &mut |word| self.encode_word(word.as_bytes(), words, out));
        };
        let mut done = 0;
        if let Some(added) = added {
            for found in added.automaton.find_iter(text) {
                let (id, special) = added.tokens[found.pattern().as_usize()];
                if special && !specials {
                    continue;
                }
                self.encode_round(round + 1, &text[done..found.start()], specials, cache, out)?;
                out.push(id);
                done = found.end();
            }
        }
        self.encode_round(round + 1, &text[done..], specials, cache, out)
    }

    fn encode_word(&self, word: &[u8], cache: &mut Words, out: &mut Vec<u32>) {
        if let &[byte] = word {
            out.push(self.byte_ids[usize::from(byte)]);
            return;
        }
        if let Some(&(start, end)) = cache.places.get(word) {
            out.extend_from_slice(&cache.ids[start as usize..end as usize]);
            return;
        }
        let start = out.len();
        if let Some(&id) = self.whole_words.as_ref().and_then(|words| words.get(word)) {
            out.push(id);
        } else {
            out.extend(word.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
            let merged = if word.len() <= LONG_WORD {
                self.merge_short(&mut out[start..])
            } else {
                self.merge_long(&mut out[start..])
            };
            out.truncate(start + merged);
        }
        if word.len() <= CACHE_WORD {
            if cache.ids.len() > CACHE_IDS {
                cache.places.clear();
                cache.ids.clear();
            }
            let from = cache.ids.len() as u32;
            cache.ids.extend_from_slice(&out[start..]);
            cache.places.insert(word.into(), (from, cache.ids.len() as u32));
        }
    }

    /// Merges in place the leftmost pair of lowest rank until none is left; gives the remaining length.
    fn merge_short(&self, ids: &mut [u32]) -> usize {
        let mut length = ids.len();
        loop {
            let mut best: Option<(u32, usize, u32)> = None;
            for i in 1..length {
                if let Some(&(rank, id)) = self.merges.get(&(ids[i - 1], ids[i]))
                    && best.is_none_or(|(lowest, ..)| rank < lowest)
                {
                    best = Some((rank, i - 1, id));
                }
            }
            let Some((_, at, id)) = best else {
                return length;
            };
            ids[at] = id;
            ids.copy_within(at + 2..length, at + 1);
            length -= 1;
        }
    }

    /// What both ways of merging make of a word.
    #[cfg(test)]
    pub(super) fn merge_both(&self, word: &[u8]) -> (Vec<u32>, Vec<u32>) {
        let ids: Vec<u32> = word.iter().map(|&byte| self.byte_ids[usize::from(byte)]).collect();
        let (mut short, mut long) = (ids.clone(), ids);
        let (n, m) = (self.merge_short(&mut short), self.merge_long(&mut long));
        (short[..n].to_vec(), long[..m].to_vec())
    }

    /// The same in O(n log n): a heap of candidate pairs over a doubly linked list of symbols.
    fn merge_long(&self, ids: &mut [u32]) -> usize {
        const GONE: u32 = u32::MAX;
        let n = ids.len();
        let mut next: Vec<usize> = (1..=n).collect();
        let mut previous: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
        let candidate = |ids: &[u32], left: usize, right: usize| {
            let pair = (ids[left], ids[right]);
            self.merges.get(&pair).map(|&(rank, id)| Reverse((rank, left, pair, id)))
        };
        let mut heap: BinaryHeap<_> = (1..n).filter_map(|i| candidate(ids, i - 1, i)).collect();
        while let Some(Reverse((_, left, pair, id))) = heap.pop() {
            let right = next[left];
            if right >= n || (ids[left], ids[right]) != pair {
                continue;
            }
            (ids[left], ids[right]) = (id, GONE);
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
}

/// The automaton of the added tokens with this `normalized` flag; `None` outside for flags it does not know.
fn added_tokens(json: &Value, ids: &HashMap<String, u32>, normalized: bool) -> Option<Option<AddedTokens>> {
    let (mut patterns, mut tokens) = (Vec::new(), Vec::new());
    for token in json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if token["single_word"] == true || token["lstrip"] == true || token["rstrip"] == true {
            return None;
        }
        if (token["normalized"] == true) == normalized {
            let content = token["content"].as_str().filter(|content| !content.is_empty())?;
            patterns.push(content);
            tokens.push((*ids.get(content)?, token["special"] == true));
        }
    }
    if patterns.is_empty() {
        return Some(None);
    }
    let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).ok()?;
    Some(Some(AddedTokens { automaton, tokens }))
}

/// Merge rules by pair; each is written "left right" or ["left", "right"].
fn merges(model: &Value, vocab: &FxHashMap<&str, u32>) -> Option<FxHashMap<(u32, u32), (u32, u32)>> {
    let rules = model["merges"].as_array()?;
    let mut merges = FxHashMap::with_capacity_and_hasher(rules.len(), Default::default());
    let mut whole = String::new();
    for (rank, rule) in (0..).zip(rules) {
        let (left, right) = match rule {
            Value::String(both) => both.split_once(' ')?,
            pair => (pair[0].as_str()?, pair[1].as_str()?),
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        merges.insert((*vocab.get(left)?, *vocab.get(right)?), (rank, *vocab.get(whole.as_str())?));
    }
    Some(merges)
}
