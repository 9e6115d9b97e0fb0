//! The deduplication stage: merges the keys and signatures that were written beside the documents.

use super::documents::DocumentsReport;
use crate::dedup::{DedupConfig, bucket_edges, cluster, exact, union};
use crate::durable::Target;
use crate::error::{Error, Result};
use crate::pipeline::removed::Removed;
use crate::pipeline::sign::{BANDS, TEXTS, URLS};
use crate::pipeline::work::{Receipt, Stage, Work, file_path};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

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
        let edges = bucket_edges(minhash, signatures, bucket, gone, &scratch, memory, draft.target(&out))?;
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
    body: impl Fn(&Path, Target<'_>) -> Result<Merged> + Sync,
) -> Result<Set> {
    let stage = Stage { name, title, sizes: vec![1] };
    let receipts = work.run(&stage, |_, draft| {
        let scratch = draft.scratch()?;
        let out = draft.path("removed");
        let report = body(&scratch, draft.target(&out))?;
        clear(&scratch)?;
        Ok(report)
    })?;
    let path = file_path(&work.folder().join(name), 0, "removed");
    Ok(Set { path, report: receipts.first().map(|receipt| receipt.report).unwrap_or_default() })
}

fn clear(scratch: &Path) -> Result<()> {
    fs::remove_dir_all(scratch).map_err(Error::io("remove", scratch))
}
