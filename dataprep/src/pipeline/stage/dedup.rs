//! Documents that occur more than once: keys and signatures are written with the documents, and merged here.
//!
//! A document's number is its task's in the upper half and its place among those the task kept in the lower: numbers rise
//! in the order of the corpus.

use super::super::work::{Draft, Receipt, Stage, Work, file_path};
use super::documents::DocumentsReport;
use crate::dedup::{
    DedupConfig, KeyWriter, MinHashScratch, MinHasher, Removals, SignatureWriter, bucket_edges, cluster, exact, union,
};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::shard::DedupEntry;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Suffixes of the files with keys of addresses, keys of texts, and signatures.
const URLS: &str = "urls";
const TEXTS: &str = "texts";
const BANDS: &str = "bands";

/// The number of a document.
pub(in crate::pipeline) fn number(task: usize, place: u64) -> u64 {
    ((task as u64) << 32) | (place & 0xffff_ffff)
}

/// What is computed of each document that is kept.
pub(in crate::pipeline) struct Signer {
    config: DedupConfig,
    hasher: Option<MinHasher>,
}

impl Signer {
    /// `None` when nothing is to be compared.
    pub fn new(config: &DedupConfig) -> Result<Option<Self>> {
        if !config.is_on() {
            return Ok(None);
        }
        let hasher = config.near.then(|| MinHasher::new(&config.minhash)).transpose()?;
        Ok(Some(Self { config: config.clone(), hasher }))
    }

    /// The bands of a text's signature; none where signatures are off, or the text too short.
    pub fn bands(&self, text: &str, scratch: &mut MinHashScratch) -> Vec<u64> {
        let mut bands = Vec::new();
        if let Some(hasher) = &self.hasher {
            hasher.bands(text, scratch, &mut bands);
        }
        bands
    }

    /// For the documents of one task.
    pub fn writer(&self) -> SignedWriter {
        SignedWriter {
            urls: self.config.urls.then(KeyWriter::default),
            texts: self.config.exact.then(KeyWriter::default),
            bands: self.config.near.then(|| SignatureWriter::new(&self.config.minhash)),
        }
    }
}

/// Keys and signatures of one task's documents.
pub(in crate::pipeline) struct SignedWriter {
    urls: Option<KeyWriter>,
    texts: Option<KeyWriter>,
    bands: Option<SignatureWriter>,
}

impl SignedWriter {
    /// Adds a document.
    pub fn push(&mut self, number: u64, document: &Document, bands: &[u64]) {
        if let (Some(urls), Some(url)) = (&mut self.urls, &document.url) {
            urls.push_url(number, url);
        }
        if let Some(texts) = &mut self.texts {
            texts.push_text(number, &document.text);
        }
        if let Some(signatures) = &mut self.bands {
            signatures.push(number, bands, document.text.len() as u64);
        }
    }

    /// Writes what there is beside the task's other files.
    pub fn publish(self, draft: &Draft) -> Result<()> {
        if let Some(urls) = self.urls {
            urls.publish(&draft.path(URLS))?;
        }
        if let Some(texts) = self.texts {
            texts.publish(&draft.path(TEXTS))?;
        }
        if let Some(bands) = self.bands {
            bands.publish(&draft.path(BANDS))?;
        }
        Ok(())
    }
}

/// The removal sets, each with the rule that made it.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Removed {
    sets: Vec<(&'static str, PathBuf)>,
    /// What was found.
    pub entry: DedupEntry,
}

