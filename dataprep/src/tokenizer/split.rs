//! Pre-tokenisation: cutting text into words that byte-pair encoding never looks across.

use super::scan::Scanner;
use super::window;
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
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Llama 3's pattern, which is GPT-4's, with digits in groups of up to three; Qwen 2 has them one by one.
pub(super) fn llama3(digits: usize) -> String {
    let digits = if digits == 1 { r"\p{N}".to_owned() } else { format!(r"\p{{N}}{{1,{digits}}}") };
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
    format!(r"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+{TRAILING_SPACE}")
}

/// The end of GPT-2's and every later pattern: white space gives its last character to the word behind it.
const TRAILING_SPACE: &str = r"|\s+(?!\S)|\s+";

/// Steps back that a match may take in the backtracking engine, a few seconds' worth: a pattern that needs more would
/// need forever.
const BACKTRACKS: usize = 1 << 27;

/// Cuts text into words.
#[derive(Debug)]
pub(super) enum Splitter {
    /// Patterns that most tokenizers have, by hand.
    Known(Scanner),
    /// Any other sequence of patterns; each cuts the pieces of the one before into matches and what lies between them.
    Patterns(Vec<Pattern>),
}

/// A regular expression, in the engine that is fastest for it.
#[derive(Debug)]
pub(super) enum Pattern {
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
        Self::Known(Scanner::DeepSeek)
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
            patterns.push(match (split["pattern"]["Regex"].as_str(), split["pattern"]["String"].as_str()) {
                (Some(regex), _) => regex.to_owned(),
                (None, Some(literal)) => fancy_regex::escape(literal).into_owned(),
                (None, None) => return None,
            });
        }
        if last["use_regex"] != false {
            patterns.push(GPT2.to_owned());
        }
        if let Some(scanner) = known(&patterns) {
            return Some(Self::Known(scanner));
        }
        patterns.iter().map(|pattern| Pattern::compile(pattern)).collect::<Option<_>>().map(Self::Patterns)
    }

    /// Calls `each` with the beginning and end of every word of `text`, in order; together they are the whole text.
    /// `scratch` belongs to this splitter from the first call on.
    #[inline]
    pub(super) fn split(&self, text: &str, scratch: &mut Scratch, each: &mut impl FnMut(usize, usize)) -> Result<()> {
        match self {
            Self::Known(scanner) => {
                window::split(*scanner, text, each);
                Ok(())
            }
            Self::Patterns(patterns) => {
                if scratch.caches.is_empty() {
                    scratch.caches.extend(patterns.iter().map(Pattern::cache));
                }
                split(patterns, &mut scratch.caches, text, 0, each)
            }
        }
    }
}

/// The scanner that does what these patterns do. DeepSeek's own file has line breaks where others write `\r\n`.
fn known(patterns: &[String]) -> Option<Scanner> {
    let patterns: Vec<_> = patterns.iter().map(|p| p.replace('\r', r"\r").replace('\n', r"\n")).collect();
    match patterns.as_slice() {
        [one] if one == GPT2 => Some(Scanner::Gpt2),
        [one] => [1, 3].into_iter().find(|&n| *one == llama3(n)).map(|digits| Scanner::Llama3 { digits }),
        three if *three == DEEPSEEK => Some(Scanner::DeepSeek),
        _ => None,
    }
}

