//! WARC files (ISO 28500): web pages in `response` records, extracted text in `conversion` records (WET).
//!
//! A record begins with a version line, has headers, an empty line, and as many bytes as `Content-Length` says. Where a
//! record does not hold to that it is bad, and reading goes on at the next line that begins with `WARC/`.

use super::decode::Wide;
use super::http::{self, Body};
use super::record::{Context, Found, Record, Records};
use super::stream::{Line, Store, Stream};
use crate::document::Dropped;
use crate::read::fields::Fields;
use std::io;
use std::ops::Range;

/// Bytes that a header line may have.
const MAX_LINE: u64 = 1 << 16;
/// Header lines that a record may have.
const MAX_LINES: usize = 1000;
/// Bytes that no record has. One that says so is not passed over, as that would be the rest of the file.
const ABSURD: u64 = 1 << 40;
/// Rule of [`Record::Dropped`]: the server did not answer with status 200.
pub const STATUS: &str = "warc.status";
/// Rule of [`Record::Dropped`]: what the server sent is no page and no text. Its value is 0, against 1.
pub const MEDIA_TYPE: &str = "warc.media_type";
/// Rule of [`Record::Dropped`]: the body is compressed in an unknown way, or damaged. Its value is 0, against 1.
pub const CONTENT_ENCODING: &str = "warc.content_encoding";

/// What the headers of a record say.
#[derive(Debug, Default)]
pub(super) struct Head {
    kind: String,
    media_type: String,
    id: Option<String>,
    uri: Option<String>,
    /// Media type of the body, as the crawler identified it.
    identified: String,
    length: Option<u64>,
}

impl Head {
    fn set(&mut self, line: &[u8]) {
        let Some((name, value)) = http::header(line) else {
            return;
        };
        match name.as_str() {
            "warc-type" => self.kind = value.to_ascii_lowercase(),
            "content-type" => self.media_type = value.to_ascii_lowercase(),
            "warc-record-id" => self.id = Some(value),
            // Early writers put the address in angle brackets.
            "warc-target-uri" => self.uri = Some(value.trim_matches(['<', '>']).to_owned()),
            "warc-identified-payload-type" => self.identified = value.to_ascii_lowercase(),
            "content-length" => self.length = value.parse().ok(),
            _ => {}
        }
    }

    /// Whether the record can hold a document.
    pub(super) fn is_wanted(&self) -> bool {
        match self.kind.as_str() {
            "response" => self.media_type.is_empty() || self.media_type.starts_with("application/http"),
            "conversion" => self.media_type.is_empty() || self.media_type.starts_with("text/plain"),
            _ => false,
        }
    }
}

/// What stands at some place of a WARC file.
pub(super) enum Item {
    /// A record. Its content is kept when it is wanted and not too large.
    Record {
        head: Head,
        range: Range<u64>,
        content: Option<Vec<u8>>,
    },
    /// Bytes that are not a record.
    Bad {
        at: u64,
        why: String,
    },
    End,
}

/// The records of a stream, one after the other.
pub(super) struct Items {
    pub(super) stream: Stream,
    /// Bytes of the whole stream, where that is known: no record is longer.
    length: Option<u64>,
    /// Content that is kept.
    limit: u64,
    /// The line last read.
    line: Vec<u8>,
    /// Where it begins, if it is the version line of the next record.
    pending: Option<u64>,
}

impl Items {
    pub(super) fn new(stream: Stream, length: Option<u64>, limit: u64) -> Self {
        Self { stream, length, limit, line: Vec::new(), pending: None }
    }

    /// The next item that begins before `end`.
    pub(super) fn next(&mut self, end: u64) -> io::Result<Item> {
        let Some(start) = self.version_line()? else {
            return Ok(Item::End);
        };
        if start >= end {
            return Ok(Item::End);
        }
        self.pending = None;
        if !is_version(&self.line) {
            self.find_version_line()?;
            return Ok(Item::Bad { at: start, why: "a WARC record begins with WARC/ and a version".into() });
        }
        let mut head = Head::default();
        let problem = match self.headers(&mut head)? {
            Err(why) => why,
            Ok(()) => match self.content(&head)? {
                Err(why) => why,
                Ok(content) => {
                    let range = start..self.stream.position();
                    if self.ends_here()? {
                        return Ok(Item::Record { head, range, content });
                    }
                    "the record does not end where its Content-Length says".into()
                }
            },
        };
        self.find_version_line()?;
        Ok(Item::Bad { at: start, why: problem })
    }

