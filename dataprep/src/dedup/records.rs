//! Files of fixed-size records: what every stage of deduplication writes, and all that it reads back.
//!
//! A record is an array of `N` 64-bit numbers, in little-endian order, and records compare as arrays do. A file is
//!
//! ```text
//! magic b"FTHMREC1" | kind, 8 bytes | fingerprint u64 | words a record u64 | sections u64 | records a section u64
//!   | XXH3-64 of all that precedes u64
//! sections times: records | XXH3-64 of them u64
//! ```
//!
//! It is written under another name, synced and renamed, so a file that has its name is whole.

use crate::durable::{DurableFile, Files, Target, folder_of};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: [u8; 8] = *b"FTHMREC1";
const HEADER_BYTES: u64 = 56;
const CHECKSUM_BYTES: u64 = 8;

/// What a file is for, so that one is not taken for another.
pub(crate) type Kind = [u8; 8];

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: Kind,
    fingerprint: u64,
    words: u64,
    sections: u64,
    records: u64,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.kind);
        for (i, field) in [self.fingerprint, self.words, self.sections, self.records].into_iter().enumerate() {
            bytes[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = xxh3_64(&bytes[..48]);
        bytes[48..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header, or says at which byte it is wrong and how.
    fn from_bytes(bytes: &[u8]) -> Result<Self, (u64, &'static str)> {
        let Ok(bytes) = <&[u8; HEADER_BYTES as usize]>::try_from(bytes) else {
            return Err((0, "the header is cut off"));
        };
        if bytes[..8] != MAGIC {
            return Err((0, "not a file of deduplication records"));
        }
        let (words, _) = bytes.as_chunks::<8>();
        let number = |i: usize| u64::from_le_bytes(words[i]);
        if xxh3_64(&bytes[..48]) != number(6) {
            return Err((48, "the header's checksum is wrong"));
        }
        Ok(Self { kind: words[1], fingerprint: number(2), words: number(3), sections: number(4), records: number(5) })
    }

    /// Reads the header of a file of `length` bytes, which must be as many as it states.
    fn read(path: &Path, reader: impl Read, length: u64) -> Result<Self> {
        let corrupt =
            |offset, what: &str| Error::CorruptIndex { path: path.to_path_buf(), offset, what: what.to_owned() };
        let mut bytes = Vec::new();
        reader.take(HEADER_BYTES).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        let header = Self::from_bytes(&bytes).map_err(|(offset, what)| corrupt(offset, what))?;
        let expected = header.file_bytes().ok_or_else(|| corrupt(32, "states an absurd size"))?;
        if length != expected {
            return Err(Error::SizeMismatch { path: path.to_path_buf(), by: "its header", expected, found: length });
        }
        Ok(header)
    }

    /// Bytes of a section with its checksum.
    fn section_bytes(&self) -> Option<u64> {
        self.records.checked_mul(self.words)?.checked_mul(8)?.checked_add(CHECKSUM_BYTES)
    }

    /// Bytes of the file.
    fn file_bytes(&self) -> Option<u64> {
        self.section_bytes()?.checked_mul(self.sections)?.checked_add(HEADER_BYTES)
    }
}

/// Writes a file of records, section by section.
pub(crate) struct RecordWriter<'a, const N: usize> {
    files: &'a dyn Files,
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<Box<dyn DurableFile>>,
    header: Header,
    hasher: Xxh3,
    in_section: u64,
    durable: bool,
    published: bool,
}

impl<'a, const N: usize> RecordWriter<'a, N> {
    /// Creates a file that need not outlive this process.
    pub fn scratch(path: &'a Path, kind: Kind) -> Result<Self> {
        let mut writer = Self::create(path, kind, 0)?;
        writer.durable = false;
        Ok(writer)
    }

    /// Creates the file `target`. Files of one kind that do not belong together differ in their fingerprint.
    pub fn create(target: impl Into<Target<'a>>, kind: Kind, fingerprint: u64) -> Result<Self> {
        let Target { files, path } = target.into();
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Two processes may be at the same task, one of them believed dead.
        let part = path.with_file_name(format!(".{name}.{}-{number}.part", std::process::id()));
        let file = files.create(&part).map_err(Error::io("create", &part))?;
        let header = Header { kind, fingerprint, words: N as u64, sections: 0, records: 0 };
        let mut out = BufWriter::with_capacity(1 << 16, file);
        out.write_all(&[0; HEADER_BYTES as usize]).map_err(Error::io("write", &part))?;
        let path = path.to_path_buf();
        Ok(Self { files, path, part, out, header, hasher: Xxh3::new(), in_section: 0, durable: true, published: false })
    }

    /// Appends a record to the current section.
    pub fn push(&mut self, record: &[u64; N]) -> Result<()> {
        for word in record {
            let bytes = word.to_le_bytes();
            self.hasher.update(&bytes);
            self.out.write_all(&bytes).map_err(Error::io("write", &self.part))?;
        }
        self.in_section += 1;
        Ok(())
    }

    /// Ends a section. All sections of a file have the same number of records.
    pub fn end_section(&mut self) -> Result<()> {
        let checksum = self.hasher.digest();
        self.hasher.reset();
        self.out.write_all(&checksum.to_le_bytes()).map_err(Error::io("write", &self.part))?;
        assert!(self.header.sections == 0 || self.header.records == self.in_section, "sections are of one length");
        self.header.records = std::mem::take(&mut self.in_section);
        self.header.sections += 1;
        Ok(())
    }

    /// Writes the header, and gives the file its name. Returns the records of a section.
    pub fn publish(mut self) -> Result<u64> {
        let write = Error::io("write", &self.part);
        let bytes = self.header.to_bytes();
        let finish = |out: &mut BufWriter<Box<dyn DurableFile>>| {
            out.flush()?;
            let file = out.get_mut();
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&bytes)?;
            if self.durable { file.sync() } else { Ok(()) }
        };
        finish(&mut self.out).map_err(write)?;
        let renamed = self.files.rename(&self.part, &self.path);
        renamed.map_err(Error::io("rename a finished file to", &self.path))?;
        self.published = true;
        if self.durable {
            let folder = folder_of(&self.path);
            self.files.sync_dir(folder).map_err(Error::io("sync", folder))?;
        }
        Ok(self.header.records)
    }
}

