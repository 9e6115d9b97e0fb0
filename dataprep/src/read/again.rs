//! Re-reading of one record from the position that was noted for it.

use super::access::Access;
use super::format::{Compression, InputFile};
use super::record::uncounted;
use super::stream::{Store, Stream};
#[cfg(feature = "parquet")]
use super::table;
use crate::error::{Error, Result};
use std::io::{self, Read};
use std::ops::Range;

/// Reads the record at `bytes` once more, as [`Origin::bytes`](crate::document::Origin::bytes) names it: the line, the
/// record of separated values, the file, as it stands there, before anything was taken out of it. A row of a table
/// comes as a JSON object of its texts and numbers.
///
/// # Errors
/// [`Error::Io`], [`Error::BadArchive`], and [`Error::RecordGone`] when the file is too short for it.
pub fn read_again(file: &InputFile, bytes: &Range<u64>) -> Result<Vec<u8>> {
    again(&Store::of(file), file, bytes)
}

pub(super) fn again(store: &Store, file: &InputFile, bytes: &Range<u64>) -> Result<Vec<u8>> {
    let way = Access::of(store, file)?;
    #[cfg(feature = "parquet")]
    if way == Access::Rows {
        let row = table::row_again(store, file.format, bytes.start).map_err(damaged(file, bytes.start))?;
        return row.ok_or_else(|| Error::RecordGone { path: file.path.clone(), bytes: bytes.clone() });
    }
    let length = bytes.end.saturating_sub(bytes.start);
    let read = || {
        let mut record = Vec::new();
        let whole = match way {
            Access::Plain | Access::Members => {
                let mut stream = Stream::plain(store, bytes.start, uncounted())?;
                stream.read_up_to(length, &mut record)? == length
            }
            Access::Rows => return Ok(None),
            Access::Decoded(compression) => {
                let mut stream = Stream::open(store, compression, uncounted())?;
                stream.skip(bytes.start)? == bytes.start && stream.read_up_to(length, &mut record)? == length
            }
        };
        if way == Access::Members {
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

/// The line, from 1, on which byte `at` of what is in the file lies: for messages, since it reads all that comes
/// before.
///
/// # Errors
/// [`Error::Io`], [`Error::BadArchive`].
pub fn line_at(file: &InputFile, at: u64) -> Result<u64> {
    let store = Store::of(file);
    let compression = match Access::of(&store, file)? {
        Access::Plain | Access::Rows => Compression::None,
        Access::Members => Compression::Gzip,
        Access::Decoded(compression) => compression,
    };
    let count = || {
        let mut stream = Stream::open(&store, compression, uncounted())?;
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
