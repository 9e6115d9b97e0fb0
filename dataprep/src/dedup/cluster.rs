//! Clustering of near-duplicates: one task per bucket finds edges between signatures; one task joins them to clusters.

use super::config::Keep;
use super::minhash::MinHashConfig;
use super::records::{Kind, RecordFile, RecordWriter};
use super::removals::{self, Removals};
use super::signatures::SignatureFile;
use super::sort::{Sorter, scratch};
use super::stars::stars;
use super::union_find::UnionFind;
use crate::durable::Target;
use crate::error::{Error, Result};
use serde::Serialize;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

const EDGES: Kind = *b"edges   ";
const BUFFER: usize = 1 << 16;

/// Finds the documents that share a band of `bucket`, in the signature files of all splits, and writes an edge from
/// each to the first of them into `out`. Documents in `removed` do not count. Returns the number of edges.
///
/// `folder` is emptied and used for runs; `memory` bounds, in bytes, what sorting takes. The result depends on neither,
/// nor on the order of `signatures`.
///
/// # Errors
/// [`Error::Io`]; [`Error::CorruptIndex`] for a damaged file or one of other parameters.
pub fn bucket_edges<'a>(
    config: &MinHashConfig,
    signatures: &[PathBuf],
    bucket: usize,
    removed: Option<&Path>,
    folder: &Path,
    memory: usize,
    out: impl Into<Target<'a>>,
) -> Result<u64> {
    if bucket >= config.buckets {
        let what = format!("bucket {bucket} does not exist: there are {}, from 0", config.buckets);
        return Err(Error::Config { field: "dedup.minhash.buckets", what });
    }
    scratch(folder)?;
    let mut sorter = Sorter::new(folder, memory);
    for path in signatures {
        let split = SignatureFile::open(path, config)?;
        if split.file.records() == 0 {
            continue;
        }
        let Some(removed) = removed else {
            sorter.add_sorted(split.file, bucket as u64);
            continue;
        };
        let end = |at| split.file.section_from(split.lengths(), at, 16)?.next().transpose();
        let (Some([first, _]), Some([last, _])) = (end(0)?, end(split.file.records() - 1)?) else { continue };
        let gone = Removals::between(removed, first, last)?;
        for record in split.file.section(bucket as u64, BUFFER)? {
            let record = record?;
            if !gone.contains(&record[1]) {
                sorter.push(record)?;
            }
        }
    }
    let mut edges = RecordWriter::create(out, EDGES, config.fingerprint())?;
    let mut head: Option<[u64; 2]> = None;
    for record in sorter.finish()? {
        let record = record?;
        match head {
            Some([band, first]) if band == record[0] => {
                if first != record[1] {
                    edges.push(&[record[1], first])?;
                }
            }
            _ => head = Some(record),
        }
    }
    edges.end_section()?;
    edges.publish()
}

/// Counts of a clustering: edges, clusters, removed documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterSummary {
    /// Edges read, repeats included.
    pub edges: u64,
    /// Clusters of two documents or more.
    pub clusters: u64,
    /// Documents removed: all of each cluster but one.
    pub removed: u64,
    /// Documents in the largest cluster.
    pub largest: u64,
}

/// Joins the edges of all buckets into clusters, chooses one document of each to keep, and writes the others into
/// `out`, for [`Removals`].
///
/// Components are found by union-find where they fit in `memory` bytes, and otherwise by external sorts; the result is
/// the same. `folder` is emptied and used for runs. `signatures` are the files of all splits, in the order of their
/// documents, and are read only to find the longest.
///
/// # Errors
/// [`Error::Io`]; [`Error::CorruptIndex`] for a damaged file or one of other parameters.
pub fn cluster<'a>(
    config: &MinHashConfig,
    edges: &[PathBuf],
    signatures: &[PathBuf],
    keep: Keep,
    folder: &Path,
    memory: usize,
    out: impl Into<Target<'a>>,
) -> Result<ClusterSummary> {
    scratch(folder)?;
    let open = |path: &PathBuf| RecordFile::<2>::open(path, EDGES, Some(config.fingerprint()));
    let files = edges.iter().map(open).collect::<Result<Vec<_>>>()?;
    let count: u64 = files.iter().map(RecordFile::records).sum();
    // Two nodes an edge, each in the list of nodes, which is sorted in place, and among the parents.
    let in_memory = count.saturating_mul(32) <= memory as u64;
    let joined = if in_memory { in_memory_stars(&files, folder)? } else { stars(chain(&files), folder, memory)?.0 };
    let mut summary = count_clusters(&joined, folder, memory)?;
    summary.edges = count;
    summary.removed = match keep {
        Keep::First => removals::write(out, joined.section(0, BUFFER)?)?,
        Keep::Longest => keep_longest(config, &joined, signatures, folder, memory, out)?,
    };
    Ok(summary)
}

