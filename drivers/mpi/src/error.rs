//! The error of a run that cannot start over MPI.

use std::fmt;

/// A problem at the start of a run over MPI: its message says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpiError(String);

impl MpiError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for MpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MpiError {}
