//! Training a byte-level BPE tokenizer, with DeepSeek-V3's pre-tokenisation and special tokens.
//!
//! Two stages. [`WordCounter`] reads the corpus once, cuts it into words and keeps how often each occurs; it holds no
//! text, and when there are more distinct words than allowed it forgets the rarest, so memory stays bounded however large
//! the corpus. [`WordCounter::train`] then merges, again and again, the pair of neighbouring tokens that occurs most often
//! (Sennrich, Haddow and Birch, *Neural Machine Translation of Rare Words with Subword Units*, 2016). Equal counts are
//! decided by the lower ids, and counts are sums, so the result depends on the texts alone and not on threads.

use super::split::{self, Scratch, Splitter};
use super::{Tokenizer, byte_level, config, pretty};
use crate::error::{Error, Result};
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

/// DeepSeek's special tokens; their ids are 0, 1 and 2.
pub const SPECIAL_TOKENS: [&str; 3] = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"];

/// The smallest vocabulary: the special tokens and the bytes.
pub const SMALLEST_VOCABULARY: u32 = SPECIAL_TOKENS.len() as u32 + 256;

/// Longer words teach nothing: they are runs of one character, encoded data and the like.
const LONGEST_WORD: usize = 256;
/// Pairs that occur less often are not worth a token.
const LOWEST_COUNT: i64 = 2;

/// How often each word occurs in the texts seen so far.
#[derive(Debug)]
pub struct WordCounter {
    splitter: Splitter,
    counts: FxHashMap<Box<[u8]>, u64>,
    max_words: usize,
    forgotten: u64,
    too_long: u64,
}

impl WordCounter {
    /// Keeps at most about `max_words` distinct words: some 100 bytes of memory each.
    pub fn new(max_words: usize) -> Self {
        Self {
            splitter: Splitter::deepseek(),
            counts: FxHashMap::default(),
            max_words: max_words.max(1024),
            forgotten: 0,
            too_long: 0,
        }
    }

    /// Counts the words of some texts, in parallel. Words are forgotten only between calls, so a corpus must be cut into
    /// calls the same way to be counted the same way.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn count<T: AsRef<str> + Sync>(&mut self, texts: &[T]) -> Result<()> {
        let splitter = &self.splitter;
        let (counts, too_long) = texts
            .par_iter()
            .try_fold(Default::default, |(counts, mut scratch): (Counts, Scratch), text| {
                Ok((count_words(splitter, &mut scratch, text.as_ref(), counts)?, scratch))
            })
            .map(|counted: Result<_>| counted.map(|(counts, _)| counts))
            .try_reduce(Default::default, |a, b| Ok(merge(a, b)))?;
        let before = std::mem::take(&mut self.counts);
        (self.counts, self.too_long) = merge((before, self.too_long), (counts, too_long));
        self.forget_rarest();
        Ok(())
    }

    /// Number of distinct words known.
    pub fn words(&self) -> usize {
        self.counts.len()
    }

    /// Occurrences of words that were forgotten for memory's sake, and of words too long to be counted.
    pub fn uncounted(&self) -> (u64, u64) {
        (self.forgotten, self.too_long)
    }

    fn forget_rarest(&mut self) {
        let mut lowest = 1;
        while self.counts.len() > self.max_words {
            let forgotten = &mut self.forgotten;
            self.counts.retain(|_, count| {
                let keep = *count > lowest;
                *forgotten += if keep { 0 } else { *count };
                keep
            });
            lowest *= 2;
        }
    }

    /// Makes a tokenizer of `vocab_size` tokens, or of fewer where the texts hold no more pairs that occur twice.
    ///
    /// # Errors
    /// [`Error::Training`] when there are no words, or when `vocab_size` is below [`SMALLEST_VOCABULARY`] or beyond 2²⁴.
    pub fn train(self, vocab_size: u32) -> Result<Tokenizer> {
        if !(SMALLEST_VOCABULARY..=1 << 24).contains(&vocab_size) {
            let what = format!("a vocabulary of {vocab_size}; it must lie between {SMALLEST_VOCABULARY} and 16777216");
            return Err(Error::Training(what));
        }
        if self.counts.is_empty() {
            return Err(Error::Training("the text has no words".into()));
        }
        let mut words: Vec<(Box<[u8]>, u64)> = self.counts.into_iter().collect();
        words.par_sort_unstable();
        tokenizer(&Merger::new(&words).run(vocab_size))
    }
}

/// Trains on texts as they come, holding about 16 MiB of them at a time.
///
/// # Errors
/// Those of the iterator, of [`WordCounter::count`] and of [`WordCounter::train`].
pub fn train_bpe(
    texts: impl IntoIterator<Item = Result<String>>,
    vocab_size: u32,
    max_words: usize,
) -> Result<Tokenizer> {
    const BATCH: usize = 16 << 20;
    let mut counter = WordCounter::new(max_words);
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for text in texts {
        let text = text?;
        bytes += text.len();
        batch.push(text);
        if bytes >= BATCH {
            counter.count(&batch)?;
            batch.clear();
            bytes = 0;
        }
    }
    counter.count(&batch)?;
    counter.train(vocab_size)
}

/// Counts of words, and the number of words that were too long.
type Counts = (FxHashMap<Box<[u8]>, u64>, u64);

