//! Decides of each file that was found whether and as what it is read, by its content and its suffix.

use super::fields::FieldNames;
use super::format::{Compression, Format, InputFile};
use super::passed_over::PassedOver;
use super::sniff::{self, Content, Table};
use super::stream::Store;
use crate::error::{Error, Result};
use std::io;
use std::path::{Path, PathBuf};

/// Suffixes of files that are one document each.
const TEXT: [&str; 42] = [
    "txt", "text", "md", "markdown", "rst", "tex", "rs", "py", "pyi", "c", "h", "cc", "cpp", "cxx", "hh", "hpp", "cu",
    "cuh", "js", "jsx", "mjs", "ts", "tsx", "go", "java", "kt", "scala", "swift", "rb", "php", "pl", "lua", "sh", "jl",
    "r", "hs", "ml", "ex", "sql", "toml", "yaml", "yml",
];
/// Those of them that stand for text without any form.
const PROSE: [&str; 2] = ["txt", "text"];
/// Suffixes of all other formats.
const OTHERS: [(&str, Format); 17] = [
    ("css", Format::Text),
    ("jsonl", Format::JsonLines),
    ("ndjson", Format::JsonLines),
    ("jsonlines", Format::JsonLines),
    ("jl", Format::JsonLines),
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
/// How a file came to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// By its own name.
    Itself,
    /// By a glob.
    Glob,
    /// It lies below a folder.
    Below,
}

/// A file that was found and not yet looked at.
pub(super) struct Candidate {
    pub path: PathBuf,
    pub name: PathBuf,
    pub bytes: u64,
    pub asked: Asked,
    pub is_regular: bool,
}

/// What becomes of a file or folder that was found.
pub(super) enum Found {
    Candidate(Candidate),
    Not(PassedOver),
}

/// The outcome for a file: it is read, maybe as something else than its name says; or why it is not.
pub(super) enum Judged {
    Read(InputFile, Option<PassedOver>),
    Not(PassedOver),
}

/// Decides how files are read.
pub(super) struct Judge<'a> {
    pub format: Option<Format>,
    pub names: &'a FieldNames,
    /// Whether a file must have a field or column for the text.
    pub needs_text: bool,
}

