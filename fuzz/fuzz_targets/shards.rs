//! Arbitrary bytes as each file of a prepared folder.
//!
//! The files are a `.bin`/`.idx` pair, `manifest.json`, `NAME.docs.jsonl.zst`, `sources.jsonl`, and the files between
//! stages. A file that is accepted can be read to its end, traced and reported on.
#![no_main]

use fathom_dataprep::inspect::inspect;
use fathom_dataprep::pipeline::{self, PrepConfig, Silent, fuzz_stored, trace};
use fathom_dataprep::shard::{MANIFEST, ShardFile};
use fathom_dataprep::{Loader, LoaderOptions, Manifest, Packing, ShardSet, Split};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A prepared folder of this process: two documents, of 4 and 8 tokens; see `seeds.py`.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("fathom-fuzz-{}-shards", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for temporary files");
    let input = folder.join("input.jsonl");
    fs::write(&input, "{\"text\": \"one\"}\n{\"text\": \"two two\"}\n").expect("a small file");
    let mut config = PrepConfig { threads: 1, ..PrepConfig::default() };
    (config.input.paths, config.output.dir) = (vec![input], folder.join("data"));
    pipeline::run(&config, &mut Silent).expect("two documents can be prepared");
    folder.join("data")
});

fn options(packing: Packing) -> LoaderOptions {
    LoaderOptions { sequence_length: 3, shuffle: true, seed: 1, vocab_size: None, packing }
}

/// Reads what a set of shards has, in every way there is.
fn read(set: ShardSet) {
    let (documents, tokens) = (set.documents(), set.tokens());
    let ranges: Vec<(u64, u64)> = set.document_ranges().collect::<Result<_, _>>().expect("in memory");
    assert_eq!(ranges.len() as u64, documents);
    assert_eq!(ranges.iter().map(|(_, length)| length).sum::<u64>(), tokens);
    for &(start, length) in ranges.iter().filter(|(_, length)| *length > 0) {
        let place = set.locate(start).expect("in memory").expect("it lies inside");
        assert_eq!((place.start, place.end), (start, start + length));
    }
    let mut starts = vec![0; tokens as usize];
    set.document_starts(0, &mut starts).expect("in memory");
    assert_eq!(set.locate(tokens).expect("in memory"), None);
    // A token may be outside the vocabulary, which is an error that says where.
    let _ = set.read(0, &mut starts);
    if let Ok(mut loader) = Loader::new(set, options(Packing::Concatenate)) {
        let _ = loader.next_batch(2);
    }
}

fn pair(bytes: &[u8]) {
    let Some(([a, b], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let (bin, idx) = rest.split_at(usize::from(u16::from_le_bytes([*a, *b])).min(rest.len()));
    let accepted = ShardFile::from_bytes(bin.to_vec(), idx.to_vec(), Path::new("memory"));
    let Ok(accepted) = accepted else {
        return;
    };
    assert_eq!(accepted.tokens() * accepted.dtype().width(), bin.len() as u64);
    let prefix = FOLDER.join("fuzzed");
    fs::write(FOLDER.join("fuzzed.bin"), bin).expect("a small file");
    fs::write(FOLDER.join("fuzzed.idx"), idx).expect("a small file");
    let open = || ShardSet::open(&prefix, Split::Train).expect("its bytes were accepted");
    read(open());
    if let Ok(mut loader) = Loader::new(open(), options(Packing::BestFit)) {
        let _ = loader.next_batch(2);
    }
}

/// Every way to look at the folder.
fn look() {
    if let Ok(inspection) = inspect(&FOLDER) {
        assert!(!inspection.text().is_empty() && inspection.html().ends_with("</html>\n"));
    }
    for split in [Split::Train, Split::Validation] {
        let Ok(set) = ShardSet::open(&FOLDER, split) else {
            continue;
        };
        let _ = set.verify();
        for token in [0, set.tokens() / 2, set.tokens()] {
            let _ = trace(&FOLDER, split, token, 4);
        }
        read(set);
    }
}

/// Puts `bytes` in the place of a file of the folder, looks, and puts the file back.
fn instead_of(name: &str, bytes: &[u8]) {
    let path = FOLDER.join(name);
    let kept = fs::read(&path).expect("prep wrote it");
    fs::write(&path, bytes).expect("a small file");
    look();
    fs::write(&path, kept).expect("a small file");
}

fn manifest(bytes: &[u8]) {
    let _ = Manifest::from_bytes(bytes, Path::new(MANIFEST));
    // With the right checksum, so that what it says is looked at.
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else {
        return;
    };
    let kept = fs::read(FOLDER.join(MANIFEST)).expect("prep wrote it");
    manifest.write(&FOLDER).expect("a small file");
    if let Ok(again) = Manifest::read(&FOLDER) {
        assert_eq!(again, manifest);
        look();
    }
    fs::write(FOLDER.join(MANIFEST), kept).expect("a small file");
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let packed = || zstd::encode_all(bytes, 1).expect("memory can be compressed");
    match choice {
        0 => pair(bytes),
        1 => manifest(bytes),
        2 => instead_of("train-00000.docs.jsonl.zst", bytes),
        3 => instead_of("train-00000.docs.jsonl.zst", &packed()),
        4 => instead_of("sources.jsonl", bytes),
        5 => fuzz_stored(bytes),
        6 => fuzz_stored(&packed()),
        _ => {}
    }
});
