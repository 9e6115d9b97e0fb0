//! Decoding between bytes on disk and text: gzip and zstd, and UTF-16 and UTF-32 with a byte order mark.

use super::format::Compression;
use encoding_rs::{Decoder, UTF_16BE, UTF_16LE};
use flate2::bufread::GzDecoder;
use std::fmt;
use std::io::{self, BufRead, Read};

/// How bytes that begin with `head` are compressed, if they are for certain.
pub(super) fn compressed(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, 8, ..] => Some(Compression::Gzip),
        // A frame, or a skippable one, as those that `pzstd` writes before each frame.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
        _ => None,
    }
}

/// The largest window that a zstd frame may ask for, as a power of two: the most that `zstd --long` makes. A decoder
/// takes as much memory as its frame's window, so 2 GiB for such a frame and no more than 8 MiB for an ordinary one.
pub(super) const MAX_WINDOW_LOG: u32 = if cfg!(target_pointer_width = "64") { 31 } else { 30 };

/// A zstd decoder over any number of frames.
pub(super) fn zstd<'a, R: BufRead + 'a>(bytes: R) -> io::Result<impl Read + use<'a, R>> {
    let mut decoder = zstd::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    Ok(decoder)
}

/// A gzip decoder over any number of members. Zero bytes behind a member are padding, and other bytes behind the last
/// are [`TrailingBytes`], as they are for gzip itself.
pub(super) struct Gzip<R> {
    state: State<R>,
    members: u64,
}

/// What a gzip member begins with: its magic number, and deflate.
const MAGIC: &[u8] = b"\x1f\x8b\x08";

/// Bytes that were looked at, and those behind them.
type Ahead<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

enum State<R> {
    Between(R),
    Inside(Box<GzDecoder<Ahead<R>>>),
    Ended,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(bytes: R) -> Self {
        Self { state: State::Between(bytes), members: 0 }
    }

    /// Goes on behind a member, or at the start.
    fn enter(&mut self, mut bytes: R) -> io::Result<State<R>> {
        if self.members > 0 {
            skip_zeros(&mut bytes)?;
        }
        let mut start = Vec::new();
        bytes.by_ref().take(MAGIC.len() as u64).read_to_end(&mut start)?;
        match self.members {
            0 => {}
            _ if start.is_empty() => return Ok(State::Ended),
            // A start that is cut off is one all the same.
            _ if MAGIC.starts_with(&start) => {}
            _ => {
                let mut rest = io::Cursor::new(start).chain(bytes);
                let what: Box<dyn std::error::Error + Send + Sync> = match contains(&mut rest, MAGIC)? {
                    true => "the header of a gzip member is damaged".into(),
                    false => TrailingBytes.into(),
                };
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(State::Inside(Box::new(GzDecoder::new(io::Cursor::new(start).chain(bytes)))))
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Inside(mut member) => match member.read(buffer) {
                    Ok(0) => {
                        self.members += 1;
                        self.state = State::Between(member.into_inner().into_inner().1);
                    }
                    Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                    other => {
                        self.state = State::Inside(member);
                        return other;
                    }
                },
                State::Between(bytes) => self.state = self.enter(bytes)?,
                State::Ended => return Ok(0),
            }
        }
    }
}

/// Whether `wanted` is somewhere in the rest of `bytes`.
fn contains(bytes: &mut impl BufRead, wanted: &[u8]) -> io::Result<bool> {
    let mut window = Vec::new();
    loop {
        let chunk = bytes.fill_buf()?;
        let read = chunk.len();
        window.extend_from_slice(chunk);
        bytes.consume(read);
        if memchr::memmem::find(&window, wanted).is_some() {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        window.drain(..window.len().saturating_sub(wanted.len() - 1));
    }
}

/// Passes over zero bytes.
pub(super) fn skip_zeros(bytes: &mut impl BufRead) -> io::Result<()> {
    loop {
        let chunk = bytes.fill_buf()?;
        let zeros = chunk.iter().take_while(|&&byte| byte == 0).count();
        let more = zeros > 0 && zeros == chunk.len();
        bytes.consume(zeros);
        if !more {
            return Ok(());
        }
    }
}

/// The error for what follows a complete gzip stream and is no part of one. The stream itself is sound.
#[derive(Debug)]
struct TrailingBytes;

impl fmt::Display for TrailingBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the gzip stream is complete, but other bytes follow it, which are ignored")
    }
}

