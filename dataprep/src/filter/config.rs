//! The settings of the filters: every rule by its name, with the published threshold as its default.

use crate::error::{Error, Result};
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

/// A rule's threshold, or `false` where the rule is turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit<T> {
    /// The rule holds documents against this.
    At(T),
    /// The rule is turned off. Written `false`.
    Off,
}

impl<T: Copy> Limit<T> {
    /// The threshold, if the rule is on.
    pub fn get(self) -> Option<T> {
        match self {
            Self::At(threshold) => Some(threshold),
            Self::Off => None,
        }
    }
}

impl<T: Serialize> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(threshold) => threshold.serialize(serializer),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LimitVisitor(PhantomData))
    }
}

struct LimitVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LimitVisitor<T> {
    type Value = Limit<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or false to turn the rule off")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Limit<T>, E> {
        if on { Err(E::invalid_value(de::Unexpected::Bool(true), &self)) } else { Ok(Limit::Off) }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Limit<T>, E> {
        T::deserialize(value.into_deserializer()).map(Limit::At)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Limit<T>, E> {
        T::deserialize(value.into_deserializer()).map(Limit::At)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Limit<T>, E> {
        T::deserialize(value.into_deserializer()).map(Limit::At)
    }
}

/// All filters, in the order in which they are applied. The default is FineWeb's recipe for English
/// (`examples/fineweb.py` of datatrove), with no URL lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterConfig {
    /// Longer documents are dropped before anything is measured. The default is beyond what `gopher_quality.max_words`
    /// allows of real text; it bounds the memory that a hostile document of nothing but short words takes, some 150
    /// bytes a word.
    pub max_bytes: Limit<u64>,
    /// Documents by their address.
    pub url: UrlConfig,
    /// Documents by their language.
    pub language: LanguageConfig,
    /// Repetitions inside a document.
    pub gopher_repetition: RepetitionConfig,
    /// Words, symbols and lines of a document.
    pub gopher_quality: QualityConfig,
    /// Lines that are not prose are removed, documents with too few sentences left are dropped.
    pub c4: C4Config,
    /// Lists, fragments and repeated lines.
    pub fineweb: FineWebConfig,
    /// Personal data are masked. Drops nothing.
    pub pii: PiiConfig,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            max_bytes: Limit::At(16 << 20),
            url: UrlConfig::default(),
            language: LanguageConfig::default(),
            gopher_repetition: RepetitionConfig::default(),
            gopher_quality: QualityConfig::default(),
            c4: C4Config::default(),
            fineweb: FineWebConfig::default(),
            pii: PiiConfig::default(),
        }
    }
}

impl FilterConfig {
    /// All filters turned off, to turn on one by one.
    pub fn off() -> Self {
        let mut config = Self { max_bytes: Limit::Off, ..Self::default() };
        config.url.enabled = false;
        config.language.enabled = false;
        config.gopher_repetition.enabled = false;
        config.gopher_quality.enabled = false;
        config.c4.enabled = false;
        config.fineweb.enabled = false;
        config.pii.enabled = false;
        config
    }

