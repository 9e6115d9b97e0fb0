//! How many planted near-duplicates are found at each similarity, held against theory; how fast; and in how much
//! memory.
//!
//! ```text
//! cargo run --release --example dedup_curve [PAIRS [MEMORY_MIB [GROWTH]]]
//! ```
//!
//! For each number of changed words, PAIRS pairs of random texts of 400 words are made that differ in that number of
//! words. All texts go through every task of deduplication, in splits of 1000. Then the whole is done again with GROWTH
//! times as many pairs, and the peak memory of the process is shown of both (Linux). Times are of the processor.

use fathom_dataprep::dedup::{
    ClusterSummary, Keep, MinHashConfig, MinHashScratch, MinHasher, Removals, SignatureWriter, bucket_edges, cluster,
};
use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Instant;

const WORDS: usize = 400;
const CHANGED: [usize; 12] = [2, 4, 6, 8, 10, 12, 15, 18, 22, 28, 36, 50];
const SPLIT: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| args.next().map_or(Ok(default), |arg| arg.parse::<u64>());
    let (pairs, memory, growth) = (number(400)?, number(1)? as usize * (1 << 20), number(10)?);
    let small = Run::new(pairs, memory)?;
    small.print_curve();
    small.print_cost();
    let large = Run::new(pairs * growth, memory)?;
    large.print_cost();
    Ok(())
}

/// One corpus that went through all tasks.
struct Run {
    pairs: u64,
    /// By number of changed words: pairs found, sum of their similarities, pairs expected, and the variance of that.
    rows: Vec<(usize, f64, f64, f64)>,
    wrong: usize,
    summary: ClusterSummary,
    signing: f64,
    merging: f64,
    bytes: u64,
    signature_bytes: u64,
    peak: Option<u64>,
}

