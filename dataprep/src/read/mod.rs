//! Readers: find input files, cut them into splits for workers, and read documents from them.
//!
//! 1. [`walk`] finds the files, in an order that names alone decide.
//! 2. [`splits`] cuts large files at the starts of records, by bytes and never by the number of workers. What cannot be
//!    entered in the middle (a compressed stream of lines, a text file, a page) is one split.
//! 3. A [`Reader`] goes through one split. It gives [`Record`]s: documents, what was left out by a limit, and what is
//!    bad. The records of all splits, one after the other, are those of the whole file, whatever the size of the
//!    splits.
//!
//! [`ItemFile`] gives whole records instead, with every field, for evaluation tasks.
//!
//! Text must be UTF-8, or comes as [`Record::Bytes`] where it is a file; web pages are decoded as browsers do. Damage
//! is never silent and never fatal: it is a [`Record::Bad`] that names its place, and reading goes on with the next
//! record that can be found. Only the operating system's refusal is an [`Error`](crate::Error). No reader holds more
//! than a few times `max_document_bytes` in memory, whatever a file declares or expands to.

mod access;
mod again;
mod binary;
mod bytes;
mod csv;
mod decode;
mod fields;
mod format;
mod globs;
mod http;
mod items;
mod json;
mod judge;
mod kinds;
mod lines;
mod media;
mod members;
mod passed_over;
mod reader;
mod record;
mod sniff;
mod split;
mod stream;
#[cfg(feature = "parquet")]
mod table;
mod walk;
mod warc;
mod whole;

pub use again::{line_at, read_again};
pub(crate) use binary::of_file as binary_format;
#[doc(hidden)]
pub use bytes::{fuzz, read_bytes};
pub use fields::FieldNames;
pub use format::{Compression, Format, InputFile};
pub use items::{BadItem, Item, ItemFile, Items};
pub use passed_over::{PassedOver, by_reason};
pub use reader::Reader;
pub use record::{BINARY, EMPTY, ReadConfig, Record, TOO_LARGE};
pub use split::{Split, splits};
pub(crate) use stream::GROWTH;
pub use walk::{Walked, walk};
pub use warc::{CONTENT_ENCODING, CONTINUATION, MEDIA_TYPE, REVISIT, STATUS};

#[cfg(test)]
mod tests;
