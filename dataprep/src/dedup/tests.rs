//! Tests of deduplication.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A text of `count` words drawn by `seed`, `changed` of which, spread evenly, are drawn again.
fn text(seed: u64, count: usize, changed: usize) -> String {
    let word = |i: usize, salt: u64| {
        let mut z = (seed << 32 | i as u64) ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let letters = (z ^ (z >> 31)) % 300_000;
        (0..5).map(|k| char::from(b'a' + (letters / 26_u64.pow(k) % 26) as u8)).collect::<String>()
    };
    let step = count.checked_div(changed).unwrap_or(usize::MAX);
    let changes = |i: usize| changed > 0 && i % step == step / 2 && i / step < changed;
    (0..count).map(|i| word(i, u64::from(changes(i)))).collect::<Vec<_>>().join(" ")
}

/// Jaccard similarity of two texts' sequences of five words.
fn jaccard(a: &str, b: &str) -> f64 {
    let shingles = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        words.windows(5).map(|w| w.join(" ")).collect::<BTreeSet<_>>()
    };
    let (a, b) = (shingles(a), shingles(b));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

/// Runs every task over `splits` of `(document, text)`; the removal set, and what clustering said.
fn run(
    splits: &[Vec<(u64, String)>],
    keep: Keep,
    memory: usize,
    removed: Option<&Path>,
    folder: &Path,
) -> (BTreeMap<u64, u64>, ClusterSummary) {
    let config = MinHashConfig::default();
    let hasher = MinHasher::new(&config).unwrap();
    let (mut scratch, mut bands) = (MinHashScratch::default(), Vec::new());
    let mut signatures = Vec::new();
    for (i, split) in splits.iter().enumerate() {
        let mut out = SignatureWriter::new(&config);
        for (document, text) in split {
            hasher.bands(text, &mut scratch, &mut bands);
            out.push(*document, &bands, text.len() as u64);
        }
        signatures.push(folder.join(format!("signatures-{i}")));
        out.publish(&signatures[i]).unwrap();
    }
    let runs = folder.join("runs");
    let edges: Vec<PathBuf> = (0..config.buckets).map(|bucket| folder.join(format!("edges-{bucket}"))).collect();
    for (bucket, out) in edges.iter().enumerate() {
        bucket_edges(&config, &signatures, bucket, removed, &runs, memory, out).unwrap();
    }
    let out = folder.join("removed");
    let summary = cluster(&config, &edges, &signatures, keep, &runs, memory, &out).unwrap();
    let mut removals = Removals::open(&out, 0).unwrap();
    let documents = splits.iter().flatten().map(|(document, _)| *document);
    let found = documents.filter_map(|d| removals.kept_for(d).unwrap().map(|kept| (d, kept))).collect();
    (found, summary)
}

fn splits(texts: &[String], size: usize) -> Vec<Vec<(u64, String)>> {
    let numbered = texts.chunks(size).zip(0_u64..);
    numbered
        .map(|(chunk, i)| chunk.iter().zip(i << 32..).map(|(text, number)| (number, text.clone())).collect())
        .collect()
}

#[test]
fn keeps_one_document_of_each_cluster() {
    // 0 and 3 are nearly the same, and 3 is longer; 1, 4 and 5 are the same; 2 is alone; 6 has too few words.
    let near = format!("{} and a few words more", text(0, 200, 0));
    let texts =
        [text(0, 200, 0), text(1, 200, 0), text(2, 200, 0), near, text(1, 200, 0), text(1, 200, 0), "so few".into()];
    let splits = splits(&texts, 4);
    let second = |i: u64| 1 << 32 | i;
    for memory in [0, 1 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let (first, summary) = run(&splits, Keep::First, memory, None, folder.path());
        assert_eq!(first, BTreeMap::from([(3, 0), (second(0), 1), (second(1), 1)]));
        assert_eq!((summary.clusters, summary.removed, summary.largest), (2, 3, 3));
        let (longest, _) = run(&splits, Keep::Longest, memory, None, folder.path());
        assert_eq!(longest, BTreeMap::from([(0, 3), (second(0), 1), (second(1), 1)]));
    }
}

