//! Which of sixty-four bytes are of a kind, one bit a byte.
#![allow(unsafe_code)]

/// What ASCII says of each byte; the first is the lowest bit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Masks {
    /// Not ASCII.
    pub(super) high: u64,
    /// Bytes of a UTF-8 character other than its first.
    pub(super) inner: u64,
    pub(super) letter: u64,
    pub(super) digit: u64,
    /// Of [`u8::is_ascii_punctuation`].
    pub(super) sign: u64,
    /// Horizontal and vertical tabs, form feeds, line breaks and blanks.
    pub(super) space: u64,
    pub(super) line_break: u64,
    pub(super) blank: u64,
    pub(super) apostrophe: u64,
}

/// What each of the bytes is.
#[inline]
pub(super) fn of(bytes: &[u8; 64]) -> Masks {
    #[cfg(target_feature = "sse2")]
    // SAFETY: the whole program is compiled for processors that have it.
    return unsafe { sixteens::of(bytes) };
    #[cfg(not(target_feature = "sse2"))]
    eights::of(bytes)
}

/// The bytes that have any of `bits`.
#[inline]
pub(super) fn with(bytes: &[u8; 64], bits: u8) -> u64 {
    #[cfg(target_feature = "sse2")]
    // SAFETY: the whole program is compiled for processors that have it.
    return unsafe { sixteens::with(bytes, bits) };
    #[cfg(not(target_feature = "sse2"))]
    eights::with(bytes, bits)
}

/// With instructions for sixteen bytes.
#[cfg(target_feature = "sse2")]
mod sixteens {
    use super::Masks;
    #[cfg(target_arch = "x86")]
    use std::arch::x86::*;
    #[cfg(target_arch = "x86_64")]
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let sixteen = u128::from_le_bytes(*bytes);
        _mm_set_epi64x((sixteen >> 64) as i64, sixteen as i64)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(bytes: __m128i, byte: u8) -> __m128i {
        _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8))
    }

    /// Bytes from `first` to `last`.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn between(bytes: __m128i, first: u8, last: u8) -> __m128i {
        // Comparisons are signed, so the range is moved to the lowest numbers.
        let moved = _mm_add_epi8(bytes, _mm_set1_epi8(0x80_u8.wrapping_sub(first) as i8));
        _mm_cmplt_epi8(moved, _mm_set1_epi8(0x81_u8.wrapping_add(last - first) as i8))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn of(bytes: &[u8; 64]) -> Masks {
        let mut masks = Masks::default();
        for (part, i) in bytes.as_chunks::<16>().0.iter().zip(0..) {
            let bytes = load(part);
            let letter = between(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), b'a', b'z');
            let digit = between(bytes, b'0', b'9');
            let sign = _mm_andnot_si128(_mm_or_si128(letter, digit), between(bytes, b'!', b'~'));
            let blank = equal(bytes, b' ');
            let space = _mm_or_si128(blank, between(bytes, b'\t', b'\r'));
            let line_break = _mm_or_si128(equal(bytes, b'\n'), equal(bytes, b'\r'));
            let add = |mask: &mut u64, bytes| *mask |= (_mm_movemask_epi8(bytes) as u64) << (16 * i);
            add(&mut masks.high, bytes);
            add(&mut masks.inner, _mm_cmplt_epi8(bytes, _mm_set1_epi8(0xc0_u8 as i8)));
            add(&mut masks.letter, letter);
            add(&mut masks.digit, digit);
            add(&mut masks.sign, sign);
            add(&mut masks.space, space);
            add(&mut masks.line_break, line_break);
            add(&mut masks.blank, blank);
            add(&mut masks.apostrophe, equal(bytes, b'\''));
        }
        masks
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn with(bytes: &[u8; 64], bits: u8) -> u64 {
        let mut without = 0;
        for (part, i) in bytes.as_chunks::<16>().0.iter().zip(0..) {
            let none = equal(_mm_and_si128(load(part), _mm_set1_epi8(bits as i8)), 0);
            without |= (_mm_movemask_epi8(none) as u64) << (16 * i);
        }
        !without
    }
}

