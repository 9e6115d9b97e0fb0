//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A number is a pure function of `(seed, stream, index)`. There is no state to carry, so the result does not depend on
//! the order of calls, on how work is divided among threads, or on the platform: integers are exact, and real numbers
//! go through `libm` in f64. The `stream` keeps independent uses of one seed apart; [`stream`] makes one from a name.

use core::f64::consts::TAU;

/// Philox: four random words for a 128-bit counter under a 64-bit key, in ten rounds.
pub const fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut words = counter;
    let mut key = key;
    let mut round = 0;
    while round < 10 {
        let a = MULTIPLIER[0] as u64 * words[0] as u64;
        let b = MULTIPLIER[1] as u64 * words[2] as u64;
        words = [(b >> 32) as u32 ^ words[1] ^ key[0], b as u32, (a >> 32) as u32 ^ words[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    words
}

const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// Two random 64-bit words: block `index` of a stream.
const fn block(seed: u64, stream: u64, index: u64) -> [u64; 2] {
    let ([i0, i1], [s0, s1]) = (halves(index), halves(stream));
    let [a, b, c, d] = philox4x32([i0, i1, s0, s1], halves(seed));
    [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
}

/// Stream number of a name (64-bit FNV-1a), so that each parameter or purpose draws its own numbers.
pub const fn stream(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01B3);
        i += 1;
    }
    hash
}

/// Number `index` of a stream: 64 random bits.
pub const fn bits(seed: u64, stream: u64, index: u64) -> u64 {
    block(seed, stream, index / 2)[(index % 2) as usize]
}

/// Number `index` of a stream, uniform in [0, 1), a multiple of 2⁻⁵³.
pub const fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    to_unit(bits(seed, stream, index))
}

const fn to_unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Number `index` of a stream, standard normal: Box–Muller in f64, rounded to f32 once.
pub fn normal(seed: u64, stream: u64, index: u64) -> f32 {
    normal_pair(seed, stream, index / 2)[(index % 2) as usize] as f32
}

/// Fills `values` with normal numbers of mean 0 and standard deviation `std`: the stream's numbers from index `start`.
///
/// Filling a slice in pieces gives the same values as filling it at once.
pub fn fill_normal(seed: u64, stream: u64, start: u64, std: f64, values: &mut [f32]) {
    let mut index = start;
    let mut rest = values;
    while !rest.is_empty() {
        let pair = normal_pair(seed, stream, index / 2);
        let skip = (index % 2) as usize;
        let take = rest.len().min(2 - skip);
        let (head, tail) = rest.split_at_mut(take);
        for (value, z) in head.iter_mut().zip(&pair[skip..]) {
            *value = (z * std) as f32;
        }
        index = index.wrapping_add(take as u64);
        rest = tail;
    }
}

/// Two independent standard normal numbers from one Philox block.
fn normal_pair(seed: u64, stream: u64, index: u64) -> [f64; 2] {
    let [a, b] = block(seed, stream, index);
    // 1 − u lies in (0, 1], where the logarithm is finite.
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - to_unit(a)));
    let angle = TAU * to_unit(b);
    [radius * libm::cos(angle), radius * libm::sin(angle)]
}

/// A pseudo-random permutation of `0..len`, evaluated one point at a time and without memory.
///
/// An eight-round Feistel network over the smallest even number of bits that holds `len`, whose round function is
/// Philox keyed by the seed. A result outside the range is fed back until it falls inside (cycle walking), which takes
/// fewer than four passes on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    key: [u32; 2],
    stream: [u32; 2],
}

impl Permutation {
    const ROUNDS: u32 = 8;

    /// The permutation of `0..len` that `seed` and `stream` (an epoch, say) name.
    pub const fn new(len: u64, seed: u64, stream: u64) -> Self {
        let bits = if len <= 1 { 0 } else { 64 - (len - 1).leading_zeros() };
        Permutation { len, half_bits: bits.div_ceil(2), key: halves(seed), stream: halves(stream) }
    }

    /// Number of elements permuted.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to permute.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Image of `index`, or `None` where it is not below [`len`](Self::len).
    pub const fn get(&self, index: u64) -> Option<u64> {
        if index >= self.len {
            return None;
        }
        let mut value = self.pass(index);
        // A permutation's cycle through `index` comes back below `len` at the latest at `index` itself.
        while value >= self.len {
            value = self.pass(value);
        }
        Some(value)
    }

