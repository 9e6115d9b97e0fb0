//! A cache of recent words and their ids: most words of a text came before.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The longest word that is its own key: 15 bytes, and the length in the sixteenth.
const SHORT: usize = 15;
/// Sets of two short words: 8 MiB, of which what is frequent stays in a core's own cache, and the rest is fetched
/// before it is needed. That costs less than to find the ids of a rare word again.
const SETS: usize = 1 << 17;
/// Ids that a place for a short word holds; words of more are kept with the longer ones.
const SHORT_IDS: usize = 4;
/// Ids are below 2²⁴, which leaves a byte for their number beside the first.
const ID_BITS: u32 = 24;
const ID: u32 = (1 << ID_BITS) - 1;
/// Longer words are not worth keeping.
const LONG: usize = 64;
/// Ids and words that the table of longer words holds before it is emptied.
const LONG_IDS: usize = 1 << 20;
/// Words that are looked for together.
pub(super) const BATCH: usize = 64;

/// Bounded tables from words to ids. They hold what a tokenizer gave and change nothing of it.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// `SETS` of them, or none until the first word.
    sets: Vec<Set>,
    places: HashMap<Box<[u8]>, (u32, u32), Seed>,
    ids: Vec<u32>,
}

/// Hashes words, in each table in another way: so no text can be made whose words all fall on one place.
#[derive(Clone, Debug)]
struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for Seed {
    type Hasher = Seeded;

    fn build_hasher(&self) -> Seeded {
        Seeded(self.0)
    }
}

struct Seeded(u64);

impl Hasher for Seeded {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_usize(&mut self, length: usize) {
        self.0 ^= length as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The newer word comes first. A set is a line of the cache.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Set {
    keys: [Key; 2],
    ids: [[u32; SHORT_IDS]; 2],
}

/// The bytes of a word of up to [`SHORT`] bytes, and their number in the highest byte; 0 is no word's.
type Key = u128;

/// A word of a text, to be looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    /// Its key, or 0 if it is too long for one.
    key: Key,
    set: u32,
    start: u32,
    end: u32,
}

/// What is kept of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Its ids were appended.
    Here,
    /// Its ids are with those of longer words, if anywhere.
    Long,
    /// Nothing.
    No,
}

impl Word {
    /// The word `text[start..end]`, which is not empty, in a text of fewer than 2³² bytes.
    #[inline]
    pub(super) fn new(text: &[u8], start: usize, end: usize) -> Self {
        /// The bytes that belong to a word, by its length.
        const BYTES: [u128; 16] = {
            let mut bytes = [0; 16];
            let mut length = 1;
            while length < 16 {
                bytes[length] = u128::MAX >> (128 - 8 * length);
                length += 1;
            }
            bytes
        };
        let length = end - start;
        let key = if length <= SHORT {
            let bytes = match text.get(start..).and_then(<[u8]>::first_chunk) {
                Some(sixteen) => u128::from_le_bytes(*sixteen) & BYTES[length],
                None => {
                    let mut sixteen = [0; 16];
                    sixteen[..length].copy_from_slice(&text[start..end]);
                    u128::from_le_bytes(sixteen)
                }
            };
            bytes | (length as u128) << 120
        } else {
            0
        };
        Self { key, set: set_of(key), start: start as u32, end: end as u32 }
    }

    /// Its beginning and end in the text.
    #[inline]
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where a word is looked for.
#[inline]
fn set_of(key: Key) -> u32 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mixed = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xd6e8_feb8_6659_fd93);
    ((mixed >> 64) as u64 ^ mixed as u64) as u32 % SETS as u32
}

/// Appends `ids`, all of them, and forgets all but the first `number`: quicker than asking how many to append.
#[inline]
fn append(ids: &[u32], number: usize, out: &mut Vec<u32>) {
    let length = out.len() + number;
    out.extend_from_slice(ids);
    out.truncate(length);
}

