//! Arrow's IPC formats, a record batch at a time. A file is a stream with a signature before it and an index behind, so
//! both are read as streams of messages: a schema, dictionaries, and record batches.

use super::batches::{Batches, Step, guarded, wanted};
use crate::read::stream::{Store, Stream};
use arrow_array::ArrayRef;
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{Message, MessageHeader, RecordBatch as Header, root_as_message};
use arrow_schema::{Schema, SchemaRef};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What a file, rather than a stream, begins with.
const SIGNATURE: &[u8] = b"ARROW1\0\0";
/// Where the first message begins at the latest: writers fill up to their alignment with zeros.
const MAX_ALIGNMENT: u64 = 64;
/// Bytes that the header of a message may have.
const MAX_HEADER: u64 = 1 << 26;
/// Bytes that a record batch may have, decompressed.
const MAX_BATCH: u64 = 1 << 31;

/// A message: where it begins, its header, and how long its body is, which comes next in the stream.
struct Part {
    start: u64,
    header: Vec<u8>,
    body: u64,
}

/// The messages of a stream.
struct Parts {
    stream: Stream,
    length: u64,
}

impl Parts {
    fn open(store: &Store, read: Arc<AtomicU64>) -> io::Result<Self> {
        let (length, mut stream) = (store.length()?, Stream::plain(store, 0, read)?);
        if stream.fill()?.starts_with(SIGNATURE) {
            stream.consume(SIGNATURE.len());
            while stream.position() < MAX_ALIGNMENT && stream.fill()?.starts_with(&[0; 8]) {
                stream.consume(8);
            }
        }
        Ok(Self { stream, length })
    }

    /// The next message, with the stream before its body; `None` at the end, which a stream may just run into.
    fn next(&mut self) -> io::Result<Result<Option<Part>, String>> {
        let start = self.stream.position();
        let Some(mut length) = self.word()? else {
            return Ok(Ok(None));
        };
        // Before version 0.15 there was no marker before the length.
        if length == u32::MAX {
            length = self.word()?.unwrap_or(0);
        }
        if length == 0 {
            return Ok(Ok(None));
        }
        let (mut header, length) = (Vec::new(), u64::from(length));
        if length > MAX_HEADER || length > self.left() {
            return Ok(Err(format!("a message header of {length} bytes, and {} follow", self.left())));
        }
        self.stream.read_up_to(length, &mut header)?;
        let body = match message(&header) {
            Ok(message) => u64::try_from(message.bodyLength()).unwrap_or(u64::MAX),
            Err(why) => return Ok(Err(why)),
        };
        if body > self.left() {
            return Ok(Err(format!("a message of {body} bytes, and {} follow", self.left())));
        }
        Ok(Ok(Some(Part { start, header, body })))
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.stream.position())
    }

    fn word(&mut self) -> io::Result<Option<u32>> {
        let mut word = Vec::with_capacity(4);
        self.stream.read_up_to(4, &mut word)?;
        Ok(word.try_into().ok().map(u32::from_le_bytes))
    }

    fn body(&mut self, part: &Part) -> io::Result<Result<Buffer, String>> {
        if part.body > MAX_BATCH {
            return Ok(Err(format!("a record batch of {} bytes; at most {MAX_BATCH} can be read", part.body)));
        }
        let mut body = Vec::new();
        self.stream.read_up_to(part.body, &mut body)?;
        Ok(Ok(Buffer::from_vec(body)))
    }
}

fn message(header: &[u8]) -> Result<Message<'_>, String> {
    root_as_message(header).map_err(|e| format!("not a message: {e}"))
}

fn rows(header: &Header<'_>) -> u64 {
    u64::try_from(header.length()).unwrap_or(0)
}

/// Refuses a batch that declares to be larger, decompressed, than can be held.
fn check_size(header: &Header<'_>, body: &Buffer) -> Result<(), String> {
    if header.compression().is_none() {
        return Ok(());
    }
    let mut all = 0_u64;
    for buffer in header.buffers().into_iter().flatten() {
        // The decompressed length stands before each buffer; −1 is for one that is not compressed.
        let prefix = usize::try_from(buffer.offset()).ok().and_then(|at| body.get(at..at.checked_add(8)?));
        let Some(prefix) = prefix.and_then(|prefix| prefix.try_into().ok()) else {
            continue;
        };
        all = all.saturating_add(u64::try_from(i64::from_le_bytes(prefix)).unwrap_or(0));
    }
    if all > MAX_BATCH {
        return Err(format!("a record batch of {all} bytes, decompressed; at most {MAX_BATCH} can be read"));
    }
    Ok(())
}

