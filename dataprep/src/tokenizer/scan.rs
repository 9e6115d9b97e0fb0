//! The split patterns of GPT-2, Llama 3 and DeepSeek-V3, by hand, a word at a time: what a regular expression engine
//! finds, several times as fast. Each function is its pattern, alternative after alternative; [`split`](super::split)
//! has the patterns, and [`window`](super::window) most words of a text.

use super::classes::{BREAK, Classes, LETTER, MARK, NUMBER, OTHER, SIGN, SPACE, SYLLABLE};

/// A pattern, or row of patterns, that is known by heart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanner {
    /// [`GPT2`](super::split::GPT2).
    Gpt2,
    /// [`llama3`](super::split::llama3) with groups of at most this many digits: 3 in GPT-4 and Llama 3, 1 in Qwen 2.
    Llama3 { digits: usize },
    /// [`DEEPSEEK`](super::split::DEEPSEEK).
    DeepSeek,
}

impl Scanner {
    /// The kinds of characters that its pattern tells apart.
    #[inline]
    pub(super) fn classes(self) -> &'static Classes {
        match self {
            Self::Gpt2 | Self::Llama3 { .. } => Classes::all(),
            Self::DeepSeek => Classes::isolating(),
        }
    }

    /// Calls `each` with the beginning and end of the word at `at` in `text`, which is UTF-8, and perhaps of some that
    /// follow; gives the end of the last.
    pub(super) fn next(self, text: &[u8], at: usize, each: &mut impl FnMut(usize, usize)) -> usize {
        let end = match self {
            Self::Gpt2 => gpt2(self.classes(), text, at),
            Self::Llama3 { digits } => llama3(self.classes(), text, at, digits),
            Self::DeepSeek => return deepseek(text, at, each),
        };
        each(at, end);
        end
    }
}

/// The end of GPT-2's word at `at`.
#[inline]
fn gpt2(classes: &Classes, text: &[u8], at: usize) -> usize {
    let (class, length) = classes.at(text, at);
    if text[at] == b'\''
        && let Some(end) = contraction(text, at + 1, |byte| byte)
    {
        return end;
    }
    // Every character that is not white space is of exactly one of these kinds.
    const KINDS: u8 = LETTER | NUMBER | OTHER;
    let (next, next_length) = classes.at(text, at + 1);
    let (kind, from) = match text[at] {
        b' ' => (next & KINDS, at + 1 + next_length),
        _ => (class & KINDS, at + length),
    };
    match kind {
        LETTER => return classes.letters(text, from, LETTER),
        0 => {}
        kind => return classes.run(text, from, kind),
    }
    let end = classes.run(text, at, SPACE);
    if end == text.len() { end } else { all_but_last(text, at, end) }
}

/// The end of Llama 3's word at `at`.
#[inline]
fn llama3(classes: &Classes, text: &[u8], at: usize, digits: usize) -> usize {
    let (class, length) = classes.at(text, at);
    if class & LETTER != 0 {
        return classes.letters(text, at + length, LETTER);
    }
    if text[at] == b'\''
        && let Some(end) = contraction(text, at + 1, |byte| byte.to_ascii_lowercase())
    {
        return end;
    }
    let (next, next_length) = classes.at(text, at + length);
    if class & (BREAK | NUMBER) == 0 && next & LETTER != 0 {
        return classes.letters(text, at + length + next_length, LETTER);
    }
    if class & NUMBER != 0 {
        return group(classes, text, at, digits);
    }
    if class & OTHER != 0 {
        return classes.run(text, classes.run(text, at + length, OTHER), BREAK);
    }
    if text[at] == b' ' && next & OTHER != 0 {
        return classes.run(text, classes.run(text, at + 1 + next_length, OTHER), BREAK);
    }
    let end = classes.run(text, at, SPACE);
    spaces(text, at, end, end == text.len())
}