    /// # Errors
    /// [`Error::Config`] for a threshold that no document can meet or that is not a number.
    pub(super) fn check(&self) -> Result<()> {
        let (r, q, f) = (&self.gopher_repetition, &self.gopher_quality, &self.fineweb);
        let fractions = [
            ("filter.language.min_confidence", self.language.min_confidence),
            ("filter.gopher_repetition.dup_paragraph_fraction", r.dup_paragraph_fraction),
            ("filter.gopher_repetition.dup_paragraph_char_fraction", r.dup_paragraph_char_fraction),
            ("filter.gopher_repetition.dup_line_fraction", r.dup_line_fraction),
            ("filter.gopher_repetition.dup_line_char_fraction", r.dup_line_char_fraction),
            ("filter.gopher_repetition.top_2_gram", r.top_2_gram),
            ("filter.gopher_repetition.top_3_gram", r.top_3_gram),
            ("filter.gopher_repetition.top_4_gram", r.top_4_gram),
            ("filter.gopher_repetition.dup_5_gram", r.dup_5_gram),
            ("filter.gopher_repetition.dup_6_gram", r.dup_6_gram),
            ("filter.gopher_repetition.dup_7_gram", r.dup_7_gram),
            ("filter.gopher_repetition.dup_8_gram", r.dup_8_gram),
            ("filter.gopher_repetition.dup_9_gram", r.dup_9_gram),
            ("filter.gopher_repetition.dup_10_gram", r.dup_10_gram),
            ("filter.gopher_quality.max_bullet_lines", q.max_bullet_lines),
            ("filter.gopher_quality.max_ellipsis_lines", q.max_ellipsis_lines),
            ("filter.gopher_quality.min_alphabetic_words", q.min_alphabetic_words),
            ("filter.fineweb.min_terminal_lines", f.min_terminal_lines),
            ("filter.fineweb.max_short_lines", f.max_short_lines),
            ("filter.fineweb.max_dup_line_chars", f.max_dup_line_chars),
        ];
        let ratios = [
            ("filter.gopher_quality.min_mean_word_length", q.min_mean_word_length),
            ("filter.gopher_quality.max_mean_word_length", q.max_mean_word_length),
            ("filter.gopher_quality.max_hash_ratio", q.max_hash_ratio),
            ("filter.gopher_quality.max_ellipsis_ratio", q.max_ellipsis_ratio),
            ("filter.fineweb.max_newlines_per_word", f.max_newlines_per_word),
        ];
        let within = |upper: f64| {
            move |(field, limit): &(&'static str, Limit<f64>)| match limit.get() {
                Some(value) if !(0.0..=upper).contains(&value) => Some((*field, value, upper)),
                _ => None,
            }
        };
        let bad = fractions.iter().find_map(within(1.0)).or_else(|| ratios.iter().find_map(within(f64::MAX)));
        match bad {
            Some((field, value, 1.0)) => Err(Error::Config {
                field,
                what: format!("{value} is not a fraction: give 0 to 1, or false for no rule"),
            }),
            Some((field, value, _)) => Err(Error::Config {
                field,
                what: format!("{value} is no threshold: give a number not below 0, or false for no rule"),
            }),
            None => Ok(()),
        }
    }
}

/// Documents by their address: blocklists and words in it. A document without an address passes.
///
/// A list is a text file with an entry a line; empty lines and lines that begin with `#` are skipped. Each list is a
/// rule and is off while it names no file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UrlConfig {
    /// Whether any of these rules applies.
    pub enabled: bool,
    /// Hosts and registered domains.
    pub domains: Vec<PathBuf>,
    /// Addresses, with or without their scheme.
    pub urls: Vec<PathBuf>,
    /// Words of which none may stand in an address, between other characters than letters and digits.
    pub words: Vec<PathBuf>,
    /// Words of which few may.
    pub soft_words: Vec<PathBuf>,
    /// Strings of which none may occur anywhere in an address, letters and digits alone compared.
    pub subwords: Vec<PathBuf>,
    /// This many different soft words drop a document.
    pub max_soft_words: Limit<u64>,
}

impl Default for UrlConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            domains: Vec::new(),
            urls: Vec::new(),
            words: Vec::new(),
            soft_words: Vec::new(),
            subwords: Vec::new(),
            max_soft_words: Limit::At(2),
        }
    }
}

/// Documents by their language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageConfig {
    /// Whether languages are identified.
    pub enabled: bool,
    /// ISO 639-3 codes of the languages to keep; none keeps them all.
    pub keep: Vec<String>,
    /// Documents whose language is not more certain than this are dropped.
    pub min_confidence: Limit<f64>,
    /// Characters of a document that are looked at, a third each from its start, middle and end.
    pub sample_chars: usize,
}

impl Default for LanguageConfig {
    fn default() -> Self {
        Self { enabled: true, keep: vec!["eng".into()], min_confidence: Limit::At(0.65), sample_chars: 900 }
    }
}