impl std::error::Error for TrailingBytes {}

/// Whether all data came before this error.
pub(super) fn is_trailing(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<TrailingBytes>)
}

/// An encoding of text that a byte order mark declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wide {
    Utf16Le,
    Utf16Be,
    Utf32Le,
    Utf32Be,
}

impl Wide {
    /// The encoding that `start`, the first bytes of a file, declares.
    pub(super) fn declared(start: &[u8]) -> Option<Self> {
        Some(match start {
            // In UTF-16 this would be a text that begins with NUL.
            [0xff, 0xfe, 0, 0, ..] => Self::Utf32Le,
            [0, 0, 0xfe, 0xff, ..] => Self::Utf32Be,
            [0xff, 0xfe, ..] => Self::Utf16Le,
            [0xfe, 0xff, ..] => Self::Utf16Be,
            _ => return None,
        })
    }
}

/// Makes UTF-8 of bytes in another encoding, byte order mark included. What cannot be decoded becomes U+FFFD.
pub(super) struct Transcoded<R> {
    inner: R,
    decoder: WideDecoder,
    out: Vec<u8>,
    given: usize,
    ended: bool,
}

enum WideDecoder {
    Utf16(Box<Decoder>),
    Utf32 { big_endian: bool, pending: Vec<u8> },
}

impl<R: BufRead> Transcoded<R> {
    pub(super) fn new(inner: R, wide: Wide) -> Self {
        let decoder = match wide {
            Wide::Utf16Le => WideDecoder::Utf16(Box::new(UTF_16LE.new_decoder_without_bom_handling())),
            Wide::Utf16Be => WideDecoder::Utf16(Box::new(UTF_16BE.new_decoder_without_bom_handling())),
            Wide::Utf32Le => WideDecoder::Utf32 { big_endian: false, pending: Vec::new() },
            Wide::Utf32Be => WideDecoder::Utf32 { big_endian: true, pending: Vec::new() },
        };
        Self { inner, decoder, out: Vec::new(), given: 0, ended: false }
    }