impl<const N: usize> Drop for RecordWriter<'_, N> {
    fn drop(&mut self) {
        if !self.published {
            // The error that led here matters more than one of cleaning up.
            let _ = self.files.remove_file(&self.part);
        }
    }
}

/// A file of records whose header has been checked against its length.
#[derive(Clone, Debug)]
pub(crate) struct RecordFile<const N: usize> {
    path: PathBuf,
    header: Header,
}

impl<const N: usize> RecordFile<N> {
    /// Opens a file of this kind; with a fingerprint, only one that has it.
    pub fn open(path: &Path, kind: Kind, fingerprint: Option<u64>) -> Result<Self> {
        let corrupt =
            |offset, what: &str| Error::CorruptIndex { path: path.to_path_buf(), offset, what: what.to_owned() };
        let file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let header = Header::read(path, file, length)?;
        if header.kind != kind {
            let (is, belongs) = (header.kind.escape_ascii(), kind.escape_ascii());
            return Err(corrupt(8, &format!("holds {is} where {belongs} belongs")));
        }
        if header.words != N as u64 {
            return Err(corrupt(24, &format!("a record has {} words, not {N}", header.words)));
        }
        if fingerprint.is_some_and(|fingerprint| fingerprint != header.fingerprint) {
            return Err(corrupt(16, "was made with other settings; remove it or set them back"));
        }
        Ok(Self { path: path.to_path_buf(), header })
    }

    /// Number of sections.
    pub fn sections(&self) -> u64 {
        self.header.sections
    }

    /// Number of records in each section.
    pub fn records(&self) -> u64 {
        self.header.records
    }

    /// Reads section `index` from its start, `buffer` bytes at a time. After its last record the checksum is compared.
    pub fn section(&self, index: u64, buffer: usize) -> Result<Section<N>> {
        self.section_from(index, 0, buffer)
    }

    /// Reads section `index` from record `first`. The checksum is compared only when that is 0.
    pub fn section_from(&self, index: u64, first: u64, buffer: usize) -> Result<Section<N>> {
        assert!(index < self.header.sections, "section {index} of {}", self.header.sections);
        let start = HEADER_BYTES + index * self.header.section_bytes().unwrap_or(0);
        let at = start + first.min(self.header.records) * (N as u64 * 8);
        let mut file = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        file.seek(SeekFrom::Start(at)).map_err(Error::io("read", &self.path))?;
        let input = BufReader::with_capacity(buffer.max(N * 8), file);
        let left = self.header.records.saturating_sub(first);
        Ok(Section { path: self.path.clone(), input, left, at, hasher: (first == 0).then(Xxh3::new), ended: false })
    }

