//! Word splitting, once per text, for all rules.
//!
//! Words are the segments between the word boundaries of Unicode Standard Annex #29 that are not white space; so a
//! punctuation mark is a separate word, as it is to the tokenisers for which the published thresholds were found. Two
//! additions bring English nearer to them: full stops in a row and hyphens in a row are one word, and a clitic is one
//! (`he|'s`, `do|n't`).

use super::text::{is_letter, is_punctuation, is_punctuation_category, is_space, is_terminal};
use unicode_segmentation::UnicodeSegmentation;

/// One word of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// First byte in the text.
    pub start: u32,
    /// The byte after its last.
    pub end: u32,
    /// Its length in characters.
    pub chars: u32,
    /// What it consists of: [`LETTER`], [`SYMBOL`], [`PUNCTUATION`], [`TERMINAL`].
    pub kind: u8,
}

/// Some character is a letter.
pub(crate) const LETTER: u8 = 1;
/// Every character is in datatrove's punctuation or terminal punctuation: no word to the Gopher rules.
pub(crate) const SYMBOL: u8 = 2;
/// Every character is punctuation by its general category.
pub(crate) const PUNCTUATION: u8 = 4;
/// It is one character that ends sentences.
pub(crate) const TERMINAL: u8 = 8;

impl Word {
    /// Its text.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Whether any of the bits of `kind` holds of it.
    pub fn is(&self, kind: u8) -> bool {
        self.kind & kind != 0
    }
}

/// The words of `text`, in order, into `words`, which is emptied first. A text of 4 GiB or more has none: its offsets
/// would not fit.
pub(crate) fn split(text: &str, words: &mut Vec<Word>) {
    words.clear();
    if u32::try_from(text.len()).is_err() {
        return;
    }
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        // There is a boundary at every ASCII white space, whatever stands next to it, so a stretch of ASCII up to the
        // last white space before the next other character can be split by the few rules that concern ASCII.
        let ascii = at + ascii_prefix(&bytes[at..]);
        let cut = if ascii == bytes.len() {
            ascii
        } else {
            bytes[at..ascii].iter().rposition(|&b| class(b) == SPACE).map_or(at, |i| at + i + 1)
        };
        split_ascii(&bytes[at..cut], at as u32, words);
        let rest = &bytes[cut..];
        let chunk = rest.iter().position(|&b| class(b) == SPACE).unwrap_or(rest.len());
        if let Some(chunk) = text.get(cut..cut + chunk) {
            split_unicode(chunk, cut as u32, words);
        }
        at = cut + chunk;
    }
}

/// Length of the longest prefix of ASCII characters.
fn ascii_prefix(bytes: &[u8]) -> usize {
    let whole = bytes.chunks_exact(32).take_while(|chunk| chunk.is_ascii()).count() * 32;
    whole + bytes[whole..].iter().take_while(|byte| byte.is_ascii()).count()
}

const SPACE: u8 = 0;
const ALPHABETIC: u8 = 1;
const DIGIT: u8 = 2;
const UNDERSCORE: u8 = 4;
/// Punctuation by its general category, `_` apart.
const MARK: u8 = 8;
/// Anything else: `$+<=>^` and the like, and controls.
const OTHER: u8 = 16;
const CORE: u8 = ALPHABETIC | DIGIT | UNDERSCORE;

const fn class(byte: u8) -> u8 {
    CLASSES[byte as usize]
}

const CLASSES: [u8; 256] = {
    let mut classes = [OTHER; 256];
    let mut i = 0;
    while i < 128 {
        let byte = i as u8;
        classes[i] = match byte {
            b'\t'..=b'\r' | 0x1c..=0x1f | b' ' => SPACE,
            b'_' => UNDERSCORE,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => OTHER,
            _ if byte.is_ascii_alphabetic() => ALPHABETIC,
            _ if byte.is_ascii_digit() => DIGIT,
            _ if byte.is_ascii_punctuation() => MARK,
            _ => OTHER,
        };
        i += 1;
    }
    classes
};

