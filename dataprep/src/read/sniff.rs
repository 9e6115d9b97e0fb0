//! Detection of a file's format by its content.

use super::access::compression;
use super::binary::head;
use super::csv::{Frame, Framer, Row};
use super::fields::{self, FieldNames};
use super::format::{Compression, Format};
use super::kinds::{Foreign, foreign};
use super::record::{BYTE_ORDER_MARK, uncounted};
use super::stream::{Store, Stream};
use std::io;

/// Bytes of content that are looked at: more than a first record mostly has, and more than it ever should.
const SAMPLES: [u64; 3] = [1 << 15, 1 << 18, 1 << 24];
/// Lines that are looked at to tell lines of JSON from a text.
const LINES: usize = 100;

/// What a file holds, as far as its beginning says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub content: Content,
    /// How it is compressed, whatever its name says.
    pub compression: Compression,
}

/// What the first bytes of a file are the beginning of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// JSON objects with the field that holds the text.
    Records {
        format: Format,
        /// Whether nothing else was found among them.
        pure: bool,
    },
    /// JSON objects without it.
    OtherJson(Format),
    /// A format that begins like no other.
    Certain(Format),
    /// A kind of file that is not read.
    Foreign(Foreign),
    /// None of these.
    Other(Table),
}

/// What the first bytes of a file are as separated values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// What separates the columns of a header with the column that holds the text.
    pub separator: Option<u8>,
    /// Whether records follow it that have as many fields.
    pub is_table: bool,
    /// Whether there is a header at all.
    pub has_header: bool,
}

impl Content {
    const UNKNOWN: Self = Self::Other(Table { separator: None, is_table: false, has_header: false });
}

/// Looks at the file in `store`. Damage leaves what came before it to tell by; errors are the system's.
pub(super) fn look(store: &Store, named: Compression, names: &FieldNames) -> io::Result<Look> {
    let head = head(store)?;
    let compression = compression(&head, named);
    let found = |content| Ok(Look { content, compression });
    if let Some(kind) = foreign(&head) {
        return found(Content::Foreign(kind));
    }
    let mut stream = Stream::open(store, compression, uncounted())?;
    let mut sample = Vec::new();
    for size in SAMPLES {
        let ends = match stream.read_up_to(size - sample.len() as u64, &mut sample) {
            Err(e) if e.raw_os_error().is_some() => return Err(e),
            // What was decompressed before the damage is as telling.
            Err(_) => true,
            Ok(_) => (sample.len() as u64) < size,
        };
        let content = of_sample(&sample, ends, names);
        let is_open = matches!(content, Content::Other(table) if begins_as_json(&sample) || !table.has_header);
        if ends || !is_open {
            return found(content);
        }
    }
    found(Content::UNKNOWN)
}

/// Text without byte order mark and white space before it.
fn trimmed(sample: &[u8]) -> &[u8] {
    sample.strip_prefix(BYTE_ORDER_MARK).unwrap_or(sample).trim_ascii_start()
}

/// Tells what begins with `sample`, which is all of it if it `ends` there.
fn of_sample(sample: &[u8], ends: bool, names: &FieldNames) -> Content {
    match sample {
        [b'P', b'A', b'R', b'1', ..] => return Content::Certain(Format::Parquet),
        _ if sample.starts_with(b"ARROW1\0\0") => return Content::Certain(Format::Arrow),
        _ if is_warc(sample) => return Content::Certain(Format::Warc),
        _ => {}
    }
    if let Some(kind) = foreign(sample.get(..4096).unwrap_or(sample)) {
        return Content::Foreign(kind);
    }
    let finite = begins_as_json(sample).then(|| fields::finite(sample)).flatten();
    let text = trimmed(finite.as_deref().unwrap_or(sample));
    match text.first() {
        Some(b'{') => of_json_lines(text, ends, names).unwrap_or_else(|| of_json(text, names)),
        Some(b'[') => of_json(text, names),
        _ if is_page(text) => Content::Certain(Format::Html),
        _ => Content::Other(table(sample, ends, names)),
    }
}

/// Tells lines of JSON from other text by the first of them that are complete.
fn of_json_lines(text: &[u8], ends: bool, names: &FieldNames) -> Option<Content> {
    let complete = text.iter().filter(|&&byte| byte == b'\n').count() + usize::from(ends);
    let lines = text.split(|&byte| byte == b'\n').take(complete).map(<[u8]>::trim_ascii);
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).take(LINES).collect();
    let objects: Vec<&[u8]> = lines.iter().copied().filter(|line| line.starts_with(b"{") && is_json(line)).collect();
    let has_text = objects.iter().any(|object| fields::of_json(object, names).is_ok());
    let first_is_one = lines.first().is_some_and(|line| objects.first() == Some(line));
    // A damaged first line is not the end of a file; an object over many lines has none that has the text by itself.
    match (first_is_one, has_text) {
        (true, false) => Some(Content::OtherJson(Format::JsonLines)),
        (true, true) => Some(Content::Records { format: Format::JsonLines, pure: objects.len() == lines.len() }),
        (false, true) if first_object(text).is_none() => {
            Some(Content::Records { format: Format::JsonLines, pure: false })
        }
        (false, _) => None,
    }
}

/// Tells an object over several lines, and arrays of objects, by the first object.
fn of_json(text: &[u8], names: &FieldNames) -> Content {
    let format = Format::Json;
    match first_object(text) {
        Some(object) if fields::of_json(object, names).is_ok() => Content::Records { format, pure: true },
        Some(_) => Content::OtherJson(format),
        None => Content::UNKNOWN,
    }
}

