//! MinHash: short signatures of texts that agree the more, the more word sequences the texts share (Broder, *On the
//! resemblance and containment of documents*, 1997), cut into bands for locality-sensitive hashing.
//!
//! Of `H` hash functions over the set of a text's word sequences, the least value of each agrees between two texts with
//! the probability of their Jaccard similarity `s`. `r` values make a band; with `b` bands, two texts share at least
//! one with the probability `1 - (1 - s^r)^b`. FineWeb's 14 bands of 8 over sequences of 5 words find 92 % of pairs at
//! `s = 0.8` and 1 % at `s = 0.4`.

use super::normalise::Normaliser;
use crate::error::{Error, Result};
use crate::filter::words::{self, Word};
use pulp::Arch;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Parameters of MinHash signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinHashConfig {
    /// n-gram size in words. A text of fewer words has no signature and is nothing's duplicate.
    pub ngram: usize,
    /// Number of bands.
    pub buckets: usize,
    /// Number of hash functions per band.
    pub hashes_per_bucket: usize,
    /// Random seed of the hash functions.
    pub seed: u64,
}

impl Default for MinHashConfig {
    fn default() -> Self {
        Self { ngram: 5, buckets: 14, hashes_per_bucket: 8, seed: 1 }
    }
}

impl MinHashConfig {
    /// Probability that two texts of Jaccard similarity `similarity` share a band.
    pub fn probability(&self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powf(self.hashes_per_bucket as f64)).powf(self.buckets as f64)
    }

    /// Fingerprint of the parameters: signatures under different fingerprints cannot be compared.
    pub fn fingerprint(&self) -> u64 {
        let numbers = [1, self.ngram as u64, self.buckets as u64, self.hashes_per_bucket as u64, self.seed];
        xxh3_64(&numbers.map(u64::to_le_bytes).concat())
    }
}

/// Hash functions that the compiler computes side by side.
const LANES: usize = 16;
/// Far more than anyone needs, and little enough to hold in memory.
const MOST_HASHES: usize = 1 << 16;

/// Computes MinHash signatures.
pub struct MinHasher {
    config: MinHashConfig,
    arch: Arch,
    /// Hash function `i` takes `x` to `multipliers[i] * x + addends[i]` modulo 2^64. The multipliers are odd, so each
    /// is a bijection; `x` is itself a hash, so the least value falls evenly. Padded to whole lanes.
    multipliers: Vec<[u64; LANES]>,
    addends: Vec<[u64; LANES]>,
}

/// Scratch buffers of a thread that computes signatures.
#[derive(Default)]
pub struct MinHashScratch {
    normaliser: Normaliser,
    words: Vec<Word>,
    shingles: Vec<u64>,
    least: Vec<u64>,
}

impl MinHasher {
    /// Builds a hasher with these parameters.
    ///
    /// # Errors
    /// [`Error::Config`] when a parameter is zero or absurd.
    pub fn new(config: &MinHashConfig) -> Result<Self> {
        let hashes = config.buckets.saturating_mul(config.hashes_per_bucket);
        let checks = [
            ("dedup.minhash.ngram", config.ngram, MOST_HASHES),
            ("dedup.minhash.buckets", config.buckets, MOST_HASHES),
            ("dedup.minhash.hashes_per_bucket", hashes, MOST_HASHES),
        ];
        for (field, value, most) in checks {
            if !(1..=most).contains(&value) {
                return Err(Error::Config {
                    field,
                    what: format!("{value} is out of range: 1 to {most} are possible"),
                });
            }
        }
        // The i-th number is a function of the seed and of i alone.
        let number =
            |i: usize, stream: u64| xxh3_64_with_seed(&[i as u64, stream].map(u64::to_le_bytes).concat(), config.seed);
        let blocks = hashes.div_ceil(LANES);
        let block = |stream: u64, set: u64| {
            move |block: usize| std::array::from_fn(|lane| number(block * LANES + lane, stream) | set)
        };
        Ok(Self {
            config: *config,
            arch: Arch::new(),
            multipliers: (0..blocks).map(block(0, 1)).collect(),
            addends: (0..blocks).map(block(1, 0)).collect(),
        })
    }

    /// The parameters.
    pub fn config(&self) -> &MinHashConfig {
        &self.config
    }