    const fn pass(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        let mut round = 0;
        while round < Self::ROUNDS {
            let [s0, s1] = self.stream;
            let word = philox4x32([right as u32, round, s0, s1], self.key)[0] as u64;
            (left, right) = (right, left ^ (word & mask));
            round += 1;
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    /// Random123's `kat_vectors`, lines `philox4x32 10`.
    #[test]
    fn philox_known_answers() {
        let vectors = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, expected) in vectors {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn stream_is_fnv_1a() {
        assert_eq!(stream(""), 0xcbf29ce484222325);
        assert_eq!(stream("foobar"), 0x85944171f73967e8);
    }

    #[test]
    fn uniform_is_in_range_and_spread() {
        let mean =
            (0..10_000).map(|i| uniform(7, 3, i)).inspect(|u| assert!((0.0..1.0).contains(u))).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn normal_has_its_moments() {
        let n = 100_000;
        let mut moments = [0.0f64; 4];
        for i in 0..n {
            let z = normal(42, stream("weight"), i) as f64;
            for (power, moment) in moments.iter_mut().enumerate() {
                *moment += libm::pow(z, power as f64 + 1.0) / n as f64;
            }
        }
        // Four standard errors each.
        for (moment, (expected, error)) in
            moments.into_iter().zip([(0.0, 0.013), (1.0, 0.018), (0.0, 0.05), (3.0, 0.125)])
        {
            assert!((moment - expected).abs() < error, "{moments:?}");
        }
    }

    #[test]
    fn fill_does_not_depend_on_the_pieces() {
        let mut whole = [0.0; 101];
        fill_normal(1, 2, 5, 0.006, &mut whole);
        let mut pieces = [0.0; 101];
        let (a, b) = pieces.split_at_mut(38);
        fill_normal(1, 2, 43, 0.006, b);
        fill_normal(1, 2, 5, 0.006, a);
        assert_eq!(whole, pieces);
        fill_normal(1, 2, 5, 1.0, &mut whole);
        assert!(whole.iter().enumerate().all(|(i, &z)| z == normal(1, 2, 5 + i as u64)));
    }

    /// The bits that every platform must give; computed independently with numpy.
    #[test]
    fn results_are_fixed() {
        let normals = [0, 1, 2, 3].map(|i| normal(1, 2, i).to_bits());
        assert_eq!(normals, [1067252332, 1050541253, 1072495299, 1059727706]);
        let permutation = Permutation::new(10, 1, 0);
        let order: [u64; 10] = core::array::from_fn(|i| permutation.get(i as u64).unwrap());
        assert_eq!(order, [0, 4, 2, 9, 1, 6, 7, 5, 3, 8]);
    }

    #[test]
    fn permutation_is_a_bijection() {
        for len in [1, 2, 3, 5, 16, 17, 1000, 4097] {
            let permutation = Permutation::new(len, 9, 1);
            let mut seen = vec![false; len as usize];
            for i in 0..len {
                let j = permutation.get(i).unwrap() as usize;
                assert!(!core::mem::replace(&mut seen[j], true), "{len}: {j} twice");
            }
            assert_eq!(permutation.get(len), None);
        }
        assert_eq!(Permutation::new(0, 9, 1).get(0), None);
        // The largest domain: 64 bits, where nothing may overflow.
        assert!(Permutation::new(u64::MAX, 9, 1).get(u64::MAX - 1).is_some());
    }

    #[test]
    fn permutations_differ_by_seed_and_stream_and_mix() {
        let order = |seed, stream| -> vec::Vec<u64> {
            let permutation = Permutation::new(1000, seed, stream);
            (0..1000).map(|i| permutation.get(i).unwrap()).collect()
        };
        let (a, b, c) = (order(0, 0), order(0, 1), order(1, 0));
        for (x, y) in [(&a, &b), (&a, &c), (&b, &c)] {
            let same = x.iter().zip(y).filter(|(x, y)| x == y).count();
            assert!(same < 10, "{same} of 1000 elements in the same place");
        }
        // Neighbours end up a third of the range apart on average, as in a uniform permutation.
        let apart = a.windows(2).map(|w| w[0].abs_diff(w[1])).sum::<u64>() as f64 / 999.0;
        assert!((apart - 333.3).abs() < 40.0, "{apart}");
    }
}
