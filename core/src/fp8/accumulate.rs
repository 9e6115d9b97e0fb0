//! Accumulation of FP8 products: exact, or as Hopper's tensor cores do.
//!
//! The V3 report (§3.3.2, §3.5.2): after aligning 32 products by the largest exponent, the tensor core keeps the
//! highest 14 bits of each, shifting with the sign, and its accumulator keeps 14 bits too. Sums over a long inner
//! dimension lose most of their precision, so the recipe *promotes* a partial sum to an f32 accumulator every 128
//! elements, where the scales are multiplied in. [`Hopper`] emulates that, to show what promotion is worth; it is not
//! meant to be fast.
//!
//! Without promotion there is no place to multiply by the scale of a tile, and real products then have one scale for
//! the whole matrix. To compare the sums alone, the emulation lets scales change from tile to tile at no loss.

/// Products that one instruction adds up.
const GROUP: usize = 32;
/// Bits of a product, or of the accumulator, below the largest exponent.
const BITS: i32 = 14;

/// Accumulation of a product of FP8 matrices along its inner dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulation {
    /// Sums in f64, which is exact for the products of a tile and rounds far below f32 over all tiles.
    #[default]
    Exact,
    /// Sums with the 14 bits of Hopper's tensor cores, promoted to f32 after each tile, or never.
    Hopper {
        /// Move the partial sum of each tile into an f32 accumulator.
        promote: bool,
    },
}

/// The accumulator of a tensor core.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hopper {
    sum: f64,
}

impl Hopper {
    /// Adds products, 32 at a time.
    pub fn add(&mut self, products: impl IntoIterator<Item = f64>) {
        let mut group = [0.0; GROUP];
        let mut filled = 0;
        for product in products {
            group[filled] = product;
            filled += 1;
            if filled == GROUP {
                self.add_group(&group);
                filled = 0;
            }
        }
        if filled > 0 {
            self.add_group(&group[..filled]);
        }
    }

    /// Counts the sum in another unit, `factor` times as many of it, at no loss.
    pub fn rescale(&mut self, factor: f64) {
        self.sum *= factor;
    }

    /// The sum so far.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    fn add_group(&mut self, products: &[f64]) {
        let largest = products.iter().fold(self.sum.abs(), |m, p| m.max(p.abs()));
        let total: f64 = products.iter().chain([&self.sum]).map(|&p| shift(p, largest)).sum();
        self.sum = shift(total, total.abs());
    }
}

/// `x` with what lies below the 14 highest bits of a number as large as `largest` cut off, towards −∞ as a shift with
/// the sign does.
fn shift(x: f64, largest: f64) -> f64 {
    if largest == 0.0 {
        return x;
    }
    let (_, exponent) = libm::frexp(largest); // largest < 2^exponent
    let unit = libm::ldexp(1.0, exponent - BITS);
    libm::floor(x / unit) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_fourteen_bits_is_exact() {
        let mut sum = Hopper::default();
        sum.add((1..=64).map(f64::from));
        assert_eq!(sum.sum(), 2080.0);
    }

    #[test]
    fn small_addends_are_lost_against_a_large_sum() {
        let mut sum = Hopper::default();
        sum.add([8192.0]);
        sum.add(core::iter::repeat_n(0.75, 1000));
        assert_eq!(sum.sum(), 8192.0, "0.75 lies below the last of 14 bits");
        let mut negative = Hopper::default();
        negative.add([8192.0, -0.75]);
        assert_eq!(negative.sum(), 8191.0, "a shift with the sign rounds down");
    }
}
