//! The HTTP response that a WARC record holds: its status, its headers, and its body as it was before transfer.

use super::decode::{Gzip, Wide, is_trailing};
use super::media::{Kind, MediaType, split_quoted};
use std::io::Read;

/// What is read of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// `None` where the response has no status line, and so no headers; 0 where that line says none.
    pub(super) status: Option<u16>,
    pub(super) media_type: MediaType,
    pub(super) body: Body,
    /// Whether less of the body was received than was sent.
    pub(super) broken_off: bool,
}

/// The body of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Whole(Vec<u8>),
    /// A body larger than the limit.
    TooLarge,
    /// A body in an unknown encoding, or damaged.
    Undecodable,
}

/// Reads a response whose body may become `limit` bytes.
///
/// Crawlers differ in what they keep: some undo the transfer encodings and leave their headers standing. So a body that
/// is not chunked, or not compressed, although a header says so, is taken as it is; so is one with an unknown
/// encoding, such as `UTF-8`. A compressed body that breaks off gives the part that was received, as in a browser.
pub(super) fn parse(response: &[u8], limit: u64) -> Response {
    let (line, rest) = split_line(response);
    if !line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/")) {
        let body = Body::of(response.to_vec(), limit);
        return Response { status: None, media_type: MediaType::default(), body, broken_off: false };
    }
    let (headers, rest) = Headers::of(rest);
    let (mut body, mut broken_off) = match headers.chunked {
        true => dechunked(rest),
        false => (rest.to_vec(), headers.encodings.is_empty() && headers.length.is_some_and(|n| n > rest.len() as u64)),
    };
    let (status, media_type) = (Some(status(line).unwrap_or(0)), MediaType::of(&headers.content_type));
    // One that no header names is known by its first bytes; what is neither page nor text may well be compressed.
    let unnamed = Some("").filter(|_| media_type.kind() != Some(Kind::Other));
    let answer = |body, broken_off| Response { status, media_type, body, broken_off };
    // The last encoding was put on last.
    for encoding in headers.encodings.iter().rev().map(String::as_str).chain(unnamed) {
        match decoded(&body, encoding, limit) {
            Decoded::Bytes(next) => body = next,
            Decoded::Part(next) => (body, broken_off) = (next, true),
            Decoded::AsItIs => {}
            Decoded::TooLarge => return answer(Body::TooLarge, broken_off),
            Decoded::Undecodable => return answer(Body::Undecodable, broken_off),
        }
    }
    answer(Body::of(body, limit), broken_off)
}

impl Response {
    /// A body without a server's headers, of this media type.
    pub(super) fn of(body: Vec<u8>, media_type: &str) -> Self {
        Self { status: None, media_type: MediaType::of(media_type), body: Body::Whole(body), broken_off: false }
    }
}

impl Body {
    fn of(bytes: Vec<u8>, limit: u64) -> Self {
        if bytes.len() as u64 > limit { Self::TooLarge } else { Self::Whole(bytes) }
    }
}

/// The headers that say how to read a body.
#[derive(Default)]
struct Headers {
    /// Of all such headers, joined by commas.
    content_type: String,
    /// Names of encodings in lower case, in the order in which they were put on.
    encodings: Vec<String>,
    chunked: bool,
    length: Option<u64>,
}

impl Headers {
    /// Reads headers, and gives what follows the empty line behind them.
    fn of(mut rest: &[u8]) -> (Self, &[u8]) {
        let (mut headers, mut transfer) = (Self::default(), Vec::new());
        let mut header_line = Vec::new();
        while !rest.is_empty() {
            let (line, after) = split_line(rest);
            rest = after;
            if !is_continued(line) {
                headers.set(&header_line, &mut transfer);
                header_line.clear();
            }
            if line.is_empty() {
                break;
            }
            header_line.extend_from_slice(line);
        }
        headers.set(&header_line, &mut transfer);
        headers.chunked = transfer.iter().any(|name| name == "chunked");
        // Encodings for the transfer are put on those of the content.
        headers.encodings.extend(transfer);
        headers.encodings.retain(|name| !is_none(name));
        (headers, rest)
    }

