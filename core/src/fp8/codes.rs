//! FP8 and E5M6 codes: sign, exponent and mantissa in eight or twelve bits.
//!
//! Encoding rounds to nearest, ties to even, and saturates: what is larger than the largest code becomes the largest
//! code, as PyTorch's `clamp` before a cast does. NaN and infinity have no code that stands for them in arithmetic with
//! scales; encoding them is an error.

/// NaN or infinity, where only numbers can be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite;

impl core::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NaN or infinity cannot be quantised")
    }
}

impl core::error::Error for NonFinite {}

/// A floating-point format of a sign, `EXPONENT` bits of exponent and `MANTISSA` of mantissa, with gradual underflow.
pub trait Code {
    /// Bits of the exponent.
    const EXPONENT: u32;
    /// Bits of the mantissa.
    const MANTISSA: u32;
    /// The magnitude's bits of the largest number; above it lie infinity, where there is one, and NaN.
    const MAX_CODE: u16;
    /// Whether the code after the largest number is infinity (else NaN).
    const INFINITY: bool;

    /// Exponent bias.
    const BIAS: i32 = (1 << (Self::EXPONENT - 1)) - 1;
    /// The sign's bit.
    const SIGN: u16 = 1 << (Self::EXPONENT + Self::MANTISSA);
    /// The largest number.
    const MAX: f32 = magnitude(Self::MAX_CODE, Self::MANTISSA, Self::BIAS);
    /// The smallest number above zero, the unit in the last place of the smallest exponent.
    const TINY: f32 = magnitude(1, Self::MANTISSA, Self::BIAS);

    /// The nearest code of a finite `x`.
    ///
    /// # Errors
    /// [`NonFinite`] for NaN and infinity.
    fn encode(x: f32) -> Result<u16, NonFinite> {
        if x.is_finite() { Ok(Self::encode_finite(x)) } else { Err(NonFinite) }
    }

    /// The nearest code of `x`, which must be finite: of infinity the result is the largest code, of NaN any.
    #[inline]
    fn encode_finite(x: f32) -> u16 {
        let sign = if x.is_sign_negative() { Self::SIGN } else { 0 };
        let x = x.abs().min(Self::MAX);
        // The exponent of the binade that x lies in, no lower than that of the subnormal numbers.
        let exponent = ((x.to_bits() >> 23) as i32 - 127).max(1 - Self::BIAS);
        // In units of the last place x is below 2^(MANTISSA + 1); adding and taking away 2^23 rounds it to even.
        let units = x * power_of_two(Self::MANTISSA as i32 - exponent);
        let units = (units + ROUND) - ROUND;
        // A mantissa that was rounded up to the next binade carries into the exponent by itself.
        let code = ((exponent + Self::BIAS - 1) as u16) << Self::MANTISSA;
        sign | (code + units as u16)
    }

    /// The number a code stands for; the bits above the sign are ignored.
    fn decode(code: u16) -> f32 {
        let bits = code & (Self::SIGN - 1);
        let x = if bits <= Self::MAX_CODE {
            magnitude(bits, Self::MANTISSA, Self::BIAS)
        } else if Self::INFINITY && bits == Self::MAX_CODE + 1 {
            f32::INFINITY
        } else {
            f32::NAN
        };
        if code & Self::SIGN != 0 { -x } else { x }
    }
}

/// 2^23: the last place of a number between it and twice it is one.
const ROUND: f32 = 8_388_608.0;

/// `2^e` for `-126 ≤ e ≤ 127`.
const fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

const fn magnitude(bits: u16, mantissa: u32, bias: i32) -> f32 {
    let (exponent, fraction) = ((bits >> mantissa) as i32, bits & ((1 << mantissa) - 1));
    let (units, exponent) = if exponent == 0 { (fraction, 1) } else { (fraction | (1 << mantissa), exponent) };
    units as f32 * power_of_two(exponent - bias - mantissa as i32)
}

/// Four exponent bits, three of mantissa, up to 448, no infinity (Micikevicius et al., 2022; `float8_e4m3fn`).
#[derive(Clone, Copy, Debug)]
pub struct E4M3;

impl Code for E4M3 {
    const EXPONENT: u32 = 4;
    const MANTISSA: u32 = 3;
    const MAX_CODE: u16 = 0x7e;
    const INFINITY: bool = false;
}

/// Five exponent bits, two of mantissa, up to 57344 (Micikevicius et al., 2022; `float8_e5m2`).
#[derive(Clone, Copy, Debug)]
pub struct E5M2;

impl Code for E5M2 {
    const EXPONENT: u32 = 5;
    const MANTISSA: u32 = 2;
    const MAX_CODE: u16 = 0x7b;
    const INFINITY: bool = true;
}