/// Cuts `text`, which begins at `base`, with the first of the patterns and each piece with the others.
fn split(
    patterns: &[Pattern],
    caches: &mut [Option<meta::Cache>],
    text: &str,
    base: usize,
    each: &mut impl FnMut(usize, usize),
) -> Result<()> {
    let (Some((pattern, patterns)), Some((cache, caches))) = (patterns.split_first(), caches.split_first_mut()) else {
        if !text.is_empty() {
            each(base, base + text.len());
        }
        return Ok(());
    };
    let (mut done, mut from) = (0, 0);
    while let Some((start, end)) = pattern.find(text, from, cache)? {
        if done < start {
            split(patterns, caches, &text[done..start], base + done, each)?;
        }
        split(patterns, caches, &text[start..end], base + start, each)?;
        done = end;
        // An empty match must not be found again forever.
        from = if end > start { end } else { end + text[end..].chars().next().map_or(1, char::len_utf8) };
        if from > text.len() {
            break;
        }
    }
    split(patterns, caches, &text[done..], base + done, each)
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
        let fancy = fancy_regex::RegexBuilder::new(pattern).backtrack_limit(BACKTRACKS).build();
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
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn words<'t>(splitter: &Splitter, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        splitter.split(text, &mut Scratch::default(), &mut |start, end| words.push(&text[start..end])).unwrap();
        words
    }

    /// The patterns as they stand, in a backtracking engine that knows every one of their signs.
    fn backtracking(patterns: &[&str]) -> Splitter {
        let fancy = |pattern: &&str| Pattern::Fancy(Box::new(fancy_regex::Regex::new(pattern).unwrap()));
        Splitter::Patterns(patterns.iter().map(fancy).collect())
    }

    #[test]
    fn splits_as_deepseek_does() {
        let words = |text| words(&Splitter::deepseek(), text);
        assert_eq!(words("Hello world 12345!"), ["Hello", " world", " ", "123", "45", "!"]);
        assert_eq!(words("x = foo(bar);\n\n  y"), ["x", " =", " foo", "(bar", ");\n\n", " ", " y"]);
        assert_eq!(words("今天hi"), ["今天", "hi"]);
        assert_eq!(words("カ・タ"), ["カ", "・", "タ"]);
        assert_eq!(words("a   b"), ["a", "  ", " b"]);
        assert!(words("").is_empty());
    }

    #[test]
    fn a_run_of_ten_million_spaces_is_one_word() {
        let text = " ".repeat(10_000_000);
        assert_eq!(words(&Splitter::deepseek(), &text).len(), 1);
        assert_eq!(words(&Splitter::Known(Scanner::Gpt2), &text).len(), 1);
        assert_eq!(words(&Splitter::Known(Scanner::Llama3 { digits: 3 }), &text).len(), 1);
    }

    #[test]
    fn known_patterns_are_recognised() {
        let (three, one) = (llama3(3), llama3(1));
        let owned = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        assert_eq!(known(&owned(&[GPT2])), Some(Scanner::Gpt2));
        assert_eq!(known(&owned(&[&three])), Some(Scanner::Llama3 { digits: 3 }));
        assert_eq!(known(&owned(&[&one])), Some(Scanner::Llama3 { digits: 1 }));
        assert_eq!(known(&owned(&DEEPSEEK)), Some(Scanner::DeepSeek));
        assert_eq!(known(&DEEPSEEK.map(|p| p.replace(r"\r\n", "\r\n"))), Some(Scanner::DeepSeek));
        assert_eq!(known(&owned(&DEEPSEEK[..2])), None);
        assert!(three.contains(r"\p{N}{1,3}| ?"));
    }

    /// Characters of every kind that a pattern names, and those that are easily got wrong.
    const HARD: &str = "[ \\t\\r\\n\u{b}\u{85}\u{a0}\u{2028}\u{3000}aAzZsStTrReEvVmMlLdDſßéÀ今日ひカ・゠\u{3040}\u{3099}゛한Жع\u{301}\u{93f}\
        0179٣Ⅷ½²४'’\"#$%&()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~€…“\u{200b}\u{feff}\0\u{1f}\u{e000}\u{378}🙂\u{1f3fb}\u{fe0f}𝒳𠀀\u{10ffff}]{0,60}";

    /// Runs as texts have them, long enough to lie in several windows.
    const RUNS: &str = "(\\PC|[ \\t\\r\\n\u{a0}\u{3000}]{1,3}|[ \\n]{40,70}|['’!(.]{1,3}|'(s|S|t|re|LL|ve|ſ|d)|[0-9]{1,8}|[٣²7]{1,5}|\
        [a-zA-Zſé]{1,9}|[a-z]{60,70}|[жшЖ]{1,8}|[今日ひカ・゛]{1,5}|한국|e\u{301}|\u{93f}|\0| ){0,60}";

    static ROWS: LazyLock<[(Scanner, Splitter); 4]> = LazyLock::new(|| {
        [
            (Scanner::Gpt2, backtracking(&[GPT2])),
            (Scanner::Llama3 { digits: 3 }, backtracking(&[&llama3(3)])),
            (Scanner::Llama3 { digits: 1 }, backtracking(&[&llama3(1)])),
            (Scanner::DeepSeek, backtracking(&DEEPSEEK)),
        ]
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// The look-ahead done by hand finds what a backtracking engine finds.
        #[test]
        fn spaces_split_as_the_pattern_says(text in "[ \\t\\r\\n\u{a0}\u{3000}aé1.'s]*") {
            for pattern in [DEEPSEEK[2], GPT2] {
                let fast = Splitter::Patterns(vec![Pattern::compile(pattern).unwrap()]);
                prop_assert_eq!(words(&fast, &text), words(&backtracking(&[pattern]), &text));
            }
        }

        #[test]
        fn scanners_split_as_their_patterns_say(text in prop_oneof![HARD, RUNS]) {
            for (scanner, slow) in &*ROWS {
                prop_assert_eq!(words(&Splitter::Known(*scanner), &text), words(slow, &text), "{:?}", scanner);
            }
        }
    }
}