    fn set(&mut self, line: &[u8], transfer: &mut Vec<String>) {
        let Some((name, value)) = header(line) else {
            return;
        };
        let names = || {
            let name = |part: &str| part.split(';').next().unwrap_or_default().trim().trim_matches('"').to_owned();
            split_quoted(&value.to_ascii_lowercase(), b',').into_iter().map(name).collect::<Vec<_>>()
        };
        match name.as_str() {
            "content-type" if self.content_type.is_empty() => self.content_type = value,
            "content-type" => self.content_type += &format!(", {value}"),
            "content-encoding" => self.encodings.extend(names()),
            "transfer-encoding" => transfer.extend(names()),
            "content-length" => self.length = value.parse().ok(),
            _ => {}
        }
    }
}

/// Whether a line continues the header before it.
pub(super) fn is_continued(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Whether the name of an encoding says that there is none: some servers put the charset or the media type there.
fn is_none(name: &str) -> bool {
    matches!(name, "" | "identity" | "none" | "chunked" | "binary" | "7bit" | "8bit")
        || name.contains('/')
        || encoding_rs::Encoding::for_label(name.as_bytes()).is_some()
}

/// The first line, without its end, and what follows. All of `bytes` when no line ends in it.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        return (bytes, &[]);
    };
    let (line, rest) = bytes.split_at(end);
    (line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..).unwrap_or_default())
}

/// `200` of `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let mut words = line.get(5..)?.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    words.next()?;
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

/// Name in lower case, and value, of a header line.
pub(super) fn header(line: &[u8]) -> Option<(String, String)> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = line.split_at(colon);
    let name = std::str::from_utf8(name).ok()?.trim().to_ascii_lowercase();
    Some((name, String::from_utf8_lossy(value.get(1..)?).trim().to_owned()))
}

/// The body of a chunked message, and whether it breaks off. What stands where a chunk should, and is none, is taken as
/// it is: so a body that was never chunked is, or is no more.
fn dechunked(message: &[u8]) -> (Vec<u8>, bool) {
    let (mut body, mut rest) = (Vec::new(), message);
    loop {
        let is_first = rest.len() == message.len();
        let Some((length, after)) = chunk(rest) else {
            // The line before a chunk may break off too.
            let breaks_off = !is_first && rest.trim_ascii_end().iter().all(u8::is_ascii_hexdigit);
            body.extend_from_slice(if breaks_off { &[] } else { rest });
            return (body, breaks_off);
        };
        let data = after.get(..length).unwrap_or(after);
        let behind = after.get(data.len()..).unwrap_or_default();
        let ended = [&b"\r\n"[..], b"\n"].iter().find_map(|end| behind.strip_prefix(*end));
        match ended {
            // Behind the last chunk stand headers, or nothing.
            _ if length == 0 && !(is_first && ended.is_none() && !behind.is_empty()) => return (body, false),
            Some(next) => {
                body.extend_from_slice(data);
                rest = next;
            }
            None if matches!(behind, b"" | b"\r") && rest.get(..rest.len() - after.len()).is_some_and(ends_crlf) => {
                body.extend_from_slice(data);
                return (body, true);
            }
            None => {
                body.extend_from_slice(rest);
                return (body, false);
            }
        }
    }
}

fn ends_crlf(line: &[u8]) -> bool {
    line.ends_with(b"\r\n")
}

/// The length of a chunk, from the line before it, and what follows that line.
fn chunk(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let digits = bytes.get(..end)?.split(|&byte| byte == b';').next()?.trim_ascii();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let length = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    Some((usize::from_str_radix(length, 16).ok()?, bytes.get(end + 1..)?))
}

/// The first bytes of a gzip stream with deflate, and of a zstd frame.
const GZIP: &[u8] = b"\x1f\x8b\x08";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// What undoing one content encoding gives.
enum Decoded {
    Bytes(Vec<u8>),
    /// The part that was received of a body that breaks off.
    Part(Vec<u8>),
    /// The body is not encoded so.
    AsItIs,
    TooLarge,
    Undecodable,
}

