//! The settings of deduplication.

use super::minhash::MinHashConfig;
use serde::{Deserialize, Serialize};

/// Which document of a cluster is kept.
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
    /// How near-duplicates are found.
    pub minhash: MinHashConfig,
    /// Which of them is kept.
    pub keep: Keep,
    /// Bytes of memory that sorting may take in one task.
    pub memory_bytes: usize,
}

impl DedupConfig {
    /// Nothing is compared, until it is turned on.
    pub fn off() -> Self {
        Self { urls: false, exact: false, near: false, ..Self::default() }
    }

    /// Whether anything is compared.
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
