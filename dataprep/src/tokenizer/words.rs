//! A cache of recent words and their ids: most words of a text came before.

use rustc_hash::FxHashMap;

/// The longest word that is its own key: 15 bytes, and the length in the sixteenth.
const SHORT: usize = 15;
/// The same of a key of half the size, which most words of a text fit into.
const TINY: usize = 7;
/// Sets of four tiny words. What is frequent in 1 MiB stays in a core's own cache, and that is what looking costs.
const TINY_SETS: usize = 1 << 14;
/// Sets of two short words: 2 MiB.
const SHORT_SETS: usize = 1 << 15;
/// Ids that a place for a tiny word holds, and one for a short word; a word of more is merged again each time.
const TINY_IDS: usize = 2;
const SHORT_IDS: usize = 4;
/// Ids are below 2²⁴, which leaves a byte beside each of four, and two beside two; the number of ids is kept there.
const ID_BITS: u32 = 24;
/// Longer words are not worth keeping.
const LONG: usize = 64;
/// Ids and words that the table of longer words holds before it is emptied.
const LONG_IDS: usize = 1 << 20;

/// Bounded tables from words to ids. They hold what a tokenizer gave and change nothing of it.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Empty until the first word, like `short`.
    tiny: Vec<TinySet>,
    short: Vec<ShortSet>,
    places: FxHashMap<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
}

/// The newest word of a set comes first. Each set is a line of the cache, no more.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct TinySet {
    keys: [u64; 4],
    ids: [u64; 4],
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct ShortSet {
    keys: [u128; 2],
    ids: [u128; 2],
}

/// The bytes of a word of up to [`SHORT`] bytes, and their number in the highest byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Of up to [`TINY`] bytes.
    Tiny(u64),
    /// Of more.
    Short(u128),
}

impl Key {
    /// The key of `text[start..end]`, which is not empty; `None` when it is too long for one.
    #[inline]
    pub(super) fn of(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let length = end - start;
        if length <= TINY {
            let bytes = match text.get(start..).and_then(<[u8]>::first_chunk) {
                Some(eight) => u64::from_le_bytes(*eight) & (u64::MAX >> (64 - 8 * length)),
                None => {
                    let mut eight = [0; 8];
                    eight[..length].copy_from_slice(&text[start..end]);
                    u64::from_le_bytes(eight)
                }
            };
            return Some(Self::Tiny(bytes | (length as u64) << 56));
        }
        if length > SHORT {
            return None;
        }
        let bytes = match text.get(start..).and_then(<[u8]>::first_chunk) {
            Some(sixteen) => u128::from_le_bytes(*sixteen) & (u128::MAX >> (128 - 8 * length)),
            None => {
                let mut sixteen = [0; 16];
                sixteen[..length].copy_from_slice(&text[start..end]);
                u128::from_le_bytes(sixteen)
            }
        };
        Some(Self::Short(bytes | (length as u128) << 120))
    }
}

/// Where a tiny word is looked for.
#[inline]
fn tiny_set(key: u64) -> usize {
    let mixed = u128::from(key ^ 0xd6e8_feb8_6659_fd93) * 0x9e37_79b9_7f4a_7c15;
    ((mixed >> 64) as u64 ^ mixed as u64) as usize % TINY_SETS
}

/// Where a short word is looked for.
#[inline]
fn short_set(key: u128) -> usize {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mixed = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xd6e8_feb8_6659_fd93);
    ((mixed >> 64) as u64 ^ mixed as u64) as usize % SHORT_SETS
}

/// Up to [`SHORT_IDS`] ids and their number.
fn pack(ids: &[u32]) -> u128 {
    let packed = ids.iter().rev().fold(0, |packed, &id| packed << 32 | u128::from(id));
    packed | (ids.len() as u128) << ID_BITS
}

/// Appends `ids`, all of them, and forgets all but the first `number`: quicker than asking how many to append.
#[inline]
fn append(ids: &[u32], number: usize, out: &mut Vec<u32>) {
    let length = out.len() + number;
    out.extend_from_slice(ids);
    out.truncate(length);
}

