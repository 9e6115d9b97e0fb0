//! How a file is entered: anywhere, at gzip members, at rows, or at its start only.

use super::members;
use super::stream::Store;
use super::walk::{Compression, Format, InputFile};
use crate::error::{Error, Result, Unit};

/// How a file is entered, which decides what positions in it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Anywhere: it is not compressed.
    Plain,
    /// At gzip members, each of which is a WARC record.
    Members,
    /// At its start only.
    Decompressed,
    /// At rows.
    Rows,
}

impl Access {
    pub(super) fn of(store: &Store, file: &InputFile) -> Result<Self> {
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

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Plain | Self::Members => Unit::Byte,
            Self::Decompressed => Unit::DecompressedByte,
            Self::Rows => Unit::Row,
        }
    }
}
