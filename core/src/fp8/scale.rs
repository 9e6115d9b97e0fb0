//! FP8 scales: the number that a tile's elements are divided by before they are encoded.

use super::codes::{Code, NonFinite};

/// Elements along the side of a tile or block that share a scale.
pub const TILE: usize = 128;

/// The scale of a tile whose largest magnitude is `amax`, for codes up to `max`: `amax / max`, or with `power_of_two`
/// the next power of two no smaller, so that nothing saturates. One for a tile of zeros; never subnormal, so that
/// dividing by it is safe on every device.
pub fn scale_of(amax: f32, max: f32, power_of_two: bool) -> f32 {
    if amax == 0.0 {
        return 1.0;
    }
    let scale = (amax / max).max(f32::MIN_POSITIVE);
    if !power_of_two {
        return scale;
    }
    // Rounds the mantissa up into the exponent.
    f32::from_bits((scale.to_bits() + 0x7f_ffff) & 0x7f80_0000)
}

/// Encodes the elements of one tile, in any order, and returns their scale: `codes[i]` is the code of `x[i] / scale`.
///
/// # Errors
/// [`NonFinite`] where an element is NaN or infinite; `codes` is then not to be used.
///
/// # Panics
/// If `codes` is shorter than `x`.
pub fn quantize<C: Code>(x: &[f32], power_of_two: bool, codes: &mut [u16]) -> Result<f32, NonFinite> {
    let mut amax = 0.0f32;
    for &x in x {
        if !x.is_finite() {
            return Err(NonFinite);
        }
        amax = amax.max(x.abs());
    }
    let scale = scale_of(amax, C::MAX, power_of_two);
    for (code, &x) in codes[..x.len()].iter_mut().zip(x) {
        *code = C::encode_finite(x / scale);
    }
    Ok(scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp8::{E4M3, E5M2, E5M6};
    use proptest::prelude::*;

    #[test]
    fn scales_of_the_ends_of_the_range() {
        assert_eq!(scale_of(0.0, 448.0, false), 1.0);
        assert_eq!(scale_of(448.0, 448.0, true), 1.0);
        assert_eq!(scale_of(449.0, 448.0, true), 2.0);
        assert_eq!(scale_of(1e-45, 448.0, false), f32::MIN_POSITIVE);
        assert_eq!(scale_of(1e-45, 448.0, true), f32::MIN_POSITIVE);
        assert!(scale_of(f32::MAX, 448.0, true).is_finite());
    }

    #[test]
    fn what_is_not_a_number_is_reported() {
        let mut codes = [0; 3];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(quantize::<E4M3>(&[1.0, bad, 2.0], false, &mut codes), Err(NonFinite));
        }
    }

    /// The error of every element is at most half a unit in the last place of its code, times the scale, and what the
    /// division by the scale adds: it rounds to an f32, a relative error of at most 2^-24.
    fn check<C: Code>(x: &[f32], power_of_two: bool) {
        let mut codes = [0; 200];
        let scale = quantize::<C>(x, power_of_two, &mut codes).expect("finite");
        for (&code, &x) in codes.iter().zip(x) {
            let y = f64::from(C::decode(code)) * f64::from(scale);
            let magnitude = f64::from(x.abs()) / f64::from(scale);
            let lowest = f64::from(1 - C::BIAS);
            let exponent = if magnitude == 0.0 { lowest } else { libm::floor(libm::log2(magnitude)).max(lowest) };
            let half = libm::exp2(exponent - f64::from(C::MANTISSA) - 1.0) * f64::from(scale);
            let bound = half + f64::from(x.abs()) * libm::exp2(-24.0);
            let error = (y - f64::from(x)).abs();
            // The last factor is for the rounding of this test's own sums, in f64.
            assert!(error <= bound * (1.0 + 1e-12), "{x} became {y}, scale {scale}: {error} > {bound}");
        }
    }

    proptest! {
        #[test]
        fn a_quantised_tile_is_within_half_a_unit(
            x in prop::collection::vec(-1.0f32..1.0, 1..200), shift in -120i32..120, power_of_two: bool
        ) {
            let by = libm::exp2(f64::from(shift));
            let x: std::vec::Vec<f32> = x.into_iter().map(|x| (f64::from(x) * by) as f32).collect();
            check::<E4M3>(&x, power_of_two);
            check::<E5M2>(&x, power_of_two);
            check::<E5M6>(&x, power_of_two);
        }
    }
}
