//! The HTTP response that a WARC record holds: its status, its headers, and its body as it was before transfer.

use std::io::Read;

/// What is read of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Media type in lower case, without parameters; empty where the server did not say.
    pub(super) media_type: String,
    /// The `charset` parameter of the media type.
    pub(super) charset: Option<String>,
    pub(super) body: Body,
}

/// The body of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Whole(Vec<u8>),
    /// It would be larger than the limit.
    TooLarge,
}

/// Reads a response whose body may become `limit` bytes, or says what is wrong with it.
///
/// Crawlers differ in what they keep: some undo the transfer encodings and leave their headers standing. So a body that is
/// not chunked, or not compressed, although a header says so, is taken as it is.
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
            "content-type" => content_type = value,
            "content-encoding" => encodings.extend(value.split(',').map(|name| name.trim().to_ascii_lowercase())),
            "transfer-encoding" => chunked |= value.to_ascii_lowercase().contains("chunked"),
            _ => {}
        }
    }
    let mut body = if chunked { dechunked(rest).unwrap_or_else(|| rest.to_vec()) } else { rest.to_vec() };
    for encoding in encodings.iter().rev() {
        match decoded(&body, encoding, limit)? {
            Body::Whole(next) => body = next,
            Body::TooLarge => return Ok(response_with(status, &content_type, Body::TooLarge)),
        }
    }
    let body = if body.len() as u64 > limit { Body::TooLarge } else { Body::Whole(body) };
    Ok(response_with(status, &content_type, body))
}

fn response_with(status: u16, content_type: &str, body: Body) -> Response {
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let charset = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_owned())
    });
    Response { status, media_type: media_type.trim().to_ascii_lowercase(), charset, body }
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

/// The body of a chunked message, or nothing when it is none. One that breaks off gives what there is.
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

/// Undoes one content encoding.
fn decoded(body: &[u8], encoding: &str, limit: u64) -> Result<Body, String> {
    let most = limit.saturating_add(1);
    let mut decoded = Vec::new();
    let done = match encoding {
        "" | "identity" | "none" => return Ok(Body::Whole(body.to_vec())),
        "gzip" | "x-gzip" if body.starts_with(b"\x1f\x8b") => {
            flate2::read::MultiGzDecoder::new(body).take(most).read_to_end(&mut decoded)
        }
        "gzip" | "x-gzip" => return Ok(Body::Whole(body.to_vec())),
        "deflate" => flate2::read::ZlibDecoder::new(body).take(most).read_to_end(&mut decoded).or_else(|_| {
            // Some servers send the bare stream, without zlib's header.
            decoded.clear();
            flate2::read::DeflateDecoder::new(body).take(most).read_to_end(&mut decoded)
        }),
        "br" => brotli_decompressor::Decompressor::new(body, 4096).take(most).read_to_end(&mut decoded),
        "zstd" => zstd::Decoder::new(body).and_then(|decoder| decoder.take(most).read_to_end(&mut decoded)),
        other => return Err(format!("unknown Content-Encoding {other:?}")),
    };
    match done {
        _ if decoded.len() as u64 > limit => Ok(Body::TooLarge),
        Ok(_) => Ok(Body::Whole(decoded)),
        Err(e) => Err(format!("Content-Encoding {encoding}: {e}")),
    }
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
        assert!(body("Content-Encoding: br\r\n", b"text").is_err());
        assert!(body("Content-Encoding: magic\r\n", b"text").unwrap_err().contains("magic"));
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
