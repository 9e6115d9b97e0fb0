//! Comma- or tab-separated values with a header (RFC 4180).
//!
//! A record is first framed, by the same automaton as the `csv` crates use, so that its byte range is known and one
//! quote too many cannot fill the memory; then `csv-core` takes its fields apart.

use super::fields::{FieldNames, Fields};
use super::record::{Context, Found, Record, Records};
use super::stream::{Store, Stream};
use csv_core::ReadRecordResult;
use std::io;
use std::ops::Range;

/// Fields that a record may have. A line of commas would otherwise take eight times its size.
const MAX_FIELDS: usize = 1 << 16;

/// Between which bytes of a record the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    BetweenRecords,
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote inside quotes: the first of a doubled one, or the end of the quotes.
    QuoteInQuotes,
}

/// A record as it stands in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The bytes are in the buffer.
    Whole(Range<u64>),
    /// A record longer than the limit.
    TooLong(Range<u64>),
    End,
}

/// Cuts a stream into records.
pub(super) struct Framer {
    stream: Stream,
    delimiter: u8,
}

impl Framer {
    /// Opens `store` at the start of a record. A byte order mark is no part of the first one.
    pub(super) fn open(stream: Stream, delimiter: u8) -> io::Result<Self> {
        let mut framer = Self { stream, delimiter };
        if framer.stream.position() == 0 && framer.stream.fill()?.starts_with(super::record::BYTE_ORDER_MARK) {
            framer.stream.consume(super::record::BYTE_ORDER_MARK.len());
        }
        Ok(framer)
    }

    /// Puts the next record into `buffer`, without the line end, or no more than its first `limit` bytes.
    pub(super) fn next(&mut self, limit: u64, buffer: &mut Vec<u8>) -> io::Result<Frame> {
        buffer.clear();
        let mut state = State::BetweenRecords;
        let mut start = self.stream.position();
        loop {
            let delimiter = self.delimiter;
            let chunk = self.stream.fill()?;
            if chunk.is_empty() {
                let range = start..self.stream.position();
                return Ok(match state {
                    State::BetweenRecords => Frame::End,
                    _ if range.end - range.start > limit => Frame::TooLong(range),
                    _ => Frame::Whole(range),
                });
            }
            if state == State::BetweenRecords {
                let blank = chunk.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                if blank < chunk.len() {
                    state = State::FieldStart;
                }
                self.stream.consume(blank);
                start = self.stream.position();
                continue;
            }
            let (used, ended) = scan(chunk, delimiter, &mut state);
            let room = usize::try_from(limit.saturating_sub(buffer.len() as u64)).unwrap_or(usize::MAX);
            buffer.extend_from_slice(chunk.get(..used.min(room)).unwrap_or_default());
            self.stream.consume(used);
            if ended {
                let range = start..self.stream.position();
                // The line end stays; between records it is passed over.
                return Ok(if range.end - range.start > limit { Frame::TooLong(range) } else { Frame::Whole(range) });
            }
        }
    }
}

/// Runs the automaton over `chunk`. Says how many bytes belong to the record, and whether it ends after them.
fn scan(chunk: &[u8], delimiter: u8, state: &mut State) -> (usize, bool) {
    let mut at = 0;
    while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
        // What cannot change the state is jumped over.
        let next = match *state {
            State::Quoted => memchr::memchr(b'"', rest),
            State::Unquoted => memchr::memchr3(delimiter, b'\r', b'\n', rest),
            _ => Some(0),
        };
        let Some((next, &byte)) = next.and_then(|next| Some((next, rest.get(next)?))) else {
            return (chunk.len(), false);
        };
        at += next;
        *state = match (*state, byte) {
            (State::Quoted, _) => State::QuoteInQuotes,
            (_, b'\r' | b'\n') => return (at, true),
            (State::QuoteInQuotes | State::FieldStart, b'"') => State::Quoted,
            (_, byte) if byte == delimiter => State::FieldStart,
            _ => State::Unquoted,
        };
        at += 1;
    }
    (chunk.len(), false)
}

/// The fields of a framed record: their bytes one after the other, and where each ends.
#[derive(Default)]
pub(super) struct Row {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    fields: usize,
}

impl Row {
    /// Takes `frame` apart.
    pub(super) fn parse(&mut self, parser: &mut csv_core::Reader, frame: &[u8]) -> std::result::Result<(), String> {
        parser.reset();
        self.bytes.resize(frame.len(), 0);
        self.ends.resize(self.ends.len().max(64), 0);
        let (mut input, mut wrote, mut ended) = (frame, 0, 0);
        loop {
            let (Some(bytes), Some(ends)) = (self.bytes.get_mut(wrote..), self.ends.get_mut(ended..)) else {
                return Err("not a record of separated values".into());
            };
            // Empty input tells the parser that the record ends.
            let (result, used, new_bytes, new_ends) = parser.read_record(input, bytes, ends);
            input = input.get(used..).unwrap_or_default();
            wrote += new_bytes;
            ended += new_ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputEndsFull if self.ends.len() < MAX_FIELDS => {
                    self.ends.resize(self.ends.len() * 2, 0);
                }
                ReadRecordResult::OutputEndsFull => return Err(format!("more than {MAX_FIELDS} fields")),
                ReadRecordResult::Record | ReadRecordResult::End => {
                    self.fields = ended;
                    return Ok(());
                }
                // Fields are never longer than their record.
                ReadRecordResult::OutputFull => return Err("not a record of separated values".into()),
            }
        }
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(..self.fields)?.get(index)?;
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.bytes.get(start..end)
    }

    /// The fields in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.fields).filter_map(|index| self.get(index))
    }
}

