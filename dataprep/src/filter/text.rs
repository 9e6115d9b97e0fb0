//! White space, lines and punctuation as Python and datatrove see them.
//!
//! The published thresholds were found with Python's `str` methods and with two sets of characters in datatrove's
//! `utils/text.py`. Rust's standard library draws a few of these lines elsewhere, so they are drawn here.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// White space of Python's `str.isspace`: Unicode's, and the four information separators U+001C to U+001F.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether `c` is a letter to Python's `str.isalpha`: general categories Lu, Ll, Lt, Lm and Lo. Rust's
/// `char::is_alphabetic` also takes in letter numbers and vowel signs.
pub(crate) fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    use GeneralCategory::{LowercaseLetter, ModifierLetter, OtherLetter, TitlecaseLetter, UppercaseLetter};
    matches!(c.general_category(), UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter)
}

/// Whether `c` is a decimal digit of any script (Nd).
pub(crate) fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.general_category() == GeneralCategory::DecimalNumber)
}

/// Whether `c` is a combining mark without width (Mn).
pub(crate) fn is_nonspacing_mark(c: char) -> bool {
    c.general_category() == GeneralCategory::NonspacingMark
}

/// Whether `c` is punctuation by its general category (P*).
pub(crate) fn is_punctuation_category(c: char) -> bool {
    use GeneralCategory::{
        ClosePunctuation, ConnectorPunctuation, DashPunctuation, FinalPunctuation, InitialPunctuation, OpenPunctuation,
        OtherPunctuation,
    };
    matches!(
        c.general_category(),
        ClosePunctuation
            | ConnectorPunctuation
            | DashPunctuation
            | FinalPunctuation
            | InitialPunctuation
            | OpenPunctuation
            | OtherPunctuation
    )
}

/// Characters outside ASCII of datatrove's `PUNCTUATION`, without the controls U+007F to U+009F, in order.
const PUNCTUATION: [char; 34] = [
    '«', '´', '»', '–', '—', '’', '“', '”', '„', '…', '∶', '━', '►', '、', '。', '〈', '〉', '《', '》', '「', '」',
    '【', '】', '！', '％', '（', '）', '，', '．', '１', '：', '；', '？', '～',
];

/// Code points of datatrove's `TERMINAL_PUNCTUATION`, in order: characters of Unicode's Sentence_Terminal.
const TERMINAL: [u32; 159] = [
    0x21, 0x2e, 0x3f, 0x589, 0x61d, 0x61e, 0x61f, 0x6d4, 0x700, 0x701, 0x702, 0x7f9, 0x837, 0x839, 0x83d, 0x83e, 0x964,
    0x965, 0x104a, 0x104b, 0x1362, 0x1367, 0x1368, 0x166e, 0x1735, 0x1736, 0x17d4, 0x17d5, 0x17d6, 0x17d9, 0x17da,
    0x1803, 0x1809, 0x1944, 0x1945, 0x1aa8, 0x1aa9, 0x1aaa, 0x1aab, 0x1b5a, 0x1b5b, 0x1b5e, 0x1b5f, 0x1b7d, 0x1b7e,
    0x1c3b, 0x1c3c, 0x1c7e, 0x1c7f, 0x203c, 0x203d, 0x2047, 0x2048, 0x2049, 0x2e2e, 0x2e3c, 0x2e53, 0x2e54, 0x3002,
    0xa4ff, 0xa60e, 0xa60f, 0xa6f3, 0xa6f7, 0xa876, 0xa877, 0xa8ce, 0xa8cf, 0xa92f, 0xa9c8, 0xa9c9, 0xaa5d, 0xaa5e,
    0xaa5f, 0xaaf0, 0xaaf1, 0xabeb, 0xfe52, 0xfe56, 0xfe57, 0xff01, 0xff0e, 0xff1f, 0xff61, 0x10a56, 0x10a57, 0x10f55,
    0x10f56, 0x10f57, 0x10f58, 0x10f59, 0x10f86, 0x10f87, 0x10f88, 0x10f89, 0x11047, 0x11048, 0x110be, 0x110bf,
    0x110c0, 0x110c1, 0x11141, 0x11142, 0x11143, 0x111c5, 0x111c6, 0x111cd, 0x111de, 0x111df, 0x11238, 0x11239,
    0x1123b, 0x1123c, 0x112a9, 0x1144b, 0x1144c, 0x115c2, 0x115c3, 0x115c9, 0x115ca, 0x115cb, 0x115cc, 0x115cd,
    0x115ce, 0x115cf, 0x115d0, 0x115d1, 0x115d2, 0x115d3, 0x115d4, 0x115d5, 0x115d6, 0x115d7, 0x11641, 0x11642,
    0x1173c, 0x1173d, 0x1173e, 0x11944, 0x11946, 0x11a42, 0x11a43, 0x11a9b, 0x11a9c, 0x11c41, 0x11c42, 0x11ef7,
    0x11ef8, 0x11f43, 0x11f44, 0x16a6e, 0x16a6f, 0x16af5, 0x16b37, 0x16b38, 0x16b44, 0x16e98, 0x1bc9f, 0x1da88,
];

