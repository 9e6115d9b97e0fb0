//! Sampling parameters of a request that does not say: those that the makers of the model recommend, where they do.

use std::path::Path;

use crate::error::Result;
use crate::hf::names::GENERATION_CONFIG;
use crate::hf::{GenerationConfig, HfError};
use crate::infer::Sampling;

/// Sampling parameters for requests, and the line of the log that says where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// The parameters. New tokens are as many as the room allows where nobody says.
    pub sampling: Sampling,
    /// In words.
    pub words: String,
}

impl Defaults {
    /// Those of the model in `folder`, or the protocol's own where `follow` is false or the model's file does not say.
    ///
    /// # Errors
    /// A file that cannot be read, or has a value that no sampler takes; the file and the key are named.
    pub fn read(folder: &Path, follow: bool) -> Result<Self> {
        let file = if follow { GenerationConfig::read(folder)? } else { GenerationConfig::default() };
        let own = Sampling { max_new_tokens: usize::MAX, ..Sampling::default() };
        let sampling = Sampling {
            max_new_tokens: file.max_new_tokens.unwrap_or(own.max_new_tokens),
            temperature: file.temperature.unwrap_or(own.temperature),
            top_k: file.top_k.unwrap_or(own.top_k),
            top_p: file.top_p.unwrap_or(own.top_p),
            min_p: file.min_p.unwrap_or(own.min_p),
            repetition_penalty: file.repetition_penalty.unwrap_or(own.repetition_penalty),
            ..own
        };
        let wrong = |problem: String| HfError::Json { path: folder.join(GENERATION_CONFIG), problem };
        sampling.validate(usize::MAX).map_err(|e| wrong(format!("{}: {}", e.name, e.problem)))?;
        if sampling.max_new_tokens == 0 {
            return Err(wrong("max_new_tokens: 0: must be at least 1".into()).into());
        }
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for (name, said, value) in [
            ("temperature", file.temperature.is_some(), sampling.temperature),
            ("top_p", file.top_p.is_some(), sampling.top_p),
            ("top_k", file.top_k.is_some(), sampling.top_k as f64),
            ("min_p", file.min_p.is_some(), sampling.min_p),
            ("repetition_penalty", file.repetition_penalty.is_some(), sampling.repetition_penalty),
        ] {
            if said { &mut theirs } else { &mut ours }.push(format!("{name} {value}"));
        }
        theirs.extend(file.max_new_tokens.map(|n| format!("at most {n} new tokens")));
        let words = match (follow, theirs.is_empty(), ours.is_empty()) {
            (false, ..) => format!("{} ({GENERATION_CONFIG} is not asked)", ours.join(", ")),
            (_, true, _) => format!("{} ({GENERATION_CONFIG} says nothing of it)", ours.join(", ")),
            (_, _, true) => format!("{} of {GENERATION_CONFIG}", theirs.join(", ")),
            _ => format!("{} of {GENERATION_CONFIG}, and {}", theirs.join(", "), ours.join(", ")),
        };
        Ok(Self { sampling, words })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_speaks_where_it_is_followed_and_bad_values_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str, follow| {
            std::fs::write(folder.path().join(GENERATION_CONFIG), text).unwrap();
            Defaults::read(folder.path(), follow)
        };
        let r1 = r#"{"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 99}"#;
        let defaults = read(r1, true).unwrap();
        assert_eq!((defaults.sampling.temperature, defaults.sampling.top_p), (0.6, 0.95));
        assert_eq!(defaults.sampling.max_new_tokens, 99);
        let words = "temperature 0.6, top_p 0.95, at most 99 new tokens of generation_config.json, and top_k 0, min_p 0, \
                     repetition_penalty 1";
        assert_eq!(defaults.words, words);
        let own = Sampling { max_new_tokens: usize::MAX, ..Sampling::default() };
        let not_asked = read(r1, false).unwrap();
        assert_eq!(not_asked.sampling, own);
        assert!(not_asked.words.contains("temperature 1,") && not_asked.words.contains("is not asked"));
        let silent = read(r#"{"eos_token_id": 1}"#, true).unwrap();
        assert_eq!(silent.sampling, own);
        assert!(silent.words.contains("says nothing"), "{}", silent.words);
        for (text, named) in [
            (r#"{"temperature": -1}"#, "generation_config.json: temperature: -1: must be 0 (greedy) or above"),
            (r#"{"top_p": 0}"#, "generation_config.json: top_p: 0: must be above 0"),
            (r#"{"max_new_tokens": 0}"#, "generation_config.json: max_new_tokens: 0: must be at least 1"),
            (r#"{"repetition_penalty": "x"}"#, "generation_config.json: repetition_penalty: \"x\": must be a number"),
        ] {
            let error = read(text, true).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
            assert!(read(text, false).is_ok(), "a file that is not followed is not read");
        }
    }
}
