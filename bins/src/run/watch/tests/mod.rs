//! Tests of the watch: diagnoses of made-up records, and ranks that are processes and get killed.

mod cases;
#[cfg(target_os = "linux")]
mod ranks;
