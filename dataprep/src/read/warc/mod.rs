//! WARC files (ISO 28500): web pages in `response` and `resource` records, extracted text in `conversion` records.
//!
//! A record begins with a version line, has headers, an empty line, and as many bytes as `Content-Length` says. Where a
//! record does not hold to that it is bad, and reading goes on at the next line that begins with `WARC/`.

use super::binary::{Nature, nature};
use super::http::{self, Body, Response};
use super::media::{self, Kind, MediaType};
use super::record::{Context, Found, Record, Records};
use super::stream::{Line, Store, Stream};
use crate::document::{Document, Dropped};
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

/// Rule of [`Record::Dropped`]: the page had not changed since an earlier visit, whose record holds it. Its value is 0,
/// against 1.
pub const REVISIT: &str = "warc.revisit";
/// Rule of [`Record::Dropped`]: a later part of a record that was cut into several. Its value is 0, against 1.
pub const CONTINUATION: &str = "warc.continuation";

/// What the headers of a record say.
#[derive(Debug, Default)]
pub(super) struct Head {
    kind: String,
    media_type: String,
    id: Option<String>,
    uri: Option<String>,
    /// Media type of the body, as the crawler identified it.
    identified: String,
    /// Whether the crawler says that it did not keep or receive all.
    truncated: bool,
    length: Option<u64>,
}

/// What is done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It holds an answer of an HTTP server.
    Response,
    /// It holds a page or a text, without a server's headers.
    Body,
    /// It stands for a document, which this rule leaves out.
    LeftOut(&'static str),
    /// It is about the crawl, or about another record.
    Notes,
}

impl Head {
    fn set(&mut self, line: &[u8]) {
        let Some((name, value)) = http::header(line) else {
            return;
        };
        match name.as_str() {
            "warc-type" => self.kind = value.to_ascii_lowercase(),
            "content-type" => self.media_type = value,
            "warc-record-id" => self.id = Some(value),
            // Early writers put the address in angle brackets.
            "warc-target-uri" => self.uri = Some(value.trim_matches(['<', '>']).to_owned()),
            "warc-identified-payload-type" => self.identified = value,
            "warc-truncated" => self.truncated = !value.is_empty(),
            "content-length" => self.length = value.parse().ok(),
            _ => {}
        }
    }

    fn purpose(&self) -> Purpose {
        let is_http = self.media_type.get(..16).is_some_and(|start| start.eq_ignore_ascii_case("application/http"));
        match self.kind.as_str() {
            "response" if self.media_type.is_empty() || is_http => Purpose::Response,
            kind @ ("response" | "resource" | "conversion") if kind == "conversion" || self.is_of_the_web() => {
                match MediaType::of(&self.media_type).kind() {
                    Some(Kind::Other) => Purpose::LeftOut(MEDIA_TYPE),
                    _ => Purpose::Body,
                }
            }
            "revisit" => Purpose::LeftOut(REVISIT),
            "continuation" => Purpose::LeftOut(CONTINUATION),
            _ => Purpose::Notes,
        }
    }

    /// Whether the address is one of a document, and not a crawler's name for notes on its work (`urn:`, `dns:`,
    /// `metadata:`, ...).
    fn is_of_the_web(&self) -> bool {
        let scheme = self.uri.as_deref().and_then(|uri| uri.split_once(':')).map(|(scheme, _)| scheme);
        scheme.is_none_or(|scheme| ["http", "https", "ftp", "file"].iter().any(|web| scheme.eq_ignore_ascii_case(web)))
    }

    /// Whether the record stands for a document.
    pub(super) fn is_wanted(&self) -> bool {
        self.purpose() != Purpose::Notes
    }

    /// Whether the document is in the record.
    fn has_document(&self) -> bool {
        matches!(self.purpose(), Purpose::Response | Purpose::Body)
    }
}

