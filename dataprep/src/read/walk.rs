//! Which files there are to read, in an order that names alone decide.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Suffixes of files that are one document each.
const TEXT: [&str; 42] = [
    "txt", "text", "md", "markdown", "rst", "tex", "rs", "py", "pyi", "c", "h", "cc", "cpp", "cxx", "hh", "hpp", "cu",
    "cuh", "js", "jsx", "mjs", "ts", "tsx", "go", "java", "kt", "scala", "swift", "rb", "php", "pl", "lua", "sh", "jl",
    "r", "hs", "ml", "ex", "sql", "toml", "yaml", "yml",
];
/// Suffixes of all other formats.
const OTHERS: [(&str, Format); 15] = [
    ("css", Format::Text),
    ("jsonl", Format::JsonLines),
    ("ndjson", Format::JsonLines),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("html", Format::Html),
    ("htm", Format::Html),
    ("xhtml", Format::Html),
    ("warc", Format::Warc),
    ("wet", Format::Warc),
    ("parquet", Format::Parquet),
    ("arrow", Format::Arrow),
    ("arrows", Format::Arrow),
    ("feather", Format::Arrow),
    ("ipc", Format::Arrow),
];
/// Folders that hold what was built or fetched rather than written.
const SKIPPED_FOLDERS: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// How a file holds documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The whole file is one document.
    Text,
    /// Each line is one document. No suffix says so: it is asked for.
    Lines,
    /// The whole file is a web page.
    Html,
    /// Each line is a JSON object with one document.
    JsonLines,
    /// Comma-separated values with a header (RFC 4180): each record is one document.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// WARC records: web pages in `response` records, or text in `conversion` records (WET).
    Warc,
    /// A table in Apache Parquet: each row is one document.
    Parquet,
    /// A table in Arrow's IPC format, file or stream: each row is one document.
    Arrow,
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

/// Finds the files of all inputs, in a fixed order: inputs as they are given, and below a folder or a glob by name, one
/// path component after the other. An input is a file, a folder, or a glob (`data/*.jsonl.gz`, `crawl/**/*.warc.gz`) where
/// no file of that very name exists.
///
/// Hidden entries, build folders, symbolic links to folders and files of unknown suffix are passed over unless named
/// themselves; a file that is named is text when its suffix says nothing. With `format`, every file is read as that,
/// whatever its suffix.
///
/// # Errors
/// [`Error::Io`] when an input does not exist or a folder cannot be listed, [`Error::Config`] for a glob that is none or
/// that nothing matches.
pub fn walk(inputs: &[PathBuf], format: Option<Format>) -> Result<Vec<InputFile>> {
    let mut files = Vec::new();
    for input in inputs {
        match fs::metadata(input) {
            Ok(info) if info.is_dir() => walk_folder(input, Path::new(""), format, &mut files)?,
            Ok(info) => {
                let name = input.file_name().map(PathBuf::from).unwrap_or_default();
                files.push(named(input.clone(), name, info.len(), format));
            }
            Err(_) if is_glob(input) => walk_glob(input, format, &mut files)?,
            Err(e) => return Err(Error::io("read", input)(e)),
        }
    }
    Ok(files)
}

/// A file that was asked for by name, so it is read whatever its suffix.
fn named(path: PathBuf, name: PathBuf, bytes: u64, format: Option<Format>) -> InputFile {
    let (by_suffix, compression) = kind(&name);
    let format = format.or(by_suffix).unwrap_or(Format::Text);
    InputFile { path, name, bytes, format, compression }
}

fn is_glob(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

fn walk_glob(input: &Path, format: Option<Format>, files: &mut Vec<InputFile>) -> Result<()> {
    let bad = |what: String| Error::Config { field: "input.paths", what: format!("{}: {what}", input.display()) };
    let pattern = input.to_str().ok_or_else(|| bad("a glob must be valid UTF-8".into()))?;
    // `**` on its own finds folders only.
    let pattern = if pattern.ends_with("**") { format!("{pattern}/*") } else { pattern.to_owned() };
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let found = glob::glob_with(&pattern, options).map_err(|e| bad(format!("not a glob: {e}")))?;
    let mut found = found.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| Error::Io {
        action: "list",
        path: e.path().to_owned(),
        source: e.into(),
    })?;
    found.sort();
    let stem: PathBuf = input.components().take_while(|part| !is_glob(Path::new(part.as_os_str()))).collect();
    let before = files.len();
    for path in found {
        let below = relative(&path, &stem);
        match fs::metadata(&path) {
            // `**` finds what is in folders by itself.
            Ok(info) if info.is_dir() && !pattern.contains("**") => walk_folder(&path, &below, format, files)?,
            Ok(info) if info.is_file() => files.push(named(path, below, info.len(), format)),
            _ => {}
        }
    }
    if files.len() == before {
        return Err(bad("no such file, and as a glob it matches nothing".into()));
    }
    Ok(())
}

/// `path` without `stem`, compared by components, as a leading `./` may be on one of them only.
fn relative(path: &Path, stem: &Path) -> PathBuf {
    let skip = stem.components().filter(|part| *part != Component::CurDir).count();
    path.components().filter(|part| *part != Component::CurDir).skip(skip).collect()
}

fn walk_folder(folder: &Path, below: &Path, format: Option<Format>, files: &mut Vec<InputFile>) -> Result<()> {
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
                walk_folder(&path, &name, format, files)?;
            }
            continue;
        }
        let (by_suffix, compression) = kind(&name);
        let Some(format) = format.or(by_suffix) else {
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
        let other = OTHERS.iter().find(|(known, _)| *known == suffix).map(|(_, format)| *format);
        other.or_else(|| TEXT.contains(&suffix).then_some(Format::Text))
    });
    (format, compression)
}
