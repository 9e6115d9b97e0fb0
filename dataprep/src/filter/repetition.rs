//! The Gopher repetition rules, as datatrove's `gopher_repetition_filter.py` counts them.
//!
//! Only occurrences after the first count as duplicates. Characters of duplicate word sequences are counted without the
//! spaces between words and held against the length of the whole text; the most frequent sequence is counted with
//! spaces.

use super::config::{Limit, RepetitionConfig};
use super::scores::{Scores, ratio};
use super::text::strip;
use super::words::Word;
use crate::document::Dropped;
use xxhash_rust::xxh3::xxh3_64;

/// Paragraphs and lines. `chars` is the length of `text` in characters.
pub(crate) fn check_lines(
    config: &RepetitionConfig,
    text: &str,
    chars: usize,
    seen: &mut HashSet64,
    scores: &mut Scores,
) -> Result<(), Dropped> {
    // An empty text has no paragraphs to count; it is dropped as it is by datatrove.
    scores.at_least("gopher_repetition.chars", Limit::At(1.0), || chars as f64)?;
    if config.dup_paragraph_fraction != Limit::Off || config.dup_paragraph_char_fraction != Limit::Off {
        let found = duplicates(split_at_newlines(strip(text), 2), seen);
        scores.at_most("gopher_repetition.dup_paragraph_fraction", config.dup_paragraph_fraction, || {
            ratio(found.elements, found.of)
        })?;
        scores.at_most("gopher_repetition.dup_paragraph_char_fraction", config.dup_paragraph_char_fraction, || {
            ratio(found.chars, chars)
        })?;
    }
    if config.dup_line_fraction != Limit::Off || config.dup_line_char_fraction != Limit::Off {
        let found = duplicates(split_at_newlines(text, 1), seen);
        scores.at_most("gopher_repetition.dup_line_fraction", config.dup_line_fraction, || {
            ratio(found.elements, found.of)
        })?;
        scores.at_most("gopher_repetition.dup_line_char_fraction", config.dup_line_char_fraction, || {
            ratio(found.chars, chars)
        })?;
    }
    Ok(())
}

/// Sequences of words.
pub(crate) fn check_words(
    config: &RepetitionConfig,
    text: &str,
    chars: usize,
    words: &[Word],
    grams: &mut Grams,
    scores: &mut Scores,
) -> Result<(), Dropped> {
    let tops = [
        ("gopher_repetition.top_2_gram", 2, config.top_2_gram),
        ("gopher_repetition.top_3_gram", 3, config.top_3_gram),
        ("gopher_repetition.top_4_gram", 4, config.top_4_gram),
    ];
    let duplicates = [
        ("gopher_repetition.dup_5_gram", 5, config.dup_5_gram),
        ("gopher_repetition.dup_6_gram", 6, config.dup_6_gram),
        ("gopher_repetition.dup_7_gram", 7, config.dup_7_gram),
        ("gopher_repetition.dup_8_gram", 8, config.dup_8_gram),
        ("gopher_repetition.dup_9_gram", 9, config.dup_9_gram),
        ("gopher_repetition.dup_10_gram", 10, config.dup_10_gram),
    ];
    if tops.iter().chain(&duplicates).all(|(_, _, limit)| *limit == Limit::Off) {
        return Ok(());
    }
    grams.load(text, words);
    for (rule, n, limit) in tops {
        scores.at_most(rule, limit, || ratio(grams.top_chars(n), chars))?;
    }
    for (rule, n, limit) in duplicates {
        scores.at_most(rule, limit, || ratio(grams.duplicate_chars(n), chars))?;
    }
    Ok(())
}

/// What [`duplicates`] counts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Duplicates {
    /// Elements that occurred before.
    pub elements: usize,
    /// Characters in them.
    pub chars: usize,
    /// All elements.
    pub of: usize,
}

