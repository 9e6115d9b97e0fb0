//! E4M3 codes as numbers, by way of f16, which processors widen.
//!
//! As the upper bits of an f16, whose exponent has a bit more, a code is its number over 256, also below the normal
//! range. As the upper bits of an f32 it would be a subnormal number there, and to multiply one takes an Intel
//! processor some 150 cycles: where one code in sixteen is one, eighteen times as long as the rest. The codes of NaN
//! are widened to ±480.

use fathom_core::fp8::{Code, E4M3};

use super::scale::Scale;
#[cfg(target_arch = "x86_64")]
use crate::simd::Level;
use crate::simd::{Isa, kernel};

/// What widened codes are multiplied with.
pub(crate) const FACTOR: f32 = 256.0;

/// The numbers of `codes`, scaled.
pub(crate) fn decode(isa: Isa, codes: &[u8], scale: Scale<'_>, y: &mut [f32]) {
    assert_eq!(codes.len(), y.len(), "a number for every code");
    #[cfg(target_arch = "x86_64")]
    {
        let scales = match scale {
            Scale::Times(scale) => Some((scale, None)),
            Scale::TimesEach(scales) => Some((1.0, Some(&scales[..y.len()]))),
            Scale::Over(_) | Scale::OverEach(_) => None,
        };
        match (isa.level(), scales) {
            // SAFETY: `Isa` holds this level only where the processor was found to have the instructions, and slices
            // have one length.
            (Level::Avx2, Some(scales)) => return unsafe { x86::avx2(codes, scales, y) },
            (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, Some(scales)) => {
                // SAFETY: as above.
                return unsafe { x86::avx512(codes, scales, y) };
            }
            _ => {}
        }
    }
    any(isa, codes, scale, y);
}

kernel! {
    fn any(codes: &[u8], scale: Scale<'_>, y: &mut [f32]) {
        scale.apply(codes, y, number, |x, y| *y = x);
    }
}

/// The number of a code. A subnormal one is made as the normal one with its mantissa, less what that is too much.
#[inline(always)]
fn number(code: u8) -> f32 {
    const LEAST: u32 = (128 - E4M3::BIAS as u32) << 23; // the bits of the least normal number
    let magnitude = u32::from(code) & 0x7f;
    let bits = (magnitude << (23 - E4M3::MANTISSA)) + LEAST;
    let subnormal = magnitude < 1 << E4M3::MANTISSA;
    let bits = if subnormal { bits } else { bits - (1 << 23) };
    let x = f32::from_bits(bits) - if subnormal { f32::from_bits(LEAST) } else { 0.0 };
    let x = if magnitude > u32::from(E4M3::MAX_CODE) { f32::NAN } else { x };
    f32::from_bits(x.to_bits() | u32::from(code >> 7) << 31)
}

