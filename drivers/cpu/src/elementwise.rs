//! Kernels that look at one element at a time.

use fathom_core::DType;
use fathom_core::device::{Binary, BinaryOp, Cast, Fill, MaskWindow, Unary, UnaryOp};
use fathom_core::error::ErrorKind;
use half::{bf16, f16};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Element, Mat};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles};
use crate::simd::{self, kernel};

/// Picks the Rust type of a [`DType`]: `$body` with `$t` as that type.
macro_rules! with_type {
    ($op:expr, $dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::BF16 => {
                type $t = bf16;
                $body
            }
            DType::F16 => {
                type $t = f16;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            other => Err(CpuError::new(ErrorKind::Unsupported, format!("{}: {other} is not supported", $op))),
        }
    };
}
pub(crate) use with_type;

/// Conversion from and to f64, rounding to nearest.
pub(crate) trait Convert: Element {
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

macro_rules! convert {
    ($($t:ty: $from:expr, $to:expr;)*) => {
        $(impl Convert for $t {
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                $from(x)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
        })*
    };
}
convert! {
    f64: |x| x, |x| x;
    f32: |x| x as f32, f64::from;
    bf16: bf16::from_f64, bf16::to_f64;
    f16: f16::from_f64, f16::to_f64;
    u32: |x| x as u32, f64::from;
}

kernel! {
    fn to_bf16(x: &[f32], y: &mut [bf16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
            // A NaN must stay one: its quiet bit is set, and a carry cannot reach the sign.
            let quiet = (bits >> 16) | 0x40;
            *y = bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16);
        }
    }
}

kernel! {
    fn from_bf16(x: &[bf16], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

/// A row of `[f32]` to multiply with, or one number for all columns.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Row(&'a [f32]),
    One(f32),
}

#[inline(always)]
fn combine(y: &mut [f32], x: Operand<'_>, f: impl Fn(f32, f32) -> f32) {
    match x {
        Operand::Row(x) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(*y, x)),
        Operand::One(x) => y.iter_mut().for_each(|y| *y = f(*y, x)),
    }
}

kernel! {
    fn binary(f: BinaryOp, y: &mut [f32], x: Operand<'_>) {
        match f {
            BinaryOp::Add => combine(y, x, |y, x| y + x),
            BinaryOp::Sub => combine(y, x, |y, x| y - x),
            BinaryOp::Mul => combine(y, x, |y, x| y * x),
            BinaryOp::Div => combine(y, x, |y, x| y / x),
            _ => unreachable!("checked by the caller"),
        }
    }
}

#[inline(always)]
fn map(y: &mut [f32], f: impl Fn(f32) -> f32) {
    for y in y {
        *y = f(*y);
    }
}

kernel! {
    fn unary(f: UnaryOp, y: &mut [f32]) {
        match f {
            UnaryOp::Affine(a, b) => {
                let (a, b) = (a as f32, b as f32);
                map(y, |y| a * y + b);
            }
            UnaryOp::Sigmoid => map(y, simd::sigmoid),
            UnaryOp::Exp => map(y, simd::exp),
            UnaryOp::Ln => map(y, f32::ln),
            UnaryOp::Square => map(y, |y| y * y),
            UnaryOp::Sqrt => map(y, f32::sqrt),
            UnaryOp::Recip => map(y, |y| 1.0 / y),
            UnaryOp::Sign => map(y, |y| if y > 0.0 { 1.0 } else if y < 0.0 { -1.0 } else { 0.0 }),
            UnaryOp::ClipFactor(max) => map(y, |y| {
                let factor = max as f32 / (y.sqrt() + 1e-6);
                if !y.is_finite() { f32::NAN } else if factor > 1.0 { 1.0 } else { factor }
            }),
            _ => unreachable!("checked by the caller"),
        }
    }
}

impl Cpu {
    pub(crate) fn run_fill(&self, call: Fill<'_, Buffer>) -> Result<(), CpuError> {
        with_type!("fill", call.y.dtype(), T => {
            let y = mat::write::<T>("fill", call.y)?;
            let value = T::from_f64(call.value);
            let work = y.rows() * y.cols() / 8;
            self.for_each(work, Tiles::of_elements(y), |_, mut y| y.for_rows(|_, row| row.fill(value)));
            Ok(())
        })
    }

