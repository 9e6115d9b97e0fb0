//! Files of documents between stages.

use super::provenance::Provenance;
use super::work::{DraftFile, Input};
use crate::error::{Error, Result};
use std::io::{BufReader, Read, Write};
use std::path::PathBuf;

/// Compression of intermediate files: fast, since each is read once or twice and thrown away.
pub(super) const FAST: i32 = 1;
/// More than any description of a document takes; a longer one is damage.
const LONGEST_HEADER: u64 = 16 << 20;

/// A document as it lies between stages: its [`Provenance`] as JSON, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// One line.
    pub header: String,
    /// UTF-8 but for what a plain run passes on as it is.
    pub text: Vec<u8>,
}

/// Writes compressed lines or records into a file of a task.
pub(super) struct Packed {
    inner: zstd::Encoder<'static, DraftFile>,
}

impl Packed {
    /// Writes into `file`.
    pub fn new(file: DraftFile) -> Result<Self> {
        let path = file.temporary().to_path_buf();
        Ok(Self { inner: zstd::Encoder::new(file, FAST).map_err(Error::io("compress to", &path))? })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(|e| Error::io("write", self.inner.get_ref().temporary())(e))
    }

    /// Appends a line.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.write(line.as_bytes())?;
        self.write(b"\n")
    }

    /// Appends a record: the lengths of its parts, `u32` each, and the parts.
    pub fn record(&mut self, header: &str, text: &[u8]) -> Result<()> {
        let length = |n: usize| u32::try_from(n).map(u32::to_le_bytes);
        let (Ok(a), Ok(b)) = (length(header.len()), length(text.len())) else {
            let what = format!("a document of {} bytes; lower it below 2^32", text.len());
            return Err(Error::Config { field: "input.max_document_bytes", what });
        };
        self.write(&a)?;
        self.write(&b)?;
        self.write(header.as_bytes())?;
        self.write(text)
    }

    /// Ends the compressed stream.
    pub fn finish(self) -> Result<DraftFile> {
        let path = self.inner.get_ref().temporary().to_path_buf();
        self.inner.finish().map_err(Error::io("write", &path))
    }
}

/// Reads back what [`Packed::record`] wrote.
pub(super) struct Records<R: Read = Input> {
    path: PathBuf,
    inner: zstd::Decoder<'static, BufReader<R>>,
}

impl Records {
    /// Reads from `input`.
    pub fn new(input: Input) -> Result<Self> {
        Self::of(input.path().to_path_buf(), input)
    }
}

impl<R: Read> Records<R> {
    /// Out of the bytes of a file, which errors call `path`.
    fn of(path: PathBuf, bytes: R) -> Result<Self> {
        let inner = zstd::Decoder::new(bytes).map_err(|e| super::work::damaged(&path, e))?;
        Ok(Self { path, inner })
    }

    /// The next record.
    pub fn next(&mut self) -> Result<Option<Record>> {
        let mut first = [0; 1];
        if self.take(&mut first, true)? == 0 {
            return Ok(None);
        }
        let mut rest = [0; 7];
        self.take(&mut rest, false)?;
        let [b, c, d, e, f, g, h] = rest;
        let (header, text) = (u32::from_le_bytes([first[0], b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if u64::from(header) > LONGEST_HEADER {
            return Err(super::work::damaged(&self.path, format!("a description of {header} bytes")));
        }
        let header = String::from_utf8(self.part(header)?).map_err(|e| super::work::damaged(&self.path, e))?;
        Ok(Some(Record { header, text: self.part(text)? }))
    }

    /// Fills `buffer`, or gives 0 at the end where that `may_end`.
    fn take(&mut self, buffer: &mut [u8], may_end: bool) -> Result<usize> {
        match self.inner.read_exact(buffer) {
            Ok(()) => Ok(buffer.len()),
            Err(e) if may_end && e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
            Err(e) => Err(super::work::damaged(&self.path, e)),
        }
    }

    fn part(&mut self, length: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Grows with what is there, so that a damaged length asks for no memory.
        self.inner
            .by_ref()
            .take(u64::from(length))
            .read_to_end(&mut bytes)
            .map_err(|e| super::work::damaged(&self.path, e))?;
        if bytes.len() as u64 != u64::from(length) {
            return Err(super::work::damaged(&self.path, "it ends within a record"));
        }
        Ok(bytes)
    }
}

/// Reads `bytes` as a file of documents between stages, without the checksum that keeps damage from being looked at.
#[doc(hidden)]
pub fn fuzz_stored(bytes: &[u8]) {
    let Ok(mut records) = Records::of("memory".into(), bytes) else {
        return;
    };
    while let Ok(Some(record)) = records.next() {
        let _ = serde_json::from_str::<Provenance<'_>>(&record.header);
    }
}