impl Words {
    /// Appends the ids of a word with a key, if it is known.
    #[inline]
    pub(super) fn get(&self, key: Key, out: &mut Vec<u32>) -> bool {
        const ID: u64 = (1 << ID_BITS) - 1;
        match key {
            Key::Tiny(key) => {
                let Some(set) = self.tiny.get(tiny_set(key)) else {
                    return false;
                };
                // All four at once, as which one it is cannot be foreseen.
                let found =
                    set.keys.iter().zip(0..).fold(0_u32, |found, (known, i)| found | u32::from(*known == key) << i);
                let packed = set.ids[found.trailing_zeros() as usize % 4];
                if found != 0 {
                    let ids = [(packed & ID) as u32, (packed >> ID_BITS & ID) as u32];
                    append(&ids, (packed >> (2 * ID_BITS)) as usize, out);
                    return true;
                }
                false
            }
            Key::Short(key) => {
                let Some(set) = self.short.get(short_set(key)) else {
                    return false;
                };
                let found = [set.keys[0] == key, set.keys[1] == key];
                let packed = if found[0] { set.ids[0] } else { set.ids[1] };
                if found[0] | found[1] {
                    let id = |i: usize| (packed >> (32 * i)) as u32 & ID as u32;
                    append(&[id(0), id(1), id(2), id(3)], (packed as u32 >> ID_BITS) as usize, out);
                    return true;
                }
                false
            }
        }
    }

    /// Keeps the ids, each below 2²⁴, of a word with a key.
    pub(super) fn put(&mut self, key: Key, ids: &[u32]) {
        match key {
            Key::Tiny(key) if ids.len() <= TINY_IDS => {
                if self.tiny.is_empty() {
                    self.tiny = vec![TinySet::default(); TINY_SETS];
                }
                let id = |i: usize| u64::from(ids.get(i).copied().unwrap_or(0));
                let TinySet { keys, ids: places } = &mut self.tiny[tiny_set(key)];
                let ([a, b, c, _], [d, e, f, _]) = (*keys, *places);
                *keys = [key, a, b, c];
                *places = [id(0) | id(1) << ID_BITS | (ids.len() as u64) << (2 * ID_BITS), d, e, f];
            }
            Key::Short(key) if ids.len() <= SHORT_IDS => {
                if self.short.is_empty() {
                    self.short = vec![ShortSet::default(); SHORT_SETS];
                }
                let set = &mut self.short[short_set(key)];
                *set = ShortSet { keys: [key, set.keys[0]], ids: [pack(ids), set.ids[0]] };
            }
            _ => {}
        }
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
        let key = |start, end| Key::of(text, start, end).unwrap();
        assert_eq!(key(0, 3), key(4, 7));
        assert_eq!(key(0, 3), key(text.len() - 3, text.len()));
        assert_ne!(key(0, 3), key(0, 4));
        assert_ne!(key(4, 8), key(4, 9));
        assert_ne!(key(9, 17), key(9, 18));
        assert!(matches!(key(0, 7), Key::Tiny(_)) && matches!(key(0, 8), Key::Short(_)));
        assert!(Key::of(text, 0, 15).is_some() && Key::of(text, 0, 16).is_none());
    }

    #[test]
    fn words_come_back_until_others_take_their_place() {
        let key = |name: &str| Key::of(name.as_bytes(), 0, name.len()).unwrap();
        for (prefix, most, places) in [("w", TINY_IDS, 4 * TINY_SETS), ("longword", SHORT_IDS, 2 * SHORT_SETS)] {
            let (mut words, all) = (Words::default(), [3, 0xff_ffff, 7, 0, 9]);
            let name = |i: usize| format!("{prefix}{i}");
            assert!(!words.get(key(&name(0)), &mut Vec::new()));
            for i in 0..300_000 {
                words.put(key(&name(i)), &all[..i % (most + 1)]);
            }
            let mut kept = 0;
            for i in 0..300_000 {
                let mut ids = Vec::new();
                if words.get(key(&name(i)), &mut ids) {
                    assert_eq!(ids, all[..i % (most + 1)]);
                    kept += 1;
                }
            }
            assert!((places / 2..=places).contains(&kept), "{kept} of {places}");
            words.put(key(&name(300_000)), &all[..most + 1]);
            assert!(!words.get(key(&name(300_000)), &mut Vec::new()), "{} ids do not fit", most + 1);
        }
    }
}
