//! One `.bin`/`.idx` pair, checked when it is opened and read by position.

use crate::error::{Error, Result};
use crate::stored::Stored;
use std::path::{Path, PathBuf};

/// First bytes of every `.idx` file.
pub(super) const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
/// Bytes before the table of lengths.
pub(super) const HEADER: u64 = 34;

/// Element type of tokens in a `.bin` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Two bytes, little-endian, unsigned: vocabularies of up to 65,536.
    U16,
    /// Four bytes, little-endian, signed.
    I32,
}

impl Dtype {
    /// The narrower type that holds ids below `vocab_size`.
    pub fn for_vocab(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::I32 }
    }

    /// Size of a token in bytes.
    pub fn width(self) -> u64 {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }

    /// Megatron's code for it.
    pub fn code(self) -> u8 {
        match self {
            Self::I32 => 4,
            Self::U16 => 8,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            4 => Some(Self::I32),
            8 => Some(Self::U16),
            _ => None,
        }
    }
}

/// Bytes of tokens, or of a table, that are read at a time.
const CHUNK: usize = 16 << 10;

/// A shard whose index has been checked field by field against its tokens.
#[derive(Debug)]
pub struct ShardFile {
    bin: Stored,
    idx: Stored,
    dtype: Dtype,
    sequences: usize,
    documents: usize,
    tokens: u64,
}

impl ShardFile {
    /// Opens `PREFIX.bin` and `PREFIX.idx`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Truncated`], [`Error::BadMagic`], [`Error::BadVersion`], [`Error::UnknownDtype`],
    /// [`Error::CorruptIndex`], [`Error::SizeMismatch`]: each with the file and the byte.
    pub fn open(prefix: &Path) -> Result<Self> {
        let (bin_path, idx_path) = (with_suffix(prefix, "bin"), with_suffix(prefix, "idx"));
        Self::new(Stored::open(&bin_path)?, Stored::open(&idx_path)?)
    }

    /// A shard out of the contents of its files; errors name them as if `origin` were its prefix.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) but [`Error::Io`].
    pub fn from_bytes(bin: Vec<u8>, idx_bytes: Vec<u8>, origin: &Path) -> Result<Self> {
        let (bin, idx) = (Stored::in_memory(bin, with_suffix(origin, "bin")), with_suffix(origin, "idx"));
        Self::new(bin, Stored::in_memory(idx_bytes, idx))
    }

    fn new(bin: Stored, idx: Stored) -> Result<Self> {
        let (dtype, sequences, entries) = header(&idx)?;
        let tokens = check_tables(&idx, dtype, sequences, entries)?;
        let expected = tokens.saturating_mul(dtype.width());
        let (found, path) = (bin.length(), || bin.path().to_path_buf());
        if found < expected {
            return Err(Error::Truncated { path: path(), offset: found, need: expected - found, have: 0 });
        }
        if found > expected {
            return Err(Error::SizeMismatch { path: path(), by: "its .idx", expected, found });
        }
        Ok(Self { bin, idx, dtype, sequences, documents: entries - 1, tokens })
    }