    /// Goes on to the next line that is not empty, and says where it begins.
    fn version_line(&mut self) -> io::Result<Option<u64>> {
        while self.pending.is_none() {
            let start = self.stream.position();
            match self.stream.line(MAX_LINE, &mut self.line)? {
                Line::End => return Ok(None),
                Line::Whole if self.line.trim_ascii().is_empty() => {}
                Line::Whole | Line::TooLong(_) => self.pending = Some(start),
            }
        }
        Ok(self.pending)
    }

    /// Whether a record can end here: at an empty line, the next record, or the end.
    fn ends_here(&mut self) -> io::Result<bool> {
        let start = self.stream.position();
        if self.stream.line(MAX_LINE, &mut self.line)? == Line::End || self.line.trim_ascii().is_empty() {
            return Ok(true);
        }
        self.pending = Some(start);
        Ok(is_version(&self.line))
    }

    /// Goes on to the next line that begins as a record does, which may be the present one.
    fn find_version_line(&mut self) -> io::Result<()> {
        while self.version_line()?.is_some() && !is_version(&self.line) {
            self.pending = None;
        }
        Ok(())
    }

    /// Reads the headers, or says what is wrong with them.
    fn headers(&mut self, head: &mut Head) -> io::Result<Result<(), String>> {
        for _ in 0..MAX_LINES {
            let start = self.stream.position();
            match self.stream.line(MAX_LINE, &mut self.line)? {
                Line::End => return Ok(Err("truncated inside the headers of a record".into())),
                Line::TooLong(length) => return Ok(Err(format!("a header of {length} bytes; {MAX_LINE} are allowed"))),
                Line::Whole if self.line.trim_ascii().is_empty() => {
                    return Ok(head.length.map(|_| ()).ok_or_else(|| "no Content-Length that is a number".into()));
                }
                Line::Whole if is_version(&self.line) => {
                    self.pending = Some(start);
                    return Ok(Err("another record begins inside the headers".into()));
                }
                Line::Whole => head.set(&self.line),
            }
        }
        Ok(Err(format!("more than {MAX_LINES} headers")))
    }

    /// Reads or passes over the content, or says why it is not all there.
    fn content(&mut self, head: &Head) -> io::Result<Result<Option<Vec<u8>>, String>> {
        let (start, length) = (self.stream.position(), head.length.unwrap_or(0));
        let truncated = |have: u64| Ok(Err(format!("truncated: Content-Length is {length}, and {have} bytes follow")));
        if length > ABSURD {
            return Ok(Err(format!("Content-Length is {length}, which no record has")));
        }
        if let Some(left) = self.length.map(|all| all.saturating_sub(start)).filter(|&left| left < length) {
            return truncated(left);
        }
        if !head.is_wanted() || length > self.limit {
            let skipped = self.stream.skip(length)?;
            return if skipped < length { truncated(skipped) } else { Ok(Ok(None)) };
        }
        let mut content = Vec::new();
        let read = self.stream.read_up_to(length, &mut content)?;
        if read < length { truncated(read) } else { Ok(Ok(Some(content))) }
    }
}

fn is_version(line: &[u8]) -> bool {
    line.strip_prefix(b"WARC/").and_then(|rest| rest.first()).is_some_and(u8::is_ascii_digit)
}

/// The documents of a WARC file, plain or decompressed as one stream, that begin before `end`.
pub(super) struct Warc {
    context: Context,
    items: Items,
    end: u64,
}

impl Warc {
    /// `length` is that of the file, if it is plain.
    pub(super) fn new(context: Context, stream: Stream, length: Option<u64>, end: u64) -> Self {
        let items = Items::new(stream, length, context.config.max_document_bytes);
        Self { context, items, end }
    }
}

impl Records for Warc {
    fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            match self.items.next(self.end)? {
                Item::End => return Ok(None),
                Item::Bad { at, why } => return Ok(Some(self.context.bad(at, why))),
                Item::Record { head, .. } if !head.is_wanted() => {}
                Item::Record { head, range, content } => {
                    return record(&mut self.context, head, range, content).map(Some);
                }
            }
        }
    }

    fn position(&self) -> u64 {
        self.items.stream.position()
    }
}