/// Counts the elements that occurred before. Elements are told apart by 64 bits of XXH3.
pub(crate) fn duplicates<'a>(elements: impl Iterator<Item = &'a str>, seen: &mut HashSet64) -> Duplicates {
    let mut found = Duplicates { elements: 0, chars: 0, of: 0 };
    seen.clear(16);
    for element in elements {
        found.of += 1;
        if !seen.insert(xxh3_64(element.as_bytes())) {
            found.elements += 1;
            found.chars += element.chars().count();
        }
    }
    found
}

/// `re.split` at runs of at least `least` line feeds: one element more than there are such runs, some of them empty.
fn split_at_newlines(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut from = 0;
        while let Some(at) = text.get(from..)?.find('\n').map(|at| from + at) {
            let run = text.as_bytes()[at..].iter().take_while(|&&byte| byte == b'\n').count();
            if run >= least {
                rest = text.get(at + run..);
                return text.get(..at);
            }
            from = at + run;
        }
        rest = None;
        Some(text)
    })
}

/// A set of 64-bit hashes with open addressing. Emptying it costs one pass over the slots in use before, which is what
/// makes it worth having: a document needs about a dozen sets of a few thousand hashes.
#[derive(Default)]
pub(crate) struct HashSet64 {
    slots: Vec<u64>,
    held: usize,
}

/// Set in every key that is held, so that 0 is an empty slot.
const HELD: u64 = 1 << 63;
/// 2^64 over the golden ratio: spreads keys over the slots (Knuth, *The Art of Computer Programming*, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl HashSet64 {
    /// Empties it and makes place for `expected` keys.
    pub fn clear(&mut self, expected: usize) {
        let slots = expected.saturating_mul(2).next_power_of_two().max(32);
        self.slots.clear();
        self.slots.resize(slots, 0);
        self.held = 0;
    }

    /// Adds a key; false if it was there.
    pub fn insert(&mut self, key: u64) -> bool {
        if self.held * 2 >= self.slots.len() {
            self.grow();
        }
        let key = key | HELD;
        let mask = self.slots.len() - 1;
        let mut at = (key.wrapping_mul(SPREAD) >> 32) as usize & mask;
        loop {
            let slot = &mut self.slots[at];
            if *slot == key {
                return false;
            }
            if *slot == 0 {
                *slot = key;
                self.held += 1;
                return true;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.clear(old.len());
        for key in old.into_iter().filter(|key| *key != 0) {
            self.insert(key);
        }
    }
}

/// One of the word sequences that were counted.
#[derive(Clone, Copy, Default)]
struct Counted {
    key: u64,
    count: u32,
    /// Index of the word with which it first began.
    first: u32,
}

/// Hashes of the words of one document, from which the hash of any sequence of them follows in a few steps.
#[derive(Default)]
pub(crate) struct Grams {
    /// Hash of each word.
    words: Vec<u64>,
    /// Hash of all words before, written together: `n + 1` of them.
    prefix: Vec<u64>,
    /// Bytes of all words before.
    bytes: Vec<u32>,
    /// Characters of all words before.
    chars: Vec<u32>,
    /// `BASE` to the power of 0, 1, 2, ...
    powers: Vec<u64>,
    seen: HashSet64,
    counts: Vec<Counted>,
}

/// The prime 2^61 - 1, modulo which strings are hashed as polynomials in `BASE`. Unlike modulo 2^64, no short strings
/// are known to collide for every base.
const PRIME: u64 = (1 << 61) - 1;
const BASE: u64 = 0x0b7e_1516_28ae_d2a7;
const POWERS: usize = 1024;

fn reduce(x: u128) -> u64 {
    let folded = (x as u64 & PRIME) + (x >> 61) as u64;
    let folded = (folded & PRIME) + (folded >> 61);
    if folded >= PRIME { folded - PRIME } else { folded }
}

fn multiply(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) * u128::from(b))
}

