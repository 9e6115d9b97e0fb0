//! Codes in vectors: the bits of [`fathom_core::fp8`] without branches.

use fathom_core::DType;
use fathom_core::fp8::{Code, E4M3, E5M2, E5M6, TILE, pack_pair, unpack_pair};

use super::e4m3;
use super::scale::Scale;
use crate::real::Real;
use crate::simd::{Isa, kernel};

/// A format as it lies in memory.
pub(crate) trait Format: Code {
    /// Count of numbers in [`BYTES`](Self::BYTES) bytes.
    const NUMBERS: usize;
    /// See [`NUMBERS`](Self::NUMBERS).
    const BYTES: usize;

    /// Stores the codes of `x` scaled, which must be finite.
    fn put<X: Real>(x: &[X], scale: Scale<'_>, to: &mut [u8]);

    /// The numbers of `codes`, scaled.
    fn get<Y: Real>(isa: Isa, codes: &[u8], scale: Scale<'_>, y: &mut [Y]);
}

impl Format for E4M3 {
    const NUMBERS: usize = 1;
    const BYTES: usize = 1;

    #[inline(always)]
    fn put<X: Real>(x: &[X], scale: Scale<'_>, to: &mut [u8]) {
        scale.apply(x, to, X::load, |x, to| *to = encode::<Self>(x) as u8);
    }

    fn get<Y: Real>(isa: Isa, codes: &[u8], scale: Scale<'_>, y: &mut [Y]) {
        if Y::DTYPE == DType::F32 {
            return e4m3::decode(isa, codes, scale, bytemuck::cast_slice_mut(y));
        }
        let mut numbers = [0.0; TILE];
        for (i, (codes, y)) in codes.chunks(TILE).zip(y.chunks_mut(TILE)).enumerate() {
            let numbers = &mut numbers[..y.len()];
            e4m3::decode(isa, codes, scale.from(i * TILE), numbers);
            store(isa, numbers, y);
        }
    }
}

impl Format for E5M2 {
    const NUMBERS: usize = 1;
    const BYTES: usize = 1;

    #[inline(always)]
    fn put<X: Real>(x: &[X], scale: Scale<'_>, to: &mut [u8]) {
        scale.apply(x, to, X::load, |x, to| *to = encode::<Self>(x) as u8);
    }

    fn get<Y: Real>(isa: Isa, codes: &[u8], scale: Scale<'_>, y: &mut [Y]) {
        get_bytes::<Self, Y>(isa, codes, scale, y);
    }
}

kernel! {
    fn store<Y: Real>(x: &[f32], y: &mut [Y]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Y::store(x);
        }
    }
}

kernel! {
    fn get_bytes<C: Code, Y: Real>(codes: &[u8], scale: Scale<'_>, y: &mut [Y]) {
        scale.apply(codes, y, |code| decode::<C>(code.into()), |x, y| *y = Y::store(x));
    }
}

kernel! {
    fn get_pairs<C: Code, Y: Real>(codes: &[u8], scale: Scale<'_>, y: &mut [Y]) {
        let mut unpacked = [0u16; TILE];
        for (i, (from, y)) in codes.chunks(TILE / 2 * 3).zip(y.chunks_mut(TILE)).enumerate() {
            let (twice, last) = from.as_chunks::<6>();
            for (to, &[a, b, c, d, e, f]) in unpacked.as_chunks_mut::<4>().0.iter_mut().zip(twice) {
                let all = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
                *to = [0, 12, 24, 36].map(|shift| (all >> shift & 0xfff) as u16);
            }
            if let &[a, b, c] = last {
                let (first, second) = unpack_pair([a, b, c]);
                unpacked[twice.len() * 4..][..2].copy_from_slice(&[first, second]);
            }
            let unpacked = &unpacked[..y.len()];
            scale.from(i * TILE).apply(unpacked, y, |code| decode::<C>(code.into()), |x, y| *y = Y::store(x));
        }
    }
}

/// Two numbers in three bytes; slices hold whole pairs.
impl Format for E5M6 {
    const NUMBERS: usize = 2;
    const BYTES: usize = 3;

    #[inline(always)]
    fn put<X: Real>(x: &[X], scale: Scale<'_>, to: &mut [u8]) {
        let mut codes = [0u16; TILE];
        for (i, (x, to)) in x.chunks(TILE).zip(to.chunks_mut(TILE / 2 * 3)).enumerate() {
            scale.from(i * TILE).apply(x, &mut codes[..x.len()], X::load, |x, to| *to = encode::<Self>(x) as u16);
            let (twice, last) = to.as_chunks_mut::<6>();
            let (fours, rest) = codes[..x.len()].as_chunks::<4>();
            for (to, &[a, b, c, d]) in twice.iter_mut().zip(fours) {
                let all = u64::from(a) | u64::from(b) << 12 | u64::from(c) << 24 | u64::from(d) << 36;
                to.copy_from_slice(&all.to_le_bytes()[..6]);
            }
            if let &[a, b] = rest {
                last.copy_from_slice(&pack_pair(a, b));
            }
        }
    }

