//! Media types of web pages: the one that headers name, and the one that a body's first bytes show.

use super::binary::known;
use super::decode::Wide;

/// Bytes of a body that are looked at (MIME Sniffing standard, section 5.2).
const HEADER: usize = 1445;

/// What a body is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Page,
    Text,
    Other,
}

/// A media type, as headers name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MediaType {
    /// In lower case, without parameters; empty where none is named that is valid.
    pub(super) essence: String,
    /// The `charset` parameter.
    pub(super) charset: Option<String>,
}

impl MediaType {
    /// Of the values of all `Content-Type` headers, joined by commas: the last one that is valid, with the charset of
    /// an earlier one of the same type (Fetch standard, "extract a MIME type").
    pub(super) fn of(content_types: &str) -> Self {
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
        Self { essence: media_type, charset }
    }

    /// What a body of this type is; `None` where the type is unknown.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self.essence.as_str() {
            "text/html" | "application/xhtml+xml" | "application/vnd.wap.xhtml+xml" => Some(Kind::Page),
            "text/plain" => Some(Kind::Text),
            "" | "unknown/unknown" | "application/unknown" => None,
            _ => Some(Kind::Other),
        }
    }

    fn is_xml(&self) -> bool {
        matches!(self.essence.as_str(), "text/xml" | "application/xml")
    }
}

/// What a body is whose server sent it as `sent`, which its crawler found to be `identified`, if that is known.
///
/// A server's word for a page or a text counts. Its word for something else does not where the crawler, which looked at
/// the bytes, found a page: types of scripts and downloads are often sent with pages. Where the server named no type,
/// the crawler's word counts, and then the first bytes.
pub(super) fn kind(sent: &MediaType, identified: &MediaType, body: &[u8]) -> Kind {
    let kind = match (sent.kind(), identified.kind()) {
        (Some(Kind::Other), Some(Kind::Page)) => Kind::Page,
        // A page in XHTML, which browsers show as one whatever it is called.
        (Some(Kind::Other), _) if sent.is_xml() && sniff(body) == Kind::Page => Kind::Page,
        (Some(sent), _) => sent,
        (None, Some(found @ (Kind::Page | Kind::Text))) => found,
        (None, _) => sniff(body),
    };
    // An image or an archive that is called a text is none.
    if known(body).is_some() || body.starts_with(b"%PDF-") { Kind::Other } else { kind }
}

/// What bytes of no known type begin as (MIME Sniffing standard, section 7.1). Other than there, a byte order mark does
/// not hide a page.
pub(super) fn sniff(body: &[u8]) -> Kind {
    let start = body.get(..HEADER).unwrap_or(body);
    let wide = Wide::declared(start);
    let text = match wide {
        Some(_) => crate::extract::decode(start, None, None).into_bytes(),
        None => start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).to_vec(),
    };
    let is_binary = || wide.is_none() && start.iter().any(|&byte| is_binary_data(byte));
    if begins_page(&text) {
        Kind::Page
    } else if ["<?xml", "%PDF-", "%!PS-Adobe-"].iter().any(|other| begins(text.trim_ascii_start(), other))
        || is_binary()
    {
        Kind::Other
    } else {
        Kind::Text
    }
}

/// A byte that no text has ("binary data byte" of the standard).
fn is_binary_data(byte: u8) -> bool {
    matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f)
}

fn begins_page(text: &[u8]) -> bool {
    const TAGS: [&str; 17] = [
        "<!doctype html",
        "<html",
        "<head",
        "<script",
        "<iframe",
        "<h1",
        "<div",
        "<font",
        "<table",
        "<a",
        "<style",
        "<title",
        "<b",
        "<body",
        "<br",
        "<p",
        "<!--",
    ];
    let mut text = text.trim_ascii_start();
    // XHTML may have a declaration of XML, and comments, before its document type.
    if let Some(declared) = text.strip_prefix(b"<?xml") {
        text = behind(declared, b"?>");
        while let Some(comment) = text.strip_prefix(b"<!--") {
            text = behind(comment, b"-->");
        }
        return [TAGS[0], TAGS[1]].iter().any(|tag| begins(text, tag));
    }
    TAGS.iter().any(|tag| {
        let ends = |after: Option<&u8>| matches!(after, Some(b' ' | b'>' | b'\t' | b'\n' | b'\r' | 0x0c));
        begins(text, tag) && (*tag == "<!--" || ends(text.get(tag.len())))
    })
}

