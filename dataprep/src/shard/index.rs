//! One `.bin`/`.idx` pair, mapped and checked.

use crate::error::{Error, Result};
use crate::mmap::Map;
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

/// A mapped shard whose index has been checked field by field against its tokens.
#[derive(Debug)]
pub struct ShardFile {
    bin_path: PathBuf,
    bin: Map,
    idx: Map,
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
        let (bin, idx) = (Map::open(&bin_path)?, Map::open(&idx_path)?);
        Self::new(bin_path, bin, &idx_path, idx)
    }

    /// A shard out of the contents of its files; errors name them as if `origin` were its prefix.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) but [`Error::Io`].
    pub fn from_bytes(bin: Vec<u8>, idx: Vec<u8>, origin: &Path) -> Result<Self> {
        Self::new(with_suffix(origin, "bin"), bin.into(), &with_suffix(origin, "idx"), idx.into())
    }

    fn new(bin_path: PathBuf, bin: Map, idx_path: &Path, idx: Map) -> Result<Self> {
        let (dtype, sequences, entries) = header(idx_path, idx.bytes())?;
        let tokens = check_tables(idx_path, idx.bytes(), dtype, sequences, entries)?;
        let expected = tokens.saturating_mul(dtype.width());
        let found = bin.bytes().len() as u64;
        if found < expected {
            return Err(Error::Truncated { path: bin_path, offset: found, need: expected - found, have: 0 });
        }
        if found > expected {
            return Err(Error::SizeMismatch { path: bin_path, by: "its .idx", expected, found });
        }
        Ok(Self { bin_path, bin, idx, dtype, sequences, documents: entries - 1, tokens })
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
        &self.bin_path
    }

    /// Position, in tokens, of the first token of document `d`; for `d` = [`documents`](Self::documents) the end.
    ///
    /// # Panics
    /// If `d` is greater than the number of documents.
    pub fn document_start(&self, d: u64) -> u64 {
        let d = usize::try_from(d).expect("document number fits in memory");
        assert!(d <= self.documents, "document {d} of {}", self.documents);
        let table = self.idx.bytes();
        let sequence = read_i64(table, HEADER as usize + 12 * self.sequences + 8 * d) as usize;
        if sequence == self.sequences {
            return self.tokens;
        }
        read_i64(table, HEADER as usize + 4 * self.sequences + 8 * sequence) as u64 / self.dtype.width()
    }

    /// The document that holds the token at `position`: the last one that starts there or before.
    pub(crate) fn document_at(&self, position: u64) -> u64 {
        let (mut low, mut high) = (0, self.documents());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document_start(middle) <= position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.saturating_sub(1)
    }

    /// Copies tokens `start .. start + out.len()` into `out` and checks that each is below `vocab_size`.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] names the byte of the first token that is not.
    ///
    /// # Panics
    /// If the range does not lie inside the shard.
    pub fn read(&self, start: u64, vocab_size: u32, out: &mut [u32]) -> Result<()> {
        let width = self.dtype.width() as usize;
        assert!(start + out.len() as u64 <= self.tokens, "tokens past the end of a shard");
        let first = start as usize * width;
        let bytes = &self.bin.bytes()[first..first + out.len() * width];
        let mut largest = 0;
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
        if largest < vocab_size { Ok(()) } else { Err(self.out_of_range(start, vocab_size, out)) }
    }

    #[cold]
    fn out_of_range(&self, start: u64, vocab_size: u32, tokens: &[u32]) -> Error {
        let at = tokens.iter().position(|&t| t >= vocab_size).unwrap_or(0);
        let token = match self.dtype {
            Dtype::U16 => i64::from(tokens[at]),
            Dtype::I32 => i64::from(tokens[at] as i32),
        };
        let offset = (start + at as u64) * self.dtype.width();
        Error::TokenOutOfRange { path: self.bin_path.clone(), offset, token, vocab_size }
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
fn header(path: &Path, idx: &[u8]) -> Result<(Dtype, usize, usize)> {
    let have = idx.len() as u64;
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
    // Both are below the file's length, and the file is mapped: they fit in usize.
    Ok((dtype, sequences as usize, entries as usize))
}

/// Checks lengths, offsets and document entries; gives the number of tokens.
fn check_tables(path: &Path, idx: &[u8], dtype: Dtype, sequences: usize, entries: usize) -> Result<u64> {
    let corrupt = |offset: usize, what: String| Error::CorruptIndex { path: path.into(), offset: offset as u64, what };
    let (lengths, offsets) = (HEADER as usize, HEADER as usize + 4 * sequences);
    let mut expected = 0_i64;
    for i in 0..sequences {
        let (at, from) = (lengths + 4 * i, offsets + 8 * i);
        let length = i32::from_le_bytes(idx[at..at + 4].try_into().expect("four bytes"));
        if length < 0 {
            return Err(corrupt(at, format!("sequence {i} has length {length}")));
        }
        let offset = read_i64(idx, from);
        if offset != expected {
            return Err(corrupt(from, format!("sequence {i} begins at {offset}, the one before ends at {expected}")));
        }
        expected = i64::from(length)
            .checked_mul(dtype.width() as i64)
            .and_then(|bytes| bytes.checked_add(expected))
            .ok_or_else(|| corrupt(at, "the lengths add up to more than any file holds".to_owned()))?;
    }
    let documents = offsets + 8 * sequences;
    let mut before = 0_i64;
    for d in 0..entries {
        let (at, last) = (documents + 8 * d, d + 1 == entries);
        let entry = read_i64(idx, at);
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

fn read_i64(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
