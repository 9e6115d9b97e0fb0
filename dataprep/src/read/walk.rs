//! The walk: lists the input files, in an order that depends on names alone.

use super::fields::FieldNames;
use super::format::{Compression, Format, InputFile};
use super::sniff::{self, Content};
use super::stream::Store;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
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
/// Folders that hold what was built or fetched rather than written.
const SKIPPED_FOLDERS: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// The files of all inputs, and what was passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The files to read.
    pub files: Vec<InputFile>,
    /// Why files were passed over: how many, and the first of them.
    pub passed_over: BTreeMap<String, (u64, PathBuf)>,
}

impl Walked {
    fn pass_over(&mut self, path: PathBuf, why: String) {
        self.passed_over.entry(why).or_insert((0, path)).0 += 1;
    }
}

/// Finds the files of all inputs, in a fixed order: inputs as they are given, and below a folder or a glob by name, one
/// path component after the other. An input is a file, a folder, or a glob (`data/*.jsonl.gz`, `crawl/**/*.warc.gz`)
/// where no file of that very name exists.
///
/// A suffix that is known decides how a file is read. The content decides for `.json`, for other suffixes, and for JSON
/// lines that are one JSON array: JSON records with the text field of `names`, WARC, tables and web pages are certain.
/// Below a folder, any other file is passed over and counted in [`Walked::passed_over`]; a file that is named is read
/// as text. Hidden entries, build folders and symbolic links to folders are passed over unless named themselves. With
/// `format`, every file is read as that, whatever its suffix.
///
/// # Errors
/// [`Error::Io`] when an input does not exist or cannot be read, [`Error::Config`] for a malformed glob or one that
/// nothing matches.
pub fn walk(inputs: &[PathBuf], format: Option<Format>, names: &FieldNames) -> Result<Walked> {
    let mut walk = Walk { format, names, found: Walked::default() };
    for input in inputs {
        match fs::metadata(input) {
            Ok(info) if info.is_dir() => walk.folder(input, Path::new(""))?,
            Ok(info) => {
                let name = input.file_name().map(PathBuf::from).unwrap_or_default();
                walk.file(input.clone(), name, info.len(), true)?;
            }
            Err(_) if is_glob(input) => walk.glob(input)?,
            Err(e) => return Err(Error::io("read", input)(e)),
        }
    }
    Ok(walk.found)
}

struct Walk<'a> {
    format: Option<Format>,
    names: &'a FieldNames,
    found: Walked,
}

impl Walk<'_> {
    /// Takes or passes over a file. One that is `named` was asked for itself.
    fn file(&mut self, path: PathBuf, name: PathBuf, bytes: u64, named: bool) -> Result<()> {
        let Suffix { format, compression, known } = suffix(&name);
        let format = match self.format.or(format) {
            Some(Format::JsonLines) if self.format.is_none() => match self.content(&path, compression)? {
                Content::Records(format) | Content::OtherJson(format) => format,
                _ => Format::JsonLines,
            },
            Some(format) => format,
            None => match self.content(&path, compression) {
                Err(e) if named || known == "json" => return Err(e),
                Err(_) => {
                    self.found.pass_over(path, "cannot be read".into());
                    return Ok(());
                }
                Ok(content) => match content {
                    Content::Records(format) | Content::Certain(format) => format,
                    Content::OtherJson(format) if named => format,
                    Content::OtherJson(_) => {
                        let why = format!("JSON without the text field {:?}", self.names.text);
                        self.found.pass_over(path, why);
                        return Ok(());
                    }
                    Content::Unknown if named => Format::Text,
                    Content::Unknown => {
                        let why =
                            if known.is_empty() { "no suffix".into() } else { format!("unknown suffix .{known}") };
                        self.found.pass_over(path, why);
                        return Ok(());
                    }
                },
            },
        };
        self.found.files.push(InputFile { path, name, bytes, format, compression });
        Ok(())
    }

    fn content(&self, path: &Path, compression: Compression) -> Result<Content> {
        sniff::content(&Store::File(path.into()), compression, self.names).map_err(Error::io("read", path))
    }

    fn glob(&mut self, input: &Path) -> Result<()> {
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
        let mut any = false;
        for path in found {
            let below = relative(&path, &stem);
            match fs::metadata(&path) {
                // `**` finds what is in folders by itself.
                Ok(info) if info.is_dir() && !pattern.contains("**") => {
                    let before = self.found.files.len();
                    self.folder(&path, &below)?;
                    any |= self.found.files.len() > before;
                }
                Ok(info) if info.is_file() => {
                    any = true;
                    self.file(path, below, info.len(), true)?;
                }
                _ => {}
            }
        }
        if any { Ok(()) } else { Err(bad("no such file, and as a glob it matches nothing".into())) }
    }

    fn folder(&mut self, folder: &Path, below: &Path) -> Result<()> {
        let mut entries = fs::read_dir(folder)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(Error::io("list", folder))?;
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
                    self.folder(&path, &name)?;
                }
                continue;
            }
            // A link may point to nothing; whatever is no file in the end is passed over.
            if let Ok(info) = fs::metadata(&path)
                && info.is_file()
            {
                self.file(path, name, info.len(), false)?;
            }
        }
        Ok(())
    }
}

fn is_glob(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// `path` without `stem`, compared by components, as a leading `./` may be on one of them only.
fn relative(path: &Path, stem: &Path) -> PathBuf {
    let skip = stem.components().filter(|part| *part != Component::CurDir).count();
    path.components().filter(|part| *part != Component::CurDir).skip(skip).collect()
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
