//! From raw text to batches of tokens.
//!
//! Text flows through this crate in one direction, and each module is one station on the way:
//!
//! 1. [`read`] finds files in a fixed order, cuts large ones into parts by bytes, and reads documents out of them, each
//!    with the place it came from; [`extract`] finds the main text of web pages. What it cannot use it counts and
//!    names.
//! 2. [`filter`] drops documents that are not worth training on and masks personal data, rule by rule; [`dedup`] finds
//!    documents that occur twice, exactly or nearly, in bounded memory, and documents that hold evaluation data.
//! 3. [`tokenizer`] turns text into ids and back: bytes, any Hugging Face `tokenizer.json`, or a byte-level BPE
//!    tokenizer that [`tokenizer::train`] has just made from the corpus.
//!    [`fim`] rearranges some documents on the way, so that a model learns to fill in the middle.
//! 4. [`shard`] holds the ids of each document, then the end-of-document token, as Megatron's `.bin`/`.idx` pairs, and
//!    at the very end `manifest.json`, which has sizes, checksums, the tokenizer's fingerprint, and what each station
//!    kept and dropped. Read back, all shards of a side are one long stream of tokens, memory-mapped.
//! 5. [`loader`] cuts that stream into sequences and hands them out in batches: shuffled by a permutation that is
//!    computed rather than stored ([`permute`]), resumable at any sequence, with the place where each token's document
//!    begins; or once, in order, for evaluation. [`pack`] keeps documents whole where they fit, and [`mix`] draws from
//!    several sources in exact shares.
//!
//! [`pipeline`] is what runs stations 1 to 4: as stages of tasks over storage that any number of processes share, the
//! same bytes whoever does the work and however often it is killed. It decides for each document, by a hash of its
//! content, whether it is for training or for validation. [`inspect`] reports on the result, and [`pipeline::trace`]
//! says where one of its tokens came from.
//!
//! Nothing here knows of models or devices. Everything that comes from a file is checked, and every [`Error`] says
//! where it was found and what to do.

#![deny(unsafe_code)]

pub mod dedup;
pub mod document;
mod durable;
pub mod error;
pub mod extract;
pub mod filter;
pub mod fim;
mod hash;
pub mod inspect;
mod json;
pub mod loader;
pub mod mix;
mod mmap;
pub mod pack;
pub mod permute;
pub mod pipeline;
pub mod read;
pub mod shard;
pub mod tokenizer;

pub use document::{Document, Dropped, Origin};
pub use error::{Error, Result};
pub use fim::{Fim, FimConfig};
pub use loader::{Cursor, Evaluation, Loader, LoaderOptions, MixSource, Packing, TokenBatch};
pub use pack::PackingReport;
pub use pipeline::{PrepConfig, Progress, Summary};
pub use shard::{Manifest, ShardSet, Split};
pub use tokenizer::{StreamDecoder, Tokenizer};
