//! Pre-tokenisation: cutting text into words that byte-pair encoding never looks across.

use crate::error::{Error, Result};
use regex_automata::{Anchored, Input, meta};
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

/// The end of GPT-2's and every later pattern: white space gives its last character to the word behind it.
const TRAILING_SPACE: &str = r"|\s+(?!\S)|\s+";

/// A sequence of patterns; each cuts the pieces of the one before into matches and what lies between them.
#[derive(Debug)]
pub(super) struct Splitter {
    patterns: Vec<Pattern>,
}

/// A regular expression, in the engine that is fastest for it.
#[derive(Debug)]
enum Pattern {
    /// No look-around: an automaton, linear in the text.
    Plain(meta::Regex),
    /// What stands before [`TRAILING_SPACE`], and `\s+` with its look-ahead done by hand.
    Spaces(meta::Regex),
    /// Any other look-around: backtracking.
    Fancy(Box<fancy_regex::Regex>),
}

/// What the automata of a [`Splitter`] work in; keeping it between calls saves building them again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    caches: Vec<Option<meta::Cache>>,
}

impl Splitter {
    pub(super) fn deepseek() -> Self {
        let patterns =
            DEEPSEEK.iter().map(|p| Pattern::compile(p).expect("DeepSeek's patterns are regular expressions"));
        Self { patterns: patterns.collect() }
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
            if split["type"] != "Split" || split["behavior"] != "Isolated" || split["invert"] != false {
                return None;
            }
            let pattern = match (split["pattern"]["Regex"].as_str(), split["pattern"]["String"].as_str()) {
                (Some(regex), _) => regex.to_owned(),
                (None, Some(literal)) => fancy_regex::escape(literal).into_owned(),
                (None, None) => return None,
            };
            patterns.push(Pattern::compile(&pattern)?);
        }
        if last["use_regex"] != false {
            patterns.push(Pattern::compile(GPT2)?);
        }
        Some(Self { patterns })
    }

    /// Calls `each` with every word of `text`, in order; together they are the whole text. `scratch` belongs to this
    /// splitter from the first call on.
    pub(super) fn split<'t>(&self, text: &'t str, scratch: &mut Scratch, each: &mut impl FnMut(&'t str)) -> Result<()> {
        if scratch.caches.is_empty() {
            scratch.caches.extend(self.patterns.iter().map(Pattern::cache));
        }
        split(&self.patterns, &mut scratch.caches, text, each)
    }
}

fn split<'t>(
    patterns: &[Pattern],
    caches: &mut [Option<meta::Cache>],
    text: &'t str,
    each: &mut impl FnMut(&'t str),
) -> Result<()> {
    let (Some((pattern, patterns)), Some((cache, caches))) = (patterns.split_first(), caches.split_first_mut()) else {
        if !text.is_empty() {
            each(text);
        }
        return Ok(());
    };
    let (mut done, mut from) = (0, 0);
    while let Some((start, end)) = pattern.find(text, from, cache)? {
        if done < start {
            split(patterns, caches, &text[done..start], each)?;
        }
        split(patterns, caches, &text[start..end], each)?;
        done = end;
        // An empty match must not be found again for ever.
        from = if end > start { end } else { end + text[end..].chars().next().map_or(1, char::len_utf8) };
        if from > text.len() {
            break;
        }
    }
    split(patterns, caches, &text[done..], each)
}

impl Pattern {
    fn compile(pattern: &str) -> Option<Self> {
        if let Some(before) = pattern.strip_suffix(TRAILING_SPACE)
            && let Ok(regex) = meta::Regex::new_many(&[before, r"\s+"])
        {
            return Some(Self::Spaces(regex));
        }
        if let Ok(regex) = meta::Regex::new(pattern) {
            return Some(Self::Plain(regex));
        }
        let fancy = fancy_regex::RegexBuilder::new(pattern).backtrack_limit(usize::MAX).build();
        fancy.ok().map(|regex| Self::Fancy(Box::new(regex)))
    }

    fn cache(&self) -> Option<meta::Cache> {
        match self {
            Self::Plain(regex) | Self::Spaces(regex) => Some(regex.create_cache()),
            Self::Fancy(_) => None,
        }
    }

    /// The first match at `from` or behind it.
    fn find(&self, text: &str, from: usize, cache: &mut Option<meta::Cache>) -> Result<Option<(usize, usize)>> {
        let (regex, cache) = match (self, cache) {
            (Self::Plain(regex) | Self::Spaces(regex), Some(cache)) => (regex, cache),
            (Self::Fancy(regex), _) => {
                let found = regex.find_from_pos(text, from);
                let found = found.map_err(|e| Error::Tokenize(format!("pre-tokenisation: {e}")))?;
                return Ok(found.map(|found| (found.start(), found.end())));
            }
            (Self::Plain(_) | Self::Spaces(_), None) => unreachable!("automata have caches"),
        };
        let input = Input::new(text).range(from..);
        // Patterns that end so match nearly everywhere: looking here first saves finding out where the match began.
        let here = match self {
            Self::Spaces(_) => regex.search_with(cache, &input.clone().anchored(Anchored::Yes)),
            Self::Plain(_) | Self::Fancy(_) => None,
        };
        let Some(found) = here.or_else(|| regex.search_with(cache, &input)) else {
            return Ok(None);
        };
        let (start, mut end) = (found.start(), found.end());
        if found.pattern().as_usize() == 1 && matches!(self, Self::Spaces(_)) && end < text.len() {
            // `\s+(?!\S)`: a word follows, so the last character is left to it, unless it is the only one.
            let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
            if end - last > start {
                end -= last;
            }
        }
        Ok(Some((start, end)))
    }
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

    fn words<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        splitter.split(text, &mut Scratch::default(), &mut |w| words.push(w)).unwrap();
        words
    }

    #[test]
    fn splits_as_deepseek_does() {
        let words = |text| words(&Splitter::deepseek(), text);
        assert_eq!(words("Hello world 12345!"), ["Hello", " world", " ", "123", "45", "!"]);
        assert_eq!(words("x = foo(bar);\n\n  y"), ["x", " =", " foo", "(bar", ");\n\n", " ", " y"]);
        assert_eq!(words("今天hi"), ["今天", "hi"]);
        assert_eq!(words("a   b"), ["a", "  ", " b"]);
        assert!(words("").is_empty());
    }

    #[test]
    fn a_run_of_ten_million_spaces_is_one_word() {
        let text = " ".repeat(10_000_000);
        assert_eq!(words(&Splitter::deepseek(), &text).len(), 1);
    }

    proptest::proptest! {
        /// The look-ahead done by hand finds what a backtracking engine finds.
        #[test]
        fn spaces_split_as_the_pattern_says(text in "[ \\t\\r\\n\u{a0}\u{3000}aé1.'s]*") {
            for pattern in [DEEPSEEK[2], GPT2] {
                let fast = Splitter { patterns: vec![Pattern::compile(pattern).unwrap()] };
                let fancy = fancy_regex::Regex::new(pattern).unwrap();
                let slow = Splitter { patterns: vec![Pattern::Fancy(Box::new(fancy))] };
                proptest::prop_assert!(matches!(fast.patterns[0], Pattern::Spaces(_)));
                proptest::prop_assert_eq!(words(&fast, &text), words(&slow, &text));
            }
        }
    }
}
