//! The beginnings of words among sixty-four bytes at once, one bit a byte: no branch for a word's kind or its end.
//!
//! A pattern's alternatives depend on nothing before the word they begin at. So a window begins at a word, and every
//! beginning in it follows from the kinds of the bytes around; what reaches beyond the window is left to the next one,
//! which begins at the last word found. Bytes of a longer character all have its kind. The masks are written for
//! [`scan`](super::scan)'s patterns, and its functions, a word at a time, are what property tests hold them to.

use super::classes::{Classes, LETTER, MARK, NUMBER, OTHER, SIGN, SPACE, SYLLABLE};
use super::masks;
use super::scan::{Scanner, contraction};

/// Bytes that are looked at together.
const WINDOW: usize = 64;

/// The kinds of a window's bytes.
struct Kinds {
    /// First bytes of characters.
    lead: u64,
    /// Of characters of one byte.
    ascii: u64,
    /// Letters, and marks where the pattern takes them for such.
    letter: u64,
    ascii_letter: u64,
    number: u64,
    /// Whatever the pattern's punctuation is: [`OTHER`] or [`SIGN`].
    sign: u64,
    /// Letters of DeepSeek's second pattern.
    syllable: u64,
    space: u64,
    line_break: u64,
    blank: u64,
    apostrophe: u64,
}

/// Calls `each` with the beginning and end of every word of `text`, in order; together they are the whole text.
#[inline]
pub(super) fn split(scanner: Scanner, text: &str, each: &mut impl FnMut(usize, usize)) {
    let text = text.as_bytes();
    // Written out so that each pattern has a separate loop.
    match scanner {
        Scanner::Gpt2 => windows(Scanner::Gpt2, text, each),
        Scanner::Llama3 { digits } => windows(Scanner::Llama3 { digits }, text, each),
        Scanner::DeepSeek => windows(Scanner::DeepSeek, text, each),
    }
}

#[inline(always)]
fn windows(scanner: Scanner, text: &[u8], each: &mut impl FnMut(usize, usize)) {
    let classes = scanner.classes();
    let mut at = 0;
    while at < text.len() {
        let mut left = beginnings(scanner, classes, text, at) & !1;
        if left == 0 {
            at = scanner.next(text, at, each);
            continue;
        }
        let window = at;
        while left != 0 {
            let end = window + left.trailing_zeros() as usize;
            left &= left - 1;
            each(at, end);
            at = end;
        }
    }
}

/// One bit for each word that begins among the next [`WINDOW`] bytes of `text`; the lowest is the word at `at`. A word
/// that has a next one here is complete.
#[inline(always)]
fn beginnings(scanner: Scanner, classes: &Classes, text: &[u8], at: usize) -> u64 {
    let rest = &text[at..];
    let (ascii, bytes) = match rest.first_chunk() {
        Some(window) => (masks::of(window), WINDOW),
        None => {
            let mut window = [0; WINDOW];
            window[..rest.len()].copy_from_slice(rest);
            (masks::of(&window), rest.len())
        }
    };
    let mut kinds = Kinds {
        lead: !ascii.inner,
        ascii: !ascii.high,
        letter: ascii.letter,
        ascii_letter: ascii.letter,
        number: ascii.digit,
        sign: 0,
        syllable: 0,
        space: ascii.space,
        line_break: ascii.line_break,
        blank: ascii.blank,
        apostrophe: ascii.apostrophe,
    };
    let deepseek = scanner == Scanner::DeepSeek;
    kinds.sign = if deepseek { ascii.sign } else { kinds.ascii & !(kinds.letter | kinds.number | kinds.space) };
    if ascii.high != 0 {
        wide(&mut kinds, deepseek, classes, text, at);
    }
    let known = kinds.letter | kinds.number | kinds.sign | kinds.syllable | kinds.space;
    let number = (!known).trailing_zeros().min(bytes as u32);
    let valid = valid(&kinds, number);
    let found = match scanner {
        Scanner::Gpt2 => gpt2(&kinds, text, at),
        Scanner::Llama3 { digits } => llama3(&kinds, text, at, digits),
        Scanner::DeepSeek => deepseek_words(&kinds),
    };
    found & valid | 1
}

/// Adds the kinds of characters of several bytes.
#[inline(never)]
fn wide(kinds: &mut Kinds, deepseek: bool, classes: &Classes, text: &[u8], at: usize) {
    let mut bytes = [0; WINDOW + 3];
    let mut left = kinds.lead & !kinds.ascii;
    while left != 0 {
        let place = left.trailing_zeros() as usize;
        left &= left - 1;
        let class = classes.at(text, at + place).0;
        // What is written too far is written over by the next character, or is ASCII and masked out.
        bytes[place..place + 4].fill(class);
    }
    let (bytes, _) = bytes.split_first_chunk().expect("a window and three more");
    let of = |class: u8| masks::with(bytes, class) & !kinds.ascii;
    kinds.number |= of(NUMBER);
    kinds.space |= of(SPACE);
    if deepseek {
        // Syllables that are no letters are left to the function for a word at a time.
        kinds.letter |= of(LETTER | MARK);
        kinds.sign |= of(SIGN);
        kinds.syllable = of(SYLLABLE) & !of(OTHER);
    } else {
        kinds.letter |= of(LETTER);
        kinds.sign |= of(OTHER);
    }
}

/// The places of which the `number` bytes from the first on tell whether a word begins there: not those behind the
/// first of a run of white space that may go on.
#[inline]
fn valid(kinds: &Kinds, number: u32) -> u64 {
    if number == 0 {
        return 0;
    }
    let spaces = (kinds.space << (64 - number)).leading_ones().min(number);
    u64::MAX >> (64 - (number - spaces + u32::from(spaces > 0)).max(1))
}