fn count_words(
    splitter: &Splitter,
    scratch: &mut Scratch,
    text: &str,
    (mut counts, mut too_long): Counts,
) -> Result<Counts> {
    splitter.split(text, scratch, &mut |start, end| {
        let word = &text.as_bytes()[start..end];
        if word.len() > LONGEST_WORD {
            too_long += 1;
        } else if let Some(count) = counts.get_mut(word) {
            *count += 1;
        } else {
            counts.insert(word.into(), 1);
        }
    })?;
    Ok((counts, too_long))
}

fn merge(a: Counts, b: Counts) -> Counts {
    let ((mut large, large_long), (small, small_long)) = if a.0.len() >= b.0.len() { (a, b) } else { (b, a) };
    for (word, count) in small {
        *large.entry(word).or_insert(0) += count;
    }
    (large, large_long + small_long)
}

type Pair = (u32, u32);

/// Words as rows of tokens, and where each pair of neighbours occurs.
struct Merger {
    /// The bytes of each token; special tokens have none.
    tokens: Vec<Box<[u8]>>,
    ids: FxHashMap<Box<[u8]>, u32>,
    words: Vec<(Vec<u32>, i64)>,
    counts: FxHashMap<Pair, i64>,
    /// Words that hold a pair, or once did.
    places: FxHashMap<Pair, Vec<u32>>,
    /// Pairs with counts that are right or too high.
    heap: BinaryHeap<(i64, Reverse<Pair>)>,
    rules: Vec<Pair>,
}

impl Merger {
    fn new(words: &[(Box<[u8]>, u64)]) -> Self {
        let specials = SPECIAL_TOKENS.len() as u32;
        let mut tokens: Vec<Box<[u8]>> = SPECIAL_TOKENS.iter().map(|_| Box::default()).collect();
        let mut ids = FxHashMap::default();
        for (byte, id) in (0..=255_u8).zip(specials..) {
            tokens.push([byte].into());
            ids.insert([byte].into(), id);
        }
        let words: Vec<_> = words
            .iter()
            .map(|(word, count)| (word.iter().map(|&b| u32::from(b) + specials).collect::<Vec<_>>(), *count as i64))
            .collect();
        let (mut counts, mut places) = (FxHashMap::default(), FxHashMap::<Pair, Vec<u32>>::default());
        for ((word, count), at) in words.iter().zip(0..) {
            for pair in pairs(word) {
                *counts.entry(pair).or_insert(0) += count;
                let places = places.entry(pair).or_default();
                if places.last() != Some(&at) {
                    places.push(at);
                }
            }
        }
        let heap = counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        Self { tokens, ids, words, counts, places, heap, rules: Vec::new() }
    }

    fn run(mut self, vocab_size: u32) -> Self {
        while self.tokens.len() < vocab_size as usize {
            let Some((count, Reverse(pair))) = self.heap.pop() else {
                break;
            };
            let now = self.counts.get(&pair).copied().unwrap_or(0);
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
        self
    }

    fn merge(&mut self, pair: Pair) {
        let id = self.token_of(pair);
        self.rules.push(pair);
        let mut changed = FxHashSet::default();
        for at in self.places.remove(&pair).unwrap_or_default() {
            let (word, count) = &mut self.words[at as usize];
            let merged = replace(word, pair, id);
            if merged.len() == word.len() {
                continue;
            }
            for old in pairs(word) {
                *self.counts.entry(old).or_insert(0) -= *count;
            }
            for new in pairs(&merged) {
                *self.counts.entry(new).or_insert(0) += *count;
                if new.0 == id || new.1 == id {
                    changed.insert(new);
                    let places = self.places.entry(new).or_default();
                    if places.last() != Some(&at) {
                        places.push(at);
                    }
                }
            }
            *word = merged;
        }
        self.counts.remove(&pair);
        // Only pairs with the new token can have become more frequent; the heap's entries for others are high enough.
        for pair in changed {
            let count = self.counts.get(&pair).copied().unwrap_or(0);
            if count > 0 {
                self.heap.push((count, Reverse(pair)));
            }
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

fn pairs(word: &[u32]) -> impl Iterator<Item = Pair> {
    word.windows(2).map(|pair| (pair[0], pair[1]))
}

fn replace(word: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(word.len());
    let mut i = 0;
    while i < word.len() {
        if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
            out.push(id);
            i += 2;
        } else {
            out.push(word[i]);
            i += 1;
        }
    }
    out
}

/// Writes the merges as a `tokenizer.json` and reads it as any other.
fn tokenizer(merger: &Merger) -> Result<Tokenizer> {
    let alphabet = byte_level::alphabet();
    let text = |id: u32| match SPECIAL_TOKENS.get(id as usize) {
        Some(special) => (*special).to_owned(),
        None => byte_level::to_text(&merger.tokens[id as usize], &alphabet),
    };
    let vocab: serde_json::Map<_, _> = (0..merger.tokens.len() as u32).map(|id| (text(id), Value::from(id))).collect();
    let merges = merger.rules.iter().map(|&(left, right)| json!([text(left), text(right)])).collect();
    let added: Vec<_> = (0..).zip(SPECIAL_TOKENS).map(|(id, name)| byte_level::special_token(id, name)).collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": split::deepseek_json(),
        "post_processor": null,
        "decoder": byte_level::byte_level_part(),
        "model": byte_level::bpe_model(Value::Object(vocab), merges),
    });
    let [bos, eos, pad] = SPECIAL_TOKENS;
    let config = config(eos, Some(bos), Some(pad));
    Tokenizer::from_json(pretty(&json), Some(config), None, Path::new("the trained tokenizer"))
}
