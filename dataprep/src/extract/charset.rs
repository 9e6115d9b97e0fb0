//! Which encoding a page is in, decided as browsers do: byte order mark, HTTP header, `<meta>`, and then by its bytes
//! (<https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding>).

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// Bytes in which a page has to name its encoding.
const PRESCAN: usize = 1024;

/// Text of a page or a plain text from the web. `charset` is what the HTTP header said; the top-level domain of `url`
/// helps to guess. What cannot be decoded becomes U+FFFD. A page that is UTF-8 from end to end is taken as that where
/// nothing names another encoding.
pub fn decode(bytes: &[u8], charset: Option<&str>, url: Option<&str>) -> String {
    // Decoding looks for a byte order mark itself, which goes before everything else.
    let named = || charset.and_then(|label| Encoding::for_label(label.as_bytes())).or_else(|| prescan(bytes));
    let encoding = named().unwrap_or_else(|| guess(bytes, url));
    encoding.decode(bytes).0.into_owned()
}

fn guess(bytes: &[u8], url: Option<&str>) -> &'static Encoding {
    if std::str::from_utf8(bytes).is_ok() {
        return UTF_8;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    detector.guess(url.and_then(top_level_domain).as_deref().map(str::as_bytes), Utf8Detection::Allow)
}

/// `jp` of `https://example.co.jp:80/page`.
fn top_level_domain(url: &str) -> Option<String> {
    let host = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    let (_, last) = host.trim_end_matches('.').rsplit_once('.')?;
    let is_name = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_name.then(|| last.to_ascii_lowercase())
}

/// The encoding that a page names in its first kilobyte, in `<meta charset=...>` or the `content` of a `<meta>`.
fn prescan(bytes: &[u8]) -> Option<&'static Encoding> {
    let mut rest = bytes.get(..PRESCAN).unwrap_or(bytes);
    while let Some(start) = memchr::memchr(b'<', rest) {
        rest = rest.get(start..)?;
        if rest.starts_with(b"<!--") {
            // `<!-->` is a whole comment.
            rest = rest.get(2 + memchr::memmem::find(rest.get(2..)?, b"-->")? + 3..)?;
            continue;
        }
        let end = memchr::memchr(b'>', rest).unwrap_or(rest.len());
        let tag = rest.get(1..end).unwrap_or_default();
        rest = rest.get(end..).unwrap_or_default();
        let is_meta = tag.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"meta"))
            && tag.get(4).is_some_and(|after| after.is_ascii_whitespace() || *after == b'/');
        if let Some(encoding) = is_meta.then(|| of_meta(tag)).flatten() {
            return Some(encoding);
        }
    }
    None
}

/// The encoding after `charset=` in a `<meta>` tag, be it an attribute or part of one.
fn of_meta(tag: &[u8]) -> Option<&'static Encoding> {
    let lower = tag.to_ascii_lowercase();
    let mut rest = lower.as_slice();
    while let Some(at) = memchr::memmem::find(rest, b"charset") {
        rest = rest.get(at + b"charset".len()..)?;
        let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") else {
            continue;
        };
        let value = value.trim_ascii_start();
        let value = value.strip_prefix(b"\"").or(value.strip_prefix(b"'")).unwrap_or(value);
        let end = |byte: &u8| matches!(byte, b'"' | b'\'' | b';' | b'/') || byte.is_ascii_whitespace();
        let encoding = Encoding::for_label(value.split(end).next()?)?;
        // A page in which this could be read is in neither of these.
        return Some(match encoding {
            it if it == UTF_16BE || it == UTF_16LE => UTF_8,
            it if it == X_USER_DEFINED => WINDOWS_1252,
            it => it,
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mark_goes_before_the_header_before_the_page_before_a_guess() {
        assert_eq!(decode(b"\xef\xbb\xbf\xc3\xa9", Some("latin1"), None), "é");
        assert_eq!(decode(b"\xff\xfea\0b\0", Some("utf-8"), None), "ab");
        let meta = b"<html><meta charset=utf-8>\xe9";
        assert!(decode(meta, Some("ISO-8859-1"), None).ends_with('é'));
        assert!(
            decode(b"<!-- <meta charset=utf-8> --><META  content='text/html; charset=iso-8859-2'>\xb1", None, None)
                .ends_with('ą')
        );
        assert!(decode(b"<meta charset=\"windows-1251\"/>\xe9", None, None).ends_with('й'));
        assert!(decode(b"<meta charset=utf-16>\xc3\xa9", None, None).ends_with('é'));
        assert!(decode(b"<metadata charset=windows-1251>\xc3\xa9", None, None).ends_with('é'));
        assert_eq!(decode("naïve".as_bytes(), Some("no such charset"), None), "naïve");
        assert_eq!(decode(b"caf\xe9 cr\xe8me", None, Some("http://example.fr/")), "café crème");
    }

    #[test]
    fn east_asian_and_cyrillic_pages_are_guessed() {
        let japanese = "これは日本語の文章です。文字コードは書いてありません。".repeat(3);
        let (bytes, ..) = encoding_rs::SHIFT_JIS.encode(&japanese);
        assert_eq!(decode(&bytes, None, Some("http://example.co.jp/a")), japanese);
        let russian = "Это русский текст, и кодировка здесь не названа. ".repeat(3);
        let (bytes, ..) = encoding_rs::KOI8_R.encode(&russian);
        assert_eq!(decode(&bytes, None, None), russian);
    }

    #[test]
    fn domains() {
        assert_eq!(top_level_domain("https://u:p@Example.CO.JP:80/x").as_deref(), Some("jp"));
        for none in ["", "x", "http://localhost/", "http://a.\u{e9}/", "http://[::1]/"] {
            assert_eq!(top_level_domain(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            tags in "(<!--|-->|<meta |charset|=|\"|'|>|utf-16|;| ){0,12}",
            url in "(http://)?[a-zA-Z.:@/é\\[\\]]{0,12}",
        ) {
            decode(&[tags.as_bytes(), &bytes].concat(), Some(&tags), Some(&url));
        }
    }
}