/// The records of several files, one after the other.
fn chain(files: &[RecordFile<2>]) -> impl Iterator<Item = Result<[u64; 2]>> {
    files.iter().flat_map(|file| {
        let (section, error) = match file.section(0, BUFFER) {
            Ok(section) => (Some(section), None),
            Err(e) => (None, Some(Err(e))),
        };
        section.into_iter().flatten().chain(error)
    })
}

fn in_memory_stars(files: &[RecordFile<2>], folder: &Path) -> Result<RecordFile<2>> {
    let mut nodes = Vec::new();
    for edge in chain(files) {
        nodes.extend(edge?);
    }
    let mut sets = UnionFind::new(nodes);
    for edge in chain(files) {
        let [a, b] = edge?;
        sets.union(a, b);
    }
    let path = folder.join("stars");
    let mut out = RecordWriter::scratch(&path, EDGES)?;
    sets.into_stars().try_for_each(|star| out.push(&star))?;
    out.end_section()?;
    out.publish()?;
    RecordFile::open(&path, EDGES, None)
}

/// Counts stars by their centre.
fn count_clusters(stars: &RecordFile<2>, folder: &Path, memory: usize) -> Result<ClusterSummary> {
    let mut by_centre = sorter::<1>(folder, "centres", memory)?;
    for star in stars.section(0, BUFFER)? {
        by_centre.push([star?[1]])?;
    }
    let mut summary = ClusterSummary::default();
    let (mut last, mut size) = (None, 0);
    for centre in by_centre.finish()? {
        let centre = centre?;
        if last != Some(centre) {
            (last, size) = (Some(centre), 1);
            summary.clusters += 1;
        }
        size += 1;
        summary.largest = summary.largest.max(size);
    }
    Ok(summary)
}

fn sorter<const N: usize>(folder: &Path, name: &str, memory: usize) -> Result<Sorter<N>> {
    let folder = folder.join(name);
    scratch(&folder)?;
    Ok(Sorter::new(&folder, memory))
}

/// Of each star, keeps the longest document, the first of several.
fn keep_longest<'a>(
    config: &MinHashConfig,
    stars: &RecordFile<2>,
    signatures: &[PathBuf],
    folder: &Path,
    memory: usize,
    out: impl Into<Target<'a>>,
) -> Result<u64> {
    let third = memory / 3;
    // [document, centre] of all documents in stars, their centres included.
    let mut members = sorter::<2>(folder, "members", third)?;
    for star in stars.section(0, BUFFER)? {
        let [document, centre] = star?;
        members.push([document, centre])?;
        members.push([centre, centre])?;
    }
    // [centre, all but the length, document]: the longest first.
    let mut by_length = sorter::<3>(folder, "lengths", third)?;
    let mut lengths = Lengths { config, left: signatures.iter(), at: None };
    let mut last = None;
    for member in members.finish()? {
        let [document, centre] = member?;
        if last.replace(document) != Some(document) {
            by_length.push([centre, u64::MAX - lengths.of(document)?, document])?;
        }
    }
    let mut removed = sorter::<2>(folder, "removed", third)?;
    let mut kept: Option<[u64; 2]> = None;
    for member in by_length.finish()? {
        let [centre, _, document] = member?;
        match kept {
            Some([of, kept]) if of == centre => removed.push([document, kept])?,
            _ => kept = Some([centre, document]),
        }
    }
    removals::write(out, removed.finish()?)
}

/// Looks up lengths in the order of documents.
struct Lengths<'a> {
    config: &'a MinHashConfig,
    left: std::slice::Iter<'a, PathBuf>,
    at: Option<Peekable<super::records::Section<2>>>,
}

impl Lengths<'_> {
    fn of(&mut self, document: u64) -> Result<u64> {
        loop {
            if let Some(section) = &mut self.at {
                while let Some(record) = section.next_if(|record| !matches!(record, Ok([at, _]) if *at > document)) {
                    let [at, length] = record?;
                    if at == document {
                        return Ok(length);
                    }
                }
                if section.peek().is_some() {
                    // Not in any file: nothing is known of its length.
                    return Ok(0);
                }
            }
            let Some(path) = self.left.next() else { return Ok(0) };
            let split = SignatureFile::open(path, self.config)?;
            self.at = Some(split.file.section(split.lengths(), BUFFER)?.peekable());
        }
    }
}
