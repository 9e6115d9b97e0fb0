//! Normalization of texts for comparison: case, numbers, punctuation, spacing and accents are removed.
//!
//! It equals datatrove's `simplify_text` with its default settings.

use crate::filter::text::{is_digit, is_nonspacing_mark, is_punctuation, is_space};
use unicode_normalization::UnicodeNormalization;

/// Buffers of [`normalise`].
#[derive(Default)]
pub(crate) struct Normaliser {
    simple: String,
    decomposed: String,
    lowered: String,
}

/// Where in a number the text is.
#[derive(Clone, Copy)]
enum Number {
    Outside,
    /// In the digits before a separator.
    Whole,
    /// Behind this separator, which is part of the number if a digit follows.
    Separator(char),
    /// In the digits behind it.
    Fraction,
}

impl Normaliser {
    /// Lower case, every number one `0`, punctuation and white space one space, no accents: `text` without what often
    /// differs between copies.
    pub fn normalise<'a>(&'a mut self, text: &str) -> &'a str {
        // A capital sigma alone has a lower case that depends on its place.
        let text = if text.contains('Σ') {
            self.lowered = text.to_lowercase();
            self.lowered.as_str()
        } else {
            text
        };
        simplify(text, &mut self.simple);
        if self.simple.is_ascii() {
            return &self.simple;
        }
        self.decomposed.clear();
        let mut rest = self.simple.as_str();
        // Composition never reaches over an ASCII character.
        while !rest.is_empty() {
            let ascii = rest.find(|c: char| !c.is_ascii()).unwrap_or(rest.len());
            let (plain, other) = rest.split_at(ascii);
            self.decomposed.push_str(plain);
            let (other, after) = other.split_at(other.find(|c: char| c.is_ascii()).unwrap_or(other.len()));
            self.decomposed.extend(other.nfd().filter(|c| !is_nonspacing_mark(*c)));
            rest = after;
        }
        self.decomposed.trim_matches(is_space)
    }
}

/// What an ASCII byte becomes: itself, its lower case, a space (for all white space and punctuation), or [`DIGIT`].
const ASCII: [u8; 128] = {
    let mut table = [b' '; 128];
    let mut i = 0;
    while i < 128 {
        let byte = i as u8;
        if byte.is_ascii_alphabetic() {
            table[i] = byte.to_ascii_lowercase();
        } else if byte.is_ascii_digit() {
            table[i] = DIGIT;
        }
        i += 1;
    }
    table
};
const DIGIT: u8 = b'0';

struct Simple<'a> {
    out: &'a mut String,
    space: bool,
    number: Number,
}

impl Simple<'_> {
    /// Appends a character, or notes a space.
    fn put(&mut self, c: char) {
        if is_punctuation(c) || is_space(c) {
            self.space = true;
        } else {
            self.put_word(c);
        }
    }

    fn put_word(&mut self, c: char) {
        if std::mem::take(&mut self.space) && !self.out.is_empty() {
            self.out.push(' ');
        }
        self.out.push(c);
    }

    /// Ends a number, if there is one: a separator that no digit followed stands for itself.
    fn end_number(&mut self) {
        if let Number::Separator(separator) = std::mem::replace(&mut self.number, Number::Outside) {
            self.put(separator);
        }
    }

    fn digit(&mut self) {
        self.number = match self.number {
            Number::Outside => {
                self.put_word('0');
                Number::Whole
            }
            Number::Whole => Number::Whole,
            Number::Separator(_) | Number::Fraction => Number::Fraction,
        };
    }

    /// Takes one character in lower case.
    fn take(&mut self, c: char) {
        if is_digit(c) {
            return self.digit();
        }
        if matches!(self.number, Number::Whole) && is_separator(c) {
            self.number = Number::Separator(c);
            return;
        }
        self.end_number();
        self.put(c);
    }
}

/// The decimal separators of datatrove's pattern for numbers.
fn is_separator(c: char) -> bool {
    matches!(c, '.' | ',' | '\u{60c}' | '\u{66b}' | '\u{2396}' | '\u{2397}' | '\u{2398}')
}

/// Everything but the accents.
fn simplify(text: &str, out: &mut String) {
    out.clear();
    out.reserve(text.len());
    let mut simple = Simple { out, space: false, number: Number::Outside };
    for c in text.chars() {
        match u8::try_from(c).ok().and_then(|byte| ASCII.get(usize::from(byte))) {
            Some(&DIGIT) => simple.digit(),
            Some(b' ') => simple.take(c),
            Some(&letter) => {
                simple.end_number();
                simple.put_word(char::from(letter));
            }
            None => c.to_lowercase().for_each(|c| simple.take(c)),
        }
    }
    simple.end_number();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of datatrove 0.10.1's `simplify_text(...)`.
    #[test]
    fn normalises_as_datatrove_does() {
        let mut normaliser = Normaliser::default();
        for case in include_str!("testdata/normalise.jsonl").lines() {
            let [text, expected]: [String; 2] = serde_json::from_str(case).unwrap();
            assert_eq!(normaliser.normalise(&text), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_second_time_changes_nothing_in_ascii(text in "[ -~\n]{0,80}") {
            let mut normaliser = Normaliser::default();
            let once = normaliser.normalise(&text).to_owned();
            proptest::prop_assert_eq!(normaliser.normalise(&once), once.as_str());
        }

        #[test]
        fn takes_any_text(text in proptest::prelude::any::<String>()) {
            Normaliser::default().normalise(&text);
        }
    }
}