    /// The first record of section `index` that is not less than `key`, by bisection.
    pub fn lower_bound(&self, index: u64, key: &[u64; N]) -> Result<u64> {
        let (mut low, mut high) = (0, self.header.records);
        while low < high {
            let middle = low + (high - low) / 2;
            let record = self.section_from(index, middle, N * 8)?.next().transpose()?;
            if record.is_some_and(|record| record < *key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// Checks a file of any of the kinds that deduplication writes, from its header to its last checksum.
///
/// # Errors
/// [`Error::Io`], [`Error::SizeMismatch`], [`Error::CorruptIndex`].
pub fn verify_file(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    verify(path, file, length)
}

/// Checks such a file of `length` bytes that is read from `reader`; `path` is for the error.
///
/// # Errors
/// [`Error::Io`], [`Error::SizeMismatch`], [`Error::CorruptIndex`].
pub fn verify(path: &Path, reader: impl Read, length: u64) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    let header = Header::read(path, &mut reader, length)?;
    let records = header.section_bytes().unwrap_or(0).saturating_sub(CHECKSUM_BYTES);
    let mut at = HEADER_BYTES;
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..header.sections {
        let mut hasher = Xxh3::new();
        let mut left = records;
        while left > 0 {
            let some = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            reader.read_exact(&mut buffer[..some]).map_err(Error::io("read", path))?;
            hasher.update(&buffer[..some]);
            left -= some as u64;
        }
        at += records;
        compare_checksum(path, &hasher, &mut reader, at)?;
        at += CHECKSUM_BYTES;
    }
    Ok(())
}

/// Reads the checksum at byte `at` and holds it against that of the records before it.
fn compare_checksum(path: &Path, hasher: &Xxh3, reader: &mut impl Read, at: u64) -> Result<()> {
    let mut stored = [0; CHECKSUM_BYTES as usize];
    reader.read_exact(&mut stored).map_err(Error::io("read", path))?;
    if hasher.digest() == u64::from_le_bytes(stored) {
        return Ok(());
    }
    let what = "the records before do not have this checksum".to_owned();
    Err(Error::CorruptIndex { path: path.to_path_buf(), offset: at, what })
}

/// The records of one section, in order.
pub(crate) struct Section<const N: usize> {
    path: PathBuf,
    input: BufReader<File>,
    left: u64,
    at: u64,
    hasher: Option<Xxh3>,
    ended: bool,
}

impl<const N: usize> Section<N> {
    fn read(&mut self) -> Result<Option<[u64; N]>> {
        let path = &self.path;
        if self.left == 0 {
            self.ended = true;
            let Some(hasher) = &self.hasher else { return Ok(None) };
            compare_checksum(path, hasher, &mut self.input, self.at)?;
            return Ok(None);
        }
        let mut record = [0; N];
        for word in &mut record {
            let mut bytes = [0; 8];
            self.input.read_exact(&mut bytes).map_err(Error::io("read", path))?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes);
            }
            *word = u64::from_le_bytes(bytes);
        }
        self.left -= 1;
        self.at += N as u64 * 8;
        Ok(Some(record))
    }
}

impl<const N: usize> Iterator for Section<N> {
    type Item = Result<[u64; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.read();
        self.ended |= record.is_err();
        record.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const KIND: Kind = *b"test    ";

    fn write(path: &Path, sections: &[&[[u64; 2]]]) {
        let mut out = RecordWriter::create(path, KIND, 7).unwrap();
        for section in sections {
            section.iter().for_each(|record| out.push(record).unwrap());
            out.end_section().unwrap();
        }
        out.publish().unwrap();
    }

    fn read(path: &Path, section: u64) -> Result<Vec<[u64; 2]>> {
        RecordFile::<2>::open(path, KIND, Some(7))?.section(section, 64)?.collect()
    }

    #[test]
    fn reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, &[&[[1, 2], [3, 4]], &[[5, 6], [7, u64::MAX]]]);
        assert_eq!(read(&path, 0).unwrap(), [[1, 2], [3, 4]]);
        assert_eq!(read(&path, 1).unwrap(), [[5, 6], [7, u64::MAX]]);
        let file = RecordFile::<2>::open(&path, KIND, None).unwrap();
        assert_eq!((file.sections(), file.records()), (2, 2));
        let bounds = [[0, 0], [5, 6], [5, 7], [8, 0]].map(|key| file.lower_bound(1, &key).unwrap());
        assert_eq!(bounds, [0, 0, 1, 2]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(RecordWriter::<'_, 2>::create(&folder.path().join("a"), KIND, 0).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged(
            fields in proptest::prelude::any::<[u64; 4]>(),
            small in proptest::prelude::any::<bool>(),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
        ) {
            let fields = if small { fields.map(|field| field % 4) } else { fields };
            let [fingerprint, words, sections, records] = fields;
            let mut bytes = Header { kind: KIND, fingerprint, words, sections, records }.to_bytes().to_vec();
            bytes.extend(rest);
            let verdict = verify(Path::new("x"), bytes.as_slice(), bytes.len() as u64);
            let section = records.saturating_mul(words).saturating_mul(8).saturating_add(8);
            let whole = sections.saturating_mul(section).saturating_add(HEADER_BYTES);
            proptest::prop_assert!(verdict.is_err() || bytes.len() as u64 == whole);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, &[&[[1, 2], [3, 4]]]);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(read(&path, 0).is_err(), "byte {at}");
            assert!(verify_file(&path).is_err(), "byte {at}");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path, 0).is_err(), "{length} bytes");
        }
        fs::write(&path, &whole).unwrap();
        verify_file(&path).unwrap();
        assert!(RecordFile::<3>::open(&path, KIND, None).is_err());
        assert!(RecordFile::<2>::open(&path, *b"other   ", None).is_err());
        assert!(RecordFile::<2>::open(&path, KIND, Some(8)).is_err());
    }
}
