//! The walk: lists the input files, in an order that depends on names alone.

use super::fields::FieldNames;
use super::format::{Format, InputFile};
use super::globs::{self, is_glob};
use super::judge::{Asked, Candidate, Found, Judge, Judged};
use super::passed_over::PassedOver;
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Folders that hold what was built or fetched rather than written.
const SKIPPED_FOLDERS: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// The files of all inputs, and what was passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The files to read.
    pub files: Vec<InputFile>,
    /// Files and folders that are not read, in the order of the walk.
    pub passed_over: Vec<PassedOver>,
    /// Files whose content is of another format than their suffix says, with the format that they are read as.
    pub renamed: Vec<PassedOver>,
}

/// Finds the files of all inputs, in a fixed order: inputs as they are given, and below a folder or a glob by name, one
/// path component after the other. An input is a file, a folder, or a glob (`data/*.jsonl.gz`, `crawl/**/*.warc.gz`)
/// where no file of that very name exists.
///
/// Content that begins like no other decides how a file is read: JSON records with the text field of `names`, WARC and
/// tables; so does the compression. Elsewhere a suffix that is known does. Below a folder, files of which neither says
/// anything are in [`Walked::passed_over`]; a file that is named is read as text. So are kinds of files that are not
/// read, files without a field or column for the text, hidden entries, build folders and symbolic links to folders.
/// With `format`, every file is read as that, whatever its suffix and content.
///
/// # Errors
/// [`Error::Io`] when an input does not exist or cannot be read, [`Error::UnsupportedInput`] for one that is named
/// itself and is no file that can be read, [`Error::Config`] for a malformed glob or one that nothing matches.
pub fn walk(inputs: &[PathBuf], format: Option<Format>, names: &FieldNames) -> Result<Walked> {
    let mut walk = Walk::default();
    for input in inputs {
        match fs::metadata(input) {
            Ok(info) if info.is_dir() => walk.folder(input, Path::new(""))?,
            Ok(info) => {
                let name = input.file_name().map(PathBuf::from).unwrap_or_default();
                walk.file(input.clone(), name, &info, Asked::Itself);
            }
            Err(_) if is_glob(input) => walk.glob(input)?,
            Err(e) => return Err(Error::io("read", input)(e)),
        }
    }
    let judge = Judge { format, names, needs_text: true };
    walk.found.into_par_iter().map(|found| judge.found(found)).collect::<Result<Vec<_>>>().map(Walked::from_iter)
}

/// The file at `path` as it would be read, whatever fields its records have.
pub(super) fn file(path: &Path) -> Result<InputFile> {
    let info = fs::metadata(path).map_err(Error::io("read", path))?;
    let mut walk = Walk::default();
    walk.file(path.into(), path.file_name().map(PathBuf::from).unwrap_or_default(), &info, Asked::Itself);
    let judge = Judge { format: None, names: &FieldNames::default(), needs_text: false };
    let judged = walk.found.into_iter().map(|found| judge.found(found)).collect::<Result<Vec<_>>>()?;
    let unsupported = |what: String| Error::UnsupportedInput { path: path.into(), what };
    match judged.into_iter().next() {
        Some(Judged::Read(file, _)) => Ok(file),
        Some(Judged::Not(not)) => Err(unsupported(not.why)),
        None => Err(unsupported("no file".into())),
    }
}

impl FromIterator<Judged> for Walked {
    fn from_iter<I: IntoIterator<Item = Judged>>(all: I) -> Self {
        let mut walked = Self::default();
        for judged in all {
            match judged {
                Judged::Read(file, renamed) => {
                    walked.files.push(file);
                    walked.renamed.extend(renamed);
                }
                Judged::Not(not) => walked.passed_over.push(not),
            }
        }
        walked
    }
}

/// Finds files.
#[derive(Default)]
struct Walk {
    found: Vec<Found>,
    /// Files among them.
    files: usize,
}

impl Walk {
    fn file(&mut self, path: PathBuf, name: PathBuf, info: &fs::Metadata, asked: Asked) {
        self.files += 1;
        self.found.push(Found::Candidate(Candidate {
            path,
            name,
            bytes: info.len(),
            asked,
            is_regular: info.is_file(),
        }));
    }

    fn not(&mut self, path: PathBuf, why: &str) {
        self.found.push(Found::Not(PassedOver { path, why: why.into() }));
    }

    fn glob(&mut self, input: &Path) -> Result<()> {
        let found = globs::matching(input)?;
        let is_deep = input.components().any(|part| part.as_os_str() == "**");
        let stem: PathBuf = input.components().take_while(|part| !is_glob(Path::new(part.as_os_str()))).collect();
        let mut any = false;
        for path in found {
            let below = relative(&path, &stem);
            match fs::metadata(&path) {
                // `**` finds what is in folders by itself.
                Ok(info) if info.is_dir() && !is_deep => {
                    let before = self.files;
                    self.folder(&path, &below)?;
                    any |= self.files > before;
                }
                Ok(info) if info.is_dir() => {}
                Ok(info) => {
                    any = true;
                    self.file(path, below, &info, Asked::Glob);
                }
                Err(e) => self.not(path, &format!("cannot be read: {e}")),
            }
        }
        if any { Ok(()) } else { Err(globs::bad(input, "no such file, and as a glob it matches nothing")) }
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
                self.not(path, "hidden: the name begins with a dot");
                continue;
            }
            let file_type = entry.file_type().map_err(Error::io("read", &path))?;
            if file_type.is_dir() {
                if SKIPPED_FOLDERS.iter().any(|skipped| own == OsStr::new(skipped)) {
                    self.not(path, "a folder that is built or fetched");
                } else {
                    self.folder(&path, &name)?;
                }
                continue;
            }
            match fs::metadata(&path) {
                // Links can form rings.
                Ok(info) if info.is_dir() => self.not(path, "a symbolic link to a folder; name it to read it"),
                Ok(info) => self.file(path, name, &info, Asked::Below),
                Err(e) => self.not(path, &format!("a symbolic link that leads nowhere: {e}")),
            }
        }
        Ok(())
    }
}

/// `path` without `stem`, compared by components, as a leading `./` may be on one of them only.
fn relative(path: &Path, stem: &Path) -> PathBuf {
    let skip = stem.components().filter(|part| *part != Component::CurDir).count();
    path.components().filter(|part| *part != Component::CurDir).skip(skip).collect()
}
