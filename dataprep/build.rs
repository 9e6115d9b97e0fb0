//! Makes the table in which extraction looks up common words, so that no program has to read 154,000 words first.

#[path = "src/extract/fallback/slots.rs"]
mod slots;

use slots::{SLOTS, key, places};
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/extract/fallback/slots.rs");
    let mut words: Vec<&String> = justext::get_all_stoplists().iter().collect();
    words.sort_unstable();
    assert!(words.len() * 4 <= SLOTS * 3, "{} words leave too little room in {SLOTS} slots", words.len());
    let mut table = vec![0; SLOTS];
    for word in words {
        let key = key(word);
        let place = places(key).find(|&place| table[place] == 0 || table[place] == key);
        table[place.expect("a slot is free")] = key;
    }
    let bytes: Vec<u8> = table.into_iter().flat_map(u64::to_le_bytes).collect();
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(folder.join("common_words.bin"), bytes).expect("write the table");
}
