//! From raw text to batches of tokens.
//!
//! Text flows through this crate in one direction, and each module is one station on the way:
//!
//! 1. [`source`] finds files in a fixed order and reads documents out of them: a plain file is one document, a line of a
//!    `.jsonl` file is one document; gzip and zstd are undone on the way. What it cannot use it counts and names.
//! 2. [`prep`] takes documents in batches, decides for each, by a hash of its content, whether it is for training or for
//!    validation, encodes a batch on all threads while the next is read, and passes the tokens on in order. That order,
//!    not the threads, decides every byte that is written.
//! 3. [`tokenizer`] turns text into ids and back: bytes, any Hugging Face `tokenizer.json`, or a byte-level BPE tokenizer
//!    that [`tokenizer::train`] has just made from the corpus.
//!    [`fim`] rearranges some documents on the way, so that a model learns to fill in the middle.
//! 4. [`shard`] writes the ids of each document, then the end-of-document token, as Megatron's `.bin`/`.idx` pairs, and at
//!    the very end `manifest.json`, which holds sizes, checksums, the tokenizer's fingerprint, and what each station kept
//!    and dropped. Read back, all shards of a side are one long stream of tokens, memory-mapped.
//! 5. [`loader`] cuts that stream into sequences and hands them out in batches: shuffled by a permutation that is computed
//!    rather than stored ([`permute`]), resumable at any sequence, with the place where each token's document begins;
//!    or once, in order, for evaluation. [`pack`] keeps documents whole where they fit, and [`mix`] draws from several
//!    sources in exact shares.
//!
//! Nothing here knows of models or devices. Everything that comes from a file is checked, and every [`Error`] says where
//! it was found and what to do.

#![deny(unsafe_code)]

pub mod document;
pub mod error;
pub mod fim;
mod hash;
mod json;
pub mod loader;
pub mod mix;
mod mmap;
pub mod pack;
pub mod permute;
pub mod prep;
pub mod shard;
pub mod source;
pub mod tokenizer;

pub use document::{Document, Dropped, Origin};
pub use error::{Error, Result};
pub use fim::{Fim, FimConfig};
pub use loader::{Batch, Cursor, Evaluation, Loader, LoaderOptions, MixSource, Packing};
pub use pack::PackingReport;
pub use prep::{PrepConfig, Progress, Summary};
pub use shard::{Manifest, ShardSet, Split};
pub use tokenizer::{StreamDecoder, Tokenizer};
