//! Tests of shards.

use super::*;
use crate::error::Error;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

fn write(dir: &Path, dtype: Dtype, limit: u64, documents: &[&[u32]]) -> SplitEntry {
    let mut writer = ShardWriter::new(dir, "train", dtype, 9, limit);
    for document in documents {
        writer.push(document, document.len() as u64).unwrap();
    }
    writer.finish().unwrap().commit().unwrap()
}

fn manifest(train: SplitEntry) -> Manifest {
    Manifest {
        format: FORMAT.into(),
        version: VERSION,
        fingerprint: "f".into(),
        tokenizer: TokenizerEntry {
            kind: "huggingface".into(),
            fingerprint: "t".into(),
            vocab_size: 10,
            eos_id: 9,
            bos_id: None,
        },
        inputs: InputsEntry { files: 1, bytes: 1, parts: 1, sha256: String::new() },
        passed_over: std::collections::BTreeMap::new(),
        pipeline: serde_json::json!({"output": {"validation_fraction": 0.1}}),
        stages: vec![],
        languages: std::collections::BTreeMap::new(),
        dedup: None,
        contaminated: vec![],
        train,
        validation: None,
    }
}

/// Two documents, [1 2 3 9] and [4 9], with a manifest.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let train = write(dir.path(), Dtype::U16, 1 << 20, &[&[1, 2, 3], &[4]]);
    manifest(train).write(dir.path()).unwrap();
    let path = dir.path().to_path_buf();
    (dir, path)
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn open_error(dir: &Path) -> Error {
    ShardSet::open(dir, Split::Train).unwrap_err()
}

#[test]
fn bytes_are_exactly_megatrons() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Dtype::U16, 1 << 20, &[&[1, 2, 300], &[], &[4]]);
    #[rustfmt::skip]
    let idx: &[u8] = &[
        b'M', b'M', b'I', b'D', b'I', b'D', b'X', 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0,
        8,
        3, 0, 0, 0, 0, 0, 0, 0,
        4, 0, 0, 0, 0, 0, 0, 0,
        4, 0, 0, 0,  1, 0, 0, 0,  2, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,  8, 0, 0, 0, 0, 0, 0, 0,  10, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,  1, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  3, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(fs::read(dir.path().join("train-00000.idx")).unwrap(), idx);
    let bin = [1, 0, 2, 0, 44, 1, 9, 0, 9, 0, 4, 0, 9, 0];
    assert_eq!(fs::read(dir.path().join("train-00000.bin")).unwrap(), bin);
    write(dir.path(), Dtype::I32, 1 << 20, &[&[70000]]);
    assert_eq!(fs::read(dir.path().join("train-00000.bin")).unwrap(), [112, 17, 1, 0, 9, 0, 0, 0]);
    assert_eq!(fs::read(dir.path().join("train-00000.idx")).unwrap()[17], 4);
}

#[test]
fn shards_open_as_folder_prefix_and_file() {
    let (_keep, dir) = folder();
    let read = |path: &Path| {
        let set = ShardSet::open(path, Split::Train).unwrap();
        let mut tokens = vec![0; set.tokens() as usize];
        set.read(0, &mut tokens).unwrap();
        (tokens, set.documents(), set.text_bytes())
    };
    assert_eq!(read(&dir), (vec![1, 2, 3, 9, 4, 9], 2, Some(4)));
    assert_eq!(read(&dir.join("train-00000")), (vec![1, 2, 3, 9, 4, 9], 2, None));
    assert_eq!(read(&dir.join("train-00000.bin")).1, 2);
    fs::remove_file(dir.join(MANIFEST)).unwrap();
    assert_eq!(read(&dir).1, 2);
    let unheld = ShardSet::open(&dir.join("nothing"), Split::Train).unwrap_err();
    assert!(matches!(unheld, Error::NoShards { .. }), "{unheld}");
    fs::write(dir.join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(open_error(&dir), Error::ManifestMissing { .. }));
}

#[test]
fn documents_of_several_sequences_are_documents() {
    let (_keep, dir) = folder();
    // Make both sequences one document: Megatron writes a sequence a sentence when asked to.
    change(&dir.join("train-00000.idx"), |b| {
        b[26] = 2;
        b.truncate(b.len() - 16);
        b.extend(2_i64.to_le_bytes());
    });
    let file = ShardFile::open(&dir.join("train-00000")).unwrap();
    assert_eq!((file.documents(), file.document_start(0).unwrap(), file.document_start(1).unwrap()), (1, 0, 6));
}

