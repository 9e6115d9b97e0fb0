//! Reading documents: which files there are, and what is in them.
//!
//! A plain file is one document; a line of a `.jsonl` file is one document, the string in its text field. Either may be
//! compressed with gzip or zstd. Order is fixed by names alone: inputs as they are given, folders in the order of their
//! entries' names.

use crate::document::Origin;
use crate::error::{Error, Result};
use crate::prep::InputConfig;
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Suffixes that are read as text when a folder is walked. A file named on its own is read whatever its suffix.
const TEXT: [&str; 46] = [
    "txt", "text", "md", "markdown", "rst", "tex", "html", "htm", "csv", "rs", "py", "pyi", "c", "h", "cc", "cpp",
    "cxx", "hh", "hpp", "cu", "cuh", "js", "jsx", "mjs", "ts", "tsx", "go", "java", "kt", "scala", "swift", "rb",
    "php", "pl", "lua", "sh", "jl", "r", "hs", "ml", "ex", "sql", "toml", "yaml", "yml", "css",
];
/// Suffixes of files with a JSON object a line.
const JSON_LINES: [&str; 2] = ["jsonl", "ndjson"];
/// Folders that hold what was built or fetched rather than written.
const SKIPPED_FOLDERS: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// How a file holds documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The whole file is one document.
    Text,
    /// Each line is a JSON object with one document.
    JsonLines,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the input it was found under.
    pub name: PathBuf,
    /// Its size on disk in bytes.
    pub bytes: u64,
    /// What it holds.
    pub format: Format,
    /// How it is compressed.
    pub compression: Compression,
}

/// Finds the files of all inputs, in a fixed order. Hidden entries, build folders, symbolic links to folders and files of
/// unknown suffix are passed over, unless named themselves.
///
/// # Errors
/// [`Error::Io`] when an input does not exist or a folder cannot be listed.
pub fn walk(paths: &[PathBuf]) -> Result<Vec<InputFile>> {
    let mut files = Vec::new();
    for path in paths {
        let info = fs::metadata(path).map_err(Error::io("read", path))?;
        if info.is_dir() {
            walk_folder(path, Path::new(""), &mut files)?;
        } else {
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            let (format, compression) = kind(&name);
            let format = format.unwrap_or(Format::Text);
            files.push(InputFile { path: path.clone(), name, bytes: info.len(), format, compression });
        }
    }
    Ok(files)
}

fn walk_folder(folder: &Path, below: &Path, files: &mut Vec<InputFile>) -> Result<()> {
    let mut entries =
        fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(Error::io("list", folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, own) = (entry.path(), entry.file_name());
        let name = below.join(&own);
        if own.as_encoded_bytes().first() == Some(&b'.') {
            continue;
        }
        let file_type = entry.file_type().map_err(Error::io("read", &path))?;
        if file_type.is_dir() {
            if !SKIPPED_FOLDERS.iter().any(|skipped| own == OsStr::new(skipped)) {
                walk_folder(&path, &name, files)?;
            }
            continue;
        }
        let (Some(format), compression) = kind(&name) else {
            continue;
        };
        // A link may point to nothing; whatever is no file in the end is passed over.
        if let Ok(info) = fs::metadata(&path)
            && info.is_file()
        {
            files.push(InputFile { path, name, bytes: info.len(), format, compression });
        }
    }
    Ok(())
}

/// What the suffixes say: the format, if it is a known one, and the compression.
fn kind(name: &Path) -> (Option<Format>, Compression) {
    let lower = name.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (stem, compression) = if let Some(stem) = lower.strip_suffix(".gz") {
        (stem, Compression::Gzip)
    } else if let Some(stem) = lower.strip_suffix(".zst") {
        (stem, Compression::Zstd)
    } else {
        (lower.as_str(), Compression::None)
    };
    let format = stem.rsplit_once('.').and_then(|(_, suffix)| {
        if JSON_LINES.contains(&suffix) {
            Some(Format::JsonLines)
        } else {
            TEXT.contains(&suffix).then_some(Format::Text)
        }
    });
    (format, compression)
}