impl Words {
    /// Has the processor fetch what is known of a word, which is about to be asked for.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn prefetch(&self, word: Word) {
        #[cfg(target_arch = "x86_64")]
        if let Some(set) = self.sets.get(word.set as usize) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint, which reads nothing; every processor of the architecture has it. Lookups in mixed text
            // are a twentieth of all time faster for it, and reading the line instead gains half of that.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(set).cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = word;
    }

    /// Appends the ids of a word, if they are known and few.
    #[inline]
    pub(super) fn get(&self, word: Word, out: &mut Vec<u32>) -> Known {
        let Some(set) = self.sets.get(word.set as usize) else {
            return if word.key == 0 { Known::Long } else { Known::No };
        };
        let found = [set.keys[0] == word.key, set.keys[1] == word.key];
        if !(found[0] | found[1]) {
            return if word.key == 0 { Known::Long } else { Known::No };
        }
        let [first, second, third, fourth] = set.ids[usize::from(!found[0])];
        let number = (first >> ID_BITS) as usize;
        append(&[first & ID, second, third, fourth], number, out);
        if number == 0 { Known::Long } else { Known::Here }
    }

    /// Keeps the ids, each below 2²⁴, of a word with a key of which nothing is known.
    pub(super) fn put(&mut self, text: &[u8], word: Word, ids: &[u32]) {
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); SETS];
        }
        let mut packed = [0; SHORT_IDS];
        match packed.get_mut(..ids.len()) {
            Some(few) => {
                few.copy_from_slice(ids);
                packed[0] |= (ids.len() as u32) << ID_BITS;
            }
            None => self.put_long(&text[word.range()], ids),
        }
        let set = &mut self.sets[word.set as usize];
        *set = Set { keys: [word.key, set.keys[0]], ids: [packed, set.ids[0]] };
    }

    /// The ids of a longer word, if it is known.
    pub(super) fn get_long(&self, word: &[u8]) -> Option<&[u32]> {
        let &(start, end) = self.places.get(word)?;
        self.ids.get(start as usize..end as usize)
    }

    /// Keeps the ids of a longer word.
    pub(super) fn put_long(&mut self, word: &[u8], ids: &[u32]) {
        if word.len() > LONG {
            return;
        }
        if self.ids.len() > LONG_IDS {
            self.places.clear();
            self.ids.clear();
        }
        let from = self.ids.len() as u32;
        self.ids.extend_from_slice(ids);
        self.places.insert(word.into(), (from, self.ids.len() as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_words_apart_wherever_they_stand() {
        let text = b"abc\0abc\0\0 and more than sixteen bytes abc";
        let key = |start, end| Word::new(text, start, end).key;
        assert_eq!(key(0, 3), key(4, 7));
        assert_eq!(key(0, 3), key(text.len() - 3, text.len()));
        assert_ne!(key(0, 3), key(0, 4));
        assert_ne!(key(4, 8), key(4, 9));
        assert_ne!(key(9, 17), key(9, 18));
        assert!(key(0, 15) != 0 && key(0, 16) == 0);
    }

    #[test]
    fn words_come_back_until_others_take_their_place() {
        const WORDS: usize = 1_000_000;
        let (mut words, all) = (Words::default(), [3, 0xff_ffff, 7, 1, 9]);
        let name = |i: usize| format!("w{i}").into_bytes();
        let word = |name: &[u8]| Word::new(name, 0, name.len());
        assert_eq!(words.get(word(&name(0)), &mut Vec::new()), Known::No);
        for i in 0..WORDS {
            words.put(&name(i), word(&name(i)), &all[..i % SHORT_IDS + 1]);
        }
        let mut kept = 0;
        for i in 0..WORDS {
            let mut ids = Vec::new();
            if words.get(word(&name(i)), &mut ids) == Known::Here {
                assert_eq!(ids, all[..i % SHORT_IDS + 1]);
                kept += 1;
            }
        }
        assert!((SETS..=2 * SETS).contains(&kept), "{kept}");
    }

    #[test]
    fn words_of_many_ids_are_kept_with_the_long_ones() {
        let mut words = Words::default();
        let (short, long) = (b"short".as_slice(), b"a word of more than fifteen bytes".as_slice());
        let word = |name: &[u8]| Word::new(name, 0, name.len());
        assert_eq!(words.get(word(long), &mut Vec::new()), Known::Long);
        for name in [short, long] {
            let ids = [1, 2, 3, 4, 5];
            if name == short {
                words.put(name, word(name), &ids)
            } else {
                words.put_long(name, &ids)
            }
            let mut ids = Vec::new();
            assert_eq!(words.get(word(name), &mut ids), Known::Long);
            assert!(ids.is_empty());
            assert_eq!(words.get_long(name), Some([1, 2, 3, 4, 5].as_slice()));
        }
    }
}
