//! Records that readers give, and the shared parts of the readers of all formats.

use super::fields::{FieldNames, Fields};
use super::stream::GROWTH;
use crate::document::{Document, Dropped, Origin};
use crate::error::{BadRecord, Place, Unit};
use crate::extract::{ExtractConfig, Extractor};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// UTF-8's signature, which some programs put before a text and which is no part of it.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Rule of [`Record::Dropped`]: there is no text in the record.
pub const EMPTY: &str = "input.empty";

/// Rule of [`Record::Dropped`]: the record is larger than [`ReadConfig::max_document_bytes`].
pub const TOO_LARGE: &str = "input.max_document_bytes";

/// Rule of [`Record::Dropped`]: a text file that is no text. Its value is the share of bytes that text does not have.
pub const BINARY: &str = "input.binary";

/// Settings of readers.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadConfig {
    /// Names of a record's fields for text, identifier and URL.
    pub fields: FieldNames,
    /// Larger records are left out. This bounds the memory that a reader takes.
    pub max_document_bytes: u64,
    /// Decompressed bytes that may come of each compressed one, beyond the first 256 MiB of a file. A file that goes
    /// beyond is bad from there on.
    pub max_growth: u64,
    /// Limits on web pages, of which the main text becomes the document. Without it that is the page itself, decoded,
    /// and comes as [`Record::Page`].
    pub extract: Option<ExtractConfig>,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            fields: FieldNames::default(),
            max_document_bytes: 256 << 20,
            max_growth: GROWTH,
            extract: Some(ExtractConfig::default()),
        }
    }
}

/// The next item of a reader that is no document.
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
    /// A record that cannot be read. Readers continue after it; the caller decides how many are too many.
    Bad(BadRecord),
    /// Bytes that are no part of any record and are ignored, as those behind a complete gzip stream. Nothing is lost.
    Ignored(BadRecord),
}

/// A format's way through a split.
pub(super) trait Records {
    /// The next record. An error ends the split: the system's, or damage after which nothing can be found.
    fn next(&mut self) -> io::Result<Option<Record>>;
    /// Where reading has come to, in the file's unit.
    fn position(&self) -> u64;
}

/// What the readers of all formats share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) file: u32,
    pub(super) site: Site,
    pub(super) config: Arc<ReadConfig>,
    pub(super) extractor: Option<Extractor>,
}

/// A file, and what its positions count.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) path: PathBuf,
    pub(super) unit: Unit,
}

impl Site {
    pub(super) fn bad(&self, at: u64, why: String) -> Record {
        Record::Bad(self.found(at, why))
    }

    pub(super) fn ignored(&self, at: u64, why: String) -> Record {
        Record::Ignored(self.found(at, why))
    }

    fn found(&self, at: u64, why: String) -> BadRecord {
        BadRecord { place: Place { path: self.path.clone(), at, unit: self.unit }, why }
    }
}

/// What was found in a record.
pub(super) struct Found {
    pub(super) range: Range<u64>,
    pub(super) fields: Fields,
}

impl Found {
    /// A record that is nothing but text.
    pub(super) fn text(range: Range<u64>, text: String) -> Self {
        Self { range, fields: Fields { text, ..Fields::default() } }
    }
}

impl Context {
    pub(super) fn bad(&self, at: u64, why: String) -> Record {
        self.site.bad(at, why)
    }

    pub(super) fn document(&self, found: Found) -> Document {
        let Found { range, fields: Fields { text, id, url } } = found;
        Document { url, ..Document::new(Origin { file: self.file, bytes: range, id }, text) }
    }

    /// A record of `length` bytes, or of at least that many, of which the text was not kept.
    pub(super) fn too_large(&self, found: Found, length: u64) -> Record {
        let (value, threshold) = (length as f64, self.config.max_document_bytes as f64);
        Record::Dropped(self.document(found), Dropped { rule: TOO_LARGE, value, threshold })
    }

    /// A web page: its main text, where that is asked for.
    pub(super) fn page(&mut self, found: Found) -> io::Result<Record> {
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
    pub(super) fn record(&self, at: u64, found: std::result::Result<Found, String>) -> Record {
        match found {
            Err(why) => self.bad(at, why),
            Ok(found) if found.fields.text.is_empty() => {
                Record::Dropped(self.document(found), Dropped { rule: EMPTY, value: 0.0, threshold: 1.0 })
            }
            Ok(found) => Record::Document(self.document(found)),
        }
    }
}

/// Text of UTF-8 bytes, or the place of the first byte that is not UTF-8.
pub(super) fn utf8(bytes: Vec<u8>) -> std::result::Result<String, String> {
    String::from_utf8(bytes)
        .map_err(|e| format!("not UTF-8, from byte {} of the text on", e.utf8_error().valid_up_to()))
}

/// For reading that is no progress.
pub(super) fn uncounted() -> Arc<AtomicU64> {
    Arc::default()
}
