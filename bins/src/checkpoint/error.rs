//! Errors of training checkpoints: the file or key, and what to do.

use crate::hf::HfError;
use crate::units::size;
use fathom_core::error::{DeviceError, ErrorKind};
use std::io;
use std::path::{Path, PathBuf};

/// Errors of training checkpoints that cannot be read, written or resumed from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file of the checkpoint cannot be read or written.
    #[error(transparent)]
    Hf(#[from] HfError),

    /// A file of a committed checkpoint is not what its manifest says.
    #[error("{}: {problem}; remove this checkpoint and take an earlier one, or copy it again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Size or checksum, stated and found.
        problem: String,
    },

    /// Another rank of the run failed; its own message says why.
    #[error("rank {rank} could not {doing}: see its own message")]
    OnRank {
        /// The rank.
        rank: usize,
        /// What it was to do.
        doing: &'static str,
    },

    /// The ranks could not exchange what a checkpoint holds: nothing can be done together after it.
    #[error("the ranks could not exchange the tensors of a checkpoint: {0}")]
    Exchange(String),

    /// Another rank of the run died, left, or does not answer: nothing can be done together after it.
    #[error("{doing} a checkpoint: {problem}")]
    PeerLost {
        /// What the ranks did: "reading", "writing".
        doing: &'static str,
        /// The operation in which the rank is missing.
        problem: String,
    },

    /// The disk has no room for the checkpoint, so it was not begun.
    #[error(
        "{}: a checkpoint needs {}, and the disk has {} free there; free some, keep fewer checkpoints \
         (checkpoint.keep), or choose another --output",
        path.display(), size(*needed), size(*free)
    )]
    Space {
        /// The output folder.
        path: PathBuf,
        /// Bytes of the checkpoint.
        needed: u64,
        /// Bytes that the disk has for it.
        free: u64,
    },

    /// No checkpoint to resume from.
    #[error("{} holds no complete checkpoint; leave out --resume to start, or name another --output", path.display())]
    NoCheckpoint {
        /// The output folder.
        path: PathBuf,
    },

    /// The configuration differs from the run that wrote the checkpoint.
    #[error(
        "cannot resume {}: `{key}` was {saved} and is now {current}; set it back, or begin a new run from these \
         weights with --set train.init={}",
        path.display(), path.display()
    )]
    ConfigDiffers {
        /// The checkpoint.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value in the run that wrote the checkpoint.
        saved: String,
        /// Its value now.
        current: String,
    },
}

impl CheckpointError {
    /// Wraps a system error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError + use<> {
        let wrap = HfError::io(action, path);
        move |source| wrap(source).into()
    }

    /// The error of ranks that could not exchange something while they did `doing` a checkpoint.
    pub(crate) fn exchange<E: DeviceError>(doing: &'static str) -> impl FnOnce(E) -> CheckpointError + use<E> {
        move |error| match error.kind() {
            ErrorKind::PeerLost => CheckpointError::PeerLost { doing, problem: error.to_string() },
            _ => CheckpointError::Exchange(error.to_string()),
        }
    }

    /// Whether the ranks are out of step after it, so that this one must leave.
    pub(crate) fn parts_the_ranks(&self) -> bool {
        matches!(self, CheckpointError::Exchange(_) | CheckpointError::PeerLost { .. })
    }
}
