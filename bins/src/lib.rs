//! The std runtime.
#![forbid(unsafe_code)]

pub mod checkpoint;
mod error;
pub mod settings;

pub use error::{Error, Result};
