//! Reading documents: which files there are, how they are divided among workers, and what is in them.
//!
//! 1. [`walk`] finds the files, in an order that names alone decide.
//! 2. [`splits`] cuts large files at the starts of records, by bytes and never by the number of workers. What cannot be
//!    entered in the middle (a compressed stream of lines, a text file, a page) is one split.
//! 3. A [`Reader`] goes through one split. It gives [`Record`]s: documents, what was left out by a limit, and what is bad.
//!    The records of all splits, one after the other, are those of the whole file, whatever the size of the splits.
//!
//! Text must be UTF-8, or comes as [`Record::Bytes`] where it is a file; web pages are decoded as browsers do. Damage is never silent and never fatal: it is a
//! [`Record::Bad`] that names its place, and reading goes on with the next record that can be found. Only the operating
//! system's refusal is an [`Error`]. No reader holds more than a few times `max_document_bytes` in memory, whatever a file
//! declares or expands to.

mod bytes;
mod csv;
mod fields;
mod http;
mod lines;
mod members;
mod split;
mod stream;
#[cfg(feature = "parquet")]
mod table;
mod walk;
mod warc;
mod whole;

#[doc(hidden)]
pub use bytes::{fuzz, read_bytes};
pub use fields::FieldNames;
pub use split::{Split, splits};
pub use walk::{Compression, Format, InputFile, walk};
pub use warc::{MEDIA_TYPE, STATUS};

use crate::document::{Document, Dropped, Origin};
use crate::error::{Error, Result};
use crate::extract::{ExtractConfig, Extractor};
use fields::Fields;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stream::{Store, Stream};

/// UTF-8's signature, which some programs put before a text and which is no part of it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Rule of [`Record::Dropped`]: there is no text in the record.
pub const EMPTY: &str = "input.empty";
/// Rule of [`Record::Dropped`]: the record is larger than [`ReadConfig::max_document_bytes`].
pub const TOO_LARGE: &str = "input.max_document_bytes";

/// How to read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadConfig {
    /// Where the parts of a document are in a record that has named fields.
    pub fields: FieldNames,
    /// Larger records are left out. This bounds the memory that a reader takes.
    pub max_document_bytes: u64,
    /// Limits on web pages, of which the main text becomes the document. Without it that is the page itself, decoded,
    /// and comes as [`Record::Page`].
    pub extract: Option<ExtractConfig>,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self { fields: FieldNames::default(), max_document_bytes: 256 << 20, extract: Some(ExtractConfig::default()) }
    }
}

/// What there is in place of the next document.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A document with some text.
    Document(Document),
    /// A text file that is not UTF-8: with U+FFFD for what is not, and its bytes.
    Bytes(Document, Vec<u8>),
    /// A web page as it is, where [`ReadConfig::extract`] is off.
    Page(Document),
    /// A sound record that a limit leaves out, by the limit's name. The document holds what is known of it; its text is
    /// empty, or, for a page without main text, the page.
    Dropped(Document, Dropped),
    /// Something that cannot be read. Readers go on after it; how many are too many is for their caller to say.
    Bad(Bad),
}

/// A record, or a stretch of a file, that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Where it is.
    pub place: Place,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

/// A place in an input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Which of its bytes or rows, from 0.
    pub at: u64,
    /// What `at` counts.
    pub unit: Unit,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Byte => "byte",
            Unit::DecompressedByte => "decompressed byte",
            Unit::Row => "row",
        };
        write!(f, "{}: {unit} {}", self.path.display(), self.at)
    }
}

/// What positions in a file count, in places and in [`Origin::bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of the file as it lies on disk.
    Byte,
    /// Bytes of what it decompresses to.
    DecompressedByte,
    /// Rows of a table.
    Row,
}

/// Goes through the records of one split.
pub struct Reader {
    records: Box<dyn Records + Send>,
    site: Site,
    read: Arc<AtomicU64>,
    finished: bool,
}

impl Reader {
    /// Opens `file` at `split`, one of those that [`splits`] gave for it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened, [`Error::UnsupportedInput`] when its kind cannot be read at all.
    pub fn open(file: &InputFile, split: &Split, config: &ReadConfig) -> Result<Self> {
        Self::of_store(&Store::of(file), file, split, config)
    }

    fn of_store(store: &Store, file: &InputFile, split: &Split, config: &ReadConfig) -> Result<Self> {
        let read = Arc::<AtomicU64>::default();
        let way = Way::of(store, file)?;
        let site = Site { path: file.path.clone(), unit: way.unit() };
        let context = Context {
            file: split.file,
            site: site.clone(),
            config: Arc::new(config.clone()),
            extractor: config.extract.clone().map(Extractor::new),
        };
        let records = records(store, file, way, split.bytes.clone(), context, &read)?;
        Ok(Self { records, site, read, finished: false })
    }