/// Where each record batch begins, as far as the file can be read.
pub(super) fn starts(store: &Store) -> io::Result<Vec<u64>> {
    let (mut parts, mut starts) = (Parts::open(store, Arc::default())?, Vec::new());
    while let Ok(Some(part)) = parts.next()? {
        if message(&part.header).is_ok_and(|it| it.header_type() == MessageHeader::RecordBatch) {
            starts.push(part.start);
        }
        parts.stream.skip(part.body)?;
    }
    Ok(starts)
}

/// The record batches that begin in a range of bytes.
pub(super) struct Arrow {
    store: Store,
    read: Arc<AtomicU64>,
    bytes: Range<u64>,
    names: Option<Vec<String>>,
    state: State,
}

enum State {
    Closed,
    Open(Box<Open>),
    Done,
}

struct Open {
    parts: Parts,
    schema: SchemaRef,
    wanted: Vec<usize>,
    dictionaries: HashMap<i64, ArrayRef>,
    row: u64,
}

impl Arrow {
    pub(super) fn new(store: Store, bytes: Range<u64>, names: Option<Vec<String>>, read: Arc<AtomicU64>) -> Self {
        Self { store, read, bytes, names, state: State::Closed }
    }
}

impl Batches for Arrow {
    fn next(&mut self) -> io::Result<Option<Step>> {
        loop {
            match &mut self.state {
                State::Done => return Ok(None),
                State::Closed => {
                    let parts = Parts::open(&self.store, self.read.clone())?;
                    let schema = Arc::new(Schema::empty());
                    let (wanted, dictionaries) = (Vec::new(), HashMap::new());
                    self.state = State::Open(Box::new(Open { parts, schema, wanted, dictionaries, row: 0 }));
                }
                State::Open(open) => match open.next(&self.bytes, self.names.as_deref())? {
                    Some(Ok(step)) => return Ok(Some(step)),
                    None => self.state = State::Done,
                    Some(Err((at, why))) => {
                        let row = open.row;
                        self.state = State::Done;
                        // The file ends here for every split; the one in which it does says so.
                        let here = self.bytes.contains(&at) || (self.bytes.start == 0 && at == 0);
                        return Ok(here.then(|| Step::Bad { row, why: format!("damaged from here on: {why}") }));
                    }
                },
            }
        }
    }
}

/// A step, or the place at which nothing more can be read, and why.
type Next = Option<Result<Step, (u64, String)>>;

impl Open {
    /// The next batch in `bytes`.
    fn next(&mut self, bytes: &Range<u64>, names: Option<&[String]>) -> io::Result<Next> {
        loop {
            let at = self.parts.stream.position();
            let part = match self.parts.next()? {
                Ok(Some(part)) => part,
                Ok(None) => return Ok(None),
                Err(why) => return Ok(Some(Err((at, why)))),
            };
            if part.start >= bytes.end {
                return Ok(None);
            }
            let message = match message(&part.header) {
                Ok(message) => message,
                Err(why) => return Ok(Some(Err((at, why)))),
            };
            let batch = message.header_as_record_batch();
            if let Some(header) = batch.filter(|_| part.start < bytes.start) {
                self.row = self.row.saturating_add(rows(&header));
                self.parts.stream.skip(part.body)?;
                continue;
            }
            let body = match self.parts.body(&part)? {
                Ok(body) => body,
                Err(why) => return Ok(Some(Err((at, why)))),
            };
            if let Some(header) = batch {
                let first = self.row;
                self.row = first.saturating_add(rows(&header));
                let decoded = check_size(&header, &body).and_then(|()| {
                    let (schema, wanted) = (self.schema.clone(), Some(self.wanted.as_slice()));
                    let version = message.version();
                    guarded(|| read_record_batch(&body, header, schema, &self.dictionaries, wanted, &version))
                });
                let bad = |why| Step::Bad { row: first, why: format!("damaged record batch: {why}") };
                return Ok(Some(Ok(decoded.map_or_else(bad, |batch| Step::Rows { first, batch }))));
            }
            if let Err(why) = self.other(&message, &body, names) {
                return Ok(Some(Err((at, why))));
            }
        }
    }

    /// Takes in a schema or a dictionary.
    fn other(&mut self, message: &Message<'_>, body: &Buffer, names: Option<&[String]>) -> Result<(), String> {
        if let Some(schema) = message.header_as_schema() {
            self.schema = guarded(|| try_fb_to_schema(schema).map(Arc::new))?;
            self.wanted = wanted(&self.schema, names);
        } else if let Some(dictionary) = message.header_as_dictionary_batch() {
            if let Some(data) = dictionary.data() {
                check_size(&data, body)?;
            }
            let (schema, version) = (self.schema.clone(), message.version());
            guarded(|| read_dictionary(body, dictionary, &schema, &mut self.dictionaries, &version))?;
        }
        Ok(())
    }
}
