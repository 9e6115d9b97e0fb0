//! Detection of a file's format by its content, where the suffix leaves it open and the bytes are certain.

use super::access::compression;
use super::binary::head;
use super::fields::{self, FieldNames};
use super::format::{Compression, Format};
use super::record::{BYTE_ORDER_MARK, uncounted};
use super::stream::{Store, Stream};
use std::io;

/// Bytes of content that are looked at: more than a first record mostly has, and more than it ever should.
const SAMPLES: [u64; 2] = [1 << 18, 1 << 24];

/// What the first bytes of a file are the beginning of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// JSON objects with the field that holds the text.
    Records(Format),
    /// JSON objects without it.
    OtherJson(Format),
    /// A format that begins like no other.
    Certain(Format),
    /// No known format.
    Unknown,
}

/// Tells what the file in `store` holds. Damage makes it [`Content::Unknown`]; errors are the system's.
pub(super) fn content(store: &Store, named: Compression, names: &FieldNames) -> io::Result<Content> {
    let compression = compression(&head(store)?, named);
    let mut stream = Stream::open(store, compression, uncounted())?;
    let mut sample = Vec::new();
    for size in SAMPLES {
        match stream.read_up_to(size - sample.len() as u64, &mut sample) {
            Err(e) if e.raw_os_error().is_some() => return Err(e),
            // What was decompressed before the damage is as telling.
            Err(_) => return Ok(of_sample(&sample, names)),
            Ok(_) => {}
        }
        let content = of_sample(&sample, names);
        if content != Content::Unknown || (sample.len() as u64) < size || !begins_as_json(&sample) {
            return Ok(content);
        }
    }
    Ok(Content::Unknown)
}

fn of_sample(sample: &[u8], names: &FieldNames) -> Content {
    match sample {
        [b'W', b'A', b'R', b'C', b'/', b'0'..=b'9', ..] => return Content::Certain(Format::Warc),
        [b'P', b'A', b'R', b'1', ..] => return Content::Certain(Format::Parquet),
        _ if sample.starts_with(b"ARROW1\0\0") => return Content::Certain(Format::Arrow),
        _ => {}
    }
    let text = sample.strip_prefix(BYTE_ORDER_MARK).unwrap_or(sample).trim_ascii_start();
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let has_text = |object: &[u8]| fields::of_json(object, names).is_ok();
    match text {
        [b'{', ..] if is_object(line) => {
            let format = Format::JsonLines;
            if has_text(line) { Content::Records(format) } else { Content::OtherJson(format) }
        }
        // The first object goes over several lines, or its line is longer than the sample.
        [b'{', ..] | [b'[', ..] => match first_object(text) {
            Some(object) if has_text(object) => Content::Records(Format::Json),
            Some(_) => Content::OtherJson(Format::Json),
            None => Content::Unknown,
        },
        _ if is_page(text) => Content::Certain(Format::Html),
        _ => Content::Unknown,
    }
}

fn begins_as_json(sample: &[u8]) -> bool {
    let text = sample.strip_prefix(BYTE_ORDER_MARK).unwrap_or(sample).trim_ascii_start();
    matches!(text.first(), Some(b'{' | b'['))
}

fn is_object(bytes: &[u8]) -> bool {
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

/// Whether text begins as a web page does.
fn is_page(text: &[u8]) -> bool {
    let begins = |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    begins("<!doctype html") || begins("<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let of = |text: &str| of_sample(text.as_bytes(), &FieldNames::default());
        for (text, content) in [
            ("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", Content::Records(Format::JsonLines)),
            ("\u{feff}{\"text\": \"a\", \"n\": {}}", Content::Records(Format::JsonLines)),
            ("{\"content\": \"a\"}\n", Content::OtherJson(Format::JsonLines)),
            ("{\n  \"text\": \"a\"\n}\n", Content::Records(Format::Json)),
            ("[{\"text\": \"a\"}, {\"text\": \"b\"}]", Content::Records(Format::Json)),
            ("[\n  {\n    \"text\": \"a\"\n  }\n]", Content::Records(Format::Json)),
            ("{\n  \"name\": \"package\"\n}", Content::OtherJson(Format::Json)),
            ("[1, 2, 3]", Content::Unknown),
            ("{ not JSON", Content::Unknown),
            ("WARC/1.0\r\n", Content::Certain(Format::Warc)),
            ("  <!DOCTYPE HTML><p>", Content::Certain(Format::Html)),
            ("PAR1", Content::Certain(Format::Parquet)),
            ("plain text", Content::Unknown),
            ("", Content::Unknown),
        ] {
            assert_eq!(of(text), content, "{text}");
        }
    }
}