/// The words of ASCII bytes that begin at `offset` of the text: letters, digits and underscores hold together (WB5,
/// WB8 to WB10, WB13a and WB13b), also over one `:`, `.` or `'` between letters (WB6, WB7) and one `,`, `;`, `.` or `'`
/// between digits (WB11, WB12).
fn split_ascii(bytes: &[u8], offset: u32, words: &mut Vec<Word>) {
    let mut at = 0;
    while let Some(&first) = bytes.get(at) {
        let start = at;
        let mut seen = class(first);
        at += 1;
        if seen == SPACE {
            continue;
        }
        let kind = if seen & CORE != 0 {
            let mut last = seen;
            while let Some(&byte) = bytes.get(at) {
                let this = class(byte);
                if this & CORE != 0 {
                    seen |= this;
                    last = this;
                    at += 1;
                } else if this == MARK && joins(byte, last, bytes.get(at + 1).map_or(SPACE, |&b| class(b))) {
                    seen |= MARK;
                    at += 1;
                } else {
                    break;
                }
            }
            core_kind(seen)
        } else if first == b'.' || first == b'-' {
            while bytes.get(at) == Some(&first) {
                at += 1;
            }
            SYMBOL | PUNCTUATION | if first == b'.' && at - start == 1 { TERMINAL } else { 0 }
        } else {
            match first {
                b'!' | b'?' => SYMBOL | PUNCTUATION | TERMINAL,
                _ if seen == MARK => SYMBOL | PUNCTUATION,
                // All that is left is in datatrove's set.
                _ => SYMBOL,
            }
        };
        let word = |start: usize, end: usize, kind| Word {
            start: offset + start as u32,
            end: offset + end as u32,
            chars: (end - start) as u32,
            kind,
        };
        if kind & LETTER != 0 && seen & MARK != 0 {
            let split = at - clitic(&bytes[start..at]);
            if split < at {
                words.push(word(start, split, core_kind(bytes[start..split].iter().fold(0, |all, &b| all | class(b)))));
                words.push(word(split, at, LETTER));
                continue;
            }
        }
        words.push(word(start, at, kind));
    }
}

/// Bytes of the English clitic at the end of a word that is more than the clitic, 0 if there is none.
fn clitic(word: &[u8]) -> usize {
    let apostrophes: [&[u8]; 2] = [b"'", "\u{2019}".as_bytes()];
    for apostrophe in apostrophes {
        for (before, after) in [("n", "t"), ("", "s"), ("", "re"), ("", "ve"), ("", "ll"), ("", "d"), ("", "m")] {
            let length = before.len() + apostrophe.len() + after.len();
            let Some(start) = word.len().checked_sub(length).filter(|start| *start > 0) else { continue };
            let (head, rest) = word[start..].split_at(before.len());
            let (mark, tail) = rest.split_at(apostrophe.len());
            if mark == apostrophe
                && head.eq_ignore_ascii_case(before.as_bytes())
                && tail.eq_ignore_ascii_case(after.as_bytes())
            {
                return length;
            }
        }
    }
    0
}

/// Whether `mark` between a character of class `last` and one of class `next` holds them together.
fn joins(mark: u8, last: u8, next: u8) -> bool {
    match mark {
        b'.' | b'\'' => last == next && (last == ALPHABETIC || last == DIGIT),
        b':' => last == ALPHABETIC && next == ALPHABETIC,
        b',' | b';' => last == DIGIT && next == DIGIT,
        _ => false,
    }
}

/// The kind of a word that begins with a letter, digit or underscore and holds the classes `seen`.
fn core_kind(seen: u8) -> u8 {
    match seen {
        UNDERSCORE => SYMBOL | PUNCTUATION,
        _ if seen & ALPHABETIC != 0 => LETTER,
        _ => 0,
    }
}

/// The words of a stretch without ASCII white space, by the full rules.
fn split_unicode(chunk: &str, offset: u32, words: &mut Vec<Word>) {
    let first = words.len();
    for (start, segment) in chunk.split_word_bound_indices() {
        if segment.chars().all(is_space) {
            continue;
        }
        let start = offset + start as u32;
        let end = start + segment.len() as u32;
        if matches!(segment, "." | "-")
            && let Some(before) = words.get_mut(first..).and_then(<[Word]>::last_mut)
            && before.end == start
            && chunk.get((before.start - offset) as usize..).is_some_and(|word| word.starts_with(segment))
        {
            before.end = end;
            before.chars += 1;
            before.kind &= !TERMINAL;
            continue;
        }
        let split = segment.len() - clitic(segment.as_bytes());
        let (head, tail) = segment.split_at_checked(split).unwrap_or((segment, ""));
        let mut from = start;
        for part in [head, tail].into_iter().filter(|part| !part.is_empty()) {
            let (chars, kind) = describe(part);
            let end = from + part.len() as u32;
            words.push(Word { start: from, end, chars, kind });
            from = end;
        }
    }
}

