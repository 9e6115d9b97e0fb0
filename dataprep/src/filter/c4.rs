//! C4's rules, which remove lines that are not prose, as datatrove's `c4_filters.py` applies them.

use super::config::C4Config;
use super::scores::Scores;
use super::text::{is_digit, is_space, lines, strip};
use super::words::{self, PUNCTUATION, TERMINAL, Word};
use crate::document::Dropped;
use crate::error::{Error, Result};
use aho_corasick::AhoCorasick;

/// Phrases that lines are searched for, in the order of their rules.
const PHRASES: [(&str, u8); 9] = [
    ("lorem ipsum", LOREM),
    ("javascript", JAVASCRIPT),
    ("{", BRACKET),
    ("terms of use", POLICY),
    ("privacy policy", POLICY),
    ("cookie policy", POLICY),
    ("uses cookies", POLICY),
    ("use of cookies", POLICY),
    ("use cookies", POLICY),
];
const LOREM: u8 = 1;
const JAVASCRIPT: u8 = 2;
const BRACKET: u8 = 4;
const POLICY: u8 = 8;

/// The rules, ready to be applied.
pub(crate) struct C4 {
    config: C4Config,
    phrases: AhoCorasick,
}

/// What is done with a line.
enum Line {
    Keep,
    Remove,
    /// The whole document is dropped, by this rule.
    Drop(&'static str),
}

impl C4 {
    pub fn new(config: &C4Config) -> Result<Self> {
        // ASCII letters alone are folded: of all other characters only U+0130 and U+212A have an ASCII letter as their
        // lower case.
        let phrases = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(PHRASES.map(|(phrase, _)| phrase))
            .map_err(|e| Error::Config { field: "filter.c4", what: format!("the phrases cannot be compiled: {e}") })?;
        Ok(Self { config: config.clone(), phrases })
    }

    /// Writes the lines of `text` that are kept into `kept`, and says how many words they hold. `spare` is scratch.
    ///
    /// Sentences are counted by the rule of spaCy's sentencizer: one ends before the first word after terminal
    /// punctuation that is not itself punctuation.
    pub fn apply(
        &self,
        text: &str,
        words: &[Word],
        kept: &mut String,
        spare: &mut Vec<Word>,
        scores: &mut Scores,
    ) -> Result<usize, Dropped> {
        scores.at_least("c4.min_paragraphs", self.config.min_paragraphs.real(), || {
            let long = |line: &&str| line.chars().count() as u64 >= self.config.paragraph_length;
            text.split('\n').filter(long).count() as f64
        })?;
        kept.clear();
        let (mut sentences, mut held, mut all, mut lines_kept) = (0, 0, 0, 0);
        let mut words = words.iter().as_slice();
        for (start, line) in lines(text) {
            all += 1;
            let end = (start + line.len()) as u32;
            let (inside, after) = words.split_at(words.partition_point(|word| word.start < end));
            words = after;
            let line = strip(line);
            if self.has_long_word(line) {
                continue;
            }
            let at = kept.len();
            if lines_kept > 0 {
                kept.push('\n');
            }
            let from = kept.len();
            let cited = self.config.remove_citations && push_without_citations(line, kept);
            if !cited {
                kept.truncate(from);
                kept.push_str(line);
            }
            match self.judge(line, kept.get(from..).unwrap_or_default()) {
                Line::Keep => {}
                Line::Remove => {
                    kept.truncate(at);
                    continue;
                }
                Line::Drop(rule) => {
                    scores.note(rule, 1.0);
                    return Err(Dropped { rule, value: 1.0, threshold: 0.0 });
                }
            }
            let inside = if cited {
                words::split(kept.get(from..).unwrap_or_default(), spare);
                spare.as_slice()
            } else {
                inside
            };
            lines_kept += 1;
            held += inside.len();
            sentences += count_sentences(inside);
        }
        scores.note("c4.lines_removed", (all - lines_kept) as f64);
        scores.at_least("c4.min_sentences", self.config.min_sentences.real(), || sentences as f64)?;
        kept.truncate(kept.trim_end_matches(is_space).len());
        kept.drain(..kept.len() - kept.trim_start_matches(is_space).len());
        Ok(held)
    }