impl Run {
    fn new(pairs: u64, memory: usize) -> Result<Self, Box<dyn Error>> {
        let folder = std::env::temp_dir().join(format!("dedup-curve-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let run = Self::inside(&folder, pairs, memory);
        fs::remove_dir_all(&folder)?;
        run
    }

    fn inside(folder: &Path, pairs: u64, memory: usize) -> Result<Self, Box<dyn Error>> {
        reset_peak();
        let config = MinHashConfig::default();
        let hasher = MinHasher::new(&config)?;
        let (mut scratch, mut bands) = (MinHashScratch::default(), Vec::new());
        let documents = pairs * 2 * CHANGED.len() as u64;
        let (mut signing, mut bytes) = (0.0, 0);
        let mut signatures = Vec::new();
        for first in (0..documents).step_by(SPLIT as usize) {
            let mut split = SignatureWriter::new(&config);
            let texts: Vec<String> = (first..documents.min(first + SPLIT)).map(document_text).collect();
            let start = seconds();
            for (text, document) in texts.iter().zip(first..) {
                bytes += text.len() as u64;
                hasher.bands(text, &mut scratch, &mut bands);
                split.push(document, &bands, text.len() as u64);
            }
            signing += seconds() - start;
            signatures.push(folder.join(format!("signatures-{first:012}")));
            split.publish(&signatures[signatures.len() - 1])?;
        }
        let start = seconds();
        let runs = folder.join("runs");
        let edges: Vec<PathBuf> = (0..config.buckets).map(|bucket| folder.join(format!("edges-{bucket}"))).collect();
        for (bucket, out) in edges.iter().enumerate() {
            bucket_edges(&config, &signatures, bucket, None, &runs, memory, out)?;
        }
        let removed = folder.join("removed");
        let summary = cluster(&config, &edges, &signatures, Keep::First, &runs, memory, &removed)?;
        let merging = seconds() - start;
        let peak = peak();
        let sizes = signatures.iter().map(|path| fs::metadata(path).map(|info| info.len()));
        let signature_bytes = sizes.sum::<Result<u64, _>>()?;
        let (rows, wrong) = compare(&config, &removed, documents)?;
        Ok(Self { pairs, rows, wrong, summary, signing, merging, bytes, signature_bytes, peak })
    }

    fn print_curve(&self) {
        println!("| words changed | mean Jaccard | found of {} | expected | deviations off |", self.pairs);
        println!("|---|---|---|---|---|");
        for ((found, similarity, expected, variance), changed) in self.rows.iter().zip(CHANGED) {
            let mean = similarity / self.pairs as f64;
            let off = (*found as f64 - expected) / variance.sqrt().max(1e-9);
            println!("| {changed} | {mean:.3} | {found} | {expected:.1} | {off:+.1} |");
        }
        println!("\nPairs found that were not planted: {}", self.wrong);
    }

    fn print_cost(&self) {
        let documents = self.pairs * 2 * CHANGED.len() as u64;
        println!(
            "\n{documents} documents, {:.1} MB: signatures at {:.0} documents/s and {:.1} MB/s on one thread; \
             {:.1} MB of signatures merged in {:.2} s; {:?}; peak of the process {}",
            self.bytes as f64 / 1e6,
            documents as f64 / self.signing,
            self.bytes as f64 / 1e6 / self.signing,
            self.signature_bytes as f64 / 1e6,
            self.merging,
            self.summary,
            self.peak.map_or("unknown".into(), |kib| format!("{:.1} MiB", kib as f64 / 1024.0)),
        );
    }
}

/// Word `i` of text `seed`, in its first or a changed form.
fn word(seed: u64, i: usize, changed: bool) -> [u8; 6] {
    let mut z = (seed << 20 | (i as u64) << 1 | u64::from(changed)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    std::array::from_fn(|k| b'a' + (z >> (8 * k)) as u8 % 26)
}

/// The words of a document: of two consecutive ones, the second differs from the first in some words, spread evenly.
fn words(document: u64) -> impl Iterator<Item = [u8; 6]> {
    let pair = document / 2;
    let changed = if document.is_multiple_of(2) { 0 } else { CHANGED[(pair % CHANGED.len() as u64) as usize] };
    (0..WORDS).map(move |i| word(pair, i, changed > 0 && (i * changed) % WORDS < changed))
}

fn document_text(document: u64) -> String {
    let words: Vec<String> = words(document).map(|word| word.into_iter().map(char::from).collect()).collect();
    words.join(" ")
}

/// Jaccard similarity of a pair's sequences of five words.
fn jaccard(pair: u64) -> f64 {
    let shingles = |document| {
        let words: Vec<_> = words(document).collect();
        words.windows(5).map(<[_]>::concat).collect::<HashSet<_>>()
    };
    let (a, b) = (shingles(pair * 2), shingles(pair * 2 + 1));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

type Rows = Vec<(usize, f64, f64, f64)>;

fn compare(config: &MinHashConfig, removed: &Path, documents: u64) -> Result<(Rows, usize), Box<dyn Error>> {
    let mut rows = vec![(0, 0.0, 0.0, 0.0); CHANGED.len()];
    let mut removals = Removals::open(removed, 0)?;
    let mut wrong = 0;
    for document in 0..documents {
        let pair = document / 2;
        let row = &mut rows[(pair % CHANGED.len() as u64) as usize];
        match removals.kept_for(document)? {
            Some(kept) if document % 2 == 1 && kept == document - 1 => row.0 += 1,
            Some(_) => wrong += 1,
            None => {}
        }
        if document % 2 == 1 {
            let similarity = jaccard(pair);
            let probability = config.probability(similarity);
            row.1 += similarity;
            row.2 += probability;
            row.3 += probability * (1.0 - probability);
        }
    }
    Ok((rows, wrong))
}

/// Seconds of processor time of this thread, which other programs do not lengthen; of the clock where the system (not
/// Linux) does not say.
fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let ran = || fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse::<f64>().ok();
    ran().map_or_else(|| START.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

/// Greatest resident memory in KiB since [`reset_peak`].
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

fn reset_peak() {
    // Where the system has no such file, the second peak includes the first.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