    /// Decodes the next bytes into `out`.
    fn refill(&mut self) -> io::Result<()> {
        // Once the decoder was told that the bytes have ended, it takes no more.
        self.given = 0;
        self.out.clear();
        while self.out.is_empty() && !self.ended {
            let chunk = self.inner.fill_buf()?;
            self.ended = chunk.is_empty();
            let used = match &mut self.decoder {
                WideDecoder::Utf16(decoder) => {
                    let most = decoder.max_utf8_buffer_length(chunk.len()).unwrap_or(chunk.len());
                    self.out.resize(most, 0);
                    let (_, read, written, _) = decoder.decode_to_utf8(chunk, &mut self.out, self.ended);
                    self.out.truncate(written);
                    read
                }
                WideDecoder::Utf32 { big_endian, pending } => {
                    pending.extend_from_slice(chunk);
                    let (units, rest) = pending.as_chunks::<4>();
                    for &unit in units {
                        let code = if *big_endian { u32::from_be_bytes(unit) } else { u32::from_le_bytes(unit) };
                        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                        self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    if self.ended && !rest.is_empty() {
                        self.out.extend_from_slice("\u{fffd}".as_bytes());
                    }
                    *pending = if self.ended { Vec::new() } else { rest.to_vec() };
                    chunk.len()
                }
            };
            self.inner.consume(used);
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Transcoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.out.len() {
            self.refill()?;
        }
        let rest = self.out.get(self.given..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.given += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn gunzip(bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
        let mut text = Vec::new();
        // A small buffer: padding and members then begin in the middle of one.
        let done = Gzip::new(io::BufReader::with_capacity(7, bytes)).read_to_end(&mut text);
        (text, done.map(drop))
    }

    #[test]
    fn zeros_behind_members_are_padding() {
        let (a, b, zeros) = (member(b"one "), member(b"two"), vec![0; 500]);
        for bytes in [
            [a.clone(), b.clone()].concat(),
            [a.clone(), b.clone(), zeros.clone()].concat(),
            [a.clone(), zeros.clone(), b.clone(), vec![0]].concat(),
        ] {
            let (text, done) = gunzip(&bytes);
            assert!(done.is_ok() && text == b"one two", "{text:?}");
        }
        for junk in [&b"junk"[..], b"\x1fjunk", b"\x1f\x8bjunk", b"\x1f\x8b", b"PK\x03\x04"] {
            let (text, done) = gunzip(&[a.clone(), zeros.clone(), junk.to_vec()].concat());
            let cut = MAGIC.starts_with(junk);
            assert!(text == b"one " && is_trailing(&done.unwrap_err()) != cut, "{junk:?}");
        }
        let (text, done) = gunzip(&[a.clone(), b"\x1fX".to_vec(), b.clone(), b.clone()].concat());
        assert!(text == b"one " && !is_trailing(&done.unwrap_err()), "members follow the damage");
        let (text, done) = gunzip(&[zeros, a.clone()].concat());
        assert!(text.is_empty() && !is_trailing(&done.unwrap_err()), "padding comes behind something");
        let (_, done) = gunzip(&a[..a.len() - 3]);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_character_that_is_cut_off_at_the_end_is_replaced() {
        for (wide, bytes) in [
            (Wide::Utf16Le, &b"\xff\xfea\0b"[..]),
            (Wide::Utf16Be, &b"\xfe\xff\0a\0"[..]),
            (Wide::Utf16Le, &b"\xff\xfea\0\x3d\xd8"[..]),
            (Wide::Utf32Le, &b"\xff\xfe\0\0a\0\0\0b\0"[..]),
        ] {
            for capacity in 1..9 {
                let mut text = Transcoded::new(io::BufReader::with_capacity(capacity, bytes), wide);
                let mut found = String::new();
                text.read_to_string(&mut found).unwrap();
                assert_eq!(found, "\u{feff}a\u{fffd}", "{wide:?}");
                assert_eq!(text.read(&mut [0; 8]).unwrap(), 0, "the end is the end");
            }
        }
    }

    proptest! {
        #[test]
        fn wide_text_becomes_utf8(text in "\\PC{0,40}", capacity in 1..9_usize) {
            let marked: Vec<char> = "\u{feff}".chars().chain(text.chars()).collect();
            let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
                let text: String = marked.iter().collect();
                text.encode_utf16().flat_map(bytes).collect()
            };
            let utf32 = |bytes: fn(u32) -> [u8; 4]| -> Vec<u8> {
                marked.iter().flat_map(|&c| bytes(c.into())).collect()
            };
            let expected: String = marked.iter().collect();
            for (wide, bytes) in [
                (Wide::Utf16Le, utf16(u16::to_le_bytes)),
                (Wide::Utf16Be, utf16(u16::to_be_bytes)),
                (Wide::Utf32Le, utf32(u32::to_le_bytes)),
                (Wide::Utf32Be, utf32(u32::to_be_bytes)),
            ] {
                prop_assume!(!text.starts_with('\0'));
                prop_assert_eq!(Wide::declared(&bytes), Some(wide));
                let mut found = String::new();
                Transcoded::new(io::BufReader::with_capacity(capacity, bytes.as_slice()), wide)
                    .read_to_string(&mut found)
                    .unwrap();
                prop_assert_eq!(&found, &expected);
            }
        }
    }
}
