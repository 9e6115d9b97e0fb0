//! Input files: their path, size, format and compression.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Format of an input file.
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
    /// The file holds JSON objects over many lines, or an array of them: each object is one document.
    Json,
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

impl Format {
    /// Its name for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Lines => "lines of text",
            Self::Html => "a web page",
            Self::JsonLines => "JSON Lines",
            Self::Json => "JSON",
            Self::Csv => "comma-separated values",
            Self::Tsv => "tab-separated values",
            Self::Warc => "WARC",
            Self::Parquet => "Parquet",
            Self::Arrow => "Arrow",
        }
    }
}

/// Compression of an input file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    None,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Its path below the input it was found under.
    pub name: PathBuf,
    /// Its size on disk in bytes.
    pub bytes: u64,
    /// Format of its content.
    pub format: Format,
    /// Compression of the file.
    pub compression: Compression,
}
