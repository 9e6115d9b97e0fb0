//! A weight as a checkpoint holds it: E4M3 codes row by row, and one scale for every block of rows and columns.
//!
//! DeepSeek's files name them `X.weight` and `X.weight_scale_inv`; an element is `code · scale`, multiplied in f32.

use super::codes::{Code, E4M3};
use super::scale::scale_of;

/// Scale blocks of a matrix: `block` rows and columns share a scale, and the last block of either may be ragged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Rows of the matrix.
    pub rows: usize,
    /// Its columns.
    pub cols: usize,
    /// Rows and columns of a block (`weight_block_size`), at least 1 each.
    pub block: [usize; 2],
}

/// Where a number should be and is none: an element that is NaN or infinite, or a code that stands for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANumber {
    /// Row, from 0.
    pub row: usize,
    /// Column, from 0.
    pub col: usize,
}

impl core::fmt::Display for NotANumber {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the element in row {}, column {} is not a finite number", self.row, self.col)
    }
}

impl core::error::Error for NotANumber {}

impl Blocks {
    /// Rows and columns of the scales, `[⌈rows/block₀⌉, ⌈cols/block₁⌉]`.
    pub const fn scales(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.block[0]), self.cols.div_ceil(self.block[1])]
    }

    /// Decodes `codes [rows, cols]` with `scales`, of the shape that [`scales`](Self::scales) gives: each element is
    /// the product in f32, rounded once.
    ///
    /// # Errors
    /// The first code, row by row, that stands for NaN. What scales are is the caller's to check.
    ///
    /// # Panics
    /// If a slice is shorter than its shape.
    pub fn decode(&self, codes: &[u8], scales: &[f32], values: &mut [f32]) -> Result<(), NotANumber> {
        let table: [f32; 256] = core::array::from_fn(|code| E4M3::decode(code as u16));
        let [_, across] = self.scales();
        for row in 0..self.rows {
            let range = row * self.cols..(row + 1) * self.cols;
            let scales = &scales[row / self.block[0] * across..][..across];
            let (codes, values) = (&codes[range.clone()], &mut values[range]);
            if let Some(col) = codes.iter().position(|code| code & 0x7f == 0x7f) {
                return Err(NotANumber { row, col });
            }
            let blocks = codes.chunks(self.block[1]).zip(values.chunks_mut(self.block[1]));
            for ((codes, values), &scale) in blocks.zip(scales) {
                for (value, &code) in values.iter_mut().zip(codes) {
                    *value = table[usize::from(code)] * scale;
                }
            }
        }
        Ok(())
    }

    /// Encodes `values [rows, cols]`, block by block, with the scale of [`block_scale`].
    ///
    /// # Errors
    /// An element that is NaN or infinite; codes and scales are then not to be used.
    ///
    /// # Panics
    /// If a slice is shorter than its shape.
    pub fn encode(
        &self,
        values: &[f32],
        power_of_two: bool,
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<(), NotANumber> {
        let ([down, across], [height, width]) = (self.scales(), self.block);
        for (i, j) in (0..down).flat_map(|i| (0..across).map(move |j| (i, j))) {
            let rows = i * height..self.rows.min((i + 1) * height);
            let cols = j * width..self.cols.min((j + 1) * width);
            let line = |row: usize| row * self.cols + cols.start..row * self.cols + cols.end;
            let scale =
                match block_scale::<E4M3>(rows.clone().flat_map(|row| &values[line(row)]).copied(), power_of_two) {
                    Ok(scale) => scale,
                    Err(at) => {
                        return Err(NotANumber {
                            row: rows.start + at / cols.len(),
                            col: cols.start + at % cols.len(),
                        });
                    }
                };
            scales[i * across + j] = scale;
            for row in rows {
                for (code, &x) in codes[line(row)].iter_mut().zip(&values[line(row)]) {
                    *code = E4M3::encode_finite(x / scale) as u8;
                }
            }
        }
        Ok(())
    }
}

