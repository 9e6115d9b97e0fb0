//! Bytes of a file that is read by position, and seen to stay the same file.
//!
//! A map of a file that someone truncates ends the process with `SIGBUS`, and nothing that is checked before the bytes
//! are touched can prevent it. A read by position returns an error instead, from the same page cache.

use crate::error::{Error, Result};
use crate::mmap::Map;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Bytes that are read at once where single numbers of a table are asked for.
const BLOCK: u64 = 4096;

/// A file that was opened, or bytes in memory that stand for a file's.
#[derive(Debug)]
pub(crate) struct Stored {
    path: PathBuf,
    bytes: Bytes,
    length: u64,
}

#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    File { file: File, identity: Identity, map: Option<Map>, block: Mutex<Block> },
}

/// The bytes around the number that was asked for last.
#[derive(Debug, Default)]
struct Block {
    first: u64,
    bytes: Vec<u8>,
}

/// What tells a file from one that took its place, or that was written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    length: u64,
    modified: Option<SystemTime>,
    /// Device and inode, where there are such numbers.
    place: Option<(u64, u64)>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let place = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let place = None;
        Self { length: metadata.len(), modified: metadata.modified().ok(), place }
    }
}

impl Stored {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let identity = Identity::of(&file.metadata().map_err(Error::io("read the size of", path))?);
        let bytes = Bytes::File { file, identity, map: None, block: Mutex::default() };
        Ok(Self { path: path.into(), bytes, length: identity.length })
    }

    /// Bytes in memory; errors name them as if they were the file `path`.
    pub fn in_memory(bytes: Vec<u8>, path: PathBuf) -> Self {
        Self { path, length: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// Maps the file, which is then not read by position: for those who know that nobody changes it.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be mapped.
    pub fn map(&mut self) -> Result<()> {
        if let Bytes::File { file, map, .. } = &mut self.bytes {
            *map = Some(Map::of(file, &self.path)?);
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads `out.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::ShardChanged`] where they are not there any more; [`Error::Io`].
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let part = |bytes: &[u8], out: &mut [u8]| {
            let start = usize::try_from(offset).ok()?;
            out.copy_from_slice(bytes.get(start..start.checked_add(out.len())?)?);
            Some(())
        };
        let shorter = || self.changed("it is shorter than it was");
        match &self.bytes {
            Bytes::Memory(bytes) => part(bytes, out).ok_or_else(shorter),
            Bytes::File { map: Some(map), .. } => {
                // Later than this a change can still end the process.
                self.unchanged()?;
                part(map.bytes(), out).ok_or_else(shorter)
            }
            Bytes::File { file, .. } => match read_exact_at(file, offset, out) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(shorter()),
                read => read.map_err(Error::io("read", &self.path)),
            },
        }
    }

    /// The 8 bytes at `offset`, as a number. Neighbors of the last one are found without a read.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn number_at(&self, offset: u64) -> Result<i64> {
        let mut number = [0; 8];
        let Bytes::File { map: None, block, .. } = &self.bytes else {
            self.read_at(offset, &mut number)?;
            return Ok(i64::from_le_bytes(number));
        };
        let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = |block: &Block| {
            let start = usize::try_from(offset.checked_sub(block.first)?).ok()?;
            block.bytes.get(start..start.checked_add(8)?)?.try_into().ok()
        };
        if let Some(number) = inside(&block) {
            return Ok(i64::from_le_bytes(number));
        }
        // A number may lie across the border of two blocks.
        let first = offset / BLOCK * BLOCK;
        let mut bytes = std::mem::take(&mut block.bytes);
        bytes.resize(self.length.saturating_sub(first).min(BLOCK + 8) as usize, 0);
        self.read_at(first, &mut bytes)?;
        *block = Block { first, bytes };
        inside(&block).map(i64::from_le_bytes).ok_or_else(|| self.changed("it is shorter than it was"))
    }

    /// Checks that it is still the file that was opened, there and as it was.
    ///
    /// # Errors
    /// [`Error::ShardChanged`] says in what it differs.
    pub fn unchanged(&self) -> Result<()> {
        let Bytes::File { file, identity, .. } = &self.bytes else { return Ok(()) };
        let open = Identity::of(&file.metadata().map_err(Error::io("read the size of", &self.path))?);
        if open.length != identity.length {
            return Err(self.changed(&format!("it has {} bytes and had {}", open.length, identity.length)));
        }
        if open.modified != identity.modified {
            return Err(self.changed("it was written to"));
        }
        match std::fs::metadata(&self.path) {
            Ok(there) if Identity::of(&there) == *identity => Ok(()),
            Ok(_) => Err(self.changed("another file is in its place")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(self.changed("it was removed")),
            Err(error) => Err(Error::io("read the size of", &self.path)(error)),
        }
    }

    fn changed(&self, what: &str) -> Error {
        Error::ShardChanged { path: self.path.clone(), what: what.into() }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => (out, offset) = (&mut out[n..], offset + n as u64),
        }
    }
    Ok(())
}
