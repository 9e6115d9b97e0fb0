//! Quality filters: rules that keep, clean or drop one document at a time.
//!
//! The rules are those of FineWeb's recipe and are applied in its order, the first that is broken drops the document:
//!
//! 1. `url`: blocklists of domains, addresses and words in addresses;
//! 2. `language`: which language, and how certainly;
//! 3. `gopher_repetition`: repeated paragraphs, lines and word sequences;
//! 4. `gopher_quality`: number and length of words, symbols, bullets, stop words;
//! 5. `c4`: lines that are not prose are removed from the text, documents with too little left are dropped;
//! 6. `fineweb`: lists, fragments and repeated lines;
//! 7. `pii`: e-mail and IP addresses are masked in what is left.
//!
//! Every rule has a name, which is its key in [`FilterConfig`], and is computed as `datatrove` computes it but for the
//! splitting into words: by Unicode Standard Annex #29 here, by spaCy there. `FILTERS.md`, beside this crate, has the
//! agreement rule by rule on real documents.
//!
//! A text is split into words once, and the rules share the words; sequences of words are counted by their hashes.

mod c4;
mod config;
mod fineweb;
mod language;
mod pii;
mod quality;
mod repetition;
mod scores;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod url;
pub(crate) mod words;

pub use config::{
    C4Config, FilterConfig, FineWebConfig, LanguageConfig, Limit, PiiConfig, QualityConfig, RepetitionConfig, UrlConfig,
};

use crate::document::{Document, Dropped};
use crate::error::Result;
use repetition::{Grams, HashSet64};
use scores::Scores;
use std::sync::{Mutex, PoisonError};
use words::Word;

/// The words of a text as the rules see them: the segments between the word boundaries of Unicode Standard Annex #29
/// that are not white space, full stops in a row being one.
pub fn split_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    words::split(text, &mut words);
    words.iter().map(|word| word.of(text)).collect()
}

/// The rules of a [`FilterConfig`], ready to be applied by any number of threads.
pub struct Filters {
    config: FilterConfig,
    url: Option<url::Url>,
    language: Option<language::Language>,
    c4: Option<c4::C4>,
    pii: Option<pii::Pii>,
    /// Buffers that no thread is using at the moment.
    spare: Mutex<Vec<Scratch>>,
}

/// Scratch for more words than this is given back to the system.
const MOST_WORDS_KEPT: usize = 1 << 20;

/// Buffers that are kept from one document to the next.
#[derive(Default)]
struct Scratch {
    words: Vec<Word>,
    line_words: Vec<Word>,
    seen: HashSet64,
    grams: Grams,
    text: String,
}

impl Filters {
    /// Builds the filters: reads lists, compiles patterns.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a invalid threshold or language, [`crate::Error::Io`] for a list that
    /// cannot be read.
    pub fn new(config: &FilterConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            url: config.url.enabled.then(|| url::Url::new(&config.url)).transpose()?,
            language: config.language.enabled.then(|| language::Language::new(&config.language)).transpose()?,
            c4: config.c4.enabled.then(|| c4::C4::new(&config.c4)).transpose()?,
            pii: config.pii.enabled.then(|| pii::Pii::new(&config.pii)).transpose()?,
            config: config.clone(),
            spare: Mutex::default(),
        })
    }

    /// Applies all rules to a document. Its text is changed by `c4` and `pii`, its language is set by `language`, and
    /// what was measured on the way is in its `scores`, under the names of the rules. The result depends on the
    /// document alone.
    ///
    /// # Errors
    /// The first rule that was broken. The document is then as the rules before left it.
    pub fn apply(&self, document: &mut Document) -> Result<(), Dropped> {
        let pool = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = pool().pop().unwrap_or_default();
        let verdict = self.apply_with(document, &mut scratch);
        // What an extraordinary document needed is not kept for ordinary ones.
        if scratch.words.capacity() <= MOST_WORDS_KEPT {
            pool().push(scratch);
        }
        verdict
    }

    fn apply_with(&self, document: &mut Document, scratch: &mut Scratch) -> Result<(), Dropped> {
        let config = &self.config;
        let mut scores = Scores(&mut document.scores);
        let text = &mut document.text;
        // Offsets of words have 32 bits, whatever the limit.
        let longest = config.max_bytes.get().unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        scores.at_most("max_bytes", Limit::At(longest as f64), || text.len() as f64)?;
        if let (Some(rules), Some(url)) = (&self.url, &document.url) {
            rules.check(url, &mut scores)?;
        }
        if let Some(rules) = &self.language {
            rules.check(text, &mut document.language, &mut scratch.text, &mut scores)?;
        }
        let chars = text.chars().count();
        if config.gopher_repetition.enabled {
            repetition::check_lines(&config.gopher_repetition, text, chars, &mut scratch.seen, &mut scores)?;
        }
        let by_words = [config.gopher_repetition.enabled, config.gopher_quality.enabled, config.c4.enabled];
        if config.fineweb.enabled || by_words.contains(&true) {
            words::split(text, &mut scratch.words);
        }
        if config.gopher_repetition.enabled {
            let Scratch { words, grams, .. } = &mut *scratch;
            repetition::check_words(&config.gopher_repetition, text, chars, words, grams, &mut scores)?;
        }
        if config.gopher_quality.enabled {
            quality::check(&config.gopher_quality, text, &scratch.words, &mut scores)?;
        }
        let mut count = scratch.words.len();
        if let Some(rules) = &self.c4 {
            let Scratch { words, line_words, text: kept, .. } = &mut *scratch;
            count = rules.apply(text, words, kept, line_words, &mut scores)?;
            std::mem::swap(text, kept);
        }
        if config.fineweb.enabled {
            fineweb::check(&config.fineweb, text, count, &mut scratch.seen, &mut scores)?;
        }
        if let Some(masks) = &self.pii {
            let (emails, ips) = masks.apply(text, &mut scratch.text);
            scores.note("pii.emails", emails as f64);
            scores.note("pii.ips", ips as f64);
        }
        Ok(())
    }
}