    /// What to do with `line`, which reads `cleaned` without citations. Words are counted with them, as in datatrove.
    fn judge(&self, line: &str, cleaned: &str) -> Line {
        let config = &self.config;
        if config.terminal_punctuation && (!cleaned.ends_with(['.', '?', '!', '"', '\'']) || cleaned.ends_with("...")) {
            return Line::Remove;
        }
        let words = || line.split(is_space).filter(|word| !word.is_empty());
        if config.min_words_per_line.get().is_some_and(|least| (words().take(least as usize).count() as u64) < least) {
            return Line::Remove;
        }
        let found = self.phrases.find_iter(cleaned).fold(0, |found, m| found | PHRASES[m.pattern().as_usize()].1);
        match found {
            0 => Line::Keep,
            _ if config.lorem_ipsum && found & LOREM != 0 => Line::Drop("c4.lorem_ipsum"),
            _ if config.javascript && found & JAVASCRIPT != 0 => Line::Remove,
            _ if config.curly_bracket && found & BRACKET != 0 => Line::Drop("c4.curly_bracket"),
            _ if config.policy && found & POLICY != 0 => Line::Remove,
            _ => Line::Keep,
        }
    }

    fn has_long_word(&self, line: &str) -> bool {
        let Some(most) = self.config.max_word_length.get() else { return false };
        line.len() as u64 > most && line.split(is_space).any(|word| word.chars().count() as u64 > most)
    }
}

/// Appends `line` without its citation marks (`\[\d*\]|\[edit\]|\[citation needed\]`); false if it has none.
fn push_without_citations(line: &str, kept: &mut String) -> bool {
    let mut rest = line;
    let mut found = false;
    while let Some(open) = memchr::memchr(b'[', rest.as_bytes()) {
        let (before, mark) = rest.split_at(open);
        kept.push_str(before);
        let length = citation(mark);
        if length > 0 {
            found = true;
            rest = &mark[length..];
        } else {
            kept.push('[');
            rest = &mark[1..];
        }
    }
    kept.push_str(rest);
    found
}

/// Bytes of the citation mark at the start of `text`, which begins with a bracket; 0 if there is none.
fn citation(text: &str) -> usize {
    for fixed in ["[edit]", "[citation needed]"] {
        if text.starts_with(fixed) {
            return fixed.len();
        }
    }
    let inner = text.get(1..).unwrap_or_default();
    let after = inner.trim_start_matches(is_digit);
    if after.starts_with(']') { 2 + inner.len() - after.len() } else { 0 }
}

/// Sentences of a line by its words; one at least.
fn count_sentences(words: &[Word]) -> usize {
    let (mut count, mut ended) = (1, false);
    for word in words {
        if word.is(TERMINAL) {
            ended = true;
        } else if ended && !word.is(PUNCTUATION) {
            count += 1;
            ended = false;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::config::Limit;
    use super::*;
    use std::collections::BTreeMap;

    fn apply(config: &C4Config, text: &str) -> Result<(String, usize), Dropped> {
        let (mut found, mut spare, mut kept) = (Vec::new(), Vec::new(), String::new());
        words::split(text, &mut found);
        let mut scores = BTreeMap::new();
        let held = C4::new(config).unwrap().apply(text, &found, &mut kept, &mut spare, &mut Scores(&mut scores))?;
        words::split(&kept, &mut spare);
        assert_eq!(held, spare.len(), "the words of what is left are counted on the way");
        Ok((kept, held))
    }

    fn lenient() -> C4Config {
        C4Config { min_sentences: Limit::Off, ..C4Config::default() }
    }

    #[test]
    fn removes_lines_and_citations() {
        let text = "  One two three.[12][edit] \nshort\n\nWe use cookies for this.\nNeeds JavaScript to run.\n[x] four [] five.";
        let (kept, _) = apply(&lenient(), text).unwrap();
        assert_eq!(kept, "One two three.\n[x] four  five.");
        let strict = C4Config { terminal_punctuation: true, ..lenient() };
        assert_eq!(apply(&strict, "It ends here...\nIt ends here.\nIt ends here").unwrap().0, "It ends here.");
    }

    #[test]
    fn drops_documents() {
        let rule = |text| apply(&C4Config::default(), text).unwrap_err().rule;
        assert_eq!(rule("Some Lorem ipsum text"), "c4.lorem_ipsum");
        assert_eq!(rule("int main(void) { return 0; }"), "c4.curly_bracket");
        assert_eq!(rule("One is here. Two is here."), "c4.min_sentences");
        assert_eq!(apply(&C4Config::default(), "A b c. D e f! G? H i j. K l m").unwrap().1, 17);
    }

    #[test]
    fn long_words_remove_a_line() {
        let text = format!("a b {}\nd e f", "x".repeat(1001));
        assert_eq!(apply(&lenient(), &text).unwrap().0, "d e f");
    }

    #[test]
    fn sentences_end_before_the_next_word() {
        let count = |text: &str| {
            let mut found = Vec::new();
            words::split(text, &mut found);
            count_sentences(&found)
        };
        // As spaCy's sentencizer counts the same words.
        assert_eq!(
            [count("A b. C d."), count("A b.\" C"), count("A... b"), count("A?! B"), count("")],
            [2, 2, 1, 2, 1]
        );
    }
}
