//! Byte-level BPE tokenizers, tens of times as fast as the general implementation.
//!
//! It covers what GPT-2, Llama 3, DeepSeek and everything trained here use, and gives the very same ids; whatever else
//! a `tokenizer.json` asks for goes to the `tokenizers` crate. It also needs no memory beyond its output and tables of
//! bounded size, where the general implementation keeps several copies of the text with alignments.

use super::byte_level;
use super::general::{hidden, is_text};
use super::merges::Merges;
use super::split::{Scratch, Splitter};
use super::words::{BATCH, Known, Word, Words};
use crate::error::Result;
use aho_corasick::{AhoCorasick, MatchKind};
use rustc_hash::FxHashMap;
use serde_json::Value;
use std::collections::HashMap;

/// A byte-level BPE tokenizer, ready to encode.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Added tokens, searched in two rounds: first those that match the raw text, then the others.
    added: [Option<AddedTokens>; 2],
    splitter: Splitter,
    merges: Merges,
    /// Whole words that are tokens whatever the merges say (`ignore_merges`).
    whole_words: Option<FxHashMap<Box<[u8]>, u32>>,
}

#[derive(Debug)]
struct AddedTokens {
    automaton: AhoCorasick,
    /// Id and whether it stands for text, by pattern.
    tokens: Vec<(u32, bool)>,
    /// Whether any stands for text, so that documents must be searched for it.
    any_text: bool,
}

/// What encoding works in, kept between calls: the splitter's automata and the words seen lately.
#[derive(Debug, Default)]
pub(super) struct Cache {
    split: Scratch,
    words: Words,
    /// Words of a text that have not been looked for yet.
    batch: Vec<Word>,
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
        let hidden = hidden(json);
        let whole_words = (model["ignore_merges"] == true).then(|| {
            let words = vocab.iter().filter(|(token, _)| !hidden.contains(**token));
            words.filter_map(|(token, &id)| Some((byte_level::to_bytes(token)?, id))).collect()
        });
        Some(Self {
            added: [added_tokens(json, ids, false)?, added_tokens(json, ids, true)?],
            splitter: Splitter::from_json(&json["pre_tokenizer"])?,
            merges: Merges::from_json(model, &vocab, byte_ids)?,
            whole_words,
        })
    }

    /// Appends the ids of `text`. Added tokens that are written out in it become their ids when `parse_added` is true;
    /// those that stand for text always do.
    pub(super) fn encode(&self, text: &str, parse_added: bool, cache: &mut Cache, out: &mut Vec<u32>) -> Result<()> {
        self.encode_round(0, text, parse_added, cache, out)
    }

    fn encode_round(
        &self,
        round: usize,
        text: &str,
        parse_added: bool,
        cache: &mut Cache,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let Some(added) = self.added.get(round) else {
            let Cache { split, words, batch } = cache;
            let bytes = text.as_bytes();
            batch.clear();
            self.splitter.split(text, split, &mut |start, end| {
                batch.push(Word::new(bytes, start, end));
                if batch.len() == BATCH {
                    self.encode_words(bytes, batch, words, out);
                    batch.clear();
                }
            })?;
            self.encode_words(bytes, batch, words, out);
            return Ok(());
        };
        let mut done = 0;
        if let Some(added) = added.as_ref().filter(|added| parse_added || added.any_text) {
            for found in added.automaton.find_iter(text) {
                let (id, is_text_token) = added.tokens[found.pattern().as_usize()];
                if !is_text_token && !parse_added {
                    continue;
                }
                self.encode_round(round + 1, &text[done..found.start()], parse_added, cache, out)?;
                out.push(id);
                done = found.end();
            }
        }
        self.encode_round(round + 1, &text[done..], parse_added, cache, out)
    }

    /// Appends the ids of some words of `text`. That they are many lets the processor wait for several at once.
    fn encode_words(&self, text: &[u8], batch: &[Word], words: &mut Words, out: &mut Vec<u32>) {
        batch.iter().for_each(|&word| words.prefetch(word));
        for &word in batch {
            match words.get(word, out) {
                Known::Here => {}
                Known::Long => self.encode_long(&text[word.range()], words, out),
                Known::No => {
                    let ids = self.merge(&text[word.range()], out);
                    words.put(text, word, ids);
                }
            }
        }
    }

    #[inline(never)]
    fn encode_long(&self, word: &[u8], words: &mut Words, out: &mut Vec<u32>) {
        match words.get_long(word) {
            Some(ids) => out.extend_from_slice(ids),
            None => {
                let ids = self.merge(word, out);
                words.put_long(word, ids);
            }
        }
    }

    /// Appends the ids of a word that no cache knows, and gives them.
    #[inline(never)]
    fn merge<'o>(&self, word: &[u8], out: &'o mut Vec<u32>) -> &'o [u32] {
        let start = out.len();
        if let Some(&id) = self.whole_words.as_ref().and_then(|words| words.get(word)) {
            out.push(id);
        } else {
            self.merges.apply(word, out);
        }
        &out[start..]
    }

    /// What every way of merging makes of a word.
    #[cfg(test)]
    pub(super) fn merge_all(&self, word: &[u8]) -> (Vec<u32>, Vec<u32>, Option<Vec<u32>>) {
        self.merges.apply_all(word)
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
            tokens.push((*ids.get(content)?, is_text(token)));
        }
    }
    if patterns.is_empty() {
        return Some(None);
    }
    let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns).ok()?;
    let any_text = tokens.iter().any(|&(_, is_text_token)| is_text_token);
    Some(Some(AddedTokens { automaton, tokens, any_text }))
}