/// The scale of a block of a weight: where the elements are codes times a scale already, that scale; else
/// [`scale_of`] their largest magnitude. So a weight that was decoded is encoded as it was.
///
/// Decoding rounds `code · scale`, and `amax / 448` need not give back the scale that made `amax`. But the scale is
/// then at most one unit in the last place away, or a smaller code of the same binade made `amax`; those are tried.
///
/// Two scales can give the same elements. Of f32 scales this needs a block of very few elements, and then the first
/// that fits is taken. Of powers of two it happens where `amax` is 448 times one: twice that one fits too, with 224 for
/// 448, unless an element needs the smallest codes. It is then the likelier one, and is taken: about one block of
/// normally distributed weights in a hundred comes back with another scale and other codes, and always with the same
/// values.
///
/// # Errors
/// The place, in the order of `elements`, of one that is NaN or infinite.
pub fn block_scale<C: Code>(elements: impl Iterator<Item = f32> + Clone, power_of_two: bool) -> Result<f32, usize> {
    let mut amax = 0.0f32;
    for (at, x) in elements.clone().enumerate() {
        if !x.is_finite() {
            return Err(at);
        }
        amax = amax.max(x.abs());
    }
    let scale = scale_of(amax, C::MAX, power_of_two);
    if amax == 0.0 {
        return Ok(scale);
    }
    let fits = |scale: &f32| {
        scale.is_normal()
            && elements.clone().all(|x| (C::decode(C::encode_finite(x / scale)) * scale).to_bits() == x.to_bits())
    };
    // A quotient that is a power of two comes of such scales, whatever is asked for.
    let doubled = (scale.to_bits() << 9 == 0 && scale * C::MAX == amax).then_some(2.0 * scale);
    let half = 1 << C::MANTISSA; // codes to the next binade
    let codes = if power_of_two { 0..0 } else { C::MAX_CODE - half..C::MAX_CODE + 1 };
    let quotients = codes.rev().map(|code| amax / C::decode(code)).flat_map(|x| [x, x.next_up(), x.next_down()]);
    let exact = doubled.into_iter().chain([scale]).chain(quotients).find(fits);
    Ok(exact.unwrap_or(scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use core::f64::consts::TAU;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// Normally distributed numbers, the shape of trained weights.
    fn normal(seed: u64, n: usize, std: f64) -> Vec<f32> {
        let uniform = |i: u64| rng::uniform(seed, 7, i);
        let pair = |i: u64| libm::sqrt(-2.0 * libm::log(1.0 - uniform(2 * i))) * libm::cos(TAU * uniform(2 * i + 1));
        (0..n as u64).map(|i| (std * pair(i)) as f32).collect()
    }

    fn encode(blocks: &Blocks, values: &[f32], power_of_two: bool) -> (Vec<u8>, Vec<f32>) {
        let [down, across] = blocks.scales();
        let (mut codes, mut scales) = (vec![0; values.len()], vec![0.0; down * across]);
        blocks.encode(values, power_of_two, &mut codes, &mut scales).expect("finite");
        (codes, scales)
    }

    fn decode(blocks: &Blocks, codes: &[u8], scales: &[f32]) -> Vec<f32> {
        let mut values = vec![0.0; codes.len()];
        blocks.decode(codes, scales, &mut values).expect("no NaN");
        values
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn what_was_decoded_is_encoded_as_it_was() {
        let blocks = Blocks { rows: 64 * 25, cols: 64 * 12 - 17, block: [64, 64] };
        let values = normal(1, blocks.rows * blocks.cols, 0.02);
        let (codes, scales) = encode(&blocks, &values, false);
        let decoded = decode(&blocks, &codes, &scales);
        let (codes_again, scales_again) = encode(&blocks, &decoded, false);
        assert_eq!(bits(&scales_again), bits(&scales));
        assert_eq!(codes_again, codes);
    }

    #[test]
    fn the_quotient_alone_would_lose_scales() {
        let lost = (0..10_000u32).filter(|i| {
            let scale = f32::from_bits(0x3a80_0000 + i * 839);
            (448.0 * scale) / 448.0 != scale
        });
        assert!(lost.count() > 100, "else the search for a scale has no purpose");
    }

    #[test]
    fn powers_of_two_come_back_under_either_kind_of_scale() {
        let blocks = Blocks { rows: 512, cols: 1280, block: [128, 128] };
        let values = normal(3, blocks.rows * blocks.cols, 0.02);
        let (codes, scales) = encode(&blocks, &values, true);
        let decoded = decode(&blocks, &codes, &scales);
        for power_of_two in [true, false] {
            let (codes_again, scales_again) = encode(&blocks, &decoded, power_of_two);
            assert_eq!(bits(&decode(&blocks, &codes_again, &scales_again)), bits(&decoded), "{power_of_two}");
            let other = scales.iter().zip(&scales_again).filter(|(a, b)| a != b);
            for (before, after) in other.clone() {
                assert_eq!(*after, 2.0 * before, "the one other power of two that fits");
            }
            assert!(other.count() <= 2, "of {} scales", scales.len());
        }
        // 224 of the larger scale, or 448 of the smaller: the values are the same, and the larger is taken.
        for (largest, power_of_two) in [(448.0, true), (224.0, true), (448.0, false), (224.0, false)] {
            let (scale, step) = (448.0 / largest * 2f32.powi(-10), if largest == 448.0 { 2f32.powi(-9) } else { 1.0 });
            let values = [largest * scale, 3.0 * scale, step * scale];
            assert_eq!(block_scale::<E4M3>(values.into_iter(), power_of_two), Ok(scale), "{largest}");
        }
    }

    #[test]
    fn the_place_of_what_is_no_number_is_told() {
        let blocks = Blocks { rows: 5, cols: 7, block: [2, 3] };
        let (mut codes, mut scales) = ([0; 35], [0.0; 9]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 35];
            values[3 * 7 + 5] = bad;
            let found = blocks.encode(&values, false, &mut codes, &mut scales);
            assert_eq!(found, Err(NotANumber { row: 3, col: 5 }));
        }
        for bad in [0x7f, 0xff] {
            let mut codes = [0x7e; 35];
            codes[4 * 7 + 6] = bad;
            let found = blocks.decode(&codes, &[1.0; 9], &mut [0.0; 35]);
            assert_eq!(found, Err(NotANumber { row: 4, col: 6 }));
        }
    }

    #[test]
    fn zeros_keep_their_sign_and_have_scale_one() {
        let blocks = Blocks { rows: 1, cols: 4, block: [128, 128] };
        let values = [0.0, -0.0, 0.0, -0.0];
        let (codes, scales) = encode(&blocks, &values, false);
        assert_eq!((codes.as_slice(), scales.as_slice()), (&[0, 0x80, 0, 0x80][..], &[1.0][..]));
        assert_eq!(bits(&decode(&blocks, &codes, &scales)), bits(&values));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Of few elements the scale is not always determined, but what they decode to is.
        #[test]
        fn encoding_what_was_decoded_changes_no_value(
            codes in prop::collection::vec(any::<u8>(), 1..60), cols in 1usize..9, block in 1usize..6,
            mantissa in 0u32..1 << 23, exponent in 20u32..230, power_of_two: bool
        ) {
            let codes: Vec<u8> = codes.iter().map(|&c| if c & 0x7f == 0x7f { 0 } else { c }).collect();
            let rows = codes.len() / cols;
            let codes = &codes[..rows * cols];
            let blocks = Blocks { rows, cols, block: [block, block] };
            let scale = f32::from_bits(exponent << 23 | if power_of_two { 0 } else { mantissa });
            let [down, across] = blocks.scales();
            let values = decode(&blocks, codes, &vec![scale; down * across]);
            // A block of any codes need not have a large one; those that are encoded do.
            let (codes, scales) = encode(&blocks, &values, power_of_two);
            let once = decode(&blocks, &codes, &scales);
            let (codes, scales) = encode(&blocks, &once, power_of_two);
            prop_assert_eq!(bits(&decode(&blocks, &codes, &scales)), bits(&once));
        }
    }
}