/// DeepSeek's three patterns at once: what no alternative matches is a separate word, with the match behind it.
fn deepseek(text: &[u8], start: usize, each: &mut impl FnMut(usize, usize)) -> usize {
    let classes = Classes::isolating();
    let mut at = start;
    let end = loop {
        let (class, length) = classes.at(text, at);
        if length == 0 || class & SYLLABLE != 0 {
            break at;
        }
        if class == NUMBER {
            break group(classes, text, at, 3);
        }
        match deepseek_word(classes, text, at, class, length) {
            Some(end) => break end,
            None => at += length,
        }
    };
    if start < at {
        each(start, at);
    }
    if at < end {
        each(at, end);
        return end;
    }
    syllables(Classes::all(), text, at, each)
}

/// The words of a run of syllables, some of which are marks and signs; gives its end.
fn syllables(classes: &Classes, text: &[u8], start: usize, each: &mut impl FnMut(usize, usize)) -> usize {
    let end = classes.run(text, start, SYLLABLE);
    let run = &text[..end];
    let (mut gap, mut at) = (start, start);
    while at < end {
        let (class, length) = classes.at(run, at);
        let Some(word) = deepseek_word(classes, run, at, class, length) else {
            at += length;
            continue;
        };
        if gap < at {
            each(gap, at);
        }
        each(at, word);
        (gap, at) = (word, word);
    }
    if gap < end {
        each(gap, end);
    }
    end
}

/// The end of the match of DeepSeek's third pattern at `at`, where a character of this class and length stands.
#[inline]
fn deepseek_word(classes: &Classes, text: &[u8], at: usize, class: u8, length: usize) -> Option<usize> {
    if class & (LETTER | MARK) != 0 {
        return Some(classes.letters(text, at + length, LETTER | MARK));
    }
    let (next, next_length) = classes.at(text, at + length);
    if class & SIGN != 0 {
        let letter = |at: usize| text.get(at).is_some_and(u8::is_ascii_alphabetic);
        if text[at] < 128 && letter(at + 1) {
            return Some((at + 2..).find(|&i| !letter(i)).unwrap_or(text.len()));
        }
        return Some(classes.run(text, classes.run(text, at + length, SIGN), BREAK));
    }
    if class & BREAK == 0 && next & (LETTER | MARK) != 0 {
        return Some(classes.letters(text, at + length + next_length, LETTER | MARK));
    }
    if text[at] == b' ' && next & SIGN != 0 {
        return Some(classes.run(text, classes.run(text, at + 1 + next_length, SIGN), BREAK));
    }
    if class & SPACE == 0 {
        return None;
    }
    let end = classes.run(text, at, SPACE);
    let (behind, _) = classes.at(text, end);
    let last = end == text.len() || behind == NUMBER || behind & SYLLABLE != 0;
    Some(spaces(text, at, end, last))
}

/// `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d`, of which the apostrophe stands before `at`: its end. With letters of
/// either case `'ſ` is one as well, since the long s is an s.
#[inline]
pub(super) fn contraction(text: &[u8], at: usize, lower: impl Fn(u8) -> u8) -> Option<usize> {
    let byte = |i: usize| text.get(i).copied().map_or(0, &lower);
    match (byte(at), byte(at + 1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 1),
        (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 2),
        (0xc5, 0xbf) if lower(b'S') == b's' => Some(at + 2),
        _ => None,
    }
}

/// `\p{N}{1,most}`
#[inline]
fn group(classes: &Classes, text: &[u8], mut at: usize, most: usize) -> usize {
    for _ in 0..most {
        let (class, length) = classes.at(text, at);
        if class & NUMBER == 0 {
            break;
        }
        at += length;
    }
    at
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` where the white space `at..end` stands; `last` when it is the end of what is looked at.
#[inline]
fn spaces(text: &[u8], at: usize, end: usize, last: bool) -> usize {
    if let Some(line_break) = text[at..end].iter().rposition(|byte| matches!(byte, b'\r' | b'\n')) {
        return at + line_break + 1;
    }
    if last { end } else { all_but_last(text, at, end) }
}

/// `\s+(?!\S)|\s+` before something else: the last character is left to what follows, unless it is the only one.
#[inline]
fn all_but_last(text: &[u8], at: usize, end: usize) -> usize {
    let last = text[at..end].iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(0);
    if last == 0 { end } else { at + last }
}
