//! The error type of the CUDA driver.

use std::fmt;

use fathom_core::error::{DeviceError, ErrorKind, InvalidOp};

/// An error of the CUDA driver: a kind for programs and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaError {
    kind: ErrorKind,
    message: String,
}

impl CudaError {
    /// Creates an error of kind `kind` with text `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CudaError {}

impl From<InvalidOp> for CudaError {
    fn from(e: InvalidOp) -> Self {
        Self::new(e.kind(), e.to_string())
    }
}

impl DeviceError for CudaError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}