/// What stands behind the first `end` and the white space that follows it.
fn behind<'t>(text: &'t [u8], end: &[u8]) -> &'t [u8] {
    let at = memchr::memmem::find(text, end).map_or(text.len(), |at| at + end.len());
    text.get(at..).unwrap_or_default().trim_ascii_start()
}

fn begins(text: &[u8], with: &str) -> bool {
    text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
}

/// `text` cut at each `separator` that does not stand in double quotes.
pub(super) fn split_quoted(text: &str, separator: u8) -> Vec<&str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_the_last_that_is_valid() {
        for (value, essence, charset) in [
            ("text/html, text/html; charset=utf-8", "text/html", "utf-8"),
            ("text/html; charset=a, text/html", "text/html", "a"),
            ("text/plain; charset=a, text/html", "text/html", ""),
            ("text/html, */*", "text/html", ""),
            ("text/html; a=\",text/plain\"", "text/html", ""),
            ("text/html; a=\"\\\",text/plain\"", "text/html", ""),
            ("TEXT/HTML;CHARSET=\"UTF-8\"", "text/html", "UTF-8"),
            ("text/html ; charset = utf-8", "text/html", "utf-8"),
            ("text/html;;charset=;charset=b", "text/html", "b"),
            ("text/html, charset=utf-8", "text/html", ""),
            ("text/html;", "text/html", ""),
            (",text/html,", "text/html", ""),
            ("html", "", ""),
            ("text/html charset=utf-8", "", ""),
            ("text/", "", ""),
            ("*/*", "", ""),
            ("application/json", "application/json", ""),
        ] {
            let media_type = MediaType::of(value);
            let found = (media_type.essence.as_str(), media_type.charset.as_deref().unwrap_or_default());
            assert_eq!(found, (essence, charset), "{value}");
        }
    }

    #[test]
    fn first_bytes_show_a_page_or_a_text() {
        let spaces = " \n".repeat(300) + "<!DOCTYPE html>";
        let comment = format!("<!-- {} --><html>", "x".repeat(2000));
        for page in [
            "<!DOCTYPE html>",
            "\u{feff}<!doctype HTML >",
            " \t\r\n\u{c}<HTML lang=en>",
            "<html\nlang=en>",
            "<p>",
            "<b>",
            "<br >",
            "<!-- comment -->",
            "<?xml version=\"1.0\"?>\n<!-- a --> <!-- b -->\n<!DOCTYPE html PUBLIC \"\">",
            spaces.as_str(),
            comment.as_str(),
        ] {
            assert_eq!(sniff(page.as_bytes()), Kind::Page, "{page}");
        }
        for text in ["", "plain", "\u{feff}plain", "<abbr>", "<pre>", "a <p>", "tab\t esc\u{1b}"] {
            assert_eq!(sniff(text.as_bytes()), Kind::Text, "{text}");
        }
        for other in ["<?xml version=\"1.0\"?><rss>", "%PDF-1.4", "  %!PS-Adobe-3.0", "a\0b", "vertical\u{b}tab"] {
            assert_eq!(sniff(other.as_bytes()), Kind::Other, "{other}");
        }
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        assert_eq!(sniff(&wide("\u{feff} <html>")), Kind::Page);
        assert_eq!(sniff(&wide("\u{feff}plain")), Kind::Text);
        assert_eq!(sniff(b"caf\xe9"), Kind::Text, "in whatever encoding");
    }

    #[test]
    fn the_crawlers_word_counts_where_the_server_has_none() {
        let of =
            |sent: &str, identified: &str, body: &[u8]| kind(&MediaType::of(sent), &MediaType::of(identified), body);
        for (sent, identified, body, expected) in [
            ("text/html", "application/pdf", &b"<p>"[..], Kind::Page),
            ("text/plain", "text/html", b"<p>", Kind::Text),
            ("application/octet-stream", "text/html", b"<p>", Kind::Page),
            ("application/octet-stream", "text/plain", b"a", Kind::Other),
            ("application/octet-stream", "", b"<p>", Kind::Other),
            ("unknown/unknown", "application/xhtml+xml; charset=x", b"", Kind::Page),
            ("", "text/plain", b"<p>", Kind::Text),
            ("", "application/octet-stream", b"<p>", Kind::Page),
            ("*/*", "", b"<p>", Kind::Page),
            ("application/xml", "", b"<?xml?><html>", Kind::Page),
            ("application/xml", "", b"<?xml?><rss>", Kind::Other),
            ("text/html", "", b"\x89PNG\r\n\x1a\n", Kind::Other),
            ("text/plain", "", b"%PDF-1.4", Kind::Other),
        ] {
            assert_eq!(of(sent, identified, body), expected, "{sent}, {identified}");
        }
    }
}
