//! Notices that another process has ended a preparation.

use super::config::PrepConfig;
use crate::shard::MANIFEST;
use std::fs;
use std::path::PathBuf;

/// What the output folder's manifest was at a moment, to see whether another one was written since.
#[derive(Clone, Debug)]
pub(super) struct ManifestWatch {
    path: PathBuf,
    bytes: Option<Vec<u8>>,
}

impl ManifestWatch {
    /// As it is now.
    pub fn now(config: &PrepConfig) -> Self {
        let path = config.output.dir.join(MANIFEST);
        Self { bytes: fs::read(&path).ok(), path }
    }

    /// Whether another process has ended a preparation since.
    pub fn is_past(&self) -> bool {
        fs::read(&self.path).is_ok_and(|bytes| Some(&bytes) != self.bytes.as_ref())
    }
}
