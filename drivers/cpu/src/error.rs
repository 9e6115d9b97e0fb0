//! The error type of the CPU driver.

use std::fmt;

use fathom_core::error::{DeviceError, ErrorKind, InvalidOp};

/// The error type of the CPU driver: a kind for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuError {
    kind: ErrorKind,
    message: String,
}

impl CpuError {
    /// An error of kind `kind`, described by `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The problem in words.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CpuError {}

impl From<InvalidOp> for CpuError {
    fn from(e: InvalidOp) -> Self {
        Self::new(e.kind(), e.to_string())
    }
}

impl DeviceError for CpuError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}
