//! Token shards: Megatron's indexed format, with a manifest beside it.
//!
//! A shard is a pair of files. `NAME.bin` holds tokens, little-endian, `u16` or `i32`, document after document.
//! `NAME.idx` says where each document lies (Megatron-LM, `megatron/core/datasets/indexed_dataset.py`):
//!
//! | offset | field | value |
//! |---|---|---|
//! | 0 | magic, 9 bytes | `MMIDIDX\0\0` |
//! | 9 | version, `u64` | 1 |
//! | 17 | element type, `u8` | 4 = `i32`, 8 = `u16` |
//! | 18 | sequences, `u64` | `n` |
//! | 26 | documents + 1, `u64` | `m` |
//! | 34 | length of each sequence in tokens, `i32` × `n` | |
//! | 34 + 4n | offset of each sequence in `NAME.bin` in bytes, `i64` × `n` | |
//! | 34 + 12n | first sequence of each document, then `n`: `i64` × `m` | |
//!
//! What prep writes has one sequence a document, and every document ends with the tokenizer's end-of-document token.
//! A folder of shards looks like this, and `manifest.json` is written last:
//!
//! ```text
//! OUT/manifest.json       what is here, how it was made, sizes and checksums
//! OUT/tokenizer.json      (+ tokenizer_config.json) opens in transformers
//! OUT/train-00000.bin     OUT/train-00000.idx     OUT/train-00001.bin ...
//! OUT/validation-00000.bin ...
//! ```

mod index;
mod manifest;
mod set;
mod split;
mod writer;

pub use index::{Dtype, ShardFile};
pub use manifest::{DedupEntry, FileEntry, InputsEntry, Manifest, ShardEntry, SplitEntry, StageReport, TokenizerEntry};
pub use manifest::{FORMAT, MANIFEST, VERSION};
pub use set::{ShardSet, TokenPlace};
pub use split::Split;
pub(crate) use writer::index_bytes;
pub use writer::{ShardWriter, WrittenShards};

#[cfg(test)]
mod tests;
