//! Detection of binary files.

use super::kinds::{controls, foreign};
use super::record::uncounted;
use super::stream::{Store, Stream};
use std::io;
use std::path::Path;

/// Bytes at the start of a file that its kind is told from.
const HEAD: u64 = 4096;
/// The largest share of a text's bytes that may be no text.
pub(super) const MAX_SHARE: f64 = 0.3;
/// Bytes at the start of a file that are looked at for NUL, as `git` does.
const NUL_WITHIN: usize = 8000;

/// What the bytes of a file are that is read as text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Nature {
    /// UTF-8.
    Text,
    /// Mostly text, but this share of the bytes is not UTF-8.
    Damaged(f64),
    /// No text: this share of the bytes is not UTF-8 or a control character, or NUL stands beside what is not UTF-8.
    Binary(f64),
}

/// Tells text from binary data by the share of bytes that no text has, which is the same rule in every language.
pub(super) fn nature(bytes: &[u8]) -> Nature {
    // Nearly all are UTF-8, which is told much faster than what is not.
    let invalid = match std::str::from_utf8(bytes) {
        Ok(_) => 0,
        Err(_) => bytes.utf8_chunks().map(|chunk| chunk.invalid().len()).sum(),
    };
    let controls = controls(bytes);
    let share = |n: usize| n as f64 / bytes.len().max(1) as f64;
    if share(invalid + controls) > MAX_SHARE {
        return Nature::Binary(share(invalid + controls));
    }
    if invalid == 0 {
        return Nature::Text;
    }
    let start = bytes.get(..NUL_WITHIN).unwrap_or(bytes);
    if memchr::memchr(0, start).is_some() || known(bytes).is_some() {
        return Nature::Binary(1.0);
    }
    Nature::Damaged(share(invalid))
}

/// The first bytes of a file, as they lie there.
pub(super) fn head(store: &Store) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    Stream::plain(store, 0, uncounted())?.read_up_to(HEAD, &mut head)?;
    Ok(head)
}

/// The name of the format of a file that is no text, where it has a well-known one, and what to do with it.
pub(crate) fn of_file(path: &Path) -> Option<String> {
    known(&head(&Store::File(path.into())).ok()?)
}

/// Name and remedy of a file format that is no text, by the first bytes.
pub(super) fn known(bytes: &[u8]) -> Option<String> {
    let read = |name: &str| Some(format!("{name}, inside another file or under a wrong input.format"));
    match bytes {
        [0x1f, 0x8b, ..] => read("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => read("zstd"),
        [b'P', b'A', b'R', b'1', ..] => read("Parquet"),
        _ if bytes.starts_with(b"ARROW1\0\0") => read("Arrow"),
        _ => foreign(bytes).map(|kind| format!("{}; {}", kind.name, kind.remedy)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::is_text_start;
    use super::*;

    #[test]
    fn text_is_told_from_other_bytes() {
        let words = "Il était une fois, à l'été. ";
        let latin1: Vec<u8> = words.repeat(50).chars().map(|c| c as u8).collect();
        assert!(
            matches!(nature(&latin1), Nature::Damaged(share) if (0.1..0.15).contains(&share)),
            "{:?}",
            nature(&latin1)
        );
        assert_eq!(nature(words.as_bytes()), Nature::Text);
        assert_eq!(nature("今日は。\t\x1b[1mbold\x1b[0m\r\n\x0c".as_bytes()), Nature::Text);
        assert_eq!(nature(b""), Nature::Text);
        assert_eq!(nature(b"one stray \0 in a text that is long enough"), Nature::Text);
        // UTF-16 without a byte order mark, and KOI8-R, in which every letter of Russian is beyond ASCII.
        assert_eq!(nature(b"t\0e\0x\0t\0"), Nature::Binary(0.5));
        assert!(matches!(nature(&[0xd0, 0xd2, 0xc9, 0xd7, 0xc5, 0xd4, b' ']), Nature::Binary(_)));
        let noise: Vec<u8> = (0..100_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        assert!(matches!(nature(&noise), Nature::Binary(share) if share > 0.4));
        let mut pdf = b"%PDF-1.7\n".to_vec();
        pdf.extend(words.repeat(50).chars().map(|c| c as u8));
        assert_eq!(nature(&pdf), Nature::Binary(1.0));
        assert!(
            is_text_start("abc 今".as_bytes()) && is_text_start(&"abc 今".as_bytes()[..6]) && !is_text_start(b"a\xffb")
        );
    }
}