#[test]
fn damage_is_named_with_its_place() {
    let damage = |name: &str, f: fn(&mut Vec<u8>)| {
        let (keep, dir) = folder();
        fs::remove_file(dir.join(MANIFEST)).unwrap();
        change(&dir.join(name), f);
        let error = open_error(&dir);
        drop(keep);
        error
    };
    let idx = |f| damage("train-00000.idx", f);
    assert!(matches!(idx(|b| b.truncate(0)), Error::Truncated { offset: 0, need: 34, .. }));
    assert!(matches!(idx(|b| b.truncate(20)), Error::Truncated { offset: 20, need: 14, .. }));
    assert!(matches!(idx(|b| b.truncate(60)), Error::Truncated { offset: 60, need: 22, .. }));
    assert!(matches!(idx(|b| b[0] = b'X'), Error::BadMagic { .. }));
    assert!(matches!(idx(|b| b[9] = 2), Error::BadVersion { found: 2, .. }));
    assert!(matches!(idx(|b| b[17] = 6), Error::UnknownDtype { found: 6, .. }));
    assert!(matches!(idx(|b| b.push(0)), Error::SizeMismatch { expected: 82, found: 83, .. }));
    assert!(matches!(idx(|b| b[18..26].fill(0xff)), Error::CorruptIndex { offset: 18, .. }));
    assert!(matches!(idx(|b| b[26..34].fill(0)), Error::CorruptIndex { offset: 26, .. }));
    assert!(matches!(idx(|b| b[37] = 0x80), Error::CorruptIndex { offset: 34, .. }));
    assert!(matches!(idx(|b| b[34] = 3), Error::CorruptIndex { offset: 50, .. }));
    assert!(matches!(idx(|b| b[58] = 1), Error::CorruptIndex { offset: 58, .. }));
    assert!(matches!(idx(|b| b[66] = 7), Error::CorruptIndex { offset: 66, .. }));
    assert!(matches!(idx(|b| b[74] = 1), Error::CorruptIndex { offset: 74, .. }));
    let bin = |f| damage("train-00000.bin", f);
    assert!(matches!(bin(|b| b.truncate(5)), Error::Truncated { offset: 5, need: 7, .. }));
    assert!(matches!(bin(|b| b.push(0)), Error::SizeMismatch { .. }));
    let text = idx(|b| b[66] = 7).to_string();
    assert!(text.contains("train-00000.idx") && text.contains("byte 66") && text.contains("run prep again"), "{text}");
}

#[test]
fn the_manifest_guards_its_files() {
    let (_keep, dir) = folder();
    let set = ShardSet::open(&dir, Split::Train).unwrap();
    set.verify().unwrap();
    assert!(matches!(ShardSet::open(&dir, Split::Validation), Err(Error::NoShards { .. })));
    change(&dir.join("train-00000.bin"), |b| b[0] = 5);
    assert!(matches!(set.verify(), Err(Error::ChecksumMismatch { .. })));
    change(&dir.join("train-00000.bin"), |b| b.truncate(4));
    assert!(matches!(open_error(&dir), Error::SizeMismatch { by: MANIFEST, .. }));
    fs::remove_file(dir.join("train-00000.bin")).unwrap();
    assert!(matches!(open_error(&dir), Error::Io { .. }));
}

#[test]
fn every_damage_to_a_manifest_is_refused() {
    let (_keep, dir) = folder();
    let path = dir.join(MANIFEST);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        // White space may become other white space; everything else is noticed.
        match Manifest::read(&dir) {
            Ok(manifest) => assert!(good[at].is_ascii_whitespace(), "byte {at}: {manifest:?}"),
            Err(Error::ManifestCorrupt { .. } | Error::ManifestVersion { .. }) => {}
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(matches!(open_error(&dir), Error::ManifestCorrupt { .. }));
    fs::write(&path, r#"{"format": "fathom-shards", "version": 2}"#).unwrap();
    assert!(matches!(open_error(&dir), Error::ManifestVersion { found: 2, .. }));
}

#[test]
fn manifests_may_not_point_outside() {
    let (_keep, dir) = folder();
    let mut manifest = Manifest::read(&dir).unwrap();
    manifest.train.shards[0].name = "../train-00000".into();
    manifest.write(&dir).unwrap();
    assert!(matches!(open_error(&dir), Error::ManifestCorrupt { .. }));
}

#[test]
fn tokens_outside_the_vocabulary_are_found_when_read() {
    let (_keep, dir) = folder();
    change(&dir.join("train-00000.bin"), |b| b[4] = 10);
    let set = ShardSet::open(&dir, Split::Train).unwrap();
    let error = set.read(1, &mut [0; 3]).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { offset: 4, token: 10, vocab_size: 10, .. }), "{error}");
    set.read(3, &mut [0; 3]).unwrap();
    let other = tempfile::tempdir().unwrap();
    write(other.path(), Dtype::I32, 1 << 20, &[&[5]]);
    change(&other.path().join("train-00000.bin"), |b| b[..4].fill(0xff));
    let error = ShardSet::open(other.path(), Split::Train).unwrap().read(0, &mut [0; 2]).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { offset: 0, token: -1, .. }), "{error}");
}