    /// The bands of a text's signature, each as 64 bits, into `bands`; false, and none, if the text has fewer words
    /// than a sequence.
    pub fn bands(&self, text: &str, scratch: &mut MinHashScratch, bands: &mut Vec<u64>) -> bool {
        bands.clear();
        let MinHashScratch { normaliser, words, shingles, least } = scratch;
        let text = normaliser.normalise(text);
        words::split(text, words);
        shingle(text, words, self.config.ngram, shingles);
        if shingles.is_empty() {
            return false;
        }
        least.clear();
        least.resize(self.multipliers.len() * LANES, u64::MAX);
        self.arch.dispatch(Least { multipliers: &self.multipliers, addends: &self.addends, shingles, least });
        let bucket = self.config.hashes_per_bucket;
        bands.extend(least.chunks_exact(bucket).take(self.config.buckets).zip(0..).map(|(values, number)| {
            values.iter().fold(number, |hash, value| xxh3_64_with_seed(&value.to_le_bytes(), hash))
        }));
        true
    }
}

/// Hashes of all sequences of `n` words, as they stand in the text.
pub(crate) fn shingle(text: &str, words: &[Word], n: usize, shingles: &mut Vec<u64>) {
    shingles.clear();
    let bytes = text.as_bytes();
    shingles.extend(words.windows(n).map(|window| {
        let (start, end) = (window[0].start as usize, window[n - 1].end as usize);
        xxh3_64(bytes.get(start..end).unwrap_or_default())
    }));
}

/// The least value of each hash function over all shingles: the inner loop of everything here, compiled once for each
/// set of vector instructions and chosen at run time.
struct Least<'a> {
    multipliers: &'a [[u64; LANES]],
    addends: &'a [[u64; LANES]],
    shingles: &'a [u64],
    least: &'a mut [u64],
}

impl pulp::NullaryFnOnce for Least<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (blocks, _) = self.least.as_chunks_mut::<LANES>();
        for ((least, a), b) in blocks.iter_mut().zip(self.multipliers).zip(self.addends) {
            let mut found = [u64::MAX; LANES];
            for &x in self.shingles {
                for lane in 0..LANES {
                    found[lane] = found[lane].min(x.wrapping_mul(a[lane]).wrapping_add(b[lane]));
                }
            }
            *least = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bands(text: &str) -> Vec<u64> {
        let hasher = MinHasher::new(&MinHashConfig::default()).unwrap();
        let mut bands = Vec::new();
        hasher.bands(text, &mut MinHashScratch::default(), &mut bands);
        bands
    }

    #[test]
    fn case_numbers_punctuation_and_accents_do_not_matter() {
        let a = bands("The café sold 12 cakes, 3.5 pies and more on that day.");
        assert_eq!(a.len(), 14);
        assert_eq!(a, bands("the CAFE  sold 7 cakes; 44 pies\nand more, on that day"));
        assert_ne!(a, bands("The café sold 12 cakes, 3.5 pies and less on that day."));
    }

    #[test]
    fn a_short_text_has_no_signature() {
        assert!(bands("only four words here").is_empty());
        assert!(!bands("there are five words here").is_empty());
        assert!(bands("").is_empty());
    }

    #[test]
    fn least_values_are_those_of_the_definition() {
        let config = MinHashConfig { buckets: 3, hashes_per_bucket: 7, ..MinHashConfig::default() };
        let hasher = MinHasher::new(&config).unwrap();
        let shingles: Vec<u64> = (0..100_u64).map(|i| xxh3_64(&i.to_le_bytes())).collect();
        let mut least = vec![u64::MAX; 32];
        hasher.arch.dispatch(Least {
            multipliers: &hasher.multipliers,
            addends: &hasher.addends,
            shingles: &shingles,
            least: &mut least,
        });
        for (i, found) in least.iter().enumerate() {
            let (a, b) = (hasher.multipliers[i / LANES][i % LANES], hasher.addends[i / LANES][i % LANES]);
            assert_eq!(shingles.iter().map(|x| x.wrapping_mul(a).wrapping_add(b)).min(), Some(*found));
        }
    }

    #[test]
    fn refuses_absurd_parameters() {
        for config in [
            MinHashConfig { ngram: 0, ..MinHashConfig::default() },
            MinHashConfig { buckets: 0, ..MinHashConfig::default() },
            MinHashConfig { hashes_per_bucket: usize::MAX, ..MinHashConfig::default() },
        ] {
            assert!(matches!(MinHasher::new(&config), Err(Error::Config { .. })));
        }
    }

    #[test]
    fn the_curve_is_that_of_the_paper() {
        let config = MinHashConfig::default();
        for (similarity, expected) in [(0.7, 0.565), (0.75, 0.772), (0.8, 0.924), (0.85, 0.988)] {
            assert!((config.probability(similarity) - expected).abs() < 5e-4);
        }
    }
}