/// Codes widened in registers.
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::*;

    use fathom_core::fp8::{Code, E4M3};

    use super::{FACTOR, number};

    /// Sixteen codes.
    ///
    /// # Safety
    /// The processor has the instructions, and sixteen bytes can be read.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(crate) unsafe fn load_2x8(at: *const u8) -> [__m256; 2] {
        // SAFETY: the caller's premise.
        let x = unsafe { _mm_loadu_si128(at.cast()) };
        // The sign fills bits 7 to 15; shifted, it is in bit 15, and in bit 14, which is cleared.
        let x = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(x));
        let x = _mm256_and_si256(x, _mm256_set1_epi16(0xbfff_u16 as i16));
        [_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(x))]
    }

    /// Thirty-two codes.
    ///
    /// # Safety
    /// The processor has the instructions, and thirty-two bytes can be read.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(crate) unsafe fn load_2x16(at: *const u8) -> [__m512; 2] {
        // SAFETY: the caller's premise.
        let x = unsafe { _mm256_loadu_si256(at.cast()) };
        let x = _mm512_slli_epi16::<7>(_mm512_cvtepi8_epi16(x));
        let x = _mm512_and_si512(x, _mm512_set1_epi16(0xbfff_u16 as i16));
        [_mm512_cvtph_ps(_mm512_castsi512_si256(x)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(x))]
    }

    /// The codes whose bits are set in `mask`, zeros for the others.
    ///
    /// # Safety
    /// The processor has the instructions, and the bytes of those codes can be read.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) unsafe fn load_16(at: *const u8, mask: u16) -> __m512 {
        // SAFETY: the caller's premise.
        let x = unsafe { _mm_maskz_loadu_epi8(mask, at.cast()) };
        let x = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(x));
        _mm512_cvtph_ps(_mm256_and_si256(x, _mm256_set1_epi16(0xbfff_u16 as i16)))
    }

    /// Scales all codes with the first of `scales`, or each with its own.
    ///
    /// # Safety
    /// The processor has the instructions, and slices have one length.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2(codes: &[u8], (scale, each): (f32, Option<&[f32]>), y: &mut [f32]) {
        let (scale, factor, most) = (_mm256_set1_ps(scale), _mm256_set1_ps(FACTOR), _mm256_set1_ps(E4M3::MAX));
        let (whole, rest) = codes.as_chunks::<16>();
        for (i, codes) in whole.iter().enumerate() {
            // SAFETY: sixteen codes, and as many numbers and scales from `16·i` on.
            let numbers = unsafe { load_2x8(codes.as_ptr()) };
            for (at, x) in (16 * i..).step_by(8).zip(numbers) {
                let x = _mm256_mul_ps(x, factor);
                let is_nan = _mm256_cmp_ps::<_CMP_GT_OQ>(_mm256_andnot_ps(_mm256_set1_ps(-0.0), x), most);
                // SAFETY: as above.
                unsafe {
                    let scale = each.map_or(scale, |each| _mm256_loadu_ps(each.as_ptr().add(at)));
                    _mm256_storeu_ps(y.as_mut_ptr().add(at), _mm256_mul_ps(_mm256_or_ps(x, is_nan), scale));
                }
            }
        }
        let first = codes.len() - rest.len();
        for (i, &code) in (first..).zip(rest) {
            y[i] = number(code) * each.map_or(_mm256_cvtss_f32(scale), |each| each[i]);
        }
    }

    /// As [`avx2`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn avx512(codes: &[u8], (scale, each): (f32, Option<&[f32]>), y: &mut [f32]) {
        let (scale, factor, most) = (_mm512_set1_ps(scale), _mm512_set1_ps(FACTOR), _mm512_set1_ps(E4M3::MAX));
        let numbers = |x: __m512| {
            let x = _mm512_mul_ps(x, factor);
            let is_nan = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(_mm512_abs_ps(x), most);
            _mm512_mask_mov_ps(x, is_nan, _mm512_set1_ps(f32::NAN))
        };
        let (whole, rest) = codes.as_chunks::<32>();
        for (i, codes) in whole.iter().enumerate() {
            // SAFETY: thirty-two codes, and as many numbers and scales from `32·i` on.
            let loaded = unsafe { load_2x16(codes.as_ptr()) };
            for (at, x) in (32 * i..).step_by(16).zip(loaded) {
                // SAFETY: as above.
                unsafe {
                    let scale = each.map_or(scale, |each| _mm512_loadu_ps(each.as_ptr().add(at)));
                    _mm512_storeu_ps(y.as_mut_ptr().add(at), _mm512_mul_ps(numbers(x), scale));
                }
            }
        }
        let first = codes.len() - rest.len();
        for (at, rest) in (first..).step_by(16).zip(rest.chunks(16)) {
            let mask = u16::MAX >> (16 - rest.len());
            // SAFETY: masks keep to what is left, from `at` on.
            unsafe {
                let x = load_16(rest.as_ptr(), mask);
                let scale = each.map_or(scale, |each| _mm512_maskz_loadu_ps(mask, each.as_ptr().add(at)));
                _mm512_mask_storeu_ps(y.as_mut_ptr().add(at), mask, _mm512_mul_ps(numbers(x), scale));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_number_at_every_place() {
        let codes: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        let scales: Vec<f32> = (0..300).map(|i| 0.3 + i as f32).collect();
        for isa in Isa::all() {
            for n in [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 300] {
                for scale in [Scale::Times(0.7), Scale::TimesEach(&scales), Scale::Over(0.7), Scale::OverEach(&scales)]
                {
                    let mut y = vec![-1.0; n];
                    decode(isa, &codes[..n], scale, &mut y);
                    for (i, (&code, x)) in codes.iter().zip(y).enumerate() {
                        let number = E4M3::decode(code.into());
                        let want = match scale {
                            Scale::Times(scale) => number * scale,
                            Scale::TimesEach(scales) => number * scales[i],
                            Scale::Over(scale) => number / scale,
                            Scale::OverEach(scales) => number / scales[i],
                        };
                        let same = x.to_bits() == want.to_bits() || x.is_nan() && want.is_nan();
                        assert!(same, "{code} is {x} and not {want} on {isa:?}");
                    }
                }
            }
        }
    }
}