/// What stands at some place of a WARC file.
pub(super) enum Item {
    /// A record. Its content is kept when it holds a document and is not too large.
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
        let mut header = Vec::new();
        for _ in 0..MAX_LINES {
            let start = self.stream.position();
            let line = self.stream.line(MAX_LINE, &mut self.line)?;
            // A header may go over several lines.
            let is_more = line == Line::Whole && http::is_continued(&self.line) && !self.line.trim_ascii().is_empty();
            if !is_more {
                head.set(&header);
                header.clear();
            }
            match line {
                Line::End => return Ok(Err("truncated inside the headers of a record".into())),
                Line::TooLong(length) => return Ok(Err(format!("a header of {length} bytes; {MAX_LINE} are allowed"))),
                Line::Whole if self.line.trim_ascii().is_empty() => {
                    return Ok(head.length.map(|_| ()).ok_or_else(|| "no Content-Length that is a number".into()));
                }
                Line::Whole if is_version(&self.line) => {
                    self.pending = Some(start);
                    return Ok(Err("another record begins inside the headers".into()));
                }
                Line::Whole => header.extend_from_slice(&self.line),
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
        if !head.has_document() || length > self.limit {
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
    let limit = context.config.max_document_bytes;
    let found =
        |text| Found { range: range.clone(), fields: Fields { text, id: head.id.clone(), url: head.uri.clone() } };
    let dropped = |context: &Context, rule, value, threshold| {
        Ok(Record::Dropped(context.document(found(String::new())), Dropped { rule, value, threshold }))
    };
    let response = match (head.purpose(), content) {
        (Purpose::LeftOut(rule), _) => return dropped(context, rule, 0.0, 1.0),
        (_, None) => return Ok(context.too_large(found(String::new()), head.length.unwrap_or(0))),
        (Purpose::Response, Some(content)) => http::parse(&content, limit),
        (_, Some(content)) => Response::of(content, &head.media_type),
    };
    let broken_off = response.broken_off || head.truncated;
    if let Some(status) = response.status.filter(|&status| status != 200) {
        return dropped(context, STATUS, f64::from(status), 200.0);
    }
    let (body, is_complete) = match response.body {
        Body::Whole(body) => (body, true),
        Body::TooLarge => (Vec::new(), false),
        Body::Undecodable => return dropped(context, CONTENT_ENCODING, 0.0, 1.0),
    };
    let kind = match media::kind(&response.media_type, &MediaType::of(&head.identified), &body) {
        // Extracted text needs no type.
        _ if head.kind == "conversion" && head.media_type.is_empty() => Kind::Text,
        // Without headers, only what looks like a page is one.
        Kind::Text if response.status.is_none() && head.purpose() == Purpose::Response => Kind::Other,
        kind => kind,
    };
    if kind == Kind::Other {
        return dropped(context, MEDIA_TYPE, 0.0, 1.0);
    }
    if !is_complete {
        return Ok(context.too_large(found(String::new()), limit.saturating_add(1)));
    }
    let charset = response.media_type.charset.as_deref();
    let record = if head.kind == "conversion" && kind == Kind::Text && charset.is_none() {
        let body = if head.truncated { whole_characters(body) } else { body };
        context.record(range.start, super::record::utf8(body).map(found))
    } else {
        let text = crate::extract::decode(&body, charset, head.uri.as_deref());
        match nature(text.as_bytes()) {
            Nature::Binary(_) => return dropped(context, MEDIA_TYPE, 0.0, 1.0),
            _ if kind == Kind::Page => context.page(found(text))?,
            _ => context.record(range.start, Ok(found(text))),
        }
    };
    Ok(if broken_off { broken(record) } else { record })
}

/// Text without a last character that breaks off.
fn whole_characters(mut text: Vec<u8>) -> Vec<u8> {
    if let Err(e) = std::str::from_utf8(&text)
        && e.error_len().is_none()
    {
        text.truncate(e.valid_up_to());
    }
    text
}

/// The record with the note that it breaks off.
fn broken(record: Record) -> Record {
    let note = |document| Document { broken_off: true, ..document };
    match record {
        Record::Document(document) => Record::Document(note(document)),
        Record::Page(document) => Record::Page(note(document)),
        other => other,
    }
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
