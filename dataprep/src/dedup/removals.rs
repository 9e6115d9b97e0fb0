//! Which documents are removed, and which document of the same kind was kept in their place.

use super::records::{Kind, RecordFile, RecordWriter, Section};
use crate::error::Result;
use rustc_hash::FxHashSet;
use std::path::Path;

const REMOVALS: Kind = *b"removals";
const BUFFER: usize = 1 << 16;

/// Writes `[removed, kept]` records, which must come in order. Returns how many there were.
pub(super) fn write(path: &Path, records: impl Iterator<Item = Result<[u64; 2]>>) -> Result<u64> {
    let mut out = RecordWriter::create(path, REMOVALS, 0)?;
    for record in records {
        out.push(&record?)?;
    }
    out.end_section()?;
    out.publish()
}

/// The removal set, read in the order of documents.
pub struct Removals {
    records: Section<2>,
    next: Option<[u64; 2]>,
}

impl Removals {
    /// Opens a removal set for documents from number `first` on. Read from 0 to its end, its checksum is compared.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::CorruptIndex`](crate::Error::CorruptIndex).
    pub fn open(path: &Path, first: u64) -> Result<Self> {
        let file = RecordFile::<2>::open(path, REMOVALS, None)?;
        let from = file.lower_bound(0, &[first, 0])?;
        let mut records = file.section_from(0, from, BUFFER)?;
        let next = records.next().transpose()?;
        Ok(Self { records, next })
    }

    /// For a removed document, the one kept in its place. Must be asked in the order of documents.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::CorruptIndex`](crate::Error::CorruptIndex).
    pub fn kept_for(&mut self, document: u64) -> Result<Option<u64>> {
        while let Some([removed, kept]) = self.next {
            if removed > document {
                break;
            }
            self.next = self.records.next().transpose()?;
            if removed == document {
                return Ok(Some(kept));
            }
        }
        Ok(None)
    }

    /// The removed documents numbered `first` to `last`.
    pub(super) fn between(path: &Path, first: u64, last: u64) -> Result<FxHashSet<u64>> {
        let mut set = Self::open(path, first)?;
        let mut found = FxHashSet::default();
        while let Some([removed, _]) = set.next.filter(|[removed, _]| *removed <= last) {
            found.insert(removed);
            set.next = set.records.next().transpose()?;
        }
        Ok(found)
    }
}