/// The removal sets from the place of one task on.
pub(in crate::pipeline) struct RemovedFrom {
    sets: Vec<(&'static str, Removals)>,
    next: u64,
}

impl Removed {
    /// For the documents of `task`, in order.
    pub fn of_task(&self, task: usize) -> Result<RemovedFrom> {
        let next = number(task, 0);
        let open = |(rule, path): &(&'static str, PathBuf)| Ok((*rule, Removals::open(path, next)?));
        Ok(RemovedFrom { sets: self.sets.iter().map(open).collect::<Result<_>>()?, next })
    }
}

impl RemovedFrom {
    /// For the next document: the rule that removes it, and the document that is kept in its place.
    pub fn next(&mut self) -> Result<Option<(&'static str, u64)>> {
        let mut found = None;
        for (rule, set) in &mut self.sets {
            found = found.or(set.kept_for(self.next)?.map(|kept| (*rule, kept)));
        }
        self.next += 1;
        Ok(found)
    }
}

/// What a task that merges has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Merged {
    removed: u64,
    edges: u64,
    clusters: u64,
    largest: u64,
}

/// Compares the documents that were written down, in as little memory as the configuration says.
pub(in crate::pipeline) fn run(
    work: &Work<'_>,
    config: &DedupConfig,
    documents: &[Receipt<DocumentsReport>],
) -> Result<Removed> {
    let signed = work.folder().join(super::documents::STAGE);
    let files = |suffix: &str| -> Vec<PathBuf> {
        documents.iter().map(|receipt| file_path(&signed, receipt.task, suffix)).collect()
    };
    let mut removed = Removed::default();
    let memory = config.memory_bytes;
    // What was removed so far, for the next comparison to leave out.
    let mut gone: Option<PathBuf> = None;
    if config.urls {
        let set = one(work, "urls", "compare addresses", |scratch, out| {
            Ok(Merged { removed: exact(&files(URLS), None, scratch, memory, out)?, ..Merged::default() })
        })?;
        removed.entry.urls = set.report.removed;
        gone = Some(set.path.clone());
        removed.sets.push(("dedup.urls", set.path));
    }
    if config.exact {
        let set = one(work, "texts", "compare texts", |scratch, out| {
            let found = exact(&files(TEXTS), gone.as_deref(), scratch, memory, out)?;
            Ok(Merged { removed: found, ..Merged::default() })
        })?;
        removed.entry.exact = set.report.removed;
        if let Some(urls) = gone.take() {
            let both = [urls, set.path.clone()];
            gone = Some(
                one(work, "exact", "join", |_, out| Ok(Merged { removed: union(&both, out)?, ..Merged::default() }))?
                    .path,
            );
        } else {
            gone = Some(set.path.clone());
        }
        removed.sets.push(("dedup.exact", set.path));
    }
    if config.near {
        near(work, config, &files(BANDS), gone.as_deref(), &mut removed)?;
    }
    Ok(removed)
}

fn near(
    work: &Work<'_>,
    config: &DedupConfig,
    signatures: &[PathBuf],
    gone: Option<&Path>,
    removed: &mut Removed,
) -> Result<()> {
    let minhash = &config.minhash;
    let stage = Stage { name: "edges", title: "compare signatures", sizes: vec![1; minhash.buckets] };
    // Several buckets are merged at once; what one takes does not change what it finds.
    let memory = config.memory_bytes / work.threads().min(minhash.buckets).max(1);
    let receipts = work.run(&stage, |bucket, draft| {
        let (scratch, out) = (draft.scratch()?, draft.path("edges"));
        let edges = bucket_edges(minhash, signatures, bucket, gone, &scratch, memory, &out)?;
        clear(&scratch)?;
        work.advance(1, 0);
        Ok(Merged { edges, ..Merged::default() })
    })?;
    let edges = work.folder().join("edges");
    let edges: Vec<PathBuf> = receipts.iter().map(|receipt| file_path(&edges, receipt.task, "edges")).collect();
    let set = one(work, "clusters", "find clusters", |scratch, out| {
        let found = cluster(minhash, &edges, signatures, config.keep, scratch, config.memory_bytes, out)?;
        Ok(Merged { removed: found.removed, edges: found.edges, clusters: found.clusters, largest: found.largest })
    })?;
    removed.entry.near = set.report.removed;
    (removed.entry.clusters, removed.entry.largest_cluster) = (set.report.clusters, set.report.largest);
    removed.sets.push(("dedup.near", set.path));
    Ok(())
}

struct Set {
    path: PathBuf,
    report: Merged,
}

/// A stage of one task, with a folder to work in and a file to write.
fn one(
    work: &Work<'_>,
    name: &'static str,
    title: &'static str,
    body: impl Fn(&Path, &Path) -> Result<Merged> + Sync,
) -> Result<Set> {
    let stage = Stage { name, title, sizes: vec![1] };
    let receipts = work.run(&stage, |_, draft| {
        let scratch = draft.scratch()?;
        let report = body(&scratch, &draft.path("removed"))?;
        clear(&scratch)?;
        Ok(report)
    })?;
    let path = file_path(&work.folder().join(name), 0, "removed");
    Ok(Set { path, report: receipts.first().map(|receipt| receipt.report).unwrap_or_default() })
}

fn clear(scratch: &Path) -> Result<()> {
    fs::remove_dir_all(scratch).map_err(Error::io("remove", scratch))
}
