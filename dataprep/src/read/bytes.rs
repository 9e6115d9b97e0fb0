//! Reading from memory: what fuzzing and tests go through.

use super::again;
use super::format::{Compression, Format, InputFile};
use super::reader::Reader;
use super::record::{ReadConfig, Record};
use super::split::{self, Split};
use super::stream::Store;
use crate::error::Result;
use std::ops::Range;
use std::path::PathBuf;

/// All records of `bytes`, read as a file of this kind that is cut into splits of `split_bytes`.
///
/// # Errors
/// [`crate::Error::UnsupportedInput`] for a kind that cannot be read; nothing about the bytes themselves.
#[doc(hidden)]
pub fn read_bytes(
    bytes: &[u8],
    format: Format,
    compression: Compression,
    split_bytes: u64,
    config: &ReadConfig,
) -> Result<Vec<Record>> {
    let (store, file) = in_memory(bytes, format, compression);
    let ranges = split::ranges(&store, &file, split_bytes)?;
    let mut records = Vec::new();
    for bytes in ranges {
        for record in Reader::of_store(&store, &file, &Split { file: 0, bytes }, config)? {
            records.push(record?);
        }
    }
    Ok(records)
}

/// Reads `bytes` as a file of this kind, whole and in splits, and what it found once more from where it was found.
///
/// # Panics
/// When any of these differ.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8], format: Format, compression: Compression) {
    let config = ReadConfig { max_document_bytes: 1 << 16, ..ReadConfig::default() };
    let Ok(whole) = read_bytes(bytes, format, compression, u64::MAX, &config) else {
        return;
    };
    for split_bytes in [1 + bytes.len() as u64 / 3, 64] {
        let parts = read_bytes(bytes, format, compression, split_bytes, &config).expect("the whole could be read");
        assert_eq!(whole, parts, "splits of {split_bytes} bytes");
    }
    for record in &whole {
        if let Record::Document(document) = record {
            assert!(!document.text.is_empty());
            // Of a row all columns are read, and one that the document does not need may be damaged.
            let again = again(bytes, format, compression, &document.origin.bytes);
            let is_row = matches!(format, Format::Parquet | Format::Arrow);
            assert!(is_row || again.is_ok(), "{:?}: {again:?}", document.origin);
        }
    }
}

/// [`super::read_again`] for bytes in memory.
pub(super) fn again(bytes: &[u8], format: Format, compression: Compression, range: &Range<u64>) -> Result<Vec<u8>> {
    let (store, file) = in_memory(bytes, format, compression);
    again::again(&store, &file, range)
}

pub(super) fn in_memory(bytes: &[u8], format: Format, compression: Compression) -> (Store, InputFile) {
    let path = PathBuf::from("memory");
    let file = InputFile { name: path.clone(), path, bytes: bytes.len() as u64, format, compression };
    (Store::Memory(bytes.into()), file)
}
