//! Mathematical functions with the same bits on every device.
//!
//! Which experts a token goes to hangs on the last bit of a score, so the router's exponential is defined here, by
//! additions and multiplications that IEEE 754 rounds exactly, and not left to each platform's library. A driver may
//! compute it on as many lanes as it likes, as long as it does not fuse a multiplication with an addition.

/// `e^x` in f32, within 2 units in the last place; 0 below −87.34, +∞ above 88.72, NaN for NaN.
///
/// Range reduction by `ln 2` in two parts (Cody and Waite), then the polynomial of Cephes' `expf`.
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³: adding and subtracting it rounds to an integer
    if x.is_nan() {
        return x;
    }
    if x > 88.722_84 {
        return f32::INFINITY;
    }
    if x < -87.336_54 {
        return 0.0;
    }
    let n = (x * core::f32::consts::LOG2_E + MAGIC) - MAGIC;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        p = p * r + c;
    }
    let y = (p * (r * r) + r) + 1.0;
    // y · 2ⁿ in two steps, since 2¹²⁸ is not a number.
    let half = (n as i32) >> 1;
    let scale = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    y * scale(half) * scale(n as i32 - half)
}

/// `1 / (1 + e^-x)` in f32, by [`exp`].
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x` as an f32 whose last bit is set, unless `x` is an f32 (rounding to odd).
///
/// Rounding that to nearest in a narrower type gives what rounding `x` itself would; rounding to nearest twice does
/// not.
pub fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let bits = nearest.to_bits();
    if f64::from(nearest) == x || x.is_nan() || x.is_infinite() || bits & 1 == 1 {
        nearest
    } else if x.abs() > f64::from(nearest.abs()) {
        f32::from_bits(bits + 1)
    } else {
        f32::from_bits(bits - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_true_value() {
        let mut worst = 0.0f64;
        for i in -87_000..88_700 {
            let x = i as f32 * 1e-3;
            let (got, want) = (f64::from(exp(x)), libm::exp(f64::from(x)));
            worst = worst.max((got - want).abs() / want / f64::from(f32::EPSILON));
        }
        assert!(worst < 2.0, "{worst} units");
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(-1000.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.7).is_finite() && exp(-87.3) > 0.0);
        assert_eq!((sigmoid(0.0), sigmoid(200.0), sigmoid(-200.0)), (0.5, 1.0, 0.0));
    }
}
