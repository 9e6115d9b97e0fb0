//! Language identification of documents.
//!
//! By the trigrams of `whatlang` (69 languages). It was chosen over its peers because it is the one that does not call
//! a language it has never seen English: a threshold can only be held against a confidence that falls when it should.
//! `FILTERS.md` has the comparison.

use super::config::{LanguageConfig, Limit};
use super::scores::Scores;
use crate::document::Dropped;
use crate::error::{Error, Result};
use whatlang::Lang;

/// The rules, ready to be applied.
pub(crate) struct Language {
    keep: Vec<&'static str>,
    min_confidence: Limit<f64>,
    piece: usize,
}

impl Language {
    pub fn new(config: &LanguageConfig) -> Result<Self> {
        if config.enabled && config.sample_chars < 3 {
            return Err(Error::Config {
                field: "filter.language.sample_chars",
                what: format!("{} characters tell no language: give some hundreds", config.sample_chars),
            });
        }
        let known = |code: &String| match Lang::from_code(code.as_str()) {
            Some(language) => Ok(language.code()),
            None => Err(Error::Config {
                field: "filter.language.keep",
                what: format!(
                    "{code:?} is not a language that can be identified: give ISO 639-3 codes out of {}",
                    Lang::all().iter().map(Lang::code).collect::<Vec<_>>().join(", ")
                ),
            }),
        };
        let keep = config.keep.iter().map(known).collect::<Result<_>>()?;
        Ok(Self { keep, min_confidence: config.min_confidence, piece: config.sample_chars / 3 })
    }

    /// Identifies the language of `text`; `sample` is scratch.
    pub fn check(
        &self,
        text: &str,
        language: &mut Option<&'static str>,
        sample: &mut String,
        scores: &mut Scores,
    ) -> Result<(), Dropped> {
        let found = whatlang::detect(self.sample(text, sample));
        *language = found.as_ref().map(|info| info.lang().code());
        let confidence = scores.note("language.confidence", found.map_or(0.0, |info| info.confidence()));
        let threshold = self.min_confidence.get().unwrap_or(0.0);
        let drop = |rule| Err(Dropped { rule, value: confidence, threshold });
        if !self.keep.is_empty() && !language.is_some_and(|code| self.keep.contains(&code)) {
            return drop("language.keep");
        }
        if self.min_confidence != Limit::Off && confidence <= threshold {
            drop("language.min_confidence")
        } else {
            Ok(())
        }
    }

    /// Three pieces of a long text, or all of a short one.
    fn sample<'a>(&self, text: &'a str, sample: &'a mut String) -> &'a str {
        let most = self.piece * 3;
        let tail = text.char_indices().rev().nth(self.piece - 1).map_or(0, |(at, _)| at);
        if text.len() <= most || text.chars().take(most + 1).count() <= most {
            return text;
        }
        sample.clear();
        for start in [0, text.floor_char_boundary(text.len() / 2), tail] {
            let rest = text.get(start..).unwrap_or_default();
            let end = rest.char_indices().nth(self.piece).map_or(rest.len(), |(at, _)| at);
            sample.push_str(rest.get(..end).unwrap_or_default());
            sample.push(' ');
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn check(config: &LanguageConfig, text: &str) -> (Option<&'static str>, Result<(), Dropped>) {
        let (mut language, mut scores) = (None, BTreeMap::new());
        let verdict =
            Language::new(config).unwrap().check(text, &mut language, &mut String::new(), &mut Scores(&mut scores));
        (language, verdict)
    }

    const ENGLISH: &str = "All human beings are born free and equal in dignity and rights.";
    const GERMAN: &str = "Alle Menschen sind frei und gleich an Würde und Rechten geboren.";

    #[test]
    fn keeps_what_is_named() {
        let config = LanguageConfig::default();
        assert_eq!(check(&config, ENGLISH), (Some("eng"), Ok(())));
        let (language, verdict) = check(&config, GERMAN);
        assert_eq!((language, verdict.unwrap_err().rule), (Some("deu"), "language.keep"));
        let any = LanguageConfig { keep: Vec::new(), ..config };
        assert_eq!(check(&any, GERMAN).1, Ok(()));
        assert_eq!(check(&any, "12 + 3 = 15").1.unwrap_err().rule, "language.min_confidence");
    }

    #[test]
    fn looks_at_start_middle_and_end() {
        let language = Language::new(&LanguageConfig { sample_chars: 9, ..LanguageConfig::default() }).unwrap();
        assert_eq!(language.sample("abc---déf----ghi", &mut String::new()), "abc éf- ghi ");
        assert_eq!(language.sample("äbcdéfghi", &mut String::new()), "äbcdéfghi");
    }

    #[test]
    fn refuses_unknown_languages() {
        let config = LanguageConfig { keep: vec!["en".into()], ..LanguageConfig::default() };
        assert!(matches!(Language::new(&config), Err(Error::Config { field: "filter.language.keep", .. })));
    }
}