/// `BASE` to the powers 1 to 4.
const BASES: [u64; 4] = {
    let mut powers = [BASE; 4];
    let mut i = 1;
    while i < 4 {
        powers[i] = ((powers[i - 1] as u128 * BASE as u128) % PRIME as u128) as u64;
        i += 1;
    }
    powers
};

/// Hash of a string: its bytes, each plus one, as the coefficients of a polynomial.
fn polynomial(bytes: &[u8]) -> u64 {
    let digit = |byte: u8| u128::from(byte) + 1;
    let (fours, rest) = bytes.as_chunks::<4>();
    let mut hash = 0;
    for [a, b, c, d] in fours {
        // At most 2^61 * 2^61 + 3 * 2^8 * 2^61, far from the end of u128: one reduction for four bytes.
        hash = reduce(
            u128::from(hash) * u128::from(BASES[3])
                + digit(*a) * u128::from(BASES[2])
                + digit(*b) * u128::from(BASES[1])
                + digit(*c) * u128::from(BASES[0])
                + digit(*d),
        );
    }
    for byte in rest {
        hash = reduce(u128::from(hash) * u128::from(BASE) + digit(*byte));
    }
    hash
}

impl Grams {
    fn load(&mut self, text: &str, words: &[Word]) {
        if self.powers.is_empty() {
            self.powers.extend(std::iter::successors(Some(1), |&power| Some(multiply(power, BASE))).take(POWERS));
        }
        self.words.clear();
        for sums in [&mut self.bytes, &mut self.chars] {
            sums.clear();
            sums.push(0);
        }
        self.prefix.clear();
        self.prefix.push(0);
        let (mut prefix, mut bytes, mut chars) = (0, 0, 0);
        for word in words {
            let hash = polynomial(word.of(text).as_bytes());
            let length = word.end - word.start;
            prefix = add(multiply(prefix, self.power(length)), hash);
            bytes += length;
            chars += word.chars;
            self.words.push(hash);
            self.prefix.push(prefix);
            self.bytes.push(bytes);
            self.chars.push(chars);
        }
    }

    /// `BASE` to the power of `exponent`.
    fn power(&self, exponent: u32) -> u64 {
        if let Some(&power) = self.powers.get(exponent as usize) {
            return power;
        }
        let (mut power, mut square, mut left) = (1, BASE, exponent);
        while left > 0 {
            if left & 1 == 1 {
                power = multiply(power, square);
            }
            square = multiply(square, square);
            left >>= 1;
        }
        power
    }

    /// Hash of `n` words from `first`, written together.
    fn joined(&self, first: usize, n: usize) -> u64 {
        let length = self.bytes[first + n] - self.bytes[first];
        add(self.prefix[first + n], PRIME - multiply(self.prefix[first], self.power(length)))
    }

    /// Characters in sequences of `n` words that occurred before; after such a sequence the search goes on behind it.
    fn duplicate_chars(&mut self, n: usize) -> usize {
        let mut seen = std::mem::take(&mut self.seen);
        seen.clear(self.words.len());
        let (mut chars, mut at) = (0, 0);
        while at + n <= self.words.len() {
            if seen.insert(self.joined(at, n)) {
                at += 1;
            } else {
                chars += (self.chars[at + n] - self.chars[at]) as usize;
                at += n;
            }
        }
        self.seen = seen;
        chars
    }

