//! A read-only memory map: the one place in this crate with `unsafe`.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;

/// The bytes of a whole file, mapped rather than read.
///
/// The file must not be truncated while the map lives: touching a byte behind its new end ends the process with
/// `SIGBUS`. So nothing is mapped unless a user asks for it.
#[derive(Debug)]
pub(crate) struct Map {
    /// None for an empty file.
    map: Option<memmap2::Mmap>,
}

impl Map {
    /// Maps the open `file` at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be mapped.
    pub fn of(file: &File, path: &Path) -> Result<Self> {
        let length = file.metadata().map_err(Error::io("read the size of", path))?.len();
        if length == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the map is private to this struct and only ever read. Soundness needs that no one changes the file
        // meanwhile, which is what a user states who asks for the map.
        let map = unsafe { memmap2::Mmap::map(file) }.map_err(Error::io("map", path))?;
        Ok(Self { map: Some(map) })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