/// Repetitions inside a document (Rae et al., *Scaling Language Models*, 2021, table A1). A document is dropped when a
/// fraction is greater than its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepetitionConfig {
    /// Whether any of these rules applies.
    pub enabled: bool,
    /// Paragraphs that occurred before, of all paragraphs.
    pub dup_paragraph_fraction: Limit<f64>,
    /// Characters in such paragraphs, of all characters.
    pub dup_paragraph_char_fraction: Limit<f64>,
    /// Lines that occurred before, of all lines.
    pub dup_line_fraction: Limit<f64>,
    /// Characters in such lines, of all characters.
    pub dup_line_char_fraction: Limit<f64>,
    /// Characters in all occurrences of the most frequent pair of words.
    pub top_2_gram: Limit<f64>,
    /// The same of three words.
    pub top_3_gram: Limit<f64>,
    /// The same of four words.
    pub top_4_gram: Limit<f64>,
    /// Characters in sequences of five words that occurred before, without spaces and without overlap.
    pub dup_5_gram: Limit<f64>,
    /// The same of six words.
    pub dup_6_gram: Limit<f64>,
    /// The same of seven words.
    pub dup_7_gram: Limit<f64>,
    /// The same of eight words.
    pub dup_8_gram: Limit<f64>,
    /// The same of nine words.
    pub dup_9_gram: Limit<f64>,
    /// The same of ten words.
    pub dup_10_gram: Limit<f64>,
}

impl Default for RepetitionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            dup_paragraph_fraction: Limit::At(0.3),
            dup_paragraph_char_fraction: Limit::At(0.2),
            dup_line_fraction: Limit::At(0.3),
            dup_line_char_fraction: Limit::At(0.2),
            top_2_gram: Limit::At(0.2),
            top_3_gram: Limit::At(0.18),
            top_4_gram: Limit::At(0.16),
            dup_5_gram: Limit::At(0.15),
            dup_6_gram: Limit::At(0.14),
            dup_7_gram: Limit::At(0.13),
            dup_8_gram: Limit::At(0.12),
            dup_9_gram: Limit::At(0.11),
            dup_10_gram: Limit::At(0.1),
        }
    }
}

/// Gopher quality rules over words, symbols and lines (Rae et al. 2021, appendix A.1.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QualityConfig {
    /// Whether any of these rules applies.
    pub enabled: bool,
    /// Fewest words that are not only punctuation.
    pub min_words: Limit<u64>,
    /// Most of them.
    pub max_words: Limit<u64>,
    /// Least mean length of such a word in characters.
    pub min_mean_word_length: Limit<f64>,
    /// Greatest.
    pub max_mean_word_length: Limit<f64>,
    /// Most `#` a word.
    pub max_hash_ratio: Limit<f64>,
    /// Most ellipses (`...` and `…`) a word.
    pub max_ellipsis_ratio: Limit<f64>,
    /// Most lines that begin with `•` or `-`, of all lines.
    pub max_bullet_lines: Limit<f64>,
    /// Most lines that end in an ellipsis, of all lines.
    pub max_ellipsis_lines: Limit<f64>,
    /// Fewest words with a letter, of all words.
    pub min_alphabetic_words: Limit<f64>,
    /// Fewest different words out of `stop_words`.
    pub min_stop_words: Limit<u64>,
    /// Words that prose contains, compared with their case.
    pub stop_words: Vec<String>,
}

impl Default for QualityConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            min_words: Limit::At(50),
            max_words: Limit::At(100_000),
            min_mean_word_length: Limit::At(3.0),
            max_mean_word_length: Limit::At(10.0),
            max_hash_ratio: Limit::At(0.1),
            max_ellipsis_ratio: Limit::At(0.1),
            max_bullet_lines: Limit::At(0.9),
            max_ellipsis_lines: Limit::At(0.3),
            min_alphabetic_words: Limit::At(0.8),
            min_stop_words: Limit::At(2),
            stop_words: ["the", "be", "to", "of", "and", "that", "have", "with"].map(String::from).to_vec(),
        }
    }
}

