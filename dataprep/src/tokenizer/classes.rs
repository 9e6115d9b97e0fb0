//! Character classes, as far as the split patterns use them.

use regex_syntax::hir::{Class, HirKind};
use std::sync::LazyLock;

/// `\p{L}`
pub(super) const LETTER: u8 = 1;
/// `\p{M}`
pub(super) const MARK: u8 = 1 << 1;
/// `\p{N}`
pub(super) const NUMBER: u8 = 1 << 2;
/// `\p{P}` or `\p{S}`
pub(super) const SIGN: u8 = 1 << 3;
/// `\s`
pub(super) const SPACE: u8 = 1 << 4;
/// `[\r\n]`
pub(super) const BREAK: u8 = 1 << 5;
/// `[一-龥぀-ゟ゠-ヿ]`, which DeepSeek's second pattern isolates
pub(super) const SYLLABLE: u8 = 1 << 6;
/// `[^\s\p{L}\p{N}]`
pub(super) const OTHER: u8 = 1 << 7;

const PATTERNS: [(u8, &str); 6] = [
    (LETTER, r"\p{L}"),
    (MARK, r"\p{M}"),
    (NUMBER, r"\p{N}"),
    (SIGN, r"[\p{P}\p{S}]"),
    (SPACE, r"\s"),
    (BREAK, r"[\r\n]"),
];
const SYLLABLES: &str = "[一-龥\u{3040}-ゟ゠-ヿ]";

const CHARACTERS: usize = 0x11_0000;
const BLOCK: usize = 256;

/// The kinds of every character, in blocks of which equal ones are kept once.
#[derive(Debug)]
pub(super) struct Classes {
    /// By byte; none for bytes of longer characters.
    ascii: [u8; 256],
    index: Vec<u16>,
    blocks: Vec<[u8; BLOCK]>,
}

impl Classes {
    /// Every kind a character has.
    pub(super) fn all() -> &'static Self {
        static ALL: LazyLock<Classes> = LazyLock::new(|| Classes::new(false));
        &ALL
    }

    /// As [`all`](Self::all), but characters that DeepSeek's first two patterns isolate are nothing else: numbers only
    /// [`NUMBER`], syllables only [`SYLLABLE`], with [`OTHER`] if they are no letters. So runs of anything else end at
    /// them.
    pub(super) fn isolating() -> &'static Self {
        static ISOLATING: LazyLock<Classes> = LazyLock::new(|| Classes::new(true));
        &ISOLATING
    }

    /// The tables are made from those of the regular expressions they stand in for, so both know the same Unicode.
    fn new(isolating: bool) -> Self {
        let mut flat = vec![0_u8; CHARACTERS];
        let mut set = |pattern: &str, change: &dyn Fn(u8) -> u8| {
            let parsed = regex_syntax::parse(pattern).expect("a character class is a regular expression");
            let HirKind::Class(Class::Unicode(class)) = parsed.kind() else { unreachable!("{pattern} is a class") };
            for range in class.ranges() {
                flat[range.start() as usize..=range.end() as usize].iter_mut().for_each(|c| *c = change(*c));
            }
        };
        for (kind, pattern) in PATTERNS {
            set(pattern, &|class| class | kind);
        }
        set(r"[^\s\p{L}\p{N}]", &|class| class | OTHER);
        if isolating {
            set(r"\p{N}", &|_| NUMBER);
            set(SYLLABLES, &|class| if class & LETTER != 0 { SYLLABLE } else { SYLLABLE | OTHER });
        } else {
            set(SYLLABLES, &|class| class | SYLLABLE);
        }
        let (mut index, mut blocks) = (Vec::new(), Vec::<[u8; BLOCK]>::new());
        for block in flat.as_chunks::<BLOCK>().0 {
            let at = blocks.iter().position(|known| known == block).unwrap_or_else(|| {
                blocks.push(*block);
                blocks.len() - 1
            });
            index.push(at as u16);
        }
        let ascii = std::array::from_fn(|byte| if byte < 128 { flat[byte] } else { 0 });
        Self { ascii, index, blocks }
    }

    /// The kinds and the length in bytes of the character at `at`; none and 0 at the end of `text`, which is UTF-8.
    #[inline]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (u8, usize) {
        match text.get(at) {
            None => (0, 0),
            Some(&byte) if byte < 128 => (self.ascii[usize::from(byte)], 1),
            Some(&byte) => self.wide(text, at, byte),
        }
    }

    fn wide(&self, text: &[u8], at: usize, first: u8) -> (u8, usize) {
        let more = |i: usize| u32::from(text.get(at + i).copied().unwrap_or(0) & 0x3f);
        let first = u32::from(first);
        let (code, length) = match first {
            0..0xe0 => ((first & 0x1f) << 6 | more(1), 2),
            0xe0..0xf0 => ((first & 0x0f) << 12 | more(1) << 6 | more(2), 3),
            _ => ((first & 0x07) << 18 | more(1) << 12 | more(2) << 6 | more(3), 4),
        };
        let block = self.index.get(code as usize / BLOCK).copied().unwrap_or(0);
        (self.blocks[usize::from(block)][code as usize % BLOCK], length)
    }

    /// The end of the run of letters, and what else `mask` names, from `at` on: [`run`](Self::run), but eight bytes at
    /// a time as long as they are ASCII letters, since that is what most runs are.
    #[inline]
    pub(super) fn letters(&self, text: &[u8], mut at: usize, mask: u8) -> usize {
        while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk) {
            let run = ascii_letters(u64::from_le_bytes(*eight));
            at += run;
            if run < 8 {
                break;
            }
        }
        match text.get(at) {
            Some(&byte) if byte < 128 && self.ascii[usize::from(byte)] & mask == 0 => at,
            None => at,
            Some(_) => self.run(text, at, mask),
        }
    }

    /// The end of the run of characters from `at` on that have a kind of `mask`.
    #[inline]
    pub(super) fn run(&self, text: &[u8], mut at: usize, mask: u8) -> usize {
        loop {
            while let Some(&byte) = text.get(at)
                && self.ascii[usize::from(byte)] & mask != 0
            {
                at += 1;
            }
            match text.get(at) {
                Some(&byte) if byte >= 128 => {
                    let (class, length) = self.wide(text, at, byte);
                    if class & mask == 0 {
                        return at;
                    }
                    at += length;
                }
                _ => return at,
            }
        }
    }
}

