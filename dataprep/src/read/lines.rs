//! Files with one record a line: JSON objects, or plain text.

use super::fields;
use super::record::{Context, Found, Record, Records};
use super::stream::{Line, Stream};
use std::io;

/// The lines of a stream that begin before `end`.
pub(super) struct Lines {
    context: Context,
    stream: Stream,
    end: u64,
    json: bool,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn new(context: Context, stream: Stream, end: u64, json: bool) -> Self {
        Self { context, stream, end, json, buffer: Vec::new() }
    }
}

impl Records for Lines {
    fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            let mut start = self.stream.position();
            if start >= self.end {
                return Ok(None);
            }
            let limit = self.context.config.max_document_bytes;
            let line = self.stream.line(limit, &mut self.buffer)?;
            let mut bytes = self.buffer.as_slice();
            if start == 0 && bytes.starts_with(super::record::BYTE_ORDER_MARK) {
                bytes = bytes.get(super::record::BYTE_ORDER_MARK.len()..).unwrap_or_default();
                start += super::record::BYTE_ORDER_MARK.len() as u64;
            }
            bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            match line {
                Line::End => return Ok(None),
                Line::TooLong(length) => {
                    let range = start..start.saturating_add(length);
                    return Ok(Some(self.context.too_large(Found::text(range, String::new()), length)));
                }
                Line::Whole if bytes.iter().all(u8::is_ascii_whitespace) => {}
                Line::Whole => {
                    let range = start..start.saturating_add(bytes.len() as u64);
                    let found = if self.json {
                        fields::of_json(bytes, &self.context.config.fields)
                            .map(|found| Found { range: range.clone(), fields: found })
                    } else {
                        super::record::utf8(bytes.to_vec()).map(|text| Found::text(range.clone(), text))
                    };
                    return Ok(Some(self.context.record(range.start, found)));
                }
            }
        }
    }

    fn position(&self) -> u64 {
        self.stream.position()
    }
}

/// Finds, for each of `cuts` (rising), where the first line begins that does not begin before it. Reads little more
/// than the ends of lines that go over a cut.
pub(super) fn starts(store: &super::stream::Store, cuts: &[u64]) -> io::Result<Vec<u64>> {
    let mut starts: Vec<u64> = Vec::new();
    for &cut in cuts {
        if starts.last().is_some_and(|&last| last >= cut) {
            continue;
        }
        // A line begins at the cut itself when the byte before it ends one.
        let mut stream = Stream::plain(store, cut.saturating_sub(1), super::record::uncounted())?;
        let mut nothing = Vec::new();
        stream.line(0, &mut nothing)?;
        starts.push(stream.position());
    }
    Ok(starts)
}
