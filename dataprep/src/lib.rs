//! Prepares training data for language models: from files of text to batches of token ids.
//!
//! Text flows through the crate in one direction, one module per step:
//!
//! 1. [`read`] finds files in a fixed order, cuts large files into parts by bytes, and reads documents with the place
//!    each came from; [`extract`] finds the main text of web pages.
//! 2. [`filter`] drops low-quality documents and masks personal data, rule by rule; [`dedup`] finds exact duplicates,
//!    near-duplicates (MinHash) and documents with evaluation data, in bounded memory.
//! 3. [`tokenizer`] encodes text as token ids and decodes them: bytes, any Hugging Face `tokenizer.json`, or a
//!    byte-level BPE tokenizer that [`tokenizer::train`] trains on the corpus. [`fim`] rearranges documents to fill in
//!    the middle.
//! 4. [`shard`] stores the ids as Megatron's `.bin`/`.idx` files, with a `manifest.json` of sizes, checksums, settings
//!    and counts. The shards of a split are one long stream of tokens, read by position.
//! 5. [`loader`] cuts this stream into sequences and hands them out in [`TokenBatch`]es: shuffled by a computed
//!    permutation ([`permute`]) and resumable at any sequence, or once in order for evaluation. [`pack`] keeps
//!    documents whole where they fit; [`mix`] draws from several sources in exact shares.
//!
//! [`pipeline`] runs steps 1 to 4 as stages of tasks over storage that any number of processes share. The output is the
//! same bytes for any number of threads and processes, and after any crash. [`inspect`] reports on the result;
//! [`pipeline::trace`] says where a token came from.
//!
//! ```
//! use fathom_dataprep::pipeline::{self, PrepConfig, Silent};
//! use fathom_dataprep::{Loader, LoaderOptions, Packing, Split};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let (text, shards) = (folder.path().join("play.txt"), folder.path().join("shards"));
//! std::fs::write(&text, "To be, or not to be, that is the question.\n".repeat(500))?;
//!
//! // Without a tokenizer, each byte is a token.
//! let mut config = PrepConfig::default();
//! config.input.paths = vec![text];
//! config.output.dir = shards.clone();
//! let summary = pipeline::run(&config, &mut Silent)?;
//! // One document alone has its last tenth held out for validation.
//! assert_eq!(summary.manifest.train.text_bytes, 19_350);
//!
//! let options = LoaderOptions {
//!     sequence_length: 64,
//!     shuffle: true,
//!     seed: 1,
//!     vocab_size: Some(summary.tokenizer.vocab_size()),
//!     packing: Packing::Concatenate,
//! };
//! let mut loader = Loader::open(&[&shards], Split::Train, options)?;
//! let batch = loader.next_batch(8)?;
//! assert_eq!((batch.sequences, batch.sequence_length), (8, 64));
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here knows of models or devices. Everything that comes from a file is checked; every [`Error`] names the
//! place and the remedy.

#![deny(unsafe_code)]

pub mod dedup;
pub mod document;
pub mod durable;
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
mod stored;
pub mod tokenizer;

pub use document::{Document, Dropped, Origin};
pub use error::{Error, Result};
pub use fim::{Fim, FimConfig};
pub use loader::{Cursor, Evaluation, Loader, LoaderOptions, MixSource, Packing, TokenBatch};
pub use pack::PackingReport;
pub use pipeline::{PrepConfig, Progress, Summary};
pub use shard::{Manifest, ShardSet, Split};
pub use tokenizer::{StreamDecoder, Tokenizer};