/// What reading passed on and what it dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Documents read.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files and records without text.
    pub empty: u64,
    /// Files and records larger than `input.max_document_bytes`.
    pub too_large: u64,
    /// Lines of `.jsonl` files that are no object with a text.
    pub bad_records: u64,
}

/// The documents of some files, one after the other.
pub struct Documents<'a> {
    files: &'a [InputFile],
    config: InputConfig,
    next: usize,
    lines: Option<Lines<'a>>,
    counts: ReadCounts,
    /// Bytes read from disk.
    read: Arc<AtomicU64>,
    warnings: Vec<String>,
    /// Bytes of the last record in what its file decompresses to.
    place: std::ops::Range<u64>,
}

impl<'a> Documents<'a> {
    /// Will read `files` with the limits of `config`.
    pub fn new(files: &'a [InputFile], config: InputConfig) -> Self {
        let (counts, read) = (ReadCounts::default(), Arc::default());
        Self { files, config, next: 0, lines: None, counts, read, warnings: Vec::new(), place: 0..0 }
    }

    /// What was read so far.
    pub fn counts(&self) -> ReadCounts {
        self.counts
    }

    /// Bytes read from disk so far, of the files' total size.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// What was dropped since the last call, with file and line.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Reads documents until they hold `bytes` bytes or are `documents` many. Empty at the end.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadArchive`], [`Error::TooManyBadRecords`].
    pub fn batch(&mut self, bytes: u64, documents: usize) -> Result<Vec<(Vec<u8>, Origin)>> {
        let (mut batch, mut total) = (Vec::new(), 0);
        while total < bytes && batch.len() < documents {
            let Some(document) = self.document()? else {
                break;
            };
            total += document.0.len() as u64;
            batch.push(document);
        }
        Ok(batch)
    }

    fn document(&mut self) -> Result<Option<(Vec<u8>, Origin)>> {
        loop {
            if self.config.max_bytes.is_some_and(|most| self.counts.bytes >= most) {
                return Ok(None);
            }
            if let Some(text) = match &mut self.lines {
                Some(_) => self.record()?,
                None => match self.open_next()? {
                    Opened::Nothing => return Ok(None),
                    Opened::Lines => None,
                    Opened::Text(text) => text,
                },
            } {
                if text.is_empty() {
                    self.counts.empty += 1;
                    continue;
                }
                self.counts.documents += 1;
                self.counts.bytes += text.len() as u64;
                let file = self.next.saturating_sub(1) as u32;
                return Ok(Some((text, Origin { file, bytes: self.place.clone(), id: None })));
            }
        }
    }

    fn open_next(&mut self) -> Result<Opened> {
        let Some(file) = self.files.get(self.next) else {
            return Ok(Opened::Nothing);
        };
        self.next += 1;
        let mut reader = Reader::open(file, self.read.clone())?;
        if file.format == Format::JsonLines {
            self.lines = Some(Lines { reader, line: 0 });
            return Ok(Opened::Lines);
        }
        let limit = self.config.max_document_bytes;
        let text = reader.read_up_to(limit.saturating_add(1))?;
        if text.len() as u64 > limit {
            self.counts.too_large += 1;
            self.warnings
                .push(format!("{}: larger than input.max_document_bytes = {limit}, left out", file.path.display()));
            return Ok(Opened::Text(None));
        }
        self.place = 0..text.len() as u64;
        Ok(Opened::Text(Some(text)))
    }

