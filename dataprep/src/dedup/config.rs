//! The settings of deduplication.

use super::minhash::MinHashConfig;
use serde::{Deserialize, Serialize};

/// Rule for the document of a cluster to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first in the order of the corpus.
    #[default]
    First,
    /// The longest, the first of several.
    Longest,
}

/// The settings of deduplication. Near-duplicates are looked for among the documents that are left when addresses and
/// then texts have been compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedupConfig {
    /// Keeps the first document of each address.
    pub urls: bool,
    /// Keeps the first document of each text.
    pub exact: bool,
    /// Keeps one document of each cluster of near-duplicates.
    pub near: bool,
    /// Parameters of MinHash.
    pub minhash: MinHashConfig,
    /// Document of a cluster to keep.
    pub keep: Keep,
    /// Memory limit of sorting in one task, in bytes.
    pub memory_bytes: usize,
}

impl DedupConfig {
    /// Settings without any deduplication.
    pub fn off() -> Self {
        Self { urls: false, exact: false, near: false, ..Self::default() }
    }

    /// Whether any deduplication is on.
    pub fn is_on(&self) -> bool {
        self.urls || self.exact || self.near
    }
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            urls: true,
            exact: true,
            near: true,
            minhash: MinHashConfig::default(),
            keep: Keep::First,
            memory_bytes: 1 << 30,
        }
    }
}
