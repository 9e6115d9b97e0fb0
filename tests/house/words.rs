//! Words that the project does not use, each with the word to use instead.

use crate::source::Source;

/// A phrase, lower case, and what to write.
pub struct Phrase {
    words: &'static str,
    /// Words after it with which it is plain English.
    unless_before: &'static [&'static str],
    /// The same of words before it.
    unless_after: &'static [&'static str],
    instead: &'static str,
}

const fn phrase(words: &'static str, instead: &'static str) -> Phrase {
    Phrase { words, unless_before: &[], unless_after: &[], instead }
}

/// The list. A phrase may go on in the next line of a comment.
pub const PHRASES: &[Phrase] = &[
    phrase("anew", "\"again\"; \"start anew\" is \"restart\""),
    phrase("of its own accord", "\"automatically\""),
    phrase("what there is", "the thing's name, for example \"the input\" or \"the rest\""),
    Phrase { unless_before: &["that"], ..phrase("so many", "the number's name, for example \"`n` tokens\"") },
    Phrase { unless_before: &["that"], ..phrase("so often", "the number's name, for example \"`n` times\"") },
    phrase("whoever", "who it is, for example \"the process that\" or \"a reader\""),
    phrase("for ever", "\"forever\", or \"no limit\""),
    phrase("became of", "\"outcome of\", \"result of\""),
    phrase("came of", "\"outcome of\", \"result of\""),
    phrase("is had", "\"comes from\", \"is available\""),
    phrase("are had", "\"come from\", \"are available\""),
    phrase("be had", "\"be available\""),
    Phrase { unless_before: &["forward"], ..phrase("of its own", "\"its own X\", \"a separate X\"") },
    phrase("of their own", "\"their own X\", \"separate X\""),
    phrase("many - th", "\"index\""),
    Phrase { unless_before: &["of"], ..phrase("that is none", "\"unknown\", \"not a ...\"") },
    phrase("sets out to", "\"creates\", \"starts\""),
    phrase("cannot be meant", "\"is invalid here\""),
    Phrase { unless_after: &["token", "-"], ..phrase("prediction module", "\"MTP module\"") },
    Phrase { unless_after: &["token", "-"], ..phrase("prediction modules", "\"MTP modules\"") },
    phrase("its own way", "\"diverges\""),
    phrase("their own way", "\"diverge\""),
    phrase("memory of gradients", "\"first moment\", \"AdamW β₁\""),
    phrase("longest gradient", "\"maximum gradient L2 norm\""),
    phrase("how far to stray", "\"softmax temperature\""),
    phrase("would have said", "\"argmax token\""),
    phrase("that passes for", "\"that reports\", \"that acts as\""),
    phrase("as of train", "\"as in `train`\""),
];

/// Words of prose with their lines; punctuation marks are words too.
type Words = Vec<(String, usize)>;

fn words_of(text: &str, line: usize, words: &mut Words) {
    // Names in backticks are no prose.
    let prose = text.split('`').step_by(2).collect::<Vec<_>>().join(" ` ");
    let mut word = String::new();
    for c in prose.chars().chain([' ']) {
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
            continue;
        }
        if !word.is_empty() {
            words.push((std::mem::take(&mut word), line));
        }
        if !c.is_whitespace() {
            words.push((c.into(), line));
        }
    }
}

/// The text of a file that people read: comments and string literals of code (in tests, comments only), and all of
/// other files.
fn prose(path: &str, content: &str) -> Words {
    let mut words = Words::new();
    let code = [".rs", ".cu", ".cuh", ".h", ".c"].iter().any(|end| path.ends_with(end));
    if !code {
        let quotes = path.ends_with(".md");
        for (i, line) in content.lines().enumerate() {
            let line = line.trim_start().trim_start_matches(['#', '-', '*', '>']);
            // A word in quotes is spoken of, not used.
            let line = if quotes { line.split('"').step_by(2).collect::<Vec<_>>().join(" \" ") } else { line.into() };
            words_of(&line, i, &mut words);
        }
        return words;
    }
    let source = Source::new(path, content);
    for (i, line) in source.lines.iter().enumerate() {
        words_of(line.comment.trim_start().trim_start_matches(['/', '!', '*']), i, &mut words);
    }
    let data = crate::style::in_tests(path);
    for (i, line) in source.lines.iter().enumerate().filter(|(_, line)| !line.test && !data) {
        words_of(&line.text, i, &mut words);
    }
    words
}

/// A message for every phrase of the list that a file uses.
pub fn check(path: &str, content: &str) -> Vec<String> {
    let words = prose(path, content);
    let mut messages = Vec::new();
    for phrase in PHRASES {
        let wanted: Vec<&str> = phrase.words.split(' ').collect();
        for (i, window) in words.windows(wanted.len()).enumerate() {
            let matches = window.iter().zip(&wanted).all(|((word, _), wanted)| word == wanted);
            let next = words.get(i + wanted.len()).map_or("", |(word, _)| word.as_str());
            let last = i.checked_sub(1).map_or("", |i| words[i].0.as_str());
            if matches && !phrase.unless_before.contains(&next) && !phrase.unless_after.contains(&last) {
                let (place, words) = (window[0].1 + 1, phrase.words.replace(" - ", "-"));
                messages.push(format!("{path}:{place}: \"{words}\"; write {}", phrase.instead));
            }
        }
    }
    messages
}

/// A message for every identifier that spells quantize or optimize with an s, which tests may.
pub fn identifiers(source: &Source) -> Vec<String> {
    let british = |word: &str| ["quantis", "optimis"].iter().any(|s| word.to_lowercase().contains(s));
    let mut messages = Vec::new();
    for token in source.tokens().iter().filter(|t| british(&t.text) && !source.lines[t.line].test) {
        let (path, line, name) = (&source.path, token.line + 1, &token.text);
        messages.push(format!("{path}:{line}: identifier {name}; spell it with a z"));
    }
    messages
}

#[test]
fn planted_words_are_found() {
    let content = "//! Starts anew.\n\n// It goes on for\n// ever.\nfn anew() -> &'static str {\n    \"has so many, or so many that\"\n}\n";
    let found = check("a.rs", content);
    let places: Vec<&str> = found.iter().map(|m| m.split("; ").next().unwrap_or_default()).collect();
    assert_eq!(places, ["a.rs:1: \"anew\"", "a.rs:6: \"so many\"", "a.rs:3: \"for ever\""], "{found:?}");
    assert_eq!(check("a.md", "# Anew\n\nno \"anew\" and no `anew`\n").len(), 1);
    assert_eq!(check("a.md", "a multi-token prediction module, a prediction module\n").len(), 1);
    assert_eq!(check("a.toml", "# until it is had\n").len(), 1);
    assert_eq!(check("a.rs", "#[test]\nfn a() {\n    let x = \"for ever\";\n}\n"), Vec::<String>::new());
    assert_eq!(check("core/tests/a.rs", "// anew\nfn a() -> &str {\n    \"for ever\"\n}\n").len(), 1);
}

#[test]
fn every_phrase_can_be_found() {
    for phrase in PHRASES {
        let text = phrase.words.replace(" - ", "-");
        assert!(!check("a.md", &format!("A {text}.\n")).is_empty(), "{text}");
        assert!(!phrase.instead.is_empty());
    }
}

#[test]
fn british_identifiers_are_found() {
    let source = Source::new("a.rs", "fn quantise() {} // optimiser\n#[test]\nfn optimised() {}\n");
    assert_eq!(identifiers(&source), ["a.rs:1: identifier quantise; spell it with a z"]);
}
