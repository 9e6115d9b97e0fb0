//! Deduplication (exact and MinHash) and decontamination of documents.
//!
//! Everything here is made of tasks that know nothing of each other but the files they leave, so that any number of
//! processes can share them and a task that died can be done again; every file is a function of its inputs alone:
//!
//! 1. one task a split of the corpus: [`KeyWriter`] writes hashes of texts, another hashes of addresses;
//!    [`MinHasher`] computes signatures and [`SignatureWriter`] writes them;
//! 2. one task: [`exact`] merges the keys of all splits, and all documents but the first of each key are removed;
//! 3. one task a bucket: [`bucket_edges`] merges one section of all signature files, and links documents that share a
//!    band to the first of them;
//! 4. one task: [`cluster`] joins the edges of all buckets into clusters, and keeps one document of each, by the rule
//!    of [`Keep`];
//! 5. one task a split: [`Removals`] says, in the order of documents, which are removed, and for which other.
//!
//! Documents are known by 64-bit numbers that increase in the order of the corpus (such as the number of a split in the
//! upper half and that of the document in the lower). No task holds more than its split or the memory it was given:
//! what does not fit is sorted on disk by [`Sorter`].
//!
//! [`Decontaminator`] compares single documents with evaluation data and is no part of this order.

mod cluster;
mod config;
mod decontaminate;
mod exact;
mod minhash;
mod normalise;
mod records;
mod removals;
mod signatures;
mod sort;
mod stars;
#[cfg(test)]
mod tests;
mod union_find;

pub use cluster::{ClusterSummary, bucket_edges, cluster};
pub use config::{DedupConfig, Keep};
pub use decontaminate::{
    ContaminatedItem, DecontaminateConfig, DecontaminateScratch, Decontaminator, EvaluationFile, Item, ItemHits, Shared,
};
pub use exact::{KeyWriter, exact, normalise_url};
pub use minhash::{MinHashConfig, MinHashScratch, MinHasher};
pub use records::{verify, verify_file};
pub use removals::{Removals, union};
pub use signatures::SignatureWriter;
pub use sort::{Sorted, Sorter};
pub use union_find::UnionFind;
