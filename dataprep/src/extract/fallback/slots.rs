//! The places of words in the table of common words, which holds 64 bits of a hash of each, with open addressing.

use xxhash_rust::xxh3::xxh3_64;

/// Places of the table.
pub(super) const SLOTS: usize = 1 << 18;

/// What stands for a word. An empty place has 0.
pub(super) fn key(word: &str) -> u64 {
    xxh3_64(word.as_bytes()).max(1)
}

/// The places where a key may be, in the order in which they are filled.
pub(super) fn places(key: u64) -> impl Iterator<Item = usize> {
    let first = key as usize % SLOTS;
    (first..SLOTS).chain(0..first)
}
