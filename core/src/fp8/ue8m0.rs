//! UE8M0: a power of two as its exponent, biased by 127, in one byte; 255 is NaN (OCP MX specification). Scales are
//! stored so where they are powers of two (`scale_fmt: ue8m0` in checkpoints after V3).

/// The code of `x`, if it is a power of two from 2^-127 to 2^127.
pub fn encode(x: f32) -> Option<u8> {
    let bits = x.to_bits();
    if bits == 1 << 22 {
        return Some(0); // 2^-127 is subnormal in f32
    }
    let exponent = bits >> 23;
    ((bits << 9) == 0 && (1..255).contains(&exponent)).then_some(exponent as u8)
}

/// The number of a code; NaN for 255.
pub fn decode(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_a_power_of_two_and_back() {
        for code in 0..=254u8 {
            assert_eq!(f64::from(decode(code)), libm::exp2(f64::from(code) - 127.0));
            assert_eq!(encode(decode(code)), Some(code));
        }
        assert!(decode(255).is_nan());
        for x in [0.0, -1.0, 3.0, f32::NAN, f32::INFINITY, 1.5e-45, -2.0] {
            assert_eq!(encode(x), None, "{x}");
        }
    }
}