/// Undoes one content encoding. Without a name, it is one whose first bytes say what it is.
fn decoded(body: &[u8], encoding: &str, limit: u64) -> Decoded {
    let most = limit.saturating_add(1);
    let mut bytes = Vec::new();
    let is_signed = body.starts_with(GZIP) || body.starts_with(ZSTD);
    let done = match encoding {
        // The first bytes know better than a header.
        _ if body.starts_with(GZIP) => Gzip::new(body).take(most).read_to_end(&mut bytes),
        _ if is_signed => super::decode::zstd(body).and_then(|decoder| decoder.take(most).read_to_end(&mut bytes)),
        "" => return Decoded::AsItIs,
        "deflate" | "br" if is_utf8_text(body) => return Decoded::AsItIs,
        "deflate" if is_zlib(body) => flate2::read::ZlibDecoder::new(body).take(most).read_to_end(&mut bytes),
        // Some servers send the bare stream, without zlib's header.
        "deflate" => flate2::read::DeflateDecoder::new(body).take(most).read_to_end(&mut bytes),
        "br" => brotli_decompressor::Decompressor::new(body, 4096).take(most).read_to_end(&mut bytes),
        "compress" | "x-compress" if body.starts_with(b"\x1f\x9d") => return Decoded::Undecodable,
        _ if is_text(body) => return Decoded::AsItIs,
        _ => return Decoded::Undecodable,
    };
    match done {
        _ if bytes.len() as u64 > limit => Decoded::TooLarge,
        // Of a text that was never compressed a decoder may make something, but not much.
        _ if !is_signed && is_text(body) && (bytes.len() < body.len() || !is_text(&bytes)) => Decoded::AsItIs,
        Ok(_) => Decoded::Bytes(bytes),
        Err(e) if is_trailing(&e) => Decoded::Bytes(bytes),
        Err(_) if !bytes.is_empty() && is_text(&bytes) => Decoded::Part(bytes),
        Err(_) => Decoded::Undecodable,
    }
}

/// Whether bytes are UTF-8 text from end to end, but for a last character that may be cut: a compressed stream is not.
fn is_utf8_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).err().is_none_or(|e| e.error_len().is_none())
        && !bytes.iter().any(|&byte| matches!(byte, 0..=8 | 0x0e..=0x1a | 0x1c..=0x1f))
}

/// Whether a body begins as zlib's streams do (RFC 1950, section 2.2).
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..] if method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0)
}