    pub(crate) fn run_cast(&self, call: Cast<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "cast";
        let isa = self.isa();
        match (call.x.dtype(), call.y.dtype()) {
            (DType::F32, DType::BF16) => self.convert_rows::<f32, bf16>(call, |x, y| to_bf16(isa, x, y)),
            (DType::BF16, DType::F32) => self.convert_rows::<bf16, f32>(call, |x, y| from_bf16(isa, x, y)),
            (x, y) if x == y => {
                with_type!(OP, x, T => self.convert_rows::<T, T>(call, |x, y| y.copy_from_slice(x)))
            }
            (x, y) => with_type!(OP, x, X => with_type!(OP, y, Y => self.convert_rows::<X, Y>(call, |x, y| {
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = Y::from_f64(x.to_f64()));
            }))),
        }
    }

    fn convert_rows<X: Element, Y: Element>(
        &self,
        call: Cast<'_, Buffer>,
        f: impl Fn(&[X], &mut [Y]) + Sync,
    ) -> Result<(), CpuError> {
        let (x, y) = (mat::read::<X>("cast", &call.x)?, mat::write::<Y>("cast", call.y)?);
        let work = y.rows() * y.cols() / 4;
        self.for_each(work, Tiles::of_elements(y), |_, mut y| {
            let columns = y.col..y.col + y.cols();
            y.for_rows(|r, row| f(&x.row(r)[columns.clone()], row));
        });
        Ok(())
    }

    pub(crate) fn run_unary(&self, call: Unary<'_, Buffer>) -> Result<(), CpuError> {
        let (f, isa) = (call.f, self.isa());
        use UnaryOp::*;
        if !matches!(f, Affine(..) | Sigmoid | Exp | Ln | Square | Sqrt | Recip | Sign | ClipFactor(_)) {
            return Err(CpuError::new(ErrorKind::Unsupported, format!("unary: {f:?} is not supported")));
        }
        let y = mat::write("unary", call.y)?;
        let work = y.rows() * y.cols();
        self.for_each(work, Tiles::of_elements(y), |_, mut y| y.for_rows(|_, row| unary(isa, f, row)));
        Ok(())
    }

    pub(crate) fn run_binary(&self, call: Binary<'_, Buffer>) -> Result<(), CpuError> {
        let (f, isa) = (call.f, self.isa());
        if !matches!(f, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div) {
            return Err(CpuError::new(ErrorKind::Unsupported, format!("binary: {f:?} is not supported")));
        }
        let (x, y) = (mat::read("binary", &call.x)?, mat::write("binary", call.y)?);
        let work = y.rows() * y.cols() / 4;
        self.for_each(work, Tiles::of_elements(y), |_, mut y| {
            let columns = y.col..y.col + y.cols();
            y.for_rows(|r, row| binary(isa, f, row, operand(&x, r, columns.clone(), row.len())));
        });
        Ok(())
    }

    pub(crate) fn run_mask_window(&self, call: MaskWindow<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "mask_window";
        let (first, y) = (mat::read::<u32>(OP, &call.first)?, mat::write::<f32>(OP, call.y)?);
        let (base, last) = (call.base, call.last);
        let work = y.rows() * y.cols() / 4;
        self.for_each(work, Tiles::of_elements(y), |_, mut y: Tile<'_, f32>| {
            let left = base + y.col;
            y.for_rows(|r, row| {
                let seen_from = (first.row(r)[0] as usize).saturating_sub(left).min(row.len());
                let seen_to = (last + r + 1).saturating_sub(left).clamp(seen_from, row.len());
                row[..seen_from].fill(f32::NEG_INFINITY);
                row[seen_to..].fill(f32::NEG_INFINITY);
            });
        });
        Ok(())
    }
}

/// What row `r` of `y` is combined with, for the given columns.
fn operand<'a>(x: &Mat<'a, f32>, r: usize, columns: std::ops::Range<usize>, len: usize) -> Operand<'a> {
    let row = x.row(if x.rows() == 1 { 0 } else { r });
    match row {
        &[one] if len != 1 || columns.start > 0 => Operand::One(one),
        _ => Operand::Row(&row[columns]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn bf16_rounds_as_the_half_crate_does() {
        let mut x: Vec<f32> = (0..1 << 18).map(|i: u32| f32::from_bits(i.wrapping_mul(16_411))).collect();
        x.extend([f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, -0.0, f32::from_bits(0x7f80_0001)]);
        let mut y = vec![bf16::ZERO; x.len()];
        let mut back = vec![0.0; x.len()];
        for isa in Isa::all() {
            to_bf16(isa, &x, &mut y);
            from_bf16(isa, &y, &mut back);
            for ((&x, &y), &back) in x.iter().zip(&y).zip(&back) {
                assert_eq!(y.to_bits(), bf16::from_f32(x).to_bits(), "{x}");
                assert!(back.to_bits() == y.to_f32().to_bits() || back.is_nan() && x.is_nan());
            }
        }
    }
}
