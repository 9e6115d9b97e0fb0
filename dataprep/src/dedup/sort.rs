//! External sorting of fixed-size records that do not fit in memory.
//!
//! Records are gathered up to the memory limit, sorted, and written as a run; the runs are merged, in several passes
//! where there are more of them than buffers fit in memory. The result depends on the records alone, not on the limit.

use super::records::{Kind, RecordFile, RecordWriter, Section};
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

const RUN: Kind = *b"sort run";
/// A smaller buffer would make a merge wait for the disk at every turn.
const LEAST_BUFFER: usize = 1 << 16;
const GREATEST_BUFFER: usize = 1 << 20;
/// Systems let a process open about a thousand files.
const MOST_FILES: usize = 256;

/// An external sorter: takes records in any order and gives them back sorted.
pub struct Sorter<const N: usize> {
    folder: PathBuf,
    limit: usize,
    buffer: Vec<[u64; N]>,
    runs: VecDeque<Run<N>>,
    written: u64,
    peak: usize,
}

/// Records that are sorted already: a run of this sorter, or a section of another file.
struct Run<const N: usize> {
    file: RecordFile<N>,
    section: u64,
    /// Removed after the merge, where it is the sorter's own.
    own: Option<PathBuf>,
}

impl<const N: usize> Sorter<N> {
    /// A sorter that holds about `memory` bytes and keeps its runs in `folder`, which must be there and must not be
    /// used by another sorter at the same time. Runs that a killed process left there are overwritten.
    pub fn new(folder: &Path, memory: usize) -> Self {
        Self {
            folder: folder.to_path_buf(),
            limit: memory,
            buffer: Vec::new(),
            runs: VecDeque::new(),
            written: 0,
            peak: 0,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::Io`] when a run cannot be written.
    pub fn push(&mut self, record: [u64; N]) -> Result<()> {
        let most = (self.limit / (N * 8)).max(2);
        if self.buffer.len() >= most {
            self.spill()?;
        }
        if self.buffer.len() == self.buffer.capacity() {
            // Doubles like `Vec`, but never past the limit.
            self.buffer.reserve_exact(self.buffer.len().max(64).min(most - self.buffer.len()));
            self.peak = self.peak.max(self.buffer.capacity() * N * 8);
        }
        self.buffer.push(record);
        Ok(())
    }

    /// Adds a section that is sorted already. It is read when it is merged.
    pub(crate) fn add_sorted(&mut self, file: RecordFile<N>, section: u64) {
        self.runs.push_back(Run { file, section, own: None });
    }

    /// The greatest number of bytes that records took in memory so far.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Sorts the records and returns them in order.
    ///
    /// # Errors
    /// [`Error::Io`] when a run cannot be written or read.
    pub fn finish(mut self) -> Result<Sorted<N>> {
        if self.runs.is_empty() {
            self.buffer.sort_unstable();
            return Ok(Sorted { peak: self.peak, source: Source::Memory(self.buffer.into_iter()) });
        }
        if !self.buffer.is_empty() {
            self.spill()?;
        }
        self.buffer = Vec::new();
        let fan_in = (self.limit / LEAST_BUFFER).clamp(2, MOST_FILES);
        while self.runs.len() > fan_in {
            let some = self.runs.drain(..fan_in).collect();
            let (mut merge, bytes) = Merge::new(some, self.limit)?;
            self.peak = self.peak.max(bytes);
            let run = self.write_run(&mut merge)?;
            self.runs.push_back(run);
        }
        let (merge, bytes) = Merge::new(self.runs.drain(..).collect(), self.limit)?;
        Ok(Sorted { peak: self.peak.max(bytes), source: Source::Disk(merge) })
    }

    fn spill(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.sort_unstable();
        let run = self.write_run(&mut buffer.iter().map(|record| Ok(*record)))?;
        self.runs.push_back(run);
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    fn write_run(&mut self, records: &mut dyn Iterator<Item = Result<[u64; N]>>) -> Result<Run<N>> {
        let path = self.folder.join(format!("run-{:06}", self.written));
        self.written += 1;
        let mut out = RecordWriter::scratch(&path, RUN)?;
        for record in records {
            out.push(&record?)?;
        }
        out.end_section()?;
        out.publish()?;
        Ok(Run { file: RecordFile::open(&path, RUN, None)?, section: 0, own: Some(path) })
    }
}

/// An iterator over sorted records. An error ends it.
pub struct Sorted<const N: usize> {
    peak: usize,
    source: Source<N>,
}

enum Source<const N: usize> {
    Memory(std::vec::IntoIter<[u64; N]>),
    Disk(Merge<N>),
}

impl<const N: usize> Sorted<N> {
    /// The greatest number of bytes that records took in memory.
    pub fn peak(&self) -> usize {
        self.peak
    }
}

impl<const N: usize> Iterator for Sorted<N> {
    type Item = Result<[u64; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Memory(records) => records.next().map(Ok),
            Source::Disk(merge) => merge.next(),
        }
    }
}

/// Merges sorted runs.
struct Merge<const N: usize> {
    sections: Vec<Section<N>>,
    heads: BinaryHeap<Reverse<([u64; N], usize)>>,
    own: Vec<PathBuf>,
    failed: bool,
}

impl<const N: usize> Merge<N> {
    /// The merge, and the bytes of its buffers.
    fn new(runs: Vec<Run<N>>, limit: usize) -> Result<(Self, usize)> {
        let buffer = (limit / runs.len().max(1)).clamp(N * 8, GREATEST_BUFFER);
        let mut merge =
            Self { sections: Vec::with_capacity(runs.len()), heads: BinaryHeap::new(), own: Vec::new(), failed: false };
        for run in runs {
            merge.own.extend(run.own);
            merge.sections.push(run.file.section(run.section, buffer)?);
            merge.advance(merge.sections.len() - 1)?;
        }
        let bytes = merge.sections.len() * buffer;
        Ok((merge, bytes))
    }

    fn advance(&mut self, section: usize) -> Result<()> {
        if let Some(record) = self.sections[section].next().transpose()? {
            self.heads.push(Reverse((record, section)));
        }
        Ok(())
    }
}

impl<const N: usize> Iterator for Merge<N> {
    type Item = Result<[u64; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let Reverse((record, section)) = self.heads.pop()?;
        if let Err(e) = self.advance(section) {
            self.failed = true;
            return Some(Err(e));
        }
        Some(Ok(record))
    }
}

impl<const N: usize> Drop for Merge<N> {
    fn drop(&mut self) {
        for path in &self.own {
            // A run that stays behind is overwritten by the next sorter.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes an empty scratch folder of `path`.
///
/// # Errors
/// [`Error::Io`] when it cannot be made or what is in it cannot be removed.
pub(crate) fn scratch(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("empty the folder", path)(e)),
        _ => {}
    }
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(records: &[[u64; 2]], memory: usize) -> (Vec<[u64; 2]>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(folder.path(), memory);
        records.iter().for_each(|record| sorter.push(*record).unwrap());
        let sorted = sorter.finish().unwrap();
        let peak = sorted.peak();
        let found = sorted.collect::<Result<_>>().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "runs are removed");
        (found, peak)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn sorts_as_in_memory(records in proptest::collection::vec(any::<[u64; 2]>(), 0..60), memory in 0usize..1200) {
            let mut expected = records.clone();
            expected.sort_unstable();
            let (found, _) = sorted(&records, memory);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_records() {
        let limit = 1 << 18;
        let peaks = [20_000_u64, 200_000].map(|n| {
            let records: Vec<[u64; 2]> = (0..n).map(|i| [i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i]).collect();
            let (found, peak) = sorted(&records, limit);
            assert!(found.is_sorted() && found.len() as u64 == n);
            peak
        });
        assert!(peaks.iter().all(|peak| *peak <= limit), "{peaks:?}");
    }

    #[test]
    fn a_damaged_run_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(folder.path(), 64);
        (0..9).for_each(|i| sorter.push([9 - i, i]).unwrap());
        let path = folder.path().join("run-000001");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 9;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(sorter.finish().and_then(|sorted| sorted.collect::<Result<Vec<_>>>()).is_err());
    }
}
