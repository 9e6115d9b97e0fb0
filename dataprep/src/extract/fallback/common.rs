//! The commonest words of a hundred languages, as `justext` lists them, in a table that is made when this is compiled.

use super::slots::{SLOTS, key, places};

static TABLE: &[u8; 8 * SLOTS] = include_bytes!(concat!(env!("OUT_DIR"), "/common_words.bin"));

/// Is a word, in lower case, one of them?
pub(super) fn is_common(word: &str) -> bool {
    let key = key(word);
    let (keys, _) = TABLE.as_chunks::<8>();
    places(key).map(|place| u64::from_le_bytes(keys[place])).take_while(|&it| it != 0).any(|it| it == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_listed_words_are_common_and_no_others() {
        let words = justext::get_all_stoplists();
        assert!(words.iter().all(|word| is_common(word)));
        let others = words.iter().map(|word| format!("{word}-{word}")).filter(|word| !words.contains(word));
        let mut count = 0;
        others.for_each(|word| {
            assert!(!is_common(&word), "{word}");
            count += 1;
        });
        assert!(count > 100_000 && !is_common(""));
    }
}