impl Judge<'_> {
    /// Judges what was found.
    pub fn found(&self, found: Found) -> Result<Judged> {
        match found {
            Found::Not(not) => Ok(Judged::Not(not)),
            Found::Candidate(candidate) => self.judge(candidate),
        }
    }

    fn judge(&self, candidate: Candidate) -> Result<Judged> {
        let Candidate { path, name, bytes, asked, is_regular } = candidate;
        let refuse = |path, what: String, is_lost| match asked {
            Asked::Itself if is_lost => Err(Error::UnsupportedInput { path, what }),
            _ => Ok(Judged::Not(PassedOver { path, why: what })),
        };
        if !is_regular {
            // Files are read more than once, which these cannot be.
            return refuse(path, "a pipe, socket or device; write its content to a file first".into(), true);
        }
        let Suffix { format: named, compression, known } = suffix(&name);
        let store = Store::File(path.clone());
        let look = match sniff::look(&store, compression, self.names) {
            Ok(look) => look,
            Err(e) if asked != Asked::Below || self.format.or(named).is_some() || known == "json" => {
                return Err(Error::io("read", &path)(e));
            }
            Err(e) => return Ok(Judged::Not(PassedOver { path, why: format!("cannot be read: {e}") })),
        };
        let refused = match look.content {
            Content::Foreign(kind) => Err((kind.why(), kind.holds_files)),
            content => match self.format {
                Some(format) => Ok(format),
                None => self.decide(named, &known, content, asked),
            },
        };
        let refused = refused.and_then(|format| match self.lacks_column(&store, format, look.compression) {
            Ok(false) => Ok(format),
            Ok(true) => Err((format!("{} without the column {:?}", format.name(), self.names.text), true)),
            Err(e) => Err((format!("cannot be read: {e}"), true)),
        });
        match refused {
            Ok(format) => {
                let other = self.format.is_none() && named.is_some_and(|named| named != format);
                let why = || format!("{} under the suffix .{known}", format.name());
                let renamed = other.then(|| PassedOver { path: path.clone(), why: why() });
                let compression = look.compression;
                Ok(Judged::Read(InputFile { path, name, bytes, format, compression }, renamed))
            }
            Err((what, is_lost)) => refuse(path, what, is_lost),
        }
    }

    /// The format of a file by its suffix and its content; or why it is not read, and whether it should be.
    fn decide(
        &self,
        named: Option<Format>,
        known: &str,
        content: Content,
        asked: Asked,
    ) -> std::result::Result<Format, (String, bool)> {
        use Format::{Arrow, Csv, Html, Json, JsonLines, Parquet, Text, Tsv, Warc};
        match (named, content) {
            (_, Content::Certain(format @ (Warc | Parquet | Arrow))) => Ok(format),
            // Program text may hold JSON; what is named as a text and is nothing but records is no text.
            (Some(Text), Content::Records { format, pure: true }) if PROSE.contains(&known) => Ok(format),
            (Some(Text), _) => Ok(Text),
            (Some(_), Content::Records { format, .. }) => Ok(format),
            (Some(JsonLines), Content::OtherJson(format)) => Ok(format),
            (Some(format @ (Csv | Tsv)), Content::Other(table)) if self.needs_text && self.format.is_none() => {
                self.separated(format, table)
            }
            (Some(format), _) => Ok(format),
            (None, Content::Records { format, .. } | Content::Certain(format)) => Ok(format),
            (None, Content::OtherJson(format @ (Json | JsonLines | Html))) if asked != Asked::Below => Ok(format),
            (None, Content::OtherJson(_)) => Err((format!("JSON without the text field {:?}", self.names.text), false)),
            (None, Content::Other(Table { separator: Some(b','), is_table: true, .. })) => Ok(Csv),
            (None, Content::Other(Table { separator: Some(b'\t'), is_table: true, .. })) => Ok(Tsv),
            (None, _) if known == "br" => Err(("Brotli, which is not read; decompress it (brotli -d)".into(), true)),
            (None, _) if asked != Asked::Below => Ok(Text),
            (None, _) if known == "json" => Err(("JSON that is not made of objects, or damaged".into(), false)),
            (None, _) if known.is_empty() => Err(("no suffix".into(), false)),
            (None, _) => Err((format!("unknown suffix .{known}"), false)),
        }
    }

    /// The format of separated values whose suffix says `format`.
    fn separated(&self, format: Format, table: Table) -> std::result::Result<Format, (String, bool)> {
        match table {
            Table { has_header: false, .. } => Ok(format),
            Table { separator: Some(b','), .. } => Ok(Format::Csv),
            Table { separator: Some(b'\t'), .. } => Ok(Format::Tsv),
            Table { separator: Some(other), .. } => {
                let other = char::from(other);
                Err((
                    format!("values separated by {other:?}, which are not read; separate them by commas or tabs"),
                    true,
                ))
            }
            Table { separator: None, .. } => {
                Err((format!("{} without the column {:?}", format.name(), self.names.text), true))
            }
        }
    }

    /// Whether a table has no column for the text.
    #[cfg(feature = "parquet")]
    fn lacks_column(&self, store: &Store, format: Format, compression: Compression) -> io::Result<bool> {
        let is_table = matches!(format, Format::Parquet | Format::Arrow) && compression == Compression::None;
        Ok(self.needs_text && is_table && super::table::lacks_text(store, format, self.names)?)
    }

    /// Tables are refused when they are opened.
    #[cfg(not(feature = "parquet"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with the feature `parquet`")]
    fn lacks_column(&self, _: &Store, _: Format, _: Compression) -> io::Result<bool> {
        Ok(false)
    }
}

/// What a name says of its file.
struct Suffix {
    /// The format, if the suffix is a known one.
    format: Option<Format>,
    compression: Compression,
    /// The suffix, without that of the compression.
    known: String,
}

fn suffix(name: &Path) -> Suffix {
    let lower = name.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let compressed = [
        (".gz", Compression::Gzip),
        (".gzip", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".zstd", Compression::Zstd),
    ];
    let found = compressed.iter().find_map(|(suffix, compression)| Some((lower.strip_suffix(suffix)?, *compression)));
    let (stem, compression) = found.unwrap_or((&lower, Compression::None));
    let known = stem.rsplit_once('.').map(|(_, suffix)| suffix).unwrap_or_default();
    let other = OTHERS.iter().find(|(suffix, _)| *suffix == known).map(|(_, format)| *format);
    let format = other.or_else(|| TEXT.contains(&known).then_some(Format::Text));
    Suffix { format, compression, known: known.to_owned() }
}
