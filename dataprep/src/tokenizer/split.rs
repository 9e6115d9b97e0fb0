//! Pre-tokenisation: cutting text into words that byte-pair encoding never looks across.

use crate::error::{Error, Result};
use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

/// DeepSeek-V3's pre-tokenisation, pattern after pattern (`tokenizer.json` of deepseek-ai/DeepSeek-V3): groups of up to
/// three digits, then runs of Chinese characters and Japanese syllables, then words, punctuation and white space.
pub(super) const DEEPSEEK: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];

/// What `ByteLevel` does with `use_regex` (GPT-2's `encoder.py`).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A sequence of patterns; each cuts the pieces of the one before into matches and what lies between them.
#[derive(Debug)]
pub(super) struct Splitter {
    patterns: Vec<Regex>,
}

impl Splitter {
    pub(super) fn deepseek() -> Self {
        let patterns = DEEPSEEK
            .iter()
            .map(|p| compile(p).expect("DeepSeek's patterns are regular expressions"));
        Self {
            patterns: patterns.collect(),
        }
    }

    /// The pre-tokenizer of a `tokenizer.json`, if it is a row of isolating splits that ends in `ByteLevel` without a
    /// prefix space. `None` means something else, which the general implementation knows.
    pub(super) fn from_json(pre_tokenizer: &Value) -> Option<Self> {
        let parts = match pre_tokenizer["type"].as_str()? {
            "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.as_slice(),
            _ => std::slice::from_ref(pre_tokenizer),
        };
        let (last, splits) = parts.split_last()?;
        if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
            return None;
        }
        let mut patterns = Vec::new();
        for split in splits {
            if split["type"] != "Split"
                || split["behavior"] != "Isolated"
                || split["invert"] != false
            {
                return None;
            }
            let pattern = match (
                split["pattern"]["Regex"].as_str(),
                split["pattern"]["String"].as_str(),
            ) {
                (Some(regex), _) => regex.to_owned(),
                (None, Some(literal)) => fancy_regex::escape(literal).into_owned(),
                (None, None) => return None,
            };
            patterns.push(compile(&pattern)?);
        }
        if last["use_regex"] != false {
            patterns.push(compile(GPT2)?);
        }
        Some(Self { patterns })
    }

    /// Calls `each` with every word of `text`, in order; together they are the whole text.
    pub(super) fn split<'t>(&self, text: &'t str, each: &mut impl FnMut(&'t str)) -> Result<()> {
        split(&self.patterns, text, each)
    }
}

fn split<'t>(patterns: &[Regex], text: &'t str, each: &mut impl FnMut(&'t str)) -> Result<()> {
    let Some((pattern, rest)) = patterns.split_first() else {
        if !text.is_empty() {
            each(text);
        }
        return Ok(());
    };
    let mut done = 0;
    for found in pattern.find_iter(text) {
        let found = found.map_err(|e| Error::Tokenize(format!("pre-tokenisation: {e}")))?;
        split(rest, &text[done..found.start()], each)?;
        split(rest, found.as_str(), each)?;
        done = found.end();
    }
    split(rest, &text[done..], each)
}

/// Compiles without a limit on backtracking: these patterns backtrack by one character, but over runs of any length.
fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern)
        .backtrack_limit(usize::MAX)
        .build()
        .ok()
}

/// DeepSeek's pre-tokenizer as a part of a `tokenizer.json`.
pub(super) fn deepseek_json() -> Value {
    let mut parts: Vec<Value> = DEEPSEEK
        .iter()
        .map(|p| json!({ "type": "Split", "pattern": { "Regex": p }, "behavior": "Isolated", "invert": false }))
        .collect();
    parts.push(super::byte_level::byte_level_part());
    json!({ "type": "Sequence", "pretokenizers": parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        Splitter::deepseek()
            .split(text, &mut |w| words.push(w))
            .unwrap();
        words
    }

    #[test]
    fn splits_as_deepseek_does() {
        assert_eq!(
            words("Hello world 12345!"),
            ["Hello", " world", " ", "123", "45", "!"]
        );
        assert_eq!(
            words("x = foo(bar);\n\n  y"),
            ["x", " =", " foo", "(bar", ");\n\n", " ", " y"]
        );
        assert_eq!(words("今天hi"), ["今天", "hi"]);
        assert_eq!(words("a   b"), ["a", "  ", " b"]);
    }

    #[test]
    fn a_run_of_a_million_spaces_is_one_word() {
        let text = " ".repeat(1_000_000);
        assert_eq!(words(&text).len(), 1);
    }
}