    /// Bytes read from disk so far, for progress.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.finished {
            return None;
        }
        match self.records.next() {
            Ok(Some(record)) => Some(Ok(record)),
            Ok(None) => {
                self.finished = true;
                None
            }
            Err(e) => {
                self.finished = true;
                let damaged = |e: io::Error| self.site.bad(self.records.position(), format!("damaged: {e}"));
                Some(match e.raw_os_error() {
                    Some(_) => Err(Error::io("read", &self.site.path)(e)),
                    // Errors of ours pass through; the decoders' end the stream, and what came before stands.
                    None => e.downcast::<Error>().map_or_else(|e| Ok(damaged(e)), Err),
                })
            }
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("path", &self.site.path).field("position", &self.records.position()).finish()
    }
}

/// A format's way through a split.
trait Records {
    /// The next record. An error ends the split: the system's, or damage after which nothing can be found.
    fn next(&mut self) -> io::Result<Option<Record>>;
    /// Where reading has come to, in the file's unit.
    fn position(&self) -> u64;
}

fn records(
    store: &Store,
    file: &InputFile,
    way: Way,
    bytes: Range<u64>,
    context: Context,
    read: &Arc<AtomicU64>,
) -> Result<Box<dyn Records + Send>> {
    let end = if way == Way::Decompressed { u64::MAX } else { bytes.end };
    let stream = match way {
        Way::Decompressed => Stream::open(store, file.compression, read.clone()),
        _ => Stream::plain(store, bytes.start, read.clone()),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(e) => return Err(Error::io("read", &file.path)(e)),
    };
    Ok(match file.format {
        Format::Text => Box::new(whole::Whole::new(context, stream, false)),
        Format::Html => Box::new(whole::Whole::new(context, stream, true)),
        Format::Lines => Box::new(lines::Lines::new(context, stream, end, false)),
        Format::JsonLines => Box::new(lines::Lines::new(context, stream, end, true)),
        Format::Csv | Format::Tsv => {
            let delimiter = if file.format == Format::Csv { b',' } else { b'\t' };
            let middle = way == Way::Plain && bytes.start > 0;
            let csv = || {
                let header = middle.then(|| Stream::plain(store, 0, uncounted())).transpose()?;
                csv::Csv::new(context, stream, header, end, delimiter)
            };
            Box::new(csv().map_err(Error::io("read", &file.path))?)
        }
        Format::Warc if way == Way::Members => Box::new(members::Members::new(context, store.clone(), stream, end)),
        Format::Warc => {
            let length = (way == Way::Plain).then_some(file.bytes);
            Box::new(warc::Warc::new(context, stream, length, end))
        }
        #[cfg(feature = "parquet")]
        Format::Parquet | Format::Arrow => {
            Box::new(table::Table::new(context, store, file.format, bytes, read.clone()))
        }
        #[cfg(not(feature = "parquet"))]
        Format::Parquet | Format::Arrow => unreachable!("such files are refused when their way is chosen"),
    })
}

/// How a file is entered, which decides what positions in it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Anywhere: it is not compressed.
    Plain,
    /// At gzip members, each of which is a WARC record.
    Members,
    /// At its start only.
    Decompressed,
    /// At rows.
    Rows,
}

impl Way {
    fn of(store: &Store, file: &InputFile) -> Result<Self> {
        Ok(match (file.format, file.compression) {
            (Format::Parquet | Format::Arrow, Compression::None) if cfg!(feature = "parquet") => Self::Rows,
            (Format::Parquet | Format::Arrow, _) => {
                let what = match cfg!(feature = "parquet") {
                    true => "a table inside gzip or zstd cannot be read; decompress the file",
                    false => "this program was built without the `parquet` feature, which reads tables",
                };
                return Err(Error::UnsupportedInput { path: file.path.clone(), what: what.into() });
            }
            (_, Compression::None) => Self::Plain,
            (Format::Warc, Compression::Gzip)
                if members::are_records(store).map_err(Error::io("read", &file.path))? =>
            {
                Self::Members
            }
            _ => Self::Decompressed,
        })
    }

    fn unit(self) -> Unit {
        match self {
            Self::Plain | Self::Members => Unit::Byte,
            Self::Decompressed => Unit::DecompressedByte,
            Self::Rows => Unit::Row,
        }
    }
}

/// Reads the record at `bytes` once more, as [`Origin::bytes`] names it: the line, the record of separated values, the file,
/// as it stands there, before anything was taken out of it. A row of a table comes as a JSON object of its texts and numbers.
///
/// # Errors
/// [`Error::Io`], [`Error::BadArchive`], and [`Error::RecordGone`] when the file is too short for it.
pub fn read_again(file: &InputFile, bytes: &Range<u64>) -> Result<Vec<u8>> {
    again(&Store::of(file), file, bytes)
}

