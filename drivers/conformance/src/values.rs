//! Test data: numbers that are a function of a seed, in several styles, and the shapes to put them in.

use fathom_core::dtype::DType;
use proptest::prelude::*;

/// What the numbers of a case look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Normally distributed.
    Normal,
    /// The same times 1e-6.
    Tiny,
    /// The same times 1e4.
    Large,
    /// One in three is zero.
    Sparse,
    /// Zeros.
    Zeros,
    /// Quarters from −2 to 2, so that many are equal.
    Coarse,
}

/// What all cases have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) style: Style,
    /// Type of activations.
    pub(crate) dtype: DType,
    /// Whether operands that may have gaps between their rows do.
    pub(crate) gaps: bool,
}

impl Draw {
    pub(crate) fn any(dtypes: Vec<DType>) -> impl Strategy<Value = Self> {
        let style = prop_oneof![
            4 => Just(Style::Normal),
            1 => Just(Style::Tiny),
            1 => Just(Style::Large),
            1 => Just(Style::Sparse),
            1 => Just(Style::Zeros),
            2 => Just(Style::Coarse),
        ];
        let dtype = proptest::sample::select(dtypes);
        (any::<u64>(), style, dtype, any::<bool>()).prop_map(|(seed, style, dtype, gaps)| Self {
            seed,
            style,
            dtype,
            gaps,
        })
    }

    /// The type of statistics, of weights of norms and of everything else that no policy stores below f32.
    pub(crate) fn wide(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// The random numbers of operand `i`.
    pub(crate) fn rng(&self, i: u64) -> Rng {
        Rng(self.seed ^ i.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// `n` numbers in the style of the case, for operand `i`.
    pub(crate) fn floats(&self, i: u64, n: usize) -> Vec<f64> {
        let mut rng = self.rng(i);
        (0..n)
            .map(|_| {
                let x = rng.normal();
                match self.style {
                    Style::Normal => x,
                    Style::Tiny => x * 1e-6,
                    Style::Large => x * 1e4,
                    Style::Sparse => {
                        if rng.below(3) == 0 {
                            0.0
                        } else {
                            x
                        }
                    }
                    Style::Zeros => 0.0,
                    Style::Coarse => (x * 4.0).round().clamp(-8.0, 8.0) / 4.0,
                }
            })
            .collect()
    }

    /// `n` numbers of ordinary size, whatever the style.
    pub(crate) fn normals(&self, i: u64, n: usize) -> Vec<f64> {
        Self { style: Style::Normal, ..*self }.floats(i, n)
    }

    /// `n` indices below `limit`, for operand `i`.
    pub(crate) fn indices(&self, i: u64, n: usize, limit: usize) -> Vec<u32> {
        let mut rng = self.rng(i);
        (0..n).map(|_| rng.below(limit)).collect()
    }
}

/// A number of rows, columns or terms: often one, sometimes none, often next to a multiple of a vector's length.
pub(crate) fn size(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0usize),
        2 => Just(1usize),
        4 => 2usize..10,
        3 => prop_oneof![15usize..18, 31usize..34, 63usize..67],
    ]
    .prop_map(move |n| n.min(most))
}

/// As [`size`], but at least one.
pub(crate) fn some(most: usize) -> impl Strategy<Value = usize> {
    size(most).prop_map(|n| n.max(1))
}

/// SplitMix64.
pub(crate) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// This many random bits.
    pub(crate) fn bits(&mut self, bits: u32) -> u64 {
        self.next() >> (64 - bits)
    }

    /// From 0 to below 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `limit`, which is at least 1.
    pub(crate) fn below(&mut self, limit: usize) -> u32 {
        (self.next() % limit as u64) as u32
    }

    /// Close enough to normally distributed: the sum of twelve uniform numbers.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// A random order of `0..n`.
    pub(crate) fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1) as usize);
        }
        order
    }
}
