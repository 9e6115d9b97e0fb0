//! Words seen lately and their ids: most of a text is words that came before.

use rustc_hash::FxHashMap;

/// The longest word that is its own key: 15 bytes, and the length in the sixteenth.
const SHORT: usize = 15;
/// Pairs of places in the table of short words: 2¹⁶ of 64 bytes, 4 MiB. What is frequent in it stays in a core's cache.
const BUCKETS: usize = 1 << 16;
/// Ids that one place holds; a word of more is merged again each time.
const IDS: usize = 4;
/// Ids are below 2²⁴, which leaves a byte beside each; the first one's is the number of ids.
const ID_BITS: u32 = 24;
/// Longer words are not worth keeping.
const LONG: usize = 64;
/// Ids and words that the table of longer words holds before it starts anew.
const LONG_IDS: usize = 1 << 20;

/// Bounded tables from words to ids. They hold what a tokenizer gave and change nothing of it.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Key, key, ids, ids: the newer word of a bucket first. Empty until the first word.
    short: Vec<[u128; 4]>,
    places: FxHashMap<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
}

/// The bytes of a word of up to [`SHORT`] bytes, and their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u128);

impl Key {
    /// The key of `text[start..end]`, which is not empty; `None` when it is too long for one.
    #[inline]
    pub(super) fn of(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let length = end - start;
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
        Some(Self(bytes | (length as u128) << 120))
    }

    #[inline]
    fn bucket(self) -> usize {
        let (low, high) = (self.0 as u64, (self.0 >> 64) as u64);
        let mixed = u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xd6e8_feb8_6659_fd93);
        ((mixed >> 64) as u64 ^ mixed as u64) as usize % BUCKETS
    }
}

/// Up to [`IDS`] ids and their number.
fn pack(ids: &[u32]) -> u128 {
    let packed = ids.iter().rev().fold(0, |packed, &id| packed << 32 | u128::from(id));
    packed | (ids.len() as u128) << ID_BITS
}

/// All four places, used or not, and how many are used.
#[inline]
fn unpack(packed: u128) -> ([u32; IDS], usize) {
    let id = |i: usize| (packed >> (32 * i)) as u32 & ((1 << ID_BITS) - 1);
    ([id(0), id(1), id(2), id(3)], (packed as u32 >> ID_BITS) as usize)
}

impl Words {
    /// Appends the ids of a short word, if it is known.
    #[inline]
    pub(super) fn get_short(&self, key: Key, out: &mut Vec<u32>) -> bool {
        let Some([newer, older, newer_ids, older_ids]) = self.short.get(key.bucket()) else {
            return false;
        };
        let packed = match key.0 {
            known if known == *newer => *newer_ids,
            known if known == *older => *older_ids,
            _ => return false,
        };
        // Four ids at once and then forgetting some is quicker than asking how many to append.
        let (ids, number) = unpack(packed);
        let length = out.len() + number;
        out.extend_from_slice(&ids);
        out.truncate(length);
        true
    }

    /// Keeps the ids, each below 2²⁴, of a short word.
    pub(super) fn put_short(&mut self, key: Key, ids: &[u32]) {
        if ids.len() > IDS {
            return;
        }
        if self.short.is_empty() {
            self.short = vec![[0; 4]; BUCKETS];
        }
        let [newer, _, newer_ids, _] = self.short[key.bucket()];
        self.short[key.bucket()] = [key.0, newer, pack(ids), newer_ids];
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
        assert!(Key::of(text, 0, 15).is_some() && Key::of(text, 0, 16).is_none());
    }

    #[test]
    fn words_come_back_until_others_take_their_place() {
        let mut words = Words::default();
        let name = |i: u32| format!("word{i}");
        let key = |name: &str| Key::of(name.as_bytes(), 0, name.len()).unwrap();
        assert!(!words.get_short(key("word0"), &mut Vec::new()));
        for i in 0..300_000 {
            words.put_short(key(&name(i)), &[i, 0xff_ffff, 7, 0][..(i % 5) as usize]);
        }
        let mut kept = 0;
        for i in 0..300_000 {
            let mut ids = Vec::new();
            if words.get_short(key(&name(i)), &mut ids) {
                assert_eq!(ids, [i, 0xff_ffff, 7, 0][..(i % 5) as usize]);
                kept += 1;
            }
        }
        assert!((BUCKETS..=2 * BUCKETS).contains(&kept), "{kept}");
        words.put_short(key("five"), &[1, 2, 3, 4, 5]);
        assert!(!words.get_short(key("five"), &mut Vec::new()), "five ids do not fit");
    }
}
