//! Random access of an input file: at any byte, at gzip members, at rows, or at its start only.

use super::binary::head;
use super::decode::{Wide, compressed};
use super::format::{Compression, Format, InputFile};
use super::kinds::{foreign, is_text_start};
use super::members;
use super::stream::Store;
use crate::error::{Error, Result, Unit};

/// How a file is entered, which decides what positions in it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Anywhere: it is UTF-8 or binary, and not compressed.
    Plain,
    /// At gzip members, each of which is a WARC record.
    Members,
    /// At its start only, since it is compressed or in UTF-16 or UTF-32.
    Decoded(Compression),
    /// At rows.
    Rows,
}

impl Access {
    /// Tells it by the file's format and its first bytes.
    pub(super) fn of(store: &Store, file: &InputFile) -> Result<Self> {
        if matches!(file.format, Format::Parquet | Format::Arrow) {
            return match (cfg!(feature = "parquet"), file.compression) {
                (true, Compression::None) => Ok(Self::Rows),
                (known, _) => {
                    let what = match known {
                        true => "a table inside gzip or zstd cannot be read; decompress the file",
                        false => "this program was built without the `parquet` feature, which reads tables",
                    };
                    Err(Error::UnsupportedInput { path: file.path.clone(), what: what.into() })
                }
            };
        }
        let failed = |e| Error::io("read", &file.path)(e);
        let head = head(store).map_err(failed)?;
        Ok(match compression(&head, file.compression) {
            Compression::None if file.format != Format::Warc && Wide::declared(&head).is_some() => {
                Self::Decoded(Compression::None)
            }
            Compression::None => Self::Plain,
            Compression::Gzip if file.format == Format::Warc && members::are_records(store).map_err(failed)? => {
                Self::Members
            }
            compression => Self::Decoded(compression),
        })
    }

    /// Unit of positions in the file.
    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Plain | Self::Members => Unit::Byte,
            Self::Decoded(_) => Unit::DecompressedByte,
            Self::Rows => Unit::Row,
        }
    }
}

/// How a file that begins with `head` is compressed. The bytes decide where they are certain, else what its name says.
pub(super) fn compression(head: &[u8], named: Compression) -> Compression {
    match compressed(head) {
        Some(certain) => certain,
        // Damage is no reason to take a compressed file for text.
        None if named == Compression::None || is_something_else(head) => Compression::None,
        None => named,
    }
}

/// Whether the first bytes of a file are those of a text or of another format that is known, and so not of a damaged
/// compressed file.
fn is_something_else(head: &[u8]) -> bool {
    is_text_start(head)
        || Wide::declared(head).is_some()
        || head.starts_with(b"PAR1")
        || head.starts_with(b"ARROW1\0\0")
        || foreign(head).is_some()
}
