//! The HTTP response that a WARC record holds: its status, its headers, and its body as it was before transfer.

use super::decode::{Gzip, Wide, is_trailing};
use std::io::Read;

/// What is read of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Media type in lower case, without parameters; empty where the server named none that is valid.
    pub(super) media_type: String,
    /// The `charset` parameter of the media type.
    pub(super) charset: Option<String>,
    pub(super) body: Body,
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

/// Reads a response whose body may become `limit` bytes, or says what is wrong with it.
///
/// Crawlers differ in what they keep: some undo the transfer encodings and leave their headers standing. So a body that
/// is not chunked, or not compressed, although a header says so, is taken as it is; so is one with an unknown
/// encoding, such as `UTF-8`. A compressed body that breaks off gives the part that was received, as in a browser.
pub(super) fn parse(response: &[u8], limit: u64) -> Result<Response, String> {
    let (line, mut rest) = split_line(response);
    let status = status(line).ok_or("not an HTTP response: no status line")?;
    let (mut content_type, mut encodings, mut chunked) = (String::new(), Vec::new(), false);
    loop {
        let (line, after) = split_line(rest);
        if after.len() == rest.len() || line.is_empty() {
            rest = after;
            break;
        }
        rest = after;
        let Some((name, value)) = header(line) else {
            continue;
        };
        match name.as_str() {
            "content-type" if content_type.is_empty() => content_type = value,
            "content-type" => content_type += &format!(", {value}"),
            "content-encoding" => encodings.extend(value.split(',').map(|name| name.trim().to_ascii_lowercase())),
            "transfer-encoding" => chunked |= value.to_ascii_lowercase().contains("chunked"),
            _ => {}
        }
    }
    let mut body = if chunked { dechunked(rest).unwrap_or_else(|| rest.to_vec()) } else { rest.to_vec() };
    let mut response = Response { status, ..Response::of(&content_type) };
    for encoding in encodings.iter().rev() {
        match decoded(&body, encoding, limit) {
            Decoded::Bytes(next) => body = next,
            Decoded::AsItIs => {}
            Decoded::TooLarge => {
                response.body = Body::TooLarge;
                return Ok(response);
            }
            Decoded::Undecodable => {
                response.body = Body::Undecodable;
                return Ok(response);
            }
        }
    }
    response.body = if body.len() as u64 > limit { Body::TooLarge } else { Body::Whole(body) };
    Ok(response)
}

impl Response {
    /// With the media type that the values of all `Content-Type` headers, joined by commas, come to: the last one that
    /// is valid, with the charset of an earlier one of the same type (Fetch standard, "extract a MIME type").
    fn of(content_types: &str) -> Self {
        let (mut media_type, mut charset) = (String::new(), None);
        for value in split_quoted(content_types, b',') {
            let mut parts = split_quoted(value, b';').into_iter();
            let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
            if !is_media_type(&essence) || essence == "*/*" {
                continue;
            }
            let named = parts.find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                let value = value.trim().trim_matches(['"', '\'']);
                (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_owned())
            });
            if essence != media_type {
                (media_type, charset) = (essence, named);
            } else if named.is_some() {
                charset = named;
            }
        }
        Self { status: 0, media_type, charset, body: Body::Whole(Vec::new()) }
    }
}

/// `text` cut at each `separator` that does not stand in double quotes.
fn split_quoted(text: &str, separator: u8) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Whether this is a type and a subtype, each a token of HTTP.
fn is_media_type(essence: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
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
    let mut words = line.strip_prefix(b"HTTP/")?.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
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

/// The body of a chunked message, or nothing when it is not chunked. One that breaks off gives its received part.
fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (line, after) = split_line(rest);
        let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let length = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let Some(length) = length else {
            return (!body.is_empty()).then_some(body);
        };
        let chunk = after.get(..length).unwrap_or(after);
        body.extend_from_slice(chunk);
        rest = after.get(chunk.len()..).unwrap_or_default();
        rest = rest.strip_prefix(b"\r").unwrap_or(rest);
        rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        if length == 0 || rest.is_empty() {
            return Some(body);
        }
    }
}

/// What undoing one content encoding gives.
enum Decoded {
    Bytes(Vec<u8>),
    /// The body is not encoded so.
    AsItIs,
    TooLarge,
    Undecodable,
}