    /// Occurrences times characters, spaces between words included, of the most frequent sequence of `n` words; of
    /// several the first. 0 where there are fewer words.
    fn top_chars(&mut self, n: usize) -> usize {
        let slots = (self.words.len() * 2).next_power_of_two().max(32);
        self.counts.clear();
        self.counts.resize(slots, Counted::default());
        let mask = slots - 1;
        let mut best = Counted::default();
        for (first, window) in self.words.windows(n).enumerate() {
            let key = window.iter().fold(0, |key: u64, word| (key.rotate_left(23) ^ word).wrapping_mul(SPREAD)) | HELD;
            let mut at = (key.wrapping_mul(SPREAD) >> 32) as usize & mask;
            while self.counts[at].key != key && self.counts[at].key != 0 {
                at = (at + 1) & mask;
            }
            let entry = &mut self.counts[at];
            if entry.key == 0 {
                *entry = Counted { key, count: 0, first: first as u32 };
            }
            entry.count += 1;
            if entry.count > best.count || (entry.count == best.count && entry.first < best.first) {
                best = *entry;
            }
        }
        if best.count == 0 {
            return 0;
        }
        let first = best.first as usize;
        ((self.chars[first + n] - self.chars[first]) as usize + n - 1) * best.count as usize
    }
}

fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= PRIME { sum - PRIME } else { sum }
}

#[cfg(test)]
mod tests {
    use super::super::words::split;
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    fn loaded(text: &str) -> (Vec<String>, Grams) {
        let mut words = Vec::new();
        split(text, &mut words);
        let mut grams = Grams::default();
        grams.load(text, &words);
        (words.iter().map(|word| word.of(text).to_owned()).collect(), grams)
    }

    /// datatrove's counting, on strings.
    fn naive_duplicates(words: &[String], n: usize) -> usize {
        let (mut seen, mut chars, mut at) = (HashSet::new(), 0, 0);
        while at + n <= words.len() {
            let gram = words[at..at + n].concat();
            let length = gram.chars().count();
            if seen.insert(gram) {
                at += 1;
            } else {
                chars += length;
                at += n;
            }
        }
        chars
    }

    fn naive_top(words: &[String], n: usize) -> usize {
        let mut order = Vec::new();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for gram in words.windows(n).map(|w| w.join(" ")) {
            let count = counts.entry(gram.clone()).or_insert_with(|| {
                order.push(gram);
                0
            });
            *count += 1;
        }
        let mut best = ("", 0);
        for gram in &order {
            if counts[gram] > best.1 {
                best = (gram, counts[gram]);
            }
        }
        best.0.chars().count() * best.1
    }

    #[test]
    fn splits_like_re_split() {
        let split = |text, least| split_at_newlines(text, least).collect::<Vec<_>>();
        assert_eq!(split("a\n\nb\nc\n\n\n", 2), ["a", "b\nc", ""]);
        assert_eq!(split("\na\n\nb\n", 1), ["", "a", "b", ""]);
        assert_eq!(split("", 1), [""]);
    }

    #[test]
    fn a_word_longer_than_the_table_of_powers() {
        let word = "x".repeat(3000);
        let text = format!("{word} a b c d {word} a b c d {word} a b c d");
        let (words, mut grams) = loaded(&text);
        assert_eq!(grams.duplicate_chars(5), naive_duplicates(&words, 5));
    }

    #[test]
    fn a_set_grows() {
        let mut set = HashSet64::default();
        set.clear(1);
        assert!((0..10_000).all(|key| set.insert(key)));
        assert!((0..10_000).all(|key| !set.insert(key)));
    }

    proptest! {
        #[test]
        fn counts_as_on_strings(text in "([ab]{1,2}|[aé.] | ){0,120}") {
            let (words, mut grams) = loaded(&text);
            for n in 2..=10 {
                prop_assert_eq!(grams.duplicate_chars(n), naive_duplicates(&words, n));
                prop_assert_eq!(grams.top_chars(n), naive_top(&words, n));
            }
        }

        #[test]
        fn a_polynomial_is_that_of_its_parts(
            a in proptest::collection::vec(any::<u8>(), 0..20),
            b in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let (_, grams) = loaded("x");
            let whole = [a.as_slice(), &b].concat();
            let joined = add(multiply(polynomial(&a), grams.power(b.len() as u32)), polynomial(&b));
            prop_assert_eq!(polynomial(&whole), joined);
        }
    }
}