fn again(store: &Store, file: &InputFile, bytes: &Range<u64>) -> Result<Vec<u8>> {
    let way = Way::of(store, file)?;
    #[cfg(feature = "parquet")]
    if way == Way::Rows {
        let row = table::row_again(store, file.format, bytes.start).map_err(damaged(file, bytes.start))?;
        return row.ok_or_else(|| Error::RecordGone { path: file.path.clone(), bytes: bytes.clone() });
    }
    let length = bytes.end.saturating_sub(bytes.start);
    let read = || {
        let mut record = Vec::new();
        let whole = match way {
            Way::Plain | Way::Members => {
                let mut stream = Stream::plain(store, bytes.start, uncounted())?;
                stream.read_up_to(length, &mut record)? == length
            }
            _ => {
                let mut stream = Stream::open(store, file.compression, uncounted())?;
                stream.skip(bytes.start)? == bytes.start && stream.read_up_to(length, &mut record)? == length
            }
        };
        if way == Way::Members {
            let member = std::mem::take(&mut record);
            flate2::read::GzDecoder::new(member.as_slice()).read_to_end(&mut record)?;
        }
        Ok(whole.then_some(record))
    };
    match read().map_err(damaged(file, bytes.start))? {
        Some(record) => Ok(record),
        None => Err(Error::RecordGone { path: file.path.clone(), bytes: bytes.clone() }),
    }
}

/// The error for what cannot be decompressed near `offset`, or not be read at all.
fn damaged(file: &InputFile, offset: u64) -> impl FnOnce(io::Error) -> Error {
    let path = file.path.clone();
    move |source| match source.raw_os_error() {
        Some(_) => Error::Io { action: "read", path, source },
        None => Error::BadArchive { path, offset, source },
    }
}

/// The line, from 1, on which byte `at` of what is in the file lies: for messages, since it reads all that comes before.
///
/// # Errors
/// [`Error::Io`], [`Error::BadArchive`].
pub fn line_at(file: &InputFile, at: u64) -> Result<u64> {
    let store = Store::of(file);
    let count = || {
        let mut stream = Stream::open(&store, file.compression, uncounted())?;
        let mut lines = 1;
        while stream.position() < at {
            let left = usize::try_from(at - stream.position()).unwrap_or(usize::MAX);
            let chunk = stream.fill()?;
            let part = chunk.get(..left).unwrap_or(chunk);
            let (used, ends) = (part.len(), memchr::memchr_iter(b'\n', part).count());
            if used == 0 {
                break;
            }
            lines += ends as u64;
            stream.consume(used);
        }
        Ok(lines)
    };
    count().map_err(damaged(file, at))
}

/// What the readers of all formats share.
#[derive(Debug)]
struct Context {
    file: u32,
    site: Site,
    config: Arc<ReadConfig>,
    extractor: Option<Extractor>,
}

/// A file, and what its positions count.
#[derive(Clone, Debug)]
struct Site {
    path: PathBuf,
    unit: Unit,
}

impl Site {
    fn bad(&self, at: u64, why: String) -> Record {
        Record::Bad(Bad { place: Place { path: self.path.clone(), at, unit: self.unit }, why })
    }
}

/// What was found in a record.
struct Found {
    range: Range<u64>,
    fields: Fields,
}

impl Found {
    /// A record that is nothing but text.
    fn text(range: Range<u64>, text: String) -> Self {
        Self { range, fields: Fields { text, ..Fields::default() } }
    }
}

impl Context {
    fn bad(&self, at: u64, why: String) -> Record {
        self.site.bad(at, why)
    }

    fn document(&self, found: Found) -> Document {
        let Found { range, fields: Fields { text, id, url } } = found;
        Document { url, ..Document::new(Origin { file: self.file, bytes: range, id }, text) }
    }

    /// A record of `length` bytes, or of at least that many, of which the text was not kept.
    fn too_large(&self, found: Found, length: u64) -> Record {
        let (value, threshold) = (length as f64, self.config.max_document_bytes as f64);
        Record::Dropped(self.document(found), Dropped { rule: TOO_LARGE, value, threshold })
    }

    /// A web page: its main text, where that is asked for.
    fn page(&mut self, found: Found) -> io::Result<Record> {
        let start = found.range.start;
        if found.fields.text.is_empty() {
            return Ok(self.record(start, Ok(found)));
        }
        let Some(extractor) = &mut self.extractor else {
            return Ok(Record::Page(self.document(found)));
        };
        let page: Arc<str> = found.fields.text.as_str().into();
        Ok(match extractor.extract(&page).map_err(io::Error::other)? {
            Ok(text) => Record::Document(Document { text, ..self.document(found) }),
            Err(dropped) => Record::Dropped(self.document(found), dropped),
        })
    }

    /// What was found in the record at `at`, or why it is bad.
    fn record(&self, at: u64, found: std::result::Result<Found, String>) -> Record {
        match found {
            Err(why) => self.bad(at, why),
            Ok(found) if found.fields.text.is_empty() => {
                Record::Dropped(self.document(found), Dropped { rule: EMPTY, value: 0.0, threshold: 1.0 })
            }
            Ok(found) => Record::Document(self.document(found)),
        }
    }
}

/// Text, or where it is none.
fn utf8(bytes: Vec<u8>) -> std::result::Result<String, String> {
    String::from_utf8(bytes)
        .map_err(|e| format!("not UTF-8, from byte {} of the text on", e.utf8_error().valid_up_to()))
}

/// For reading that is no progress.
fn uncounted() -> Arc<AtomicU64> {
    Arc::default()
}

#[cfg(test)]
mod tests;