/// Length in characters and kind of a word.
fn describe(word: &str) -> (u32, u8) {
    let (mut chars, mut kind, mut terminal) = (0, SYMBOL | PUNCTUATION, false);
    for c in word.chars() {
        chars += 1;
        if is_letter(c) {
            kind = (kind | LETTER) & !(SYMBOL | PUNCTUATION);
        } else if kind & (SYMBOL | PUNCTUATION) != 0 {
            terminal = is_terminal(c);
            if !(terminal || is_punctuation(c)) {
                kind &= !SYMBOL;
            }
            if !is_punctuation_category(c) {
                kind &= !PUNCTUATION;
            }
        }
    }
    (chars, if chars == 1 && terminal { kind | TERMINAL } else { kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        split(text, &mut found);
        found.iter().map(|word| word.of(text)).collect()
    }

    /// The definition: segments that are not white space, full stops or hyphens in a row joined, clitics parted.
    fn by_definition(text: &str) -> Vec<String> {
        let mut found: Vec<(usize, String)> = Vec::new();
        for (start, segment) in text.split_word_bound_indices().filter(|(_, s)| !s.chars().all(is_space)) {
            let joins = matches!(segment, "." | "-");
            match found.last_mut() {
                Some((end, last)) if joins && *end == start && last.starts_with(segment) => {
                    last.push_str(segment);
                    *end += 1;
                }
                _ => found.push((start + segment.len(), segment.to_owned())),
            }
        }
        let part = |word: String| {
            let plain = word.to_ascii_lowercase().replace('’', "'");
            let clitics = ["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"];
            let chars: Vec<char> = word.chars().collect();
            match clitics.iter().find(|clitic| plain.ends_with(**clitic)) {
                Some(clitic) if clitic.len() < chars.len() => {
                    let (head, tail) = chars.split_at(chars.len() - clitic.len());
                    vec![head.iter().collect(), tail.iter().collect()]
                }
                _ => vec![word],
            }
        };
        found.into_iter().flat_map(|(_, word)| part(word)).collect()
    }

    #[test]
    fn splits_plain_english() {
        assert_eq!(
            words("Don't pay $1,000.50 for e.g. x_1... (really)!"),
            ["Do", "n't", "pay", "$", "1,000.50", "for", "e.g", ".", "x_1", "...", "(", "really", ")", "!"]
        );
        assert_eq!(words("naïve “quoted” word…"), ["naïve", "“", "quoted", "”", "word", "…"]);
        assert_eq!(words("She’s here -- it's 5'4 o'clock"), ["She", "’s", "here", "--", "it", "'s", "5'4", "o'clock"]);
        assert_eq!(words("日本 a.. é.."), ["日", "本", "a", "..", "é", ".."]);
    }

    #[test]
    fn tells_kinds_apart() {
        let text = "a1 12 . … __ + 中 ।";
        let mut found = Vec::new();
        split(text, &mut found);
        let kinds: Vec<u8> = found.iter().map(|w| w.kind).collect();
        let mark = SYMBOL | PUNCTUATION;
        assert_eq!(kinds, [LETTER, 0, mark | TERMINAL, mark, mark, SYMBOL, LETTER, mark | TERMINAL]);
    }

    proptest! {
        #[test]
        fn ascii_agrees_with_the_annex(text in "[ -~\n\t]{0,60}") {
            prop_assert_eq!(words(&text), by_definition(&text));
        }

        // Marks, joiners and emoji sequences after white space are left out: there the annex glues them to the space.
        #[test]
        fn unicode_agrees_with_the_annex(text in "[a-z0-9nts .,:'’_\n“”éß中日ひカ한👍🇩🇪।\u{a0}-]{0,40}") {
            prop_assert_eq!(words(&text), by_definition(&text));
        }

        #[test]
        fn any_text_is_covered(text in any::<String>()) {
            let mut found = Vec::new();
            split(&text, &mut found);
            let mut at = 0;
            for word in &found {
                let gap = text.get(at..word.start as usize).unwrap();
                prop_assert!(gap.chars().all(is_space), "{gap:?} was left out");
                prop_assert_eq!(word.of(&text).chars().count(), word.chars as usize);
                at = word.end as usize;
            }
            prop_assert!(text[at..].chars().all(is_space));
        }
    }
}