/// The first bytes of runs.
#[inline]
fn firsts(runs: u64) -> u64 {
    runs & !(runs << 1)
}

/// The bytes behind those runs that begin at `firsts`.
#[inline]
fn behind(runs: u64, firsts: u64) -> u64 {
    runs.wrapping_add(firsts) & !runs
}

impl Kinds {
    /// All bytes of the characters whose first bytes are given.
    #[inline]
    fn whole(&self, firsts: u64) -> u64 {
        let mut whole = firsts;
        for _ in 0..3 {
            whole |= whole << 1 & !self.lead;
        }
        whole
    }

    /// The first bytes of the characters whose last bytes are given.
    #[inline]
    fn first_of(&self, lasts: u64) -> u64 {
        let mut bytes = lasts;
        for _ in 0..3 {
            bytes |= (bytes & !self.lead) >> 1;
        }
        bytes & self.lead
    }

    /// `\p{N}{1,3}` in runs of numbers.
    #[inline]
    fn groups(&self, most: usize) -> u64 {
        let number = self.number;
        if most == 1 {
            return number & self.lead;
        }
        if number & !self.ascii != 0 {
            return self.wide_groups();
        }
        let (mut groups, mut next) = (0, firsts(number));
        let inner = number & number << 1 & number << 2;
        while next != 0 {
            groups |= next;
            next = next << 3 & inner;
        }
        groups
    }

    #[cold]
    fn wide_groups(&self) -> u64 {
        let (mut groups, mut left, mut before) = (0, self.number & self.lead, 0);
        while left != 0 {
            let place = left & left.wrapping_neg();
            left ^= place;
            let follows = place & self.number << 1 != 0;
            before = if follows { before + 1 } else { 0 };
            if before % 3 == 0 {
                groups |= place;
            }
        }
        groups
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`, where `eaten` line breaks belong to the word before. White space before `ends` gives
    /// no character to what follows.
    #[inline]
    fn spaces(&self, eaten: u64, ends: u64) -> u64 {
        let space = self.space & !eaten;
        let within = space & !self.line_break;
        // What follows the last line break of a run is a word, and its last character another.
        let mut tails = firsts(within);
        let mut broken = behind(within, tails) & self.line_break;
        while broken != 0 {
            let place = broken.trailing_zeros();
            broken &= broken - 1;
            // Such a run of white space is no tail: it belongs to the line break behind it.
            let before = !within & !(u64::MAX << place);
            let first = if before == 0 { 0 } else { 1 << (64 - before.leading_zeros()) };
            tails &= !first;
        }
        let lasts = within & !(self.space >> 1) & !(ends >> 1);
        firsts(space) | tails | self.first_of(lasts)
    }
}

/// GPT-2's words.
#[inline]
fn gpt2(kinds: &Kinds, text: &[u8], at: usize) -> u64 {
    let &Kinds { letter, number, sign, space, blank, .. } = kinds;
    let last = kinds.first_of(space & !(space >> 1));
    let mut found = (firsts(letter) | firsts(number) | firsts(sign)) & !(blank << 1) | firsts(space) | last;
    let candidates = kinds.apostrophe & firsts(sign) & !(blank << 1) & letter >> 1;
    for_each(candidates, |place| {
        if let Some(end) = contraction(text, at + place + 1, |byte| byte) {
            found = found & !(2 << place) | bit(end - at) & letter;
        }
    });
    found
}

/// Llama 3's words.
#[inline]
fn llama3(kinds: &Kinds, text: &[u8], at: usize, digits: usize) -> u64 {
    let &Kinds { letter, sign, space, line_break, blank, .. } = kinds;
    // A sign that is alone belongs to the letters behind it, as does a space.
    let signs = firsts(sign) & !(blank << 1);
    let before = kinds.whole(signs) | space & !line_break;
    let letters = firsts(letter) & !(before << 1);
    let eaten = line_break & !line_break.wrapping_add(line_break & sign << 1);
    let mut found = letters | kinds.groups(digits) | signs | kinds.spaces(eaten, 0);
    for_each(kinds.apostrophe & signs & letter >> 1, |place| {
        if let Some(end) = contraction(text, at + place + 1, |byte| byte.to_ascii_lowercase()) {
            found |= bit(end - at) & letter;
        }
    });
    found
}

/// DeepSeek's words.
#[inline]
fn deepseek_words(kinds: &Kinds) -> u64 {
    let &Kinds { letter, ascii_letter, number, sign, syllable, space, line_break, blank, .. } = kinds;
    let signs = firsts(sign) & !(blank << 1);
    // `[!"#$…][A-Za-z]+`: another letter behind those begins a word.
    let after_sign = ascii_letter & (signs & kinds.ascii) << 1;
    let other_letters = behind(ascii_letter, after_sign) & letter;
    let letters = firsts(letter) & !(after_sign | (space & !line_break) << 1);
    let eaten = line_break & !line_break.wrapping_add(line_break & sign << 1);
    let spaces = kinds.spaces(eaten, number | syllable);
    letters | other_letters | kinds.groups(3) | firsts(syllable) | signs | spaces
}

#[inline]
fn bit(place: usize) -> u64 {
    if place < 64 { 1 << place } else { 0 }
}

#[inline]
fn for_each(mut bits: u64, mut each: impl FnMut(usize)) {
    while bits != 0 {
        each(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}