/// Where the columns are that make up a document.
#[derive(Clone, Copy, Debug)]
struct Columns {
    text: usize,
    id: Option<usize>,
    url: Option<usize>,
}

impl Columns {
    fn find(header: &Row, names: &FieldNames) -> std::result::Result<Self, String> {
        let position = |name: &str| header.iter().position(|column| column == name.as_bytes());
        let Some(text) = position(&names.text) else {
            let known: Vec<_> = header.iter().take(20).map(String::from_utf8_lossy).collect();
            return Err(format!("no column {:?}; there are {}", names.text, known.join(", ")));
        };
        let optional = |name: &Option<String>| name.as_deref().and_then(position);
        Ok(Self { text, id: optional(&names.id), url: optional(&names.url) })
    }

    fn fields(self, row: &Row, names: &FieldNames) -> std::result::Result<Fields, String> {
        let Some(text) = row.get(self.text) else {
            return Err(format!("{} fields, and column {:?} is number {}", row.fields, names.text, self.text + 1));
        };
        let optional = |column: Option<usize>| {
            let value = row.get(column?)?;
            (!value.is_empty()).then(|| String::from_utf8_lossy(value).into_owned())
        };
        Ok(Fields { text: super::record::utf8(text.to_vec())?, id: optional(self.id), url: optional(self.url) })
    }
}

/// The records of a stream that begin before `end`.
pub(super) struct Csv {
    context: Context,
    framer: Framer,
    parser: csv_core::Reader,
    end: u64,
    /// Where the columns are, once that is known.
    columns: Option<Columns>,
    /// Whether the next record is the header.
    at_header: bool,
    buffer: Vec<u8>,
    row: Row,
}

impl Csv {
    /// Reads on from where `stream` is. In the middle of a file, `header` is the file from its start.
    pub(super) fn new(
        context: Context,
        stream: Stream,
        header: Option<Stream>,
        end: u64,
        delimiter: u8,
    ) -> io::Result<Self> {
        let parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        let middle = header.is_some();
        let (first, later) = match header {
            Some(header) => (header, Some(stream)),
            None => (stream, None),
        };
        let framer = Framer::open(first, delimiter)?;
        let (buffer, row) = (Vec::new(), Row::default());
        let mut csv = Self { context, framer, parser, end, columns: None, at_header: !middle, buffer, row };
        if let Some(stream) = later {
            // What is wrong with the header is for the reader of the first split to say.
            csv.columns = csv.header()?.unwrap_or_default();
            csv.framer = Framer { stream, delimiter };
        }
        Ok(csv)
    }

    /// Reads the header: where the columns are, or what is wrong with it. An empty file has no columns.
    fn header(&mut self) -> io::Result<std::result::Result<Option<Columns>, String>> {
        Ok(match self.framer.next(self.context.config.max_document_bytes, &mut self.buffer)? {
            Frame::End => Ok(None),
            Frame::TooLong(_) => Err("the header is longer than input.max_document_bytes".into()),
            Frame::Whole(_) => (self.row.parse(&mut self.parser, &self.buffer))
                .and_then(|()| Columns::find(&self.row, &self.context.config.fields).map(Some)),
        })
    }
}

impl Records for Csv {
    fn next(&mut self) -> io::Result<Option<Record>> {
        if std::mem::take(&mut self.at_header) {
            let start = self.framer.stream.position();
            match self.header()? {
                Ok(columns) => self.columns = columns,
                Err(why) => return Ok(Some(self.context.bad(start, why))),
            }
        }
        // Without columns there are no documents.
        let Some(columns) = self.columns else {
            return Ok(None);
        };
        match self.framer.next(self.context.config.max_document_bytes, &mut self.buffer)? {
            Frame::End => Ok(None),
            Frame::Whole(range) | Frame::TooLong(range) if range.start >= self.end => Ok(None),
            Frame::TooLong(range) => {
                let length = range.end - range.start;
                Ok(Some(self.context.too_large(Found::text(range, String::new()), length)))
            }
            Frame::Whole(range) => {
                let fields = (self.row.parse(&mut self.parser, &self.buffer))
                    .and_then(|()| columns.fields(&self.row, &self.context.config.fields))
                    .map(|fields| Found { range: range.clone(), fields });
                Ok(Some(self.context.record(range.start, fields)))
            }
        }
    }

    fn position(&self) -> u64 {
        self.framer.stream.position()
    }
}

/// Finds, for each of `cuts` (rising), where the first record begins that does not begin before it. Whether a line end
/// is inside quotes depends on everything before, so the whole file is read, without parsing it.
pub(super) fn starts(store: &Store, cuts: &[u64], delimiter: u8) -> io::Result<Vec<u64>> {
    let mut framer = Framer::open(Stream::plain(store, 0, super::record::uncounted())?, delimiter)?;
    let (mut starts, mut buffer) = (Vec::new(), Vec::new());
    let mut cuts = cuts.iter().copied().peekable();
    // The header belongs to the first split, wherever the cuts are.
    framer.next(0, &mut buffer)?;
    while let Some(&cut) = cuts.peek() {
        let (Frame::Whole(range) | Frame::TooLong(range)) = framer.next(0, &mut buffer)? else {
            break;
        };
        if range.start >= cut {
            starts.push(range.start);
            while cuts.next_if(|&cut| cut <= range.start).is_some() {}
        }
    }
    Ok(starts)
}