fn begins_as_json(sample: &[u8]) -> bool {
    matches!(trimmed(sample).first(), Some(b'{' | b'['))
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

/// The first JSON object in `text`, behind the brackets of arrays, if it ends there.
fn first_object(text: &[u8]) -> Option<&[u8]> {
    let open = text.iter().position(|byte| !b" \t\r\n[".contains(byte))?;
    let object = text.get(open..).filter(|object| object.first() == Some(&b'{'))?;
    let mut values = serde_json::Deserializer::from_slice(object).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    object.get(..values.byte_offset())
}

/// Whether text begins with a version line of WARC and a header.
fn is_warc(sample: &[u8]) -> bool {
    let Some(rest) = sample.strip_prefix(b"WARC/") else {
        return false;
    };
    let mut lines = rest.split(|&byte| byte == b'\n');
    let version = lines.next().unwrap_or_default().trim_ascii_end();
    let is_version = version.first().is_some_and(u8::is_ascii_digit)
        && version.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    // A file that is cut off in its first line is still one.
    is_version && lines.next().is_none_or(|header| header.is_empty() || header.contains(&b':'))
}

/// Whether text begins as a web page does.
fn is_page(text: &[u8]) -> bool {
    let begins = |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    begins("<!doctype html") || begins("<html")
}

/// Looks at `sample` as separated values with a header.
fn table(sample: &[u8], ends: bool, names: &FieldNames) -> Table {
    let mut found = Table::default();
    for separator in [b',', b'\t', b';', b'|'] {
        let records = records(sample, ends, separator);
        found.has_header |= !records.is_empty();
        let Some((header, rest)) = records.split_first() else { continue };
        if header.iter().any(|column| column == names.text.as_bytes()) {
            let is_table = header.len() > 1 && !rest.is_empty() && rest.iter().all(|row| row.len() == header.len());
            return Table { separator: Some(separator), is_table, has_header: true };
        }
    }
    found
}

/// The first complete records of separated values, each as its fields.
fn records(sample: &[u8], ends: bool, separator: u8) -> Vec<Vec<Vec<u8>>> {
    let stream = Stream::over(io::Cursor::new(sample.to_vec()));
    let mut parser = csv_core::ReaderBuilder::new().delimiter(separator).build();
    let (mut buffer, mut row, mut records) = (Vec::new(), Row::default(), Vec::new());
    let Ok(mut framer) = Framer::open(stream, separator) else {
        return records;
    };
    while records.len() < LINES
        && let Ok(Frame::Whole(range)) = framer.next(u64::MAX, &mut buffer)
        && (ends || range.end < sample.len() as u64)
        && row.parse(&mut parser, &buffer).is_ok()
    {
        records.push(row.iter().map(<[u8]>::to_vec).collect());
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, ends: bool) -> Content {
        of_sample(text.as_bytes(), ends, &FieldNames::default())
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let records = |format, pure| Content::Records { format, pure };
        let (lines, json) = (records(Format::JsonLines, true), records(Format::Json, true));
        for (text, content) in [
            ("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", lines.clone()),
            ("\u{feff}{\"text\": \"a\", \"n\": {}}", lines.clone()),
            ("{\"meta\": 1}\n{\"text\": \"b\"}\n", lines),
            ("{\"text\": \"a\"}\nand so on\n", records(Format::JsonLines, false)),
            ("{\"text\": \"a\n{\"text\": \"b\"}\n", records(Format::JsonLines, false)),
            ("{\"content\": \"a\"}\n", Content::OtherJson(Format::JsonLines)),
            ("{\n  \"text\": \"a\"\n}\n", json.clone()),
            ("{\"text\": \"a\"} {\"text\": \"b\"}", json.clone()),
            ("[{\"text\": \"a\"}, {\"text\": \"b\"}]", json.clone()),
            ("[\n  {\n    \"text\": \"a\"\n  }\n]", json),
            ("{\n  \"name\": \"package\"\n}", Content::OtherJson(Format::Json)),
            ("{\n  \"a\": [\n{\"text\": \"b\"}\n]}", Content::OtherJson(Format::Json)),
            ("[{\"n\": NaN, \"text\": \"a\"}]", records(Format::Json, true)),
            ("[1, 2, 3]", Content::UNKNOWN),
            ("{ not JSON", Content::UNKNOWN),
            ("WARC/1.0\r\nWARC-Type: warcinfo\r\n", Content::Certain(Format::Warc)),
            ("  <!DOCTYPE HTML><p>", Content::Certain(Format::Html)),
            ("PAR1", Content::Certain(Format::Parquet)),
            ("", Content::UNKNOWN),
        ] {
            assert_eq!(of(text, true), content, "{text}");
        }
        for text in ["plain text", "WARC/1.0 is a format\n", "WARC/1.0\nis a format\n", "text and more\nof it\n"] {
            assert!(matches!(of(text, true), Content::Other(Table { is_table: false, .. })), "{text}");
        }
    }

    #[test]
    fn separated_values_are_told_by_their_header() {
        for (text, separator, is_table) in [
            ("id,text\n1,a\n2,\"b\nc\"\n", Some(b','), true),
            ("id\ttext\n1\ta\n", Some(b'\t'), true),
            ("id;text\n1;a\n", Some(b';'), true),
            ("text,in\nprose, with, commas\n", Some(b','), false),
            ("text\nb\n", Some(b','), false),
            ("a,b\n1,2\n", None, false),
        ] {
            let table = Table { separator, is_table, has_header: true };
            assert_eq!(of(text, true), Content::Other(table), "{text}");
        }
        // What is cut off says nothing.
        assert_eq!(of("id,te", false), Content::UNKNOWN);
        assert!(matches!(of("id,text\n1,a\n2", false), Content::Other(Table { is_table: true, .. })));
    }
}