    /// Maps the tokens into memory, in place of reading them. A file that is truncated meanwhile then ends the process
    /// with `SIGBUS`, unless the change is seen in time.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn map(&mut self) -> Result<()> {
        self.bin.map()
    }

    /// Number of tokens, end-of-document tokens included.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        self.documents as u64
    }

    /// Element type of the tokens.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Path of the `.bin` file.
    pub fn path(&self) -> &Path {
        self.bin.path()
    }

    /// Position, in tokens, of the first token of document `d`; for `d` = [`documents`](Self::documents) the end.
    ///
    /// # Errors
    /// [`Error::ShardChanged`], [`Error::Io`].
    ///
    /// # Panics
    /// If `d` is greater than the number of documents.
    pub fn document_start(&self, d: u64) -> Result<u64> {
        let sequences = self.sequences as u64;
        assert!(d <= self.documents as u64, "document {d} of {}", self.documents);
        let sequence = self.idx.number_at(HEADER + 12 * sequences + 8 * d)?;
        // What was checked when the file was opened may be something else by now.
        let changed = || Error::ShardChanged { path: self.idx.path().into(), what: "it was written to".into() };
        let sequence = u64::try_from(sequence).ok().filter(|&sequence| sequence <= sequences).ok_or_else(changed)?;
        if sequence == sequences {
            return Ok(self.tokens);
        }
        let offset = self.idx.number_at(HEADER + 4 * sequences + 8 * sequence)?;
        let start = u64::try_from(offset).map_err(|_| changed())? / self.dtype.width();
        if start <= self.tokens { Ok(start) } else { Err(changed()) }
    }

    /// The document that holds the token at `position`: the last one that starts there or before.
    pub(crate) fn document_at(&self, position: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.documents());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document_start(middle)? <= position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.saturating_sub(1))
    }

    /// Checks that both files are those that were opened, there and as they were.
    ///
    /// # Errors
    /// [`Error::ShardChanged`] names the one that is not.
    pub fn unchanged(&self) -> Result<()> {
        self.bin.unchanged()?;
        self.idx.unchanged()
    }

    /// Copies tokens `start .. start + out.len()` into `out` and checks that each is below `vocab_size`. Whether the
    /// file has changed is for [`unchanged`](Self::unchanged) to say, after all that is read of it.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] names the byte of the first token that is not; [`Error::ShardChanged`] where the
    /// file has become shorter; [`Error::Io`].
    ///
    /// # Panics
    /// If the range does not lie inside the shard.
    pub fn read(&self, start: u64, vocab_size: u32, out: &mut [u32]) -> Result<()> {
        let width = self.dtype.width() as usize;
        assert!(start + out.len() as u64 <= self.tokens, "tokens past the end of a shard");
        let mut buffer = [0; CHUNK];
        let (mut largest, mut offset) = (0, start * width as u64);
        for out in out.chunks_mut(CHUNK / width) {
            let bytes = &mut buffer[..out.len() * width];
            self.bin.read_at(offset, bytes)?;
            offset += bytes.len() as u64;
            match self.dtype {
                Dtype::U16 => {
                    for (token, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *token = u32::from(u16::from_le_bytes(*pair));
                        largest = largest.max(*token);
                    }
                }
                // A negative id becomes a number above every vocabulary, so one comparison finds both errors.
                Dtype::I32 => {
                    for (token, four) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                        *token = u32::from_le_bytes(*four);
                        largest = largest.max(*token);
                    }
                }
            }
        }
        if largest < vocab_size {
            return Ok(());
        }
        // A file that was written to is the cause, if it was.
        self.unchanged()?;
        Err(self.out_of_range(start, vocab_size, out))
    }

    #[cold]
    fn out_of_range(&self, start: u64, vocab_size: u32, tokens: &[u32]) -> Error {
        let at = tokens.iter().position(|&t| t >= vocab_size).unwrap_or(0);
        let token = match self.dtype {
            Dtype::U16 => i64::from(tokens[at]),
            Dtype::I32 => i64::from(tokens[at] as i32),
        };
        let offset = (start + at as u64) * self.dtype.width();
        Error::TokenOutOfRange { path: self.bin.path().into(), offset, token, vocab_size }
    }
}

/// `PREFIX.suffix`, where a prefix may itself hold dots.
pub(crate) fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Reads the fixed fields: element type, number of sequences, entries of the document table.
fn header(file: &Stored) -> Result<(Dtype, usize, usize)> {
    let (path, have) = (file.path(), file.length());
    let mut fields = [0; HEADER as usize];
    let there = have.min(HEADER) as usize;
    file.read_at(0, &mut fields[..there])?;
    let idx = &fields[..there];
    let magic = idx.get(..9).and_then(|b| <[u8; 9]>::try_from(b).ok());
    match magic {
        Some(MAGIC) => {}
        Some(found) => {
            return Err(Error::BadMagic { path: path.into(), found });
        }
        None => {
            return Err(Error::Truncated { path: path.into(), offset: have, need: HEADER - have, have: 0 });
        }
    }
    if have < HEADER {
        return Err(Error::Truncated { path: path.into(), offset: have, need: HEADER - have, have: 0 });
    }
    let version = read_i64(idx, 9) as u64;
    if version != 1 {
        return Err(Error::BadVersion { path: path.into(), found: version });
    }
    let dtype = Dtype::from_code(idx[17]).ok_or(Error::UnknownDtype { path: path.into(), found: idx[17] })?;
    let (sequences, entries) = (read_i64(idx, 18) as u64, read_i64(idx, 26) as u64);
    if entries == 0 {
        let what = "an empty document table, it must at least hold a 0".to_owned();
        return Err(Error::CorruptIndex { path: path.into(), offset: 26, what });
    }
    let size = sequences
        .checked_mul(12)
        .and_then(|s| entries.checked_mul(8)?.checked_add(s))
        .and_then(|s| s.checked_add(HEADER))
        .ok_or_else(|| Error::CorruptIndex {
            path: path.into(),
            offset: 18,
            what: format!("{sequences} sequences and {entries} document entries fit in no file"),
        })?;
    if have < size {
        return Err(Error::Truncated { path: path.into(), offset: have, need: size - have, have: 0 });
    }
    if have > size {
        return Err(Error::SizeMismatch { path: path.into(), by: "its header", expected: size, found: have });
    }
    let fits =
        |n: u64| usize::try_from(n).map_err(|_| Error::io("read", path)(std::io::ErrorKind::FileTooLarge.into()));
    Ok((dtype, fits(sequences)?, fits(entries)?))
}