/// Rules of C4 (Raffel et al., *Exploring the Limits of Transfer Learning*, 2020, section 2.2). The first group removes
/// lines, the second drops documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct C4Config {
    /// Whether any of these rules applies.
    pub enabled: bool,
    /// Removes lines with a word of more characters.
    pub max_word_length: Limit<u64>,
    /// Removes citation marks (`[12]`, `[edit]`, `[citation needed]`) from lines.
    pub remove_citations: bool,
    /// Removes lines that do not end in `.`, `?`, `!`, `"` or `'`, or end in `...`. C4 has this rule; FineWeb does not,
    /// and neither has the default.
    pub terminal_punctuation: bool,
    /// Removes lines of fewer words.
    pub min_words_per_line: Limit<u64>,
    /// Removes lines that mention JavaScript.
    pub javascript: bool,
    /// Removes lines that mention terms of use or cookies.
    pub policy: bool,
    /// Drops documents with a filler text.
    pub lorem_ipsum: bool,
    /// Drops documents with a `{`.
    pub curly_bracket: bool,
    /// Drops documents of fewer sentences, counted in the lines that are left.
    pub min_sentences: Limit<u64>,
    /// Drops documents of fewer lines of at least `paragraph_length` characters, before any line is removed: 3 in mC4.
    pub min_paragraphs: Limit<u64>,
    /// See `min_paragraphs`.
    pub paragraph_length: u64,
}

impl Default for C4Config {
    fn default() -> Self {
        Self {
            enabled: true,
            max_word_length: Limit::At(1000),
            remove_citations: true,
            terminal_punctuation: false,
            min_words_per_line: Limit::At(3),
            javascript: true,
            policy: true,
            lorem_ipsum: true,
            curly_bracket: true,
            min_sentences: Limit::At(5),
            min_paragraphs: Limit::Off,
            paragraph_length: 200,
        }
    }
}

/// Rules of FineWeb (Penedo et al., *The FineWeb Datasets*, 2024, section 3.5) over lines that are not blank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineWebConfig {
    /// Whether any of these rules applies.
    pub enabled: bool,
    /// Fewest lines that end in terminal punctuation, of all lines.
    pub min_terminal_lines: Limit<f64>,
    /// Most short lines, of all lines.
    pub max_short_lines: Limit<f64>,
    /// A line of up to this many characters is short.
    pub short_line_length: u64,
    /// Most characters in lines that occurred before, of all characters.
    pub max_dup_line_chars: Limit<f64>,
    /// Most line feeds a word.
    pub max_newlines_per_word: Limit<f64>,
}

impl Default for FineWebConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            min_terminal_lines: Limit::At(0.12),
            max_short_lines: Limit::At(0.67),
            short_line_length: 30,
            max_dup_line_chars: Limit::At(0.01),
            max_newlines_per_word: Limit::At(0.3),
        }
    }
}

/// PII rule: personal data to mask in the text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PiiConfig {
    /// Whether anything is masked.
    pub enabled: bool,
    /// Masks e-mail addresses.
    pub emails: bool,
    /// Masks IPv4 addresses.
    pub ips: bool,
    /// Leaves addresses that are not public (10.0.0.1, 127.0.0.1, ...) as they are.
    pub public_ips_only: bool,
    /// Replacements for e-mail addresses, used in turn, from the first in each document.
    pub email_replacements: Vec<String>,
    /// Replacements for IP addresses, used in turn.
    pub ip_replacements: Vec<String>,
}

impl Default for PiiConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            emails: true,
            ips: true,
            public_ips_only: true,
            email_replacements: ["email@example.com", "firstname.lastname@example.org"].map(String::from).to_vec(),
            // datatrove's: addresses that answered nothing when its authors drew them.
            ip_replacements: [
                "22.214.171.124",
                "126.96.36.199",
                "188.8.131.52",
                "184.108.40.206",
                "220.127.116.11",
                "18.104.22.168",
            ]
            .map(String::from)
            .to_vec(),
        }
    }
}
