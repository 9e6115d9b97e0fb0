//! Python's `random.Random`: the Mersenne Twister, and the draws that choose few-shot examples and bootstrap samples.
//!
//! The numbers are those of CPython bit for bit (Matsumoto and Nishimura, "Mersenne Twister", 1998; `random.py`).

use std::collections::HashSet;

const N: usize = 624;
const M: usize = 397;

/// A generator seeded with a number, as `random.Random(seed)`.
#[derive(Clone, Debug)]
pub struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl PythonRandom {
    /// The generator of a seed.
    pub fn new(seed: u32) -> Self {
        let mut state = [0u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            state[i] = multiplied(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        // Seeded by the array [seed].
        let mut i = 1;
        for _ in 0..N {
            state[i] = (state[i] ^ multiplied(state[i - 1], 1_664_525)).wrapping_add(seed);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        for _ in 0..N - 1 {
            state[i] = (state[i] ^ multiplied(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, next: N }
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `random()`: a number in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let (a, b) = (f64::from(self.bits() >> 5), f64::from(self.bits() >> 6));
        (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0
    }

    /// A number below `n`, at least 1: `getrandbits` of its length, until one is below.
    fn below(&mut self, n: usize) -> usize {
        let length = usize::BITS - n.leading_zeros();
        loop {
            // Populations have fewer than 2^32 elements.
            let drawn = (self.bits() >> (32 - length.clamp(1, 32))) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `sample(range(n), k)`: `k` different numbers below `n`; all of them where `k` is larger.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let k = k.min(n);
        // Python's measure of when a set is smaller than a list.
        let mut set_size = 21.0;
        if k > 5 {
            set_size += 4f64.powf(((k as f64) * 3.0).log(4.0).ceil());
        }
        if n as f64 <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let (j, last) = (self.below(n - i), pool[n - i - 1]);
                    std::mem::replace(&mut pool[j], last)
                })
                .collect();
        }
        let mut seen = HashSet::new();
        let mut draw = || {
            loop {
                let j = self.below(n);
                if seen.insert(j) {
                    return j;
                }
            }
        };
        (0..k).map(|_| draw()).collect()
    }

    /// One element of `choices(range(n), ...)`.
    pub fn choice(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }
}

fn multiplied(before: u32, factor: u32) -> u32 {
    (before ^ (before >> 30)).wrapping_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `getrandbits(32)` twice, and `sample(range(n), k)`, of `random.Random(1234)` in Python 3.12.
    const PYTHON_BITS: [u32; 2] = [4150886329, 3342196574];
    const PYTHON_SAMPLES: [&[usize]; 6] = [
        &[56, 14, 0, 11, 4],
        &[2, 3, 11, 7, 0],
        &[0, 11, 20, 19, 15],
        &[78, 59, 19, 11, 23, 91],
        &[58, 7, 257, 249, 127, 33, 277, 238, 35, 45, 263, 296, 23, 138, 284, 32, 154, 246, 181, 136],
        &[0, 2, 1],
    ];

    #[test]
    fn the_numbers_are_those_of_python() {
        let mut random = PythonRandom::new(1234);
        assert_eq!([random.bits(), random.bits()], PYTHON_BITS);
        assert_eq!(PythonRandom::new(0).uniform(), 0.844_421_851_525_048_1);
        let mut random = PythonRandom::new(1234);
        let drawn: Vec<Vec<usize>> = [(70, 5), (21, 5), (22, 5), (100, 6), (300, 20), (3, 3)]
            .iter()
            .map(|&(n, k)| random.sample(n, k))
            .collect();
        assert_eq!(drawn, PYTHON_SAMPLES.map(<[usize]>::to_vec));
    }
}
