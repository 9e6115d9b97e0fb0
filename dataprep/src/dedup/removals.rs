//! The removal set: removed documents, each with the document kept in its place.

use super::records::{Kind, RecordFile, RecordWriter, Section};
use crate::durable::Target;
use crate::error::Result;
use rustc_hash::FxHashSet;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

const REMOVALS: Kind = *b"removals";
const BUFFER: usize = 1 << 16;

/// Writes `[removed, kept]` records, which must come in order. Returns how many there were.
pub(super) fn write<'a>(out: impl Into<Target<'a>>, records: impl Iterator<Item = Result<[u64; 2]>>) -> Result<u64> {
    let mut out = RecordWriter::create(out, REMOVALS, 0)?;
    for record in records {
        out.push(&record?)?;
    }
    out.end_section()?;
    out.publish()
}

/// Writes the removals of several sets, which have no document in common, as one. Returns how many there were.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::CorruptIndex`](crate::Error::CorruptIndex).
pub fn union<'a>(sets: &[PathBuf], out: impl Into<Target<'a>>) -> Result<u64> {
    let open = |path: &PathBuf| Ok(RecordFile::<2>::open(path, REMOVALS, None)?.section(0, BUFFER)?.peekable());
    let mut sets = sets.iter().map(open).collect::<Result<Vec<_>>>()?;
    // An error compares as the least, so that it is the next to come out.
    let first =
        |records: &mut Peekable<Section<2>>| records.peek().map(|next| next.as_ref().map_or([0, 0], |next| *next));
    let next = std::iter::from_fn(|| {
        let heads = sets.iter_mut().map(first).enumerate().filter_map(|(i, next)| Some((i, next?)));
        let (least, _) = heads.min_by_key(|(_, next)| *next)?;
        sets[least].next()
    });
    write(out, next)
}

/// A reader of the removal set, in the order of documents.
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

    /// The document kept in place of a removed one; `None` for one that stays. Must be asked in the order of documents.
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
