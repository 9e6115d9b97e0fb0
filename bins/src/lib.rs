//! The std runtime.
#![forbid(unsafe_code)]

pub mod settings;
pub(crate) fn read_config(_: &std::path::Path) -> Result<fathom_core::config::ModelConfig, String> { Err("x".into()) }