/// Checks lengths, offsets and document entries; gives the number of tokens.
fn check_tables(file: &Stored, dtype: Dtype, sequences: usize, entries: usize) -> Result<u64> {
    let path = file.path();
    let corrupt = |offset: u64, what: String| Error::CorruptIndex { path: path.into(), offset, what };
    let (lengths, offsets) = (HEADER, HEADER + 4 * sequences as u64);
    let (mut length_of, mut offset_of) = (Table::new(file, lengths), Table::new(file, offsets));
    let mut expected = 0_i64;
    for i in 0..sequences as u64 {
        let (at, from) = (lengths + 4 * i, offsets + 8 * i);
        let length = i32::from_le_bytes(length_of.next()?);
        if length < 0 {
            return Err(corrupt(at, format!("sequence {i} has length {length}")));
        }
        let offset = i64::from_le_bytes(offset_of.next()?);
        if offset != expected {
            return Err(corrupt(from, format!("sequence {i} begins at {offset}, the one before ends at {expected}")));
        }
        expected = i64::from(length)
            .checked_mul(dtype.width() as i64)
            .and_then(|bytes| bytes.checked_add(expected))
            .ok_or_else(|| corrupt(at, "the lengths add up to more than any file holds".to_owned()))?;
    }
    let documents = offsets + 8 * sequences as u64;
    let mut entry_of = Table::new(file, documents);
    let mut before = 0_i64;
    for d in 0..entries as u64 {
        let (at, last) = (documents + 8 * d, d + 1 == entries as u64);
        let entry = i64::from_le_bytes(entry_of.next()?);
        if d == 0 && entry != 0 {
            return Err(corrupt(at, format!("the document table begins with {entry}, not 0")));
        }
        if entry < before || (last && entry != sequences as i64) || entry > sequences as i64 {
            let what = format!("document entry {d} is {entry}, after {before}, of {sequences} sequences");
            return Err(corrupt(at, what));
        }
        before = entry;
    }
    Ok(expected as u64 / dtype.width())
}

/// A table of numbers in a file, read from its beginning.
struct Table<'a> {
    file: &'a Stored,
    /// Where the bytes after `chunk` lie.
    offset: u64,
    chunk: Vec<u8>,
    /// Bytes of `chunk` that were taken.
    taken: usize,
}

impl<'a> Table<'a> {
    fn new(file: &'a Stored, offset: u64) -> Self {
        Self { file, offset, chunk: Vec::new(), taken: 0 }
    }

    /// The bytes of the next number.
    fn next<const N: usize>(&mut self) -> Result<[u8; N]> {
        // A chunk holds whole numbers, so none lies across its end.
        if self.taken == self.chunk.len() {
            let left = self.file.length().saturating_sub(self.offset);
            self.chunk.resize(left.min(CHUNK as u64) as usize, 0);
            self.file.read_at(self.offset, &mut self.chunk)?;
            self.offset += self.chunk.len() as u64;
            self.taken = 0;
        }
        let number = self.chunk.get(self.taken..self.taken + N).and_then(|bytes| bytes.try_into().ok());
        self.taken += N;
        let missing = || Error::Truncated { path: self.file.path().into(), offset: self.offset, need: 1, have: 0 };
        number.ok_or_else(missing)
    }
}

fn read_i64(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
