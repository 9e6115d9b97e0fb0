//! Errors of data preparation and loading, each with its place and its remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of this crate: what went wrong, where (file, byte or line, field), and what to do about it.
///
/// The text of each variant is complete: a program can print it as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Action that failed: "read", "create", "rename" and so on.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },

    /// A shard file ends before its header says so.
    #[error(
        "{} is truncated: byte {offset} is followed by {have} bytes where {need} are needed; \
         copy the file again or run prep again",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Offset of the first missing byte.
        offset: u64,
        /// Bytes that should follow `offset`.
        need: u64,
        /// Bytes that follow `offset`.
        have: u64,
    },

    /// A `.idx` file does not begin with `MMIDIDX\0\0`.
    #[error(
        "{} is not a Megatron index: byte 0 reads {found:02x?} where \"MMIDIDX\\0\\0\" belongs; \
         give the path of a NAME.idx written by prep or by Megatron-LM",
        path.display()
    )]
    BadMagic {
        /// The file.
        path: PathBuf,
        /// Its first nine bytes.
        found: [u8; 9],
    },

    /// A `.idx` file has a version other than 1.
    #[error("{}: byte 9: Megatron index version {found}, only version 1 is known", path.display())]
    BadVersion {
        /// The file.
        path: PathBuf,
        /// The version it states.
        found: u64,
    },

    /// A `.idx` file names an element type no token shard has.
    #[error(
        "{}: byte 17: element type code {found}; tokens are u16 (8) or i32 (4), convert the shard to one of these",
        path.display()
    )]
    UnknownDtype {
        /// The file.
        path: PathBuf,
        /// The code it states.
        found: u8,
    },

    /// A field of a `.idx` file contradicts another field or its `.bin`.
    #[error("{}: byte {offset}: {what}; the file is corrupt, copy it again or run prep again", path.display())]
    CorruptIndex {
        /// The file.
        path: PathBuf,
        /// Offset of the field.
        offset: u64,
        /// The contradiction.
        what: String,
    },

    /// A file's length is not what its index or manifest says.
    #[error(
        "{} has {found} bytes where {by} says {expected}; copy the file again or run prep again",
        path.display()
    )]
    SizeMismatch {
        /// The file.
        path: PathBuf,
        /// Who states the expected length.
        by: &'static str,
        /// The stated length in bytes.
        expected: u64,
        /// The real length in bytes.
        found: u64,
    },

    /// A shard was replaced, truncated or written to while it was read.
    #[error(
        "{} changed while it was read: {what}; put the file back as it was, then resume from the last checkpoint, or \
         start again with the new data",
        path.display()
    )]
    ShardChanged {
        /// The file.
        path: PathBuf,
        /// The change.
        what: String,
    },

    /// A file's SHA-256 is not what the manifest says.
    #[error(
        "{} has SHA-256 {found} where manifest.json says {expected}; the file changed after prep, run prep again",
        path.display()
    )]
    ChecksumMismatch {
        /// The file.
        path: PathBuf,
        /// The manifest's checksum, in hexadecimal.
        expected: String,
        /// The file's checksum, in hexadecimal.
        found: String,
    },

    /// A prepared folder has no `manifest.json`.
    #[error(
        "{} has no manifest.json; prep writes it last, so the folder is incomplete: run prep again \
         (or give the prefix PATH of one PATH.bin/PATH.idx pair)",
        path.display()
    )]
    ManifestMissing {
        /// The folder.
        path: PathBuf,
    },

    /// `manifest.json` cannot be understood.
    #[error("{} is corrupt: {what}; run prep again", path.display())]
    ManifestCorrupt {
        /// The file.
        path: PathBuf,
        /// Problem in the file.
        what: String,
    },

    /// `manifest.json` was written by another version of the format.
    #[error(
        "{}: field `version` is {found}, this program knows {known}; use the program that wrote it or run prep again",
        path.display()
    )]
    ManifestVersion {
        /// The file.
        path: PathBuf,
        /// The version it states.
        found: u64,
        /// The version this crate writes.
        known: u64,
    },

    /// A shard holds a token the vocabulary does not.
    #[error(
        "{}: byte {offset}: token {token} is outside the vocabulary of {vocab_size}; \
         the shard was written with another tokenizer or is corrupt",
        path.display()
    )]
    TokenOutOfRange {
        /// The `.bin` file.
        path: PathBuf,
        /// Offset of the token.
        offset: u64,
        /// The token.
        token: i64,
        /// Number of tokens in the vocabulary.
        vocab_size: u32,
    },

    /// No shards where shards were expected.
    #[error("{} holds no {split} shards: {remedy}", path.display())]
    NoShards {
        /// The folder or prefix.
        path: PathBuf,
        /// "train" or "validation".
        split: &'static str,
        /// Remedy.
        remedy: &'static str,
    },

    /// Shard sets opened together do not fit together.
    #[error(
        "{} and {} cannot be read together: {field} is {left} in the first and {right} in the second",
        first.display(),
        second.display()
    )]
    ShardsDiffer {
        /// One folder.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Field that differs.
        field: &'static str,
        /// Its value in the first.
        left: String,
        /// Its value in the second.
        right: String,
    },

    /// A sequence needs more tokens than there are.
    #[error(
        "a sequence of {sequence_length} tokens needs {} tokens of data, {} holds {tokens}; \
         shorten the sequence or prepare more text",
        sequence_length.saturating_add(1), path.display()
    )]
    SequenceTooLong {
        /// Path of the data.
        path: PathBuf,
        /// The sequence length asked for.
        sequence_length: usize,
        /// Tokens there are.
        tokens: u64,
    },

    /// Every source has been gone through as often as it may be.
    #[error(
        "the data sources hold {total} sequences for the epochs they are given; \
         train for fewer steps, or raise or leave out data.sources.NAME.epochs"
    )]
    MixExhausted {
        /// Sequences there are.
        total: u64,
    },

    /// A saved position belongs to other data or another order.
    #[error(
        "cannot resume: the saved data position has {field} = {saved}, this run has {current}; \
         resume with the same data, sequence length, seed and shuffling"
    )]
    CursorMismatch {
        /// Field that differs.
        field: &'static str,
        /// Its value in the saved cursor.
        saved: String,
        /// Its value in this loader.
        current: String,
    },

    /// A tokenizer file is unreadable.
    #[error("{}: not a usable tokenizer: {what}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Problem and remedy.
        what: String,
    },

    /// A text cannot be encoded, or ids cannot be decoded.
    #[error("tokenizer: {0}")]
    Tokenize(String),

    /// A tokenizer cannot be trained as asked.
    #[error("cannot train a tokenizer: {0}")]
    Training(String),

    /// The configuration contradicts itself or cannot be carried out.
    #[error("{field}: {what}")]
    Config {
        /// The key, as written in the configuration.
        field: &'static str,
        /// Problem and remedy.
        what: String,
    },

    /// There is nothing to prepare.
    #[error(
        "no text found in {}: {what}",
        paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    EmptyCorpus {
        /// The inputs.
        paths: Vec<PathBuf>,
        /// Why nothing remained, and what to do.
        what: String,
    },

    /// A compressed input cannot be decompressed.
    #[error(
        "{}: near decompressed byte {offset}: {source}; the file is damaged, fetch it again or leave it out",
        path.display()
    )]
    BadArchive {
        /// The file.
        path: PathBuf,
        /// Decompressed bytes before the damage.
        offset: u64,
        /// The decoder's error.
        source: io::Error,
    },

    /// A file cannot be read as what its name says it is.
    #[error("{}: {what}", path.display())]
    UnsupportedInput {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        what: String,
    },

    /// Too many pages hang in extraction.
    #[error(
        "the extraction of {pages} pages exceeds extract.seconds and has not ended; raise extract.seconds, or remove \
         the files whose pages are reported as dropped by it"
    )]
    ExtractionStuck {
        /// Number of pages.
        pages: usize,
    },

    /// A record is no longer where it was read.
    #[error(
        "{}: bytes {} to {} no longer exist; the file changed after prep, run prep again",
        path.display(), bytes.start, bytes.end
    )]
    RecordGone {
        /// The file.
        path: PathBuf,
        /// Byte range of the record.
        bytes: std::ops::Range<u64>,
    },

    /// A file of intermediate results differs from what its task wrote.
    #[error("{} is damaged: {what}; remove {} and run prep again", path.display(), remove.display())]
    Intermediate {
        /// The file.
        path: PathBuf,
        /// Problem with the file.
        what: String,
        /// Path to remove, so that the task runs again.
        remove: PathBuf,
    },

    /// A prepared folder does not say where a document came from.
    #[error(
        "{} does not say where the document came from: {what}; prepare the corpus again with this version of prep",
        path.display()
    )]
    NoProvenance {
        /// The file that should say it.
        path: PathBuf,
        /// Problem with the file.
        what: String,
    },

    /// Tasks of other processes were waited for in vain.
    #[error(
        "{stage}: {missing} of {tasks} tasks are not done, and none was completed for {seconds} s; the next is number \
         {next}, of rank {rank}: start the ranks that ended again, all with the same inputs and settings, or run prep once \
         without --rank to finish what they left"
    )]
    Stalled {
        /// The stage.
        stage: &'static str,
        /// Tasks that are not done.
        missing: usize,
        /// Tasks there are.
        tasks: usize,
        /// Seconds without progress.
        seconds: u64,
        /// The first task that is not done.
        next: usize,
        /// Whose that is.
        rank: usize,
    },

    /// The folder of intermediate results is gone while this process worked in it.
    #[error(
        "{} was removed meanwhile: another process ended this preparation, or someone cleared it; run prep again",
        path.display()
    )]
    WorkGone {
        /// The folder.
        path: PathBuf,
    },

    /// More bad records in all inputs together than `input.max_bad_fraction` or `input.max_bad_records` allows.
    #[error(
        "{what}, more than {limit}; the first of them: {}; correct the files, name the field that holds the text \
         (input.text_field), or raise the limit, and run prep again: it goes on from here",
        places.join("; ")
    )]
    BadRecords {
        /// How many records of how many are bad, or bytes lost.
        what: String,
        /// The setting that they exceed, and its value.
        limit: String,
        /// The first of them, each with its place.
        places: Vec<String>,
    },

    /// An input file was written to while it was read.
    #[error(
        "{} changed while it was read: it had {before} bytes and has {now}; run prep again when nothing writes to it, \
         or read a copy",
        path.display()
    )]
    InputChanged {
        /// The file.
        path: PathBuf,
        /// Its bytes when it was found.
        before: u64,
        /// Its bytes after it was read.
        now: u64,
    },

    /// The output folder holds something this run must not overwrite.
    #[error("{} {what}; choose another --output, remove it, or set output.overwrite = true", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        what: String,
    },
}

impl Error {
    /// Wraps a system error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }
}

/// A record, or a stretch of a file, that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Where it is.
    pub place: Place,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

/// A place in an input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Which of its bytes or rows, from 0.
    pub at: u64,
    /// What `at` counts.
    pub unit: Unit,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Byte => "byte",
            Unit::DecompressedByte => "decompressed byte",
            Unit::Row => "row",
        };
        write!(f, "{}: {unit} {}", self.path.display(), self.at)
    }
}

/// Unit of positions in a file, in places and in [`Origin::bytes`](crate::document::Origin::bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of the file as it lies on disk.
    Byte,
    /// Bytes of what it decompresses to.
    DecompressedByte,
    /// Rows of a table.
    Row,
}
