//! Exact deduplication, by text and by URL.

use super::records::{Kind, RecordFile, RecordWriter};
use super::removals::{self, Removals};
use super::sort::{Sorter, scratch};
use crate::durable::Target;
use crate::error::Result;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

const KEYS: Kind = *b"keys    ";
const BUFFER: usize = 1 << 16;

/// Gathers the keys of a split's documents and writes them: 24 bytes a document in memory until then. A key is 128 bits
/// of XXH3, of which no two different among 10^12 collide but with a chance of 1.5e-15.
#[derive(Default)]
pub struct KeyWriter {
    keys: Vec<[u64; 3]>,
}

impl KeyWriter {
    /// Adds a document by its text.
    pub fn push_text(&mut self, document: u64, text: &str) {
        self.push(document, text.as_bytes());
    }

    /// Adds a document by its address, as [`normalise_url`] leaves it.
    pub fn push_url(&mut self, document: u64, url: &str) {
        self.push(document, normalise_url(url).as_bytes());
    }

    fn push(&mut self, document: u64, bytes: &[u8]) {
        let key = xxh3_128(bytes);
        self.keys.push([(key >> 64) as u64, key as u64, document]);
    }

    /// Writes `target`. The content depends on the documents alone, not on the order they were added in.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn publish<'a>(mut self, target: impl Into<Target<'a>>) -> Result<()> {
        self.keys.sort_unstable();
        let mut out = RecordWriter::create(target, KEYS, 0)?;
        self.keys.iter().try_for_each(|key| out.push(key))?;
        out.end_section()?;
        out.publish().map(drop)
    }
}

/// Keeps the first document of each key in the files of all splits, and writes the others into `out`, for [`Removals`].
/// Documents in `removed` do not count. Returns how many are removed.
///
/// `folder` is emptied and used for runs; `memory` bounds, in bytes, what sorting takes. The result depends on neither.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::CorruptIndex`] for a damaged file.
pub fn exact<'a>(
    keys: &[PathBuf],
    removed: Option<&Path>,
    folder: &Path,
    memory: usize,
    out: impl Into<Target<'a>>,
) -> Result<u64> {
    scratch(folder)?;
    let (by_key, by_document) = (folder.join("keys"), folder.join("documents"));
    scratch(&by_key)?;
    scratch(&by_document)?;
    let mut sorter = Sorter::<3>::new(&by_key, memory / 2);
    for path in keys {
        let split = RecordFile::<3>::open(path, KEYS, None)?;
        let Some(removed) = removed else {
            sorter.add_sorted(split, 0);
            continue;
        };
        let (mut first, mut last) = (u64::MAX, 0);
        for record in split.section(0, BUFFER)? {
            let [_, _, document] = record?;
            (first, last) = (first.min(document), last.max(document));
        }
        let gone = Removals::between(removed, first, last)?;
        for record in split.section(0, BUFFER)? {
            let record = record?;
            if !gone.contains(&record[2]) {
                sorter.push(record)?;
            }
        }
    }
    let mut found = Sorter::<2>::new(&by_document, memory / 2);
    let mut head: Option<[u64; 3]> = None;
    for record in sorter.finish()? {
        let record = record?;
        match head {
            Some([high, low, first]) if [high, low] == record[..2] => {
                if first != record[2] {
                    found.push([record[2], first])?;
                }
            }
            _ => head = Some(record),
        }
    }
    removals::write(out, found.finish()?)
}

/// Normalizes a URL for comparison: drops the scheme, the case of the host, a default port, a fragment, and a path that
/// is only a slash.
pub fn normalise_url(url: &str) -> String {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let mut host = authority.to_lowercase();
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    if host.ends_with(port) {
        host.truncate(host.len() - port.len());
    }
    host.push_str(if path == "/" { "" } else { path });
    host
}
