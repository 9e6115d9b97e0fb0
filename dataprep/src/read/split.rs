//! Splits: parts of a file that workers read separately.

use super::access::Access;
use super::format::{Compression, Format, InputFile};
use super::stream::Store;
use super::{csv, lines, members, warc};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// A part of an input file: the records that begin in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    /// Index of the file in the walk.
    pub file: u32,
    /// Byte range on disk. A split begins with a record, unless it is the first of its file.
    pub bytes: Range<u64>,
}

/// Cuts `files` into parts of about `split_bytes` bytes each, in the order of the files, at starts of records. The same
/// files and the same `split_bytes` give the same parts.
///
/// Lines, separated values, WARC files and the row groups of tables are cut. To cut separated values their file is read
/// once, as a line end may stand in quotes; the others take a look at each cut, or at the headers. All else is one part
/// a file.
///
/// # Errors
/// [`Error::Io`].
pub fn splits(files: &[InputFile], split_bytes: u64) -> Result<Vec<Split>> {
    let parts: Vec<Vec<Split>> = files
        .par_iter()
        .enumerate()
        .map(|(index, file)| {
            let number = u32::try_from(index).map_err(|_| Error::Config {
                field: "input.paths",
                what: format!("{} files; at most 2^32 can be read in one run", files.len()),
            })?;
            let ranges = ranges(&Store::of(file), file, split_bytes)?;
            Ok(ranges.into_iter().map(|bytes| Split { file: number, bytes }).collect())
        })
        .collect::<Result<_>>()?;
    Ok(parts.concat())
}

/// The parts of one file.
pub(super) fn ranges(store: &Store, file: &InputFile, split_bytes: u64) -> Result<Vec<Range<u64>>> {
    let step = split_bytes.max(1);
    let mut cuts = Vec::new();
    let mut cut = step;
    while cut < file.bytes {
        cuts.push(cut);
        cut = cut.saturating_add(step);
    }
    let way = if cuts.is_empty() { Access::Decoded(Compression::None) } else { Access::of(store, file)? };
    let starts = match (way, file.format) {
        (Access::Plain, Format::Lines | Format::JsonLines) => lines::starts(store, &cuts),
        (Access::Plain, Format::Csv) => csv::starts(store, &cuts, b','),
        (Access::Plain, Format::Tsv) => csv::starts(store, &cuts, b'\t'),
        (Access::Plain, Format::Warc) => warc::starts(store, file.bytes, &cuts),
        #[cfg(feature = "parquet")]
        (Access::Rows, format) => super::table::starts(store, format, &cuts),
        (Access::Members, _) => members::starts(store, &cuts),
        _ => Ok(Vec::new()),
    }
    .map_err(Error::io("read", &file.path))?;
    let mut ranges = Vec::with_capacity(starts.len() + 1);
    let mut from = 0;
    for start in starts.into_iter().filter(|&start| start < file.bytes) {
        if start > from {
            ranges.push(from..start);
            from = start;
        }
    }
    ranges.push(from..file.bytes);
    Ok(ranges)
}