/// Whether `c` ends a sentence: datatrove's `TERMINAL_PUNCTUATION`.
pub(crate) fn is_terminal(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, '.' | '?' | '!');
    }
    TERMINAL.binary_search(&u32::from(c)).is_ok()
}

/// Whether `c` is in datatrove's `PUNCTUATION`, the set that MinHash turns into spaces: all of ASCII's punctuation and
/// symbols, the controls but for tab and line feed, and some of other scripts.
pub(crate) fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_punctuation() || (c.is_ascii_control() && !matches!(c, '\t' | '\n'));
    }
    ('\u{80}'..='\u{9f}').contains(&c) || PUNCTUATION.binary_search(&c).is_ok()
}

/// The lines of Python's `str.splitlines()`: ended by any of its ten line boundaries, CR LF being one, and without a
/// last empty line. Each with the byte at which it begins.
pub(crate) fn lines(text: &str) -> Lines<'_> {
    Lines { rest: text, start: 0 }
}

/// See [`lines`].
pub(crate) struct Lines<'a> {
    rest: &'a str,
    start: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<(usize, &'a str)> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let width = match byte {
                b'\r' if bytes.get(at + 1) == Some(&b'\n') => 2,
                0x0a..=0x0d | 0x1c..=0x1e => 1,
                // U+0085
                0xc2 if bytes.get(at + 1) == Some(&0x85) => 2,
                // U+2028 and U+2029
                0xe2 if bytes.get(at + 1) == Some(&0x80) && matches!(bytes.get(at + 2), Some(0xa8 | 0xa9)) => 3,
                _ => {
                    at += 1;
                    continue;
                }
            };
            let (line, rest) = (self.rest.get(..at)?, self.rest.get(at + width..)?);
            self.rest = rest;
            let start = self.start;
            self.start += at + width;
            return Some((start, line));
        }
        Some((self.start, std::mem::take(&mut self.rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        // ''.splitlines() and friends, from CPython 3.11.
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("a", &["a"]),
            ("a\n", &["a"]),
            ("a\n\nb", &["a", "", "b"]),
            ("a\r\nb\rc\u{b}d\u{c}e", &["a", "b", "c", "d", "e"]),
            ("a\u{1c}b\u{1d}c\u{1e}d\u{1f}e", &["a", "b", "c", "d\u{1f}e"]),
            ("é\u{85}ü\u{2028}ö\u{2029}\u{2027}", &["é", "ü", "ö", "\u{2027}"]),
            ("\n", &[""]),
        ];
        for (text, expected) in cases {
            assert_eq!(lines(text).map(|(_, line)| line).collect::<Vec<_>>(), expected, "{text:?}");
            assert!(lines(text).all(|(start, line)| text[start..].starts_with(line)));
        }
    }

    #[test]
    fn tables_are_in_order() {
        assert!(TERMINAL.is_sorted() && PUNCTUATION.is_sorted());
    }

    #[test]
    fn letters_are_those_of_python() {
        // True, True, False (letter number), False (vowel sign), False (circled letter, So)
        let found: Vec<bool> = ['é', '中', 'Ⅳ', 'ि', 'ⓐ'].map(is_letter).to_vec();
        assert_eq!(found, [true, true, false, false, false]);
    }
}