/// Whether bytes are text in some encoding, rather than compressed.
fn is_text(bytes: &[u8]) -> bool {
    let start = bytes.get(..1024).unwrap_or(bytes);
    let controls = start.iter().filter(|&&byte| matches!(byte, 0..=8 | 0x0e..=0x1a | 0x1c..=0x1f)).count();
    controls * 20 <= start.len() || Wide::declared(start).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn body(headers: &str, body: &[u8]) -> Body {
        let response = [b"HTTP/1.1 200 OK\r\n", headers.as_bytes(), b"\r\n", body].concat();
        parse(&response, 1000).body
    }

    fn whole(text: &str) -> Body {
        Body::Whole(text.into())
    }

    fn compressed<W: Write>(
        mut encoder: W,
        text: &[u8],
        finish: impl FnOnce(W) -> std::io::Result<Vec<u8>>,
    ) -> Vec<u8> {
        encoder.write_all(text).unwrap();
        finish(encoder).unwrap()
    }

    #[test]
    fn status_type_and_charset() {
        let response = b"HTTP/1.0 404 Not Found\nContent-Type: Text/HTML; q=1; Charset=\"ISO-8859-1\"\n\nbody";
        let parsed = parse(response, 100);
        assert_eq!((parsed.status, parsed.media_type.essence.as_str()), (Some(404), "text/html"));
        let charset = parsed.media_type.charset.as_deref();
        assert_eq!((charset, parsed.body), (Some("ISO-8859-1"), Body::Whole(b"body".into())));
        assert_eq!(parse(b"HTTP/1.1 200", 100).body, Body::Whole(Vec::new()));
        assert_eq!(parse(b"http/2 200\r\n\r\n", 100).status, Some(200));
        assert_eq!(parse(b"HTTP/1.1 OK\r\n\r\n", 100).status, Some(0), "no number");
        let bare = parse(b"<html>\n\n<p>", 100);
        assert_eq!((bare.status, bare.body), (None, Body::Whole(b"<html>\n\n<p>".into())), "HTTP 0.9 has no headers");
        let folded = b"HTTP/1.1 200 OK\r\nContent-Type: text/html;\r\n\tcharset=koi8-r\r\nX: y\r\n z: 1\r\n\r\nbody";
        let parsed = parse(folded, 100);
        assert_eq!((parsed.media_type.charset.as_deref(), parsed.body), (Some("koi8-r"), Body::Whole(b"body".into())));
    }

    #[test]
    fn transfer_is_undone() {
        use flate2::{Compression, write};
        let fast = Compression::fast;
        let gz = compressed(write::GzEncoder::new(Vec::new(), fast()), b"text", write::GzEncoder::finish);
        let zlib = compressed(write::ZlibEncoder::new(Vec::new(), fast()), b"text", write::ZlibEncoder::finish);
        let bare = compressed(write::DeflateEncoder::new(Vec::new(), fast()), b"text", write::DeflateEncoder::finish);
        assert_eq!(body("Transfer-Encoding: chunked\r\n", b"2;x=y\r\nte\r\n2\r\nxt\r\n0\r\n\r\n"), whole("text"));
        assert_eq!(body("Transfer-Encoding: chunked\r\n", b"text"), whole("text"));
        assert_eq!(body("Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\ntext"), whole("text"));
        assert_eq!(body("Content-Encoding: gzip\r\n", &gz), whole("text"));
        assert_eq!(body("Content-Encoding: gzip\r\n", b"text"), whole("text"));
        assert_eq!(body("Content-Encoding: deflate\r\n", &zlib), whole("text"));
        assert_eq!(body("Content-Encoding: deflate\r\n", &bare), whole("text"));
        assert_eq!(body("Content-Encoding: zstd\r\n", &zstd::encode_all(&b"text"[..], 1).unwrap()), whole("text"));
        // A window of 2^22, an uncompressed block of four bytes, and the end (RFC 7932, section 9).
        assert_eq!(body("Content-Encoding: br\r\n", b"\x8b\x01\x80text\x03"), whole("text"));
        assert_eq!(body("Content-Encoding: gzip\r\n", &[gz.as_slice(), &[0; 9]].concat()), whole("text"));
    }

    #[test]
    fn encodings_that_are_none_leave_the_body_as_it_is() {
        for encoding in ["UTF-8", "none", "identity", "8bit", "text/html", "magic", "br", "zstd", "deflate", "compress"]
        {
            let header = format!("Content-Encoding: {encoding}\r\n");
            assert_eq!(body(&header, b"<p>text of a page"), whole("<p>text of a page"), "{encoding}");
        }
        let gz = compressed(
            flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()),
            b"text",
            flate2::write::GzEncoder::finish,
        );
        assert_eq!(body("Content-Encoding: gzip, utf-8\r\n", &gz), whole("text"));
        assert_eq!(body("Content-Encoding: utf-8\r\n", &gz), whole("text"), "its first bytes say what it is");
        for header in [
            "Content-Encoding: gzip, identity\r\n",
            "Content-Encoding: \"GZIP\"\r\n",
            "Content-Encoding: x-gzip;q=1\r\n",
            "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n",
            "Content-Encoding: deflate\r\n",
            "Content-Encoding: br\r\n",
            "Content-Encoding:\r\n",
            "Transfer-Encoding: gzip\r\n",
            "",
        ] {
            assert_eq!(body(header, &gz), whole("text"), "{header}");
        }
        let twice = compressed(
            flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()),
            &gz,
            flate2::write::GzEncoder::finish,
        );
        assert_eq!(body("Content-Encoding: gzip, gzip\r\n", &twice), whole("text"));
        let download = body("Content-Type: application/gzip\r\n", &gz);
        assert_eq!(download, Body::Whole(gz.clone()), "what is no page is not unpacked");
        // UTF-16 without a byte order mark looks like no text.
        assert_eq!(body("Content-Encoding: UTF-16LE\r\n", b"t\0e\0x\0t\0"), whole("t\0e\0x\0t\0"));
        assert_eq!(body("Content-Encoding: magic\r\n", &[0, 1, 2, 3, 4]), Body::Undecodable);
        assert_eq!(body("Content-Encoding: compress\r\n", b"\x1f\x9d\x90text"), Body::Undecodable);
    }

    #[test]
    fn bodies_that_break_off_give_what_there_is() {
        use flate2::{Compression, write};
        let fast = Compression::fast();
        let text: String = (0..200).map(|i| format!("sentence number {i}. ")).collect();
        let gz = compressed(write::GzEncoder::new(Vec::new(), fast), text.as_bytes(), write::GzEncoder::finish);
        let zlib = compressed(write::ZlibEncoder::new(Vec::new(), fast), text.as_bytes(), write::ZlibEncoder::finish);
        let bare =
            compressed(write::DeflateEncoder::new(Vec::new(), fast), text.as_bytes(), write::DeflateEncoder::finish);
        for (encoding, bytes) in [("gzip", &gz), ("deflate", &zlib), ("deflate", &bare)] {
            let header = format!("Content-Encoding: {encoding}\r\n");
            let response = [b"HTTP/1.1 200 OK\r\n", header.as_bytes(), b"\r\n", &bytes[..bytes.len() / 2]].concat();
            let parsed = parse(&response, 1 << 20);
            assert!(parsed.broken_off, "{encoding}");
            match parsed.body {
                Body::Whole(part) => assert!(part.len() > 500 && text.as_bytes().starts_with(&part), "{encoding}"),
                other => panic!("{encoding}: {other:?}"),
            }
        }
        let response = [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", &gz[..gz.len() - 8]].concat();
        assert_eq!(parse(&response, 1 << 20).body, Body::Whole(text.into_bytes()), "without the last 8 bytes");
    }

    #[test]
    fn bodies_that_were_unpacked_already_are_not_unpacked_again() {
        // Each first byte, since the decoders of brotli and of bare deflate take what they find for a header.
        for first in (b' '..=b'~').chain([b'\n']) {
            for rest in ["entence of a plain text, long enough. ".repeat(3), "\u{e9}t\u{e9} \u{fc}ber ".repeat(9)] {
                let utf8 = [&[first], rest.as_bytes()].concat();
                let latin1: Vec<u8> = std::iter::once(first).chain(rest.chars().map(|c| c as u8)).collect();
                for text in [utf8, latin1] {
                    for encoding in ["gzip", "x-gzip", "deflate", "br", "zstd", "compress"] {
                        let found = body(&format!("Content-Encoding: {encoding}\r\n"), &text);
                        assert_eq!(found, Body::Whole(text.clone()), "{encoding}, {}", char::from(first));
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_are_joined_and_what_is_none_is_left() {
        let of = |message: &str| {
            let (body, broken_off) = dechunked(message.as_bytes());
            (String::from_utf8(body).unwrap(), broken_off)
        };
        for (message, body, broken_off) in [
            ("3\r\nabc\r\n0\r\n\r\n", "abc", false),
            ("003  ;a=b\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n", "abcde", false),
            ("3\nabc\n0\n\n", "abc", false),
            ("3\r\nabc\r\n0", "abc", true),
            ("3\r\nabc\r\n", "abc", true),
            ("3\r\nabc\r", "abc", true),
            ("3\r\nab", "ab", true),
            ("3\r\nabc\r\n1f", "abc", true),
            ("3\r\nabc\r\nrest <p>\n", "abcrest <p>\n", false),
            ("", "", false),
            // Bodies that are not chunked, though their first line is a number.
            ("<p>text", "<p>text", false),
            ("2024\nThe year.", "2024\nThe year.", false),
            ("3\nThe third.", "3\nThe third.", false),
            ("0\nNothing.", "0\nNothing.", false),
            ("abc", "abc", false),
            ("+3\r\nabc", "+3\r\nabc", false),
        ] {
            assert_eq!(of(message), (body.to_owned(), broken_off), "{message:?}");
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let bomb = zstd::encode_all(&vec![b'x'; 1 << 20][..], 1).unwrap();
        assert_eq!(body("Content-Encoding: zstd\r\n", &bomb), Body::TooLarge);
        assert_eq!(body("", &[b'x'; 1001]), Body::TooLarge);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes, 50);
            let _ = body("Transfer-Encoding: chunked\r\n", &bytes);
            let _ = dechunked(&[b"3\r\nabc\r\n".as_slice(), &bytes].concat());
            for encoding in ["gzip", "deflate", "br", "zstd"] {
                let _ = body(&format!("Content-Encoding: {encoding}\r\n"), &bytes);
            }
        }
    }
}