#[test]
fn files_do_not_depend_on_memory_or_order() {
    let texts: Vec<String> = (0..60).map(|i| text(i % 20, 60, (i / 20) as usize)).collect();
    let splits = splits(&texts, 7);
    let files = |memory| {
        let folder = tempfile::tempdir().unwrap();
        let mut splits = splits.clone();
        if memory > 0 {
            splits.iter_mut().for_each(|split| split.reverse());
        }
        run(&splits, Keep::Longest, memory, None, folder.path());
        let mut names: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.retain(|path| path.is_file());
        names.sort();
        names.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(files(0), files(1 << 22));
}

#[test]
fn near_duplicates_follow_exact_ones() {
    let texts = [text(0, 100, 0), text(0, 100, 0), text(1, 100, 0), text(1, 100, 1)];
    let splits = splits(&texts, 2);
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<PathBuf> = (0..splits.len()).map(|i| folder.path().join(format!("keys-{i}"))).collect();
    for (split, path) in splits.iter().zip(&keys) {
        let mut out = KeyWriter::default();
        split.iter().for_each(|(document, text)| out.push_text(*document, text));
        out.publish(path).unwrap();
    }
    let removed = folder.path().join("exact");
    assert_eq!(exact(&keys, None, &folder.path().join("runs"), 0, &removed).unwrap(), 1);
    let again = folder.path().join("again");
    assert_eq!(exact(&keys, Some(&removed), &folder.path().join("runs"), 0, &again).unwrap(), 0);
    let (found, summary) = run(&splits, Keep::First, 1 << 20, Some(&removed), folder.path());
    assert_eq!(found, BTreeMap::from([(1 << 32 | 1, 1 << 32)]));
    assert_eq!(summary.clusters, 1);
}

#[test]
fn addresses_are_compared_without_what_does_not_matter() {
    let same = |a, b| normalise_url(a) == normalise_url(b);
    assert!(same("http://Example.com:80/", "https://example.com#top"));
    assert!(same("HTTPS://example.com:443/a?b#c", "example.com/a?b"));
    assert!(!same("http://example.com/A", "http://example.com/a"));
    assert!(!same("http://example.com:8080/", "http://example.com/"));
    assert!(!same("http://example.com/a", "http://www.example.com/a"));
}

/// Planted pairs are found as often as theory says, within what chance allows, and nothing else is.
#[test]
fn recall_follows_the_curve() {
    let (pairs, words) = (150_u64, 160);
    for changed in [2, 4, 7, 12] {
        let texts: Vec<String> = (0..pairs).flat_map(|i| [text(i, words, 0), text(i, words, changed)]).collect();
        let expected: Vec<f64> =
            texts.chunks(2).map(|pair| MinHashConfig::default().probability(jaccard(&pair[0], &pair[1]))).collect();
        let folder = tempfile::tempdir().unwrap();
        let (found, _) = run(&splits(&texts, 100), Keep::First, 1 << 20, None, folder.path());
        let numbers: Vec<u64> = splits(&texts, 100).iter().flatten().map(|(document, _)| *document).collect();
        for (removed, kept) in &found {
            let place = |document| numbers.binary_search(document).unwrap();
            assert_eq!((place(removed), place(removed) % 2), (place(kept) + 1, 1), "a pair that was not planted");
        }
        let mean: f64 = expected.iter().sum();
        let deviation = expected.iter().map(|p| p * (1.0 - p)).sum::<f64>().sqrt();
        let off = (found.len() as f64 - mean).abs();
        assert!(
            off <= 4.0 * deviation + 0.5,
            "{changed} changed: {} found, {mean:.1} ± {deviation:.1} expected",
            found.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn damaged_files_are_errors(at in any::<prop::sample::Index>(), bit in 0..8) {
        let folder = tempfile::tempdir().unwrap();
        let texts = [text(0, 50, 0), text(0, 50, 0)];
        run(&splits(&texts, 2), Keep::First, 1 << 20, None, folder.path());
        let path = folder.path().join("signatures-0");
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        fs::write(&path, bytes).unwrap();
        let runs = folder.path().join("runs");
        let config = MinHashConfig::default();
        let ok = (0..config.buckets)
            .all(|bucket| {
                let edges = folder.path().join("e");
                bucket_edges(&config, std::slice::from_ref(&path), bucket, None, &runs, 0, &edges).is_ok()
            });
        // The lengths are read only for the rule that needs them.
        let lengths = bytes_of_lengths(2);
        prop_assert!(!ok || at >= fs::metadata(&path).unwrap().len() as usize - lengths);
    }
}

/// Bytes of the last section of a signature file, with its checksum.
fn bytes_of_lengths(documents: usize) -> usize {
    documents * 16 + 8
}