    fn get<Y: Real>(isa: Isa, codes: &[u8], scale: Scale<'_>, y: &mut [Y]) {
        get_pairs::<Self, Y>(isa, codes, scale, y);
    }
}

/// `2^e`.
const fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// The nearest code of a finite `x`: [`Code::encode_finite`].
#[inline(always)]
fn encode<C: Code>(x: f32) -> u32 {
    let shift = 23 - C::MANTISSA;
    let bias = (127 - C::BIAS) as u32;
    let size = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    let size = if size > C::MAX { C::MAX } else { size };
    let bits = size.to_bits();
    // Above the subnormal codes the mantissa is rounded where it ends and the exponent's bias moved; a carry is meant
    // to reach the exponent. Below they are whole multiples of one number, which is the last place of this one:
    let normal = (bits + ((1 << (shift - 1)) - 1) + (bits >> shift & 1)) >> shift;
    let normal = normal.wrapping_sub(bias << C::MANTISSA);
    let places = power_of_two(1 - C::BIAS - C::MANTISSA as i32 + 23);
    let small = (size + places).to_bits().wrapping_sub(places.to_bits());
    let code = if size < power_of_two(1 - C::BIAS) { small } else { normal };
    code | (x.to_bits() >> 31) << (C::EXPONENT + C::MANTISSA)
}

/// The number of a code: [`Code::decode`].
#[inline(always)]
fn decode<C: Code>(code: u32) -> f32 {
    let magnitude = code & (u32::from(C::SIGN) - 1);
    // Exact also for subnormal codes, which are subnormal numbers before the product.
    let x = f32::from_bits(magnitude << (23 - C::MANTISSA)) * power_of_two(127 - C::BIAS);
    let special = if C::INFINITY && magnitude == u32::from(C::MAX_CODE) + 1 { f32::INFINITY } else { f32::NAN };
    let x = if magnitude > u32::from(C::MAX_CODE) { special } else { x };
    let sign = (code >> (C::EXPONENT + C::MANTISSA) & 1) << 31;
    f32::from_bits(x.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    kernel! {
        fn put<C: Format>(x: &[f32], to: &mut [u8]) {
            C::put(x, Scale::Over(1.0), to);
        }
    }

    /// Every number half way between two codes, its neighbours, and numbers of all exponents.
    fn numbers<C: Code>() -> Vec<f32> {
        let mut x: Vec<f32> = (0..1 << 16).map(|i: u32| f32::from_bits(i.wrapping_mul(65_539))).collect();
        for code in 0..=C::MAX_CODE {
            let (low, high) = (C::decode(code), C::decode((code + 1).min(C::MAX_CODE)));
            let middle = low + (high - low) / 2.0;
            for near in [low, middle, middle.next_down(), middle.next_up()] {
                x.extend([near, -near]);
            }
        }
        x.extend([f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0, 0.0]);
        x.retain(|x| x.is_finite());
        x.truncate(x.len() / 2 * 2);
        x
    }

    fn check<C: Format>(pair: bool) {
        let x = numbers::<C>();
        let want: Vec<u16> = x.iter().map(|&x| C::encode_finite(x)).collect();
        let all: Vec<u16> = (0..2 * C::SIGN).collect();
        let pack = |codes: &[u16]| -> Vec<u8> {
            if pair {
                codes.chunks(2).flat_map(|two| pack_pair(two[0], two[1])).collect()
            } else {
                codes.iter().map(|&c| c as u8).collect()
            }
        };
        for isa in Isa::all() {
            let want = pack(&want);
            let mut codes = vec![0; want.len()];
            put::<C>(isa, &x, &mut codes);
            assert!(codes == want, "{isa:?}");
            let mut y = vec![0.0; all.len()];
            C::get(isa, &pack(&all), Scale::Times(1.0), &mut y);
            for (&code, y) in all.iter().zip(y) {
                let want = C::decode(code);
                assert!(y.to_bits() == want.to_bits() || y.is_nan() && want.is_nan(), "{code:#x} on {isa:?}");
            }
        }
    }

    #[test]
    fn codes_have_the_bits_of_the_core() {
        check::<E4M3>(false);
        check::<E5M2>(false);
        check::<E5M6>(true);
    }
}