/// Undoes one content encoding.
fn decoded(body: &[u8], encoding: &str, limit: u64) -> Decoded {
    let most = limit.saturating_add(1);
    let mut bytes = Vec::new();
    let done = match encoding {
        "gzip" | "x-gzip" if body.starts_with(b"\x1f\x8b") => Gzip::new(body).take(most).read_to_end(&mut bytes),
        "deflate" if is_zlib(body) => flate2::read::ZlibDecoder::new(body).take(most).read_to_end(&mut bytes),
        // Some servers send the bare stream, without zlib's header.
        "deflate" => flate2::read::DeflateDecoder::new(body).take(most).read_to_end(&mut bytes),
        "br" => brotli_decompressor::Decompressor::new(body, 4096).take(most).read_to_end(&mut bytes),
        "zstd" if body.starts_with(b"\x28\xb5\x2f\xfd") => {
            super::decode::zstd(body).and_then(|decoder| decoder.take(most).read_to_end(&mut bytes))
        }
        "compress" | "x-compress" if body.starts_with(b"\x1f\x9d") => return Decoded::Undecodable,
        _ if body.starts_with(b"\x1f\x8b\x08") => Gzip::new(body).take(most).read_to_end(&mut bytes),
        _ if is_text(body) => return Decoded::AsItIs,
        _ => return Decoded::Undecodable,
    };
    match done {
        _ if bytes.len() as u64 > limit => Decoded::TooLarge,
        Ok(_) => Decoded::Bytes(bytes),
        Err(e) if is_trailing(&e) => Decoded::Bytes(bytes),
        // A body that breaks off. Bytes that begin no such stream were not compressed by it.
        Err(_) if !bytes.is_empty() && is_text(&bytes) => Decoded::Bytes(bytes),
        Err(_) if is_text(body) => Decoded::AsItIs,
        Err(_) => Decoded::Undecodable,
    }
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

    fn body(headers: &str, body: &[u8]) -> Result<Body, String> {
        let response = [b"HTTP/1.1 200 OK\r\n", headers.as_bytes(), b"\r\n", body].concat();
        parse(&response, 1000).map(|response| response.body)
    }

    fn whole(text: &str) -> Result<Body, String> {
        Ok(Body::Whole(text.into()))
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
        let parsed = parse(response, 100).unwrap();
        assert_eq!((parsed.status, parsed.media_type.as_str()), (404, "text/html"));
        assert_eq!((parsed.charset.as_deref(), parsed.body), (Some("ISO-8859-1"), Body::Whole(b"body".into())));
        assert!(parse(b"<html>", 100).unwrap_err().contains("no status line"));
        assert_eq!(parse(b"HTTP/1.1 200", 100).unwrap().body, Body::Whole(Vec::new()));
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
        assert_eq!(body("Content-Encoding: magic\r\n", &[0, 1, 2, 3, 4]), Ok(Body::Undecodable));
        assert_eq!(body("Content-Encoding: compress\r\n", b"\x1f\x9d\x90text"), Ok(Body::Undecodable));
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
            match parse(&response, 1 << 20).unwrap().body {
                Body::Whole(part) => assert!(part.len() > 500 && text.as_bytes().starts_with(&part), "{encoding}"),
                other => panic!("{encoding}: {other:?}"),
            }
        }
        let response = [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", &gz[..gz.len() - 8]].concat();
        assert_eq!(parse(&response, 1 << 20).unwrap().body, Body::Whole(text.into_bytes()), "without the last 8 bytes");
    }

    #[test]
    fn media_types_are_the_last_that_is_valid() {
        let of = |headers: &str| {
            let response = parse(format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes(), 100).unwrap();
            (response.media_type, response.charset.unwrap_or_default())
        };
        let expect = |media_type: &str, charset: &str| (media_type.to_owned(), charset.to_owned());
        for (headers, expected) in [
            ("Content-Type: text/html, text/html; charset=utf-8\r\n", expect("text/html", "utf-8")),
            ("Content-Type: text/html; charset=a, text/html\r\n", expect("text/html", "a")),
            ("Content-Type: text/plain; charset=a, text/html\r\n", expect("text/html", "")),
            ("Content-Type: text/html\r\nContent-Type: */*\r\n", expect("text/html", "")),
            ("Content-Type: text/html; a=\",text/plain\"\r\n", expect("text/html", "")),
            ("Content-Type: html\r\n", expect("", "")),
            ("Content-Type: application/json\r\n", expect("application/json", "")),
        ] {
            assert_eq!(of(headers), expected, "{headers}");
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let bomb = zstd::encode_all(&vec![b'x'; 1 << 20][..], 1).unwrap();
        assert_eq!(body("Content-Encoding: zstd\r\n", &bomb), Ok(Body::TooLarge));
        assert_eq!(body("", &[b'x'; 1001]), Ok(Body::TooLarge));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes, 50);
            let _ = body("Transfer-Encoding: chunked\r\n", &bytes);
            for encoding in ["gzip", "deflate", "br", "zstd"] {
                let _ = body(&format!("Content-Encoding: {encoding}\r\n"), &bytes);
            }
        }
    }
}