#[test]
fn sets_with_other_tokenizers_do_not_mix() {
    let ((_a, one), (_b, two)) = (folder(), folder());
    let both = ShardSet::open_all(&[&one, &two], Split::Train).unwrap();
    assert_eq!((both.tokens(), both.documents(), both.text_bytes()), (12, 4, Some(8)));
    let mut manifest = Manifest::read(&two).unwrap();
    manifest.tokenizer.fingerprint = "other".into();
    manifest.write(&two).unwrap();
    let error = ShardSet::open_all(&[&one, &two], Split::Train).unwrap_err();
    assert!(matches!(error, Error::ShardsDiffer { .. }), "{error}");
}

#[test]
fn the_writer_refuses_tokens_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::new(dir.path(), "train", Dtype::U16, 9, 1 << 20);
    assert!(matches!(writer.push(&[65536], 0), Err(Error::Tokenize(_))));
}

proptest! {
    #[test]
    fn documents_survive_and_know_where_they_begin(
        documents in prop::collection::vec(prop::collection::vec(0_u32..9, 0..12), 1..30),
        limit in 1_u64..80,
        wide: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let dtype = if wide { Dtype::I32 } else { Dtype::U16 };
        let slices: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
        let entry = write(dir.path(), dtype, limit, &slices);
        for shard in &entry.shards {
            prop_assert!(shard.bin.bytes <= limit || shard.documents == 1);
        }
        let set = ShardSet::open(dir.path(), Split::Train).unwrap();
        let (mut expected, mut begins) = (Vec::<u32>::new(), Vec::<u32>::new());
        for document in &documents {
            begins.extend(vec![expected.len() as u32; document.len() + 1]);
            expected.extend(document.iter().chain(&[9]));
        }
        let mut tokens = vec![0; expected.len()];
        set.read(0, &mut tokens).unwrap();
        prop_assert_eq!(&tokens, &expected);
        for start in 0..expected.len() {
            let mut starts = vec![77; (expected.len() - start).min(9)];
            set.document_starts(start as u64, &mut starts).unwrap();
            let begins = &begins[start..][..starts.len()];
            let wanted: Vec<u32> = begins.iter().map(|b| b.saturating_sub(start as u32)).collect();
            prop_assert_eq!(starts, wanted);
        }
    }

    #[test]
    fn any_bytes_are_a_shard_or_an_error(
        counts in (0_u64..6, 0_u64..6),
        wide: bool,
        tables in prop::collection::vec(prop::sample::select(&[0_u8, 0, 0, 0, 1, 2, 4, 8, 12, 128, 255][..]), 0..100),
        tokens in 0_usize..40,
    ) {
        let mut idx = b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0".to_vec();
        idx.push(if wide { 4 } else { 8 });
        idx.extend([counts.0.to_le_bytes(), counts.1.to_le_bytes()].concat());
        idx.extend(&tables);
        let path = Path::new("any");
        if let Ok(shard) = ShardFile::from_bytes(vec![1; tokens], idx, path) {
            let mut tokens = vec![0; shard.tokens() as usize];
            let _ = shard.read(0, 1 << 31, &mut tokens);
            prop_assert_eq!(shard.document_start(shard.documents()).unwrap(), shard.tokens());
        }
        prop_assert!(ShardFile::from_bytes(Vec::new(), tables.clone(), path).is_err());
        prop_assert!(Manifest::from_bytes(&tables, path).is_err());
    }

    #[test]
    fn random_damage_to_an_index_never_panics(at in 0_usize..82, bit in 0_u32..8) {
        let (_keep, dir) = folder();
        fs::remove_file(dir.join(MANIFEST)).unwrap();
        change(&dir.join("train-00000.idx"), |b| b[at] ^= 1 << bit);
        if let Ok(set) = ShardSet::open(&dir, Split::Train) {
            // The document table alone has redundancy to spare: any increasing table that ends well is a valid one.
            prop_assert!(at >= 58, "byte {at} changed unnoticed");
            let mut tokens = vec![0; set.tokens() as usize];
            set.read(0, &mut tokens).unwrap();
            set.document_starts(0, &mut tokens).unwrap();
        }
    }
}
