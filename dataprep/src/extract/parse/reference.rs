//! Character references: `&amp;`, `&#8212;` and the like.

use html5ever::data::{C1_REPLACEMENTS, NAMED_ENTITIES};

/// Letters and digits of a name that are looked at: none is longer.
const LONGEST: usize = 32;

/// The one or two characters that a reference stands for, and its bytes, without the `&` before it.
pub(super) type Reference = (char, Option<char>, usize);

/// The reference that `rest` begins with, behind an `&`. In an attribute a name that goes on is none.
pub(super) fn find(rest: &[u8], in_attribute: bool) -> Option<Reference> {
    if rest.first() == Some(&b'#') {
        return numeric(rest.get(1..)?).map(|(c, length)| (c, None, 1 + length));
    }
    let letters = rest.iter().take(LONGEST).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let most = letters + usize::from(rest.get(letters) == Some(&b';'));
    for length in (1..=most).rev() {
        let name = std::str::from_utf8(rest.get(..length)?).ok()?;
        // Beginnings of names are listed too, without a character.
        if let Some(&(first, second)) = NAMED_ENTITIES.get(name).filter(|it| it.0 != 0) {
            let goes_on = rest.get(length).is_some_and(|&next| next == b'=' || next.is_ascii_alphanumeric());
            if in_attribute && !name.ends_with(';') && goes_on {
                return None;
            }
            return Some((char::from_u32(first)?, char::from_u32(second).filter(|&c| c != '\0'), length));
        }
    }
    None
}

/// The character with a number, in decimal or, behind an `x`, hexadecimal digits, and how many bytes these are.
fn numeric(rest: &[u8]) -> Option<(char, usize)> {
    let (radix, start) = if matches!(rest.first(), Some(b'x' | b'X')) { (16, 1) } else { (10, 0) };
    let digits = rest.get(start..)?.iter().map_while(|&byte| char::from(byte).to_digit(radix));
    let (mut number, mut end) = (0_u32, start);
    for digit in digits {
        number = number.saturating_mul(radix).saturating_add(digit);
        end += 1;
    }
    let c = match number {
        _ if end == start => return None,
        0 => char::REPLACEMENT_CHARACTER,
        // Numbers of Windows-1252.
        0x80..=0x9f => C1_REPLACEMENTS[number as usize - 0x80].or(char::from_u32(number))?,
        _ => char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    Some((c, end + usize::from(rest.get(end) == Some(&b';'))))
}
