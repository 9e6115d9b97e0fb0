//! Errors of this crate and their exit codes.

use crate::checkpoint::CheckpointError;
use crate::hf::{HfError, remedy};
use crate::settings::SettingsError;
use fathom_core::error::{DeviceError, ErrorKind};
use std::io;
use std::path::{Path, PathBuf};

/// Result of everything in this crate that is not about settings or checkpoints alone.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Exit code of a program that a signal stopped before its work was done, whichever signal it was.
pub const INTERRUPTED: u8 = 130;

/// A failed run. The text is complete: it says what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file or `--set` that cannot be understood.
    #[error(transparent)]
    Settings(#[from] SettingsError),

    /// A checkpoint that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    /// A model folder that cannot be read or written.
    #[error(transparent)]
    Model(#[from] HfError),

    /// Data preparation, tokenizer or shards.
    #[error(transparent)]
    Data(#[from] fathom_dataprep::Error),

    /// The device failed in the middle of something.
    #[error("{doing}: {source}")]
    Device {
        /// Action that failed: "training step 7".
        doing: String,
        /// The driver's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A loss spike, or a number that is not finite, that ends a run by its settings (`train.spike`).
    #[error("{0}")]
    Spike(String),

    /// Another rank of the run died, left, or does not answer.
    #[error("{doing}: {problem}")]
    PeerLost {
        /// Action that failed.
        doing: String,
        /// The operation in which the rank is missing.
        problem: String,
    },

    /// The operating system refused something.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// Action that failed: "read", "create" and so on.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },

    /// A line of a file that should be a record.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Problem and remedy.
        problem: String,
    },

    /// A language for an output that cannot be followed, or not further; the text says why.
    #[error("{0}")]
    Constraint(String),

    /// Numbers of a model that are NaN or infinite: nothing can be chosen or measured by them.
    #[error("{0}")]
    NotFinite(String),

    /// Arguments that are not understood or do not go together.
    #[error("{0}")]
    Usage(String),

    /// A signal stopped the work; the text says how far it had come.
    #[error("{0}")]
    Interrupted(String),

    /// Anything else that stops a run; the text names what does not fit and the remedy.
    #[error("{0}")]
    Run(String),
}

impl Error {
    /// The exit code of a program that fails with this: 2 for a call that was wrong, [`INTERRUPTED`] for work that a
    /// signal stopped, 1 for work that failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Settings(_) | Error::Usage(_) => 2,
            Error::Spike(_) => 3,
            Error::Interrupted(_) => INTERRUPTED,
            _ => 1,
        }
    }

    /// Whether another rank is lost, so that nothing can be done together any more.
    pub(crate) fn is_peer_lost(&self) -> bool {
        matches!(self, Error::PeerLost { .. } | Error::Checkpoint(CheckpointError::PeerLost { .. }))
    }

    /// Wraps a system error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// Wraps a driver's error with what was being done.
    pub(crate) fn device<E: DeviceError>(doing: impl Into<String>) -> impl FnOnce(E) -> Error {
        let doing = doing.into();
        move |source| match source.kind() {
            ErrorKind::PeerLost => Error::PeerLost { doing, problem: source.to_string() },
            _ => Error::Device { doing, source: source.to_string().into() },
        }
    }
}