/// Five exponent bits, six of mantissa, up to 65024: IEEE half precision without the last four bits. The V3 report
/// (§3.3.3) keeps the output of attention in it; it does not give the largest number, which here is IEEE's.
#[derive(Clone, Copy, Debug)]
pub struct E5M6;

impl Code for E5M6 {
    const EXPONENT: u32 = 5;
    const MANTISSA: u32 = 6;
    const MAX_CODE: u16 = 0x7bf;
    const INFINITY: bool = true;
}

/// Two 12-bit codes in three bytes, the first in the low bits, little-endian.
pub fn pack_pair(first: u16, second: u16) -> [u8; 3] {
    let both = u32::from(first & 0xfff) | u32::from(second & 0xfff) << 12;
    let [a, b, c, _] = both.to_le_bytes();
    [a, b, c]
}

/// The two codes of [`pack_pair`].
pub fn unpack_pair(pair: [u8; 3]) -> (u16, u16) {
    let both = u32::from_le_bytes([pair[0], pair[1], pair[2], 0]);
    ((both & 0xfff) as u16, (both >> 12) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// All finite codes of a format with their numbers, and that each is encoded as itself.
    fn numbers<C: Code>() -> Vec<(u16, f32)> {
        let all = (0..2 * C::SIGN).map(|code| (code, C::decode(code)));
        let finite: Vec<_> = all.filter(|(_, x)| x.is_finite()).collect();
        for &(code, x) in &finite {
            assert_eq!(C::encode(x), Ok(code), "{x}");
        }
        finite
    }

    #[test]
    fn every_code_is_its_own_nearest() {
        assert_eq!(numbers::<E4M3>().len(), 254);
        assert_eq!(numbers::<E5M2>().len(), 248);
        assert_eq!(numbers::<E5M6>().len(), 4096 - 2 * 64);
    }

    #[test]
    fn decoding_agrees_with_the_half_precision_it_is_cut_from() {
        // E5M2 and E5M6 are the upper bits of IEEE half precision.
        for code in 0..256u16 {
            let half = half::f16::from_bits(code << 8).to_f32();
            assert!(E5M2::decode(code) == half || (half.is_nan() && E5M2::decode(code).is_nan()));
        }
        for code in 0..4096u16 {
            let half = half::f16::from_bits(code << 4).to_f32();
            assert!(E5M6::decode(code) == half || (half.is_nan() && E5M6::decode(code).is_nan()));
        }
    }

    #[test]
    fn known_numbers() {
        assert_eq!((E4M3::MAX, E5M2::MAX, E5M6::MAX), (448.0, 57344.0, 65024.0));
        assert_eq!((E4M3::TINY, E5M2::TINY), (0.001953125, 1.0 / 65536.0));
        // Ties go to the even mantissa; half the smallest number goes to zero, and keeps its sign.
        let cases = [(1.0625, 0x38), (1.1875, 0x3a), (1e9, 0x7e), (-1e9, 0xfe), (0.0009765625, 0), (-0.0009, 0x80)];
        for (x, code) in cases {
            assert_eq!(E4M3::encode(x), Ok(code), "{x}");
        }
        assert!(E4M3::decode(0x7f).is_nan() && E4M3::decode(0xff).is_nan());
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!((E4M3::encode(x), E5M6::encode(x)), (Err(NonFinite), Err(NonFinite)));
        }
    }

    #[test]
    fn pairs_are_packed_and_unpacked() {
        for first in 0..4096u16 {
            let second = first.wrapping_mul(2731) & 0xfff;
            assert_eq!(unpack_pair(pack_pair(first, second)), (first, second));
        }
    }

    fn nearest<C: Code>(x: f32) -> u16 {
        let x = f64::from(x.clamp(-C::MAX, C::MAX));
        let distance = |code: u16| (f64::from(C::decode(code)) - x).abs();
        let of_sign = |code: &u16| (code & C::SIGN != 0) == x.is_sign_negative() && code & (C::SIGN - 1) <= C::MAX_CODE;
        (0..2 * C::SIGN)
            .filter(of_sign)
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
            .expect("there are codes of either sign")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn encoding_finds_the_nearest_code(bits: u32, small in -600.0f32..600.0, shift in -20i32..20) {
            for x in [f32::from_bits(bits), small, small * power_of_two(shift)] {
                if x.is_finite() {
                    prop_assert_eq!(E4M3::encode(x), Ok(nearest::<E4M3>(x)));
                    prop_assert_eq!(E5M2::encode(x), Ok(nearest::<E5M2>(x)));
                    prop_assert_eq!(E5M6::encode(x), Ok(nearest::<E5M6>(x)));
                }
            }
        }
    }
}
