//! A keyed permutation of `0..n` that needs no memory: the shuffled order of sequences.

/// A permutation of `0..n`, chosen by a seed and an epoch.
///
/// A balanced Feistel network permutes the smallest power of four that holds `n`; numbers that land outside `0..n` walk
/// along their cycle until they land inside (Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002). The
/// domain is less than `4 n`, so a look-up takes fewer than four steps on average, and any element of the order is
/// found without the ones before it.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

const ROUNDS: usize = 6;

impl Permutation {
    /// The order of `n` elements in `epoch` of a run with `seed`.
    pub fn new(n: u64, seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(1);
        let mut state = mix(seed ^ mix(epoch.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        let keys = std::array::from_fn(|_| {
            state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            state
        });
        Self { n, half_bits, keys }
    }

    /// The element at place `i` of the order.
    ///
    /// # Panics
    /// If `i` is not below `n`.
    pub fn get(&self, i: u64) -> u64 {
        assert!(i < self.n, "place {i} of an order of {} elements", self.n);
        let mut x = i;
        loop {
            x = self.round_trip(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn round_trip(&self, x: u64) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.half_bits);
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_appears_once() {
        for n in [1, 2, 3, 4, 5, 16, 17, 1000, 4097] {
            for epoch in 0..3 {
                let order = Permutation::new(n, 7, epoch);
                let mut seen: Vec<u64> = (0..n).map(|i| order.get(i)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn seed_and_epoch_change_the_order() {
        let order = |seed, epoch| {
            let p = Permutation::new(500, seed, epoch);
            (0..500).map(|i| p.get(i)).collect::<Vec<_>>()
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        let fixed = order(1, 0).iter().zip(0..).filter(|(a, b)| **a == *b).count();
        assert!(fixed < 10, "{fixed} of 500 elements stayed in place");
    }

    #[test]
    fn works_at_the_largest_domain() {
        let order = Permutation::new(u64::MAX, 3, 0);
        assert_ne!(order.get(0), order.get(1));
    }
}