/// What a wanted record comes to.
pub(super) fn record(
    context: &mut Context,
    head: Head,
    range: Range<u64>,
    content: Option<Vec<u8>>,
) -> io::Result<Record> {
    let (at, length) = (range.start, head.length.unwrap_or(0));
    let found =
        |text| Found { range: range.clone(), fields: Fields { text, id: head.id.clone(), url: head.uri.clone() } };
    let Some(content) = content else {
        return Ok(context.too_large(found(String::new()), length));
    };
    if head.kind == "conversion" {
        return Ok(context.record(at, super::record::utf8(content).map(found)));
    }
    let limit = context.config.max_document_bytes;
    let response = match http::parse(&content, limit) {
        Ok(response) => response,
        Err(why) => return Ok(context.bad(at, why)),
    };
    let dropped = |rule, value, threshold| {
        Ok(Record::Dropped(context.document(found(String::new())), Dropped { rule, value, threshold }))
    };
    if response.status != 200 {
        return dropped(STATUS, f64::from(response.status), 200.0);
    }
    let body = match response.body {
        Body::Whole(body) => Some(body),
        Body::TooLarge => None,
        Body::Undecodable => return dropped(CONTENT_ENCODING, 0.0, 1.0),
    };
    let is_unknown = |media_type: &str| matches!(media_type, "" | "unknown/unknown" | "application/unknown");
    let media_type = match response.media_type.as_str() {
        known if !is_unknown(known) => known,
        _ => head.identified.split(';').next().unwrap_or_default().trim(),
    };
    let is_page = match media_type {
        "text/html" | "application/xhtml+xml" => true,
        "text/plain" => false,
        unknown if is_unknown(unknown) && body.as_deref().is_some_and(looks_like_a_page) => true,
        _ => return dropped(MEDIA_TYPE, 0.0, 1.0),
    };
    let Some(body) = body else {
        return Ok(context.too_large(found(String::new()), limit.saturating_add(1)));
    };
    let text = crate::extract::decode(&body, response.charset.as_deref(), head.uri.as_deref());
    if is_page { context.page(found(text)) } else { Ok(context.record(at, Ok(found(text)))) }
}

/// Whether bytes of no known type begin as a page does (MIME Sniffing standard, section 7.1).
fn looks_like_a_page(body: &[u8]) -> bool {
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
    let start = body.get(..1024).unwrap_or(body);
    let text = match Wide::declared(start) {
        Some(_) => crate::extract::decode(start, None, None).into_bytes(),
        None => start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).to_vec(),
    };
    let mut text = text.trim_ascii_start();
    // XHTML may have a declaration of XML before its document type.
    if let Some(declared) = text.strip_prefix(b"<?xml") {
        let end = memchr::memmem::find(declared, b"?>").map_or(declared.len(), |end| end + 2);
        text = declared.get(end..).unwrap_or_default().trim_ascii_start();
        return [TAGS[0], TAGS[1]].iter().any(|tag| begins(text, tag));
    }
    TAGS.iter().any(|tag| {
        let ends = |after: Option<&u8>| matches!(after, Some(b' ' | b'>' | b'\t' | b'\n' | b'\r' | 0x0c));
        begins(text, tag) && (*tag == "<!--" || ends(text.get(tag.len())))
    })
}

fn begins(text: &[u8], with: &str) -> bool {
    text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
}

/// Finds, for each of `cuts` (rising), where the first record begins that does not begin before it, in a plain file of
/// `length` bytes. Passes from header to header, over what is between.
pub(super) fn starts(store: &Store, length: u64, cuts: &[u64]) -> io::Result<Vec<u64>> {
    let mut items = Items::new(Stream::plain(store, 0, super::record::uncounted())?, Some(length), 0);
    let (mut starts, mut cuts) = (Vec::new(), cuts.iter().copied().peekable());
    while let Some(&cut) = cuts.peek() {
        let at = match items.next(u64::MAX)? {
            Item::End => break,
            Item::Bad { at, .. } => at,
            Item::Record { range, .. } => range.start,
        };
        if at >= cut {
            starts.push(at);
            while cuts.next_if(|&cut| cut <= at).is_some() {}
        }
    }
    Ok(starts)
}

#[cfg(test)]
mod tests;
