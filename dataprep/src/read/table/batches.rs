//! Shared parts of both table formats: steps through their rows, and guarded decoding.

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What comes next out of a table.
pub(super) enum Step {
    /// Rows from `first` on.
    Rows { first: u64, batch: RecordBatch },
    /// Rows from `row` on that cannot be read.
    Bad { row: u64, why: String },
}

/// The rows of a format, a batch at a time.
pub(super) trait Batches {
    /// `None` at the end. An error is the system's.
    fn next(&mut self) -> io::Result<Option<Step>>;
}

/// Whether the column `name` of a table holds the field at one of these paths.
pub(super) fn is_wanted(name: &str, paths: Option<&[String]>) -> bool {
    let holds = |path: &String| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    paths.is_none_or(|paths| paths.iter().any(holds))
}

/// Numbers of the columns of a schema that hold fields at one of these paths.
pub(super) fn wanted(schema: &Schema, paths: Option<&[String]>) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields.filter(|(_, field)| is_wanted(field.name(), paths)).map(|(index, _)| index).collect()
}

/// Runs a decoder. Its errors, and its panics, are what is wrong with the file.
pub(super) fn guarded<T, E: Display>(decode: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the decoder panicked on it".into()),
    }
}
