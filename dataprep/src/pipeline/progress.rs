//! Progress callbacks of a preparation.

/// Receiver of a preparation's progress.
pub trait Progress: Send {
    /// A stage begins; it will read `total` bytes of files.
    fn stage(&mut self, name: &str, total: u64);
    /// The stage has read `done` bytes of files, and passed on `documents` documents.
    fn advance(&mut self, done: u64, documents: u64);
    /// Something the user should know: what was left out, with its place.
    fn message(&mut self, text: &str);
}

/// A receiver that ignores progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&mut self, _name: &str, _total: u64) {}
    fn advance(&mut self, _done: u64, _documents: u64) {}
    fn message(&mut self, _text: &str) {}
}
