//! Training a byte-level BPE tokenizer, with DeepSeek-V3's pre-tokenisation and special tokens.
//!
//! Two stages. [`WordCounter`] reads the corpus once, cuts it into words and keeps how often each occurs; it holds no
//! text, and its memory is bounded however large the corpus. [`WordCounter::train`] then merges, again and again, the
//! pair of neighbouring tokens that occurs most often (Sennrich, Haddow and Birch, *Neural Machine Translation of Rare
//! Words with Subword Units*, 2016). Equal counts are decided by the lower ids, and counts are sums, so the result
//! depends on the texts alone and not on threads. Bytes have their ids in the order of their characters in the
//! byte-level alphabet, as GPT-2 has them, so merges are the same as those of the `tokenizers` crate's trainer, ties
//! included.
//!
//! What bounds the memory: when there are more than `max_words` distinct words at the end of a call of
//! [`count`](WordCounter::count), those that occurred once are forgotten; if that is not enough, those that occurred up
//! to twice, four times, and so on. Words of a language are so distributed that this takes those which decide no merge:
//! a word that reappears after it was forgotten is counted from 0 again, so each forgetting at `n` makes a count too
//! low by at most `n`; [`uncounted`](WordCounter::uncounted) says how much was lost in all. A word takes about 60 bytes
//! while they are counted and, with its pairs, about 200 while they are merged.

mod merger;

use super::split::{self, Scratch, Splitter};
use super::{Tokenizer, byte_level, config, pretty};
use crate::error::{Error, Result};
use merger::Merger;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::path::Path;

/// DeepSeek's special tokens; their ids are 0, 1 and 2.
pub const SPECIAL_TOKENS: [&str; 3] = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"];

/// The smallest vocabulary: the special tokens and the bytes.
pub const SMALLEST_VOCABULARY: u32 = SPECIAL_TOKENS.len() as u32 + 256;

/// Longer words teach nothing: they are runs of one character, encoded data and the like.
const LONGEST_WORD: usize = 256;
/// Word counts of the texts seen so far, for BPE training.
#[derive(Debug)]
pub struct WordCounter {
    splitter: Splitter,
    specials: Vec<String>,
    counts: FxHashMap<Box<[u8]>, u64>,
    max_words: usize,
    forgotten: u64,
    too_long: u64,
}

impl WordCounter {
    /// Keeps at most `max_words` distinct words, but no fewer than 1,024 and no more than 2³¹.
    pub fn new(max_words: usize) -> Self {
        Self {
            splitter: Splitter::deepseek(),
            specials: SPECIAL_TOKENS.map(str::to_owned).into(),
            counts: FxHashMap::default(),
            max_words: max_words.clamp(1 << 10, 1 << 31),
            forgotten: 0,
            too_long: 0,
        }
    }

    /// Gives the tokenizer further special tokens, such as [`FIM_TOKENS`](crate::fim::FIM_TOKENS), behind its own and
    /// before the bytes. Names it has already are passed over.
    #[must_use]
    pub fn with_special_tokens(mut self, names: &[&str]) -> Self {
        for name in names {
            if !name.is_empty() && !self.specials.iter().any(|known| known == name) {
                self.specials.push((*name).to_owned());
            }
        }
        self
    }

    /// Counts the words of some texts, in parallel. Words are forgotten only between calls, so a corpus must be cut
    /// into calls the same way to be counted the same way.
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
    /// [`Error::Training`] when there are no words, or when `vocab_size` is below [`SMALLEST_VOCABULARY`] (and further
    /// special tokens) or beyond 2²⁴.
    pub fn train(self, vocab_size: u32) -> Result<Tokenizer> {
        let smallest = self.specials.len() + 256;
        let size = usize::try_from(vocab_size).ok().filter(|size| (smallest..=1 << 24).contains(size));
        let size = size.ok_or_else(|| {
            Error::Training(format!("a vocabulary of {vocab_size}; it must lie between {smallest} and 16777216"))
        })?;
        if self.counts.is_empty() {
            return Err(Error::Training("the text has no words".into()));
        }
        let mut words: Vec<(Box<[u8]>, u64)> = self.counts.into_iter().collect();
        words.par_sort_unstable();
        let mut merger = Merger::new(&words, self.specials.len(), &byte_level::order());
        drop(words);
        merger.run(size);
        let (tokens, rules) = merger.into_parts();
        tokenizer(&tokens, &rules, &self.specials)
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
        let sum: &mut u64 = large.entry(word).or_insert(0);
        *sum = sum.saturating_add(count);
    }
    (large, large_long + small_long)
}

/// Writes the merges as a `tokenizer.json` and reads it as any other.
fn tokenizer(tokens: &[Box<[u8]>], rules: &[merger::Pair], specials: &[String]) -> Result<Tokenizer> {
    let alphabet = byte_level::alphabet();
    let text = |id: u32| match specials.get(id as usize) {
        Some(special) => special.clone(),
        None => byte_level::to_text(&tokens[id as usize], &alphabet),
    };
    let vocab: serde_json::Map<_, _> = (0..tokens.len() as u32).map(|id| (text(id), Value::from(id))).collect();
    let merges = rules.iter().map(|&(left, right)| json!([text(left), text(right)])).collect();
    let added: Vec<_> = (0..).zip(specials).map(|(id, name)| byte_level::special_token(id, name)).collect();
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