    /// The next record of the open file, if there is a good one; closes the file at its end.
    fn record(&mut self) -> Result<Option<Vec<u8>>> {
        let limit = self.config.max_document_bytes;
        let lines = self.lines.as_mut().expect("a file of records is open");
        let (path, number, from) = (&lines.reader.file.path, lines.line + 1, lines.reader.offset);
        let line = lines.reader.read_line(limit)?;
        self.place = from..lines.reader.offset;
        match line {
            Line::End => {
                self.lines = None;
                return Ok(None);
            }
            Line::TooLong => {
                lines.line = number;
                self.counts.too_large += 1;
                let place = path.display();
                self.warnings
                    .push(format!("{place}:{number}: larger than input.max_document_bytes = {limit}, left out"));
                return Ok(None);
            }
            Line::Whole(line) => {
                lines.line = number;
                if line.iter().all(u8::is_ascii_whitespace) {
                    return Ok(None);
                }
                match text_of(&line, &self.config.text_field) {
                    Ok(text) => return Ok(Some(text)),
                    Err(what) => {
                        let path = path.clone();
                        self.bad_record(path, number, what)?;
                    }
                }
            }
        }
        Ok(None)
    }

    fn bad_record(&mut self, path: PathBuf, line: u64, what: String) -> Result<()> {
        self.counts.bad_records += 1;
        let (count, limit) = (self.counts.bad_records, self.config.max_bad_records);
        if count > limit {
            return Err(Error::TooManyBadRecords { path, line, what, count, limit });
        }
        self.warnings.push(format!("{}:{line}: {what}, left out", path.display()));
        Ok(())
    }
}

enum Opened {
    Nothing,
    Lines,
    /// `None` when it was left out.
    Text(Option<Vec<u8>>),
}

struct Lines<'a> {
    reader: Reader<'a>,
    line: u64,
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

/// The text in one line of JSON, or what is wrong with the line.
fn text_of(line: &[u8], field: &str) -> std::result::Result<Vec<u8>, String> {
    let mut record: Value = serde_json::from_slice(line).map_err(|e| format!("not a JSON object: {e}"))?;
    match record.get_mut(field).map(Value::take) {
        Some(Value::String(text)) => Ok(text.into_bytes()),
        Some(_) => Err(format!("field {field:?} is no string")),
        None => Err(format!("no field {field:?}")),
    }
}

/// An open file, decompressed.
struct Reader<'a> {
    file: &'a InputFile,
    stream: Box<dyn BufRead + Send>,
    offset: u64,
}

impl<'a> Reader<'a> {
    fn open(file: &'a InputFile, read: Arc<AtomicU64>) -> Result<Self> {
        let raw = File::open(&file.path).map_err(Error::io("open", &file.path))?;
        let raw = Counted { inner: raw, read };
        let stream: Box<dyn BufRead + Send> = match file.compression {
            Compression::None => Box::new(BufReader::with_capacity(1 << 16, raw)),
            Compression::Gzip => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw))),
            Compression::Zstd => {
                let decoder = zstd::Decoder::new(raw).map_err(Error::io("decompress", &file.path))?;
                Box::new(BufReader::with_capacity(1 << 16, decoder))
            }
        };
        Ok(Self { file, stream, offset: 0 })
    }

    /// Reads to the end, or `limit` bytes.
    fn read_up_to(&mut self, limit: u64) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let result = self.stream.by_ref().take(limit).read_to_end(&mut text);
        self.offset += text.len() as u64;
        result.map_err(|e| self.error(e))?;
        Ok(text)
    }

    /// Reads a line without its end, and holds no more than `limit` bytes of it.
    fn read_line(&mut self, limit: u64) -> Result<Line> {
        let (mut line, mut any, mut too_long) = (Vec::new(), false, false);
        loop {
            let chunk = match self.stream.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.error(e)),
            };
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = chunk.iter().position(|&b| b == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            too_long |= (line.len() + part.len()) as u64 > limit;
            if !too_long {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.stream.consume(used);
            self.offset += used as u64;
            if end.is_some() {
                break;
            }
        }
        Ok(match (any, too_long) {
            (false, _) => Line::End,
            (true, true) => Line::TooLong,
            (true, false) => Line::Whole(line),
        })
    }

    fn error(&self, source: io::Error) -> Error {
        let path = self.file.path.clone();
        match self.file.compression {
            Compression::None => Error::Io { action: "read", path, source },
            Compression::Gzip | Compression::Zstd => Error::BadArchive { path, offset: self.offset, source },
        }
    }
}

/// Counts what is read from disk, for progress.
struct Counted {
    inner: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