/// With numbers of eight bytes, on any processor.
#[cfg(any(test, not(target_feature = "sse2")))]
mod eights {
    use super::Masks;

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;

    /// The highest bit of each byte.
    #[inline]
    fn highest(eight: u64) -> u64 {
        (eight & HIGH).wrapping_mul(0x0002_0408_1020_4081) >> 56
    }

    /// In the highest bit of each byte, whether it lies between `first` and `last`, which are ASCII.
    #[inline]
    fn between(eight: u64, first: u8, last: u8) -> u64 {
        // In seven bits, the highest bit says whether a byte is at least `first`, and whether it is above `last`.
        let seven = eight & !HIGH;
        (seven + (0x80 - u64::from(first)) * ONES) & !(seven + (0x7f - u64::from(last)) * ONES) & !eight
    }

    #[inline]
    pub(super) fn of(bytes: &[u8; 64]) -> Masks {
        let mut masks = Masks::default();
        for (&part, i) in bytes.as_chunks::<8>().0.iter().zip(0..) {
            let eight = u64::from_le_bytes(part);
            let is = |byte| between(eight, byte, byte);
            let letter = between(eight | (0x20 * ONES), b'a', b'z');
            let digit = between(eight, b'0', b'9');
            let add = |mask: &mut u64, bytes| *mask |= highest(bytes) << (8 * i);
            add(&mut masks.high, eight);
            add(&mut masks.inner, eight & !(eight << 1));
            add(&mut masks.letter, letter);
            add(&mut masks.digit, digit);
            add(&mut masks.sign, between(eight, b'!', b'~') & !(letter | digit));
            add(&mut masks.space, is(b' ') | between(eight, b'\t', b'\r'));
            add(&mut masks.line_break, is(b'\n') | is(b'\r'));
            add(&mut masks.blank, is(b' '));
            add(&mut masks.apostrophe, is(b'\''));
        }
        masks
    }

    #[inline]
    pub(super) fn with(bytes: &[u8; 64], bits: u8) -> u64 {
        let mut mask = 0;
        for (&part, i) in bytes.as_chunks::<8>().0.iter().zip(0..) {
            let some = u64::from_le_bytes(part) & (u64::from(bits) * ONES);
            // Adding moves what is in the lower seven bits into the highest.
            mask |= highest(((some & !HIGH) + (0x7f * ONES)) | some) << (8 * i);
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_what_the_standard_library_says() {
        for byte in 0..=255_u8 {
            for place in [0, 1, 15, 16, 31, 40, 63] {
                let mut bytes = [b'\0'; 64];
                bytes[place] = byte;
                let found = of(&bytes);
                let bit = |is: bool| u64::from(is) << place;
                let expected = Masks {
                    high: bit(byte >= 0x80),
                    inner: bit((0x80..0xc0).contains(&byte)),
                    letter: bit(byte.is_ascii_alphabetic()),
                    digit: bit(byte.is_ascii_digit()),
                    sign: bit(byte.is_ascii_punctuation()),
                    space: bit(byte == b' ' || (b'\t'..=b'\r').contains(&byte)),
                    line_break: bit(matches!(byte, b'\n' | b'\r')),
                    blank: bit(byte == b' '),
                    apostrophe: bit(byte == b'\''),
                };
                assert_eq!(found, expected, "{byte} at {place}");
                assert_eq!(eights::of(&bytes), expected, "{byte} at {place}");
                for bits in 1..=255 {
                    assert_eq!(with(&bytes, bits), bit(byte & bits != 0), "{byte} and {bits}");
                    assert_eq!(eights::with(&bytes, bits), bit(byte & bits != 0), "{byte} and {bits}");
                }
            }
        }
    }
}