/// How many of eight bytes, from the lowest on, are ASCII letters.
#[inline]
fn ascii_letters(eight: u64) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // In seven bits and lower case, the highest bit says whether a byte is at least 'a', and whether it is above 'z'.
    let lower = (eight | (0x20 * ONES)) & !HIGH;
    let letters =
        (lower + (0x80 - u64::from(b'a')) * ONES) & !(lower + (0x7f - u64::from(b'z')) * ONES) & !eight & HIGH;
    (letters ^ HIGH).trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_the_kinds_that_its_patterns_say() {
        let classes = Classes::all();
        let patterns =
            PATTERNS.map(|(kind, pattern)| (kind, fancy_regex::Regex::new(&format!("^{pattern}$")).unwrap()));
        for code in (0..0x3000).chain((0x3000..0x11_0000).step_by(7)) {
            let Some(c) = char::from_u32(code) else { continue };
            let mut buffer = [0; 4];
            let text = c.encode_utf8(&mut buffer);
            let (class, length) = classes.at(text.as_bytes(), 0);
            assert_eq!(length, text.len());
            for (kind, pattern) in &patterns {
                assert_eq!(class & kind != 0, pattern.is_match(text).unwrap(), "{code:#x} {pattern:?}");
            }
            assert_eq!(class & OTHER != 0, class & (LETTER | NUMBER | SPACE) == 0, "{code:#x}");
        }
    }

    #[test]
    fn eight_letters_at_once_are_what_each_is() {
        for byte in 0..=255_u8 {
            for place in 0..8 {
                let mut eight = *b"aZzAbYmQ";
                eight[place] = byte;
                let expected = if byte.is_ascii_alphabetic() { 8 } else { place };
                assert_eq!(ascii_letters(u64::from_le_bytes(eight)), expected, "{byte} at {place}");
            }
        }
    }
}
