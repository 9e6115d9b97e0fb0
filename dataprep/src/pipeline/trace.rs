//! `prep trace`: finds the document that a training token came from.

use super::provenance::Provenance;
use crate::error::{Error, Result};
use crate::shard::{ShardSet, Split};
use crate::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// A longer line describes no document.
const LONGEST_LINE: u64 = 16 << 20;

/// A line of `sources.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// The file, as it was found when the corpus was prepared.
    pub path: String,
    /// Its length then.
    pub bytes: u64,
}

/// A token of a prepared corpus and the document that it came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    /// Its id.
    pub id: u32,
    /// The shard it lies in.
    pub shard: String,
    /// Its document there, from 0.
    pub document: u64,
    /// Its place among the document's tokens, from 0, and how many there are, the end-of-document token included.
    pub place: u64,
    /// See `place`.
    pub tokens: u64,
    /// The file its document came from.
    pub source: SourceFile,
    /// Origin and scores of the document.
    pub provenance: Provenance<'static>,
    /// The text before the token, of the same document.
    pub before: String,
    /// The text of the token itself; none for special ones.
    pub text: String,
    /// The text behind it.
    pub after: String,
}

/// Traces token number `token` of a side, counted from 0 over all its shards, with up to `around` tokens of text to
/// either side of it.
///
/// # Errors
/// Those of opening the folder; [`Error::Config`] when there is no such token; [`Error::NoProvenance`] when the folder
/// does not say where its documents came from.
pub fn trace(folder: &Path, split: Split, token: u64, around: u64) -> Result<Trace> {
    let set = ShardSet::open(folder, split)?;
    let Some(place) = set.locate(token)? else {
        let what = format!("{token}; the {split} side of {} has {} tokens", folder.display(), set.tokens());
        return Err(Error::Config { field: "--token", what });
    };
    let tokenizer = Tokenizer::load(folder)?;
    let shard = set.files()[place.file].path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let provenance = provenance(folder, &shard, place.document)?;
    let (from, to) = (token.saturating_sub(around).max(place.start), token.saturating_add(around + 1).min(place.end));
    let mut tokens = vec![0; (to - from) as usize];
    set.read(from, &mut tokens)?;
    let at = (token - from) as usize;
    Ok(Trace {
        id: tokens[at],
        shard,
        document: place.document,
        place: token - place.start,
        tokens: place.end - place.start,
        source: source(folder, provenance.file)?,
        before: tokenizer.decode(&tokens[..at]),
        text: tokenizer.decode(&tokens[at..=at]),
        after: tokenizer.decode(&tokens[at + 1..]),
        provenance,
    })
}

/// The line on a document in its shard's `.docs.jsonl.zst`.
fn provenance(folder: &Path, shard: &str, document: u64) -> Result<Provenance<'static>> {
    let path = folder.join(format!("{shard}.docs.jsonl.zst"));
    let missing = |what: String| Error::NoProvenance { path: path.clone(), what };
    let mut lines = Lines::open(&path)?;
    for _ in 0..document {
        if !lines.skip()? {
            break;
        }
    }
    let line = lines.next_line()?.ok_or_else(|| missing(format!("it has no line {} on the document", document + 1)))?;
    serde_json::from_str(&line).map_err(|e| missing(format!("line {}: {e}", document + 1)))
}

fn source(folder: &Path, file: u32) -> Result<SourceFile> {
    let path = folder.join(super::output::SOURCES);
    let missing = |what: String| Error::NoProvenance { path: path.clone(), what };
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let line =
        text.lines().nth(file as usize).ok_or_else(|| missing(format!("it has no line {}", u64::from(file) + 1)))?;
    serde_json::from_str(line).map_err(|e| missing(format!("line {}: {e}", u64::from(file) + 1)))
}

/// The lines of a `.jsonl.zst`.
pub(crate) struct Lines {
    path: std::path::PathBuf,
    inner: BufReader<zstd::Decoder<'static, BufReader<File>>>,
}

impl Lines {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let decoder = zstd::Decoder::new(file).map_err(Error::io("decompress", path))?;
        Ok(Self { path: path.into(), inner: BufReader::with_capacity(1 << 17, decoder) })
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::BadArchive { path: self.path.clone(), offset: 0, source }
    }

    /// Passes over a line; false at the end.
    fn skip(&mut self) -> Result<bool> {
        let mut any = false;
        loop {
            let chunk = match self.inner.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) => return Err(self.failed(e)),
            };
            let (used, whole) = match chunk.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (chunk.len(), false),
            };
            any |= used > 0;
            self.inner.consume(used);
            if whole || used == 0 {
                return Ok(any);
            }
        }
    }

    /// The next line, without its end.
    pub fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        self.inner.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(|e| self.failed(e))?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.pop_if(|byte| *byte == b'\n').is_none() && line.len() as u64 == LONGEST_LINE {
            let what = format!("a line of more than {LONGEST_LINE} bytes");
            return Err(Error::NoProvenance { path: self.path.clone(), what });
        }
        let text = String::from_utf8(line);
        text.map(Some).map_err(|e| Error::NoProvenance { path: self.path.clone(), what: e.to_string() })
    }
}
