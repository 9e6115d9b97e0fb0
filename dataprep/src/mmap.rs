//! A read-only memory map: the one place in this crate with `unsafe`.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;

/// The bytes of a whole file, mapped rather than read; or bytes in memory that stand for a file's.
///
/// The file must not be truncated while the map lives: reading past a new end kills the process with `SIGBUS`.
/// Shards are written under a temporary name and renamed, never changed in place, so nothing in this crate does that.
#[derive(Debug)]
pub struct Map {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl From<Vec<u8>> for Map {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: Bytes::Owned(bytes) }
    }
}

impl Map {
    /// Maps `path`. An empty file gives an empty map.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read the size of", path))?.len();
        if length == 0 {
            return Ok(Vec::new().into());
        }
        // SAFETY: the map is private to this struct and only ever read. Soundness needs that no one changes the file
        // meanwhile; shards are immutable once renamed into place, which the type's documentation states as its
        // premise.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self { bytes: Bytes::Mapped(map) })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}
