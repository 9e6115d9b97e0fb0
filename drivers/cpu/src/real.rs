//! Activation types: F32 and BF16 in memory, computed as f32, stored with one rounding.
//!
//! A kernel is written once over [`Real`]. What lies between loading and storing is f32, so a kernel over BF16 rounds
//! once for every number it writes.

use half::{bf16, f16};

use crate::mat::Element;

/// A floating-point type of activations.
///
/// Both conversions are a few integer operations without branches, which the compiler turns into vectors. The
/// processor's own BF16 conversion is not used: it takes numbers below f32's normal range for zero.
pub(crate) trait Real: Element {
    /// The number, exactly.
    fn load(self) -> f32;

    /// The nearest number of this type, ties to even; NaN stays NaN.
    fn store(x: f32) -> Self;

    /// The matrix itself, where its elements are f32.
    fn as_f32<'a>(_: &crate::mat::Mat<'a, Self>) -> Option<crate::mat::Mat<'a, f32>> {
        None
    }
}

impl Real for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(x: f32) -> Self {
        x
    }

    fn as_f32<'a>(x: &crate::mat::Mat<'a, f32>) -> Option<crate::mat::Mat<'a, f32>> {
        Some(*x)
    }
}

impl Real for bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn store(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A NaN must stay one: its quiet bit is set, and a carry cannot reach the sign.
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
    }
}

/// For casts: nothing computes over it.
impl Real for f16 {
    #[inline(always)]
    fn load(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        // Moves the exponent from a bias of 15 to one of 127, exactly also for what is not normal in f16.
        let value = (f32::from_bits(magnitude) * f32::from_bits((254 - 15) << 23)).to_bits();
        // An exponent of ones is infinity or NaN; a NaN's quiet bit is set.
        let quiet = if magnitude > 0x0f80_0000 { 0x0040_0000 } else { 0 };
        let value = if magnitude >= 0x0f80_0000 { magnitude | 0x7f80_0000 | quiet } else { value };
        f32::from_bits(value | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn store(x: f32) -> Self {
        let sign = (x.to_bits() >> 16) & 0x8000;
        let magnitude = x.to_bits() & 0x7fff_ffff;
        // Below 2⁻¹⁴ the distance of two numbers is 2⁻²⁴ = one unit of the numbers from ½ to 1: adding ½ rounds.
        let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        // Elsewhere the mantissa is rounded to ten bits and the exponent's bias moved; a carry is meant to reach it.
        let normal = magnitude.wrapping_sub((127 - 15) << 23).wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
        let special = if magnitude > 0x7f80_0000 { 0x7e00 | (magnitude >> 13) & 0x3ff } else { 0x7c00 };
        let value = if magnitude < 0x3880_0000 { small } else { normal };
        // From 65520 on, the nearest is infinity.
        let value = if magnitude >= 0x477f_f000 { special } else { value };
        f16::from_bits((sign | value) as u16)
    }
}

/// `$body` with `$t` as the Rust type of a [`DType`](fathom_core::DType), one of those listed.
macro_rules! with_type {
    ($op:expr, $dtype:expr, [$($of:ident: $ty:ty),+], $t:ident => $body:expr) => {
        match $dtype {
            $(fathom_core::DType::$of => {
                type $t = $ty;
                $body
            })+
            other => {
                let types = [$(stringify!($of)),+].join(" and ");
                Err($crate::mat::unsupported($op, other, &types))
            }
        }
    };
}
pub(crate) use with_type;

/// `$body` with `$t` as the Rust type of activations of a [`DType`](fathom_core::DType).
macro_rules! with_real {
    ($op:expr, $dtype:expr, $t:ident => $body:expr) => {
        $crate::real::with_type!($op, $dtype, [F32: f32, BF16: half::bf16], $t => $body)
    };
}
pub(crate) use with_real;

/// For each `name: Call[x] => run`: the method of that name, which runs `run` over the Rust type of the operand `x` (or
/// of two operands).
macro_rules! typed {
    ($($name:ident: $Call:ident[$($by:ident),+] => $run:ident,)*) => {
        impl $crate::Cpu {
            $(
                pub(crate) fn $name(
                    &self,
                    call: $Call<'_, $crate::memory::Buffer>,
                ) -> Result<(), $crate::error::CpuError> {
                    $crate::real::typed!(@ self, call, $name, $run, $($by),+)
                }
            )*
        }
    };
    (@ $cpu:ident, $call:ident, $name:ident, $run:ident, $x:ident) => {
        $crate::real::with_real!(stringify!($name), $call.$x.dtype(), X => $cpu.$run::<X>($call))
    };
    (@ $cpu:ident, $call:ident, $name:ident, $run:ident, $x:ident, $y:ident) => {
        $crate::real::with_real!(stringify!($name), $call.$x.dtype(), X => {
            $crate::real::with_real!(stringify!($name), $call.$y.dtype(), Y => $cpu.$run::<X, Y>($call))
        })
    };
}
pub(crate) use typed;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::elementwise::convert;

    /// Numbers of all exponents, their neighbours half way between two of a shorter type, and the special ones.
    fn numbers() -> Vec<f32> {
        let mut x: Vec<f32> = (0..1 << 18).map(|i: u32| f32::from_bits(i.wrapping_mul(16_411))).collect();
        for short in 0..=u16::MAX {
            for half_way in [0x7fff_u32, 0x8000, 0x8001, 0x0fff, 0x1000, 0x1001, 0x3000] {
                x.push(f32::from_bits(u32::from(short) << 16 | half_way));
            }
        }
        x.extend((0..1 << 16).map(|i| i as f32 * f32::powi(2.0, -26)));
        x.extend([f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, -0.0, 65519.996, 65520.0, 65504.0]);
        x
    }

    #[test]
    fn storing_rounds_as_the_half_crate_does() {
        let x = numbers();
        let (mut brain, mut half) = (vec![bf16::ZERO; x.len()], vec![f16::ZERO; x.len()]);
        for isa in Isa::all() {
            convert(isa, &x, &mut brain);
            convert(isa, &x, &mut half);
            for ((&x, &b), &h) in x.iter().zip(&brain).zip(&half) {
                assert_eq!(b.to_bits(), bf16::from_f32(x).to_bits(), "{x}");
                let want = f16::from_f32_const(x);
                assert!(h.to_bits() == want.to_bits() || h.is_nan() && want.is_nan(), "{x:e}: {h:?} not {want:?}");
            }
        }
    }

    #[test]
    fn every_number_of_a_short_type_loads_exactly() {
        let brain: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let half: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut x = vec![0.0; brain.len()];
        for isa in Isa::all() {
            convert(isa, &brain, &mut x);
            for (&b, &x) in brain.iter().zip(&x) {
                assert!(x.to_bits() == b.to_f32_const().to_bits() || x.is_nan() && b.is_nan());
            }
            convert(isa, &half, &mut x);
            for (&h, &x) in half.iter().zip(&x) {
                assert!(x.to_bits() == h.to_f32_const().to_bits() || x.is_nan() && h.is_nan(), "{h:?}: {x:e}");
            }
        }
    }
}
