//! Elementwise kernels: fill, cast, unary and binary functions, random numbers.

use fathom_core::DType;
use fathom_core::device::{Binary, BinaryOp, Cast, Fill, RandomNormal, Unary, UnaryOp};
use fathom_core::math::round_to_odd;
use fathom_core::rng;
use half::{bf16, f16};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Element, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{BLOCK, Chunks, Tiles};
use crate::real::{Real, typed, with_type};
use crate::simd::{self, kernel};

/// Numbers drawn in f32 before they are stored.
const PIECE: usize = 256;

/// Conversion from and to f64, rounding to nearest.
pub(crate) trait Convert: Element {
    /// The nearest number of this type. Not named as the methods of `half` are, which would be called in its place.
    fn nearest(x: f64) -> Self;
    /// The number, exactly.
    fn number(self) -> f64;
}

macro_rules! convert {
    ($($t:ty: $from:expr, $to:expr;)*) => {
        $(impl Convert for $t {
            #[inline(always)]
            fn nearest(x: f64) -> Self {
                $from(x)
            }
            #[inline(always)]
            fn number(self) -> f64 {
                $to(self)
            }
        })*
    };
}
convert! {
    f64: |x| x, |x| x;
    f32: |x| x as f32, f64::from;
    // `half` drops the lower 32 bits of an f64 before it rounds, and so misses what lies just beside a tie.
    bf16: |x| bf16::from_f32(round_to_odd(x)), bf16::to_f64;
    f16: |x| f16::from_f32(round_to_odd(x)), f16::to_f64;
    u32: |x: f64| x.round_ties_even() as u32, f64::from;
}

kernel! {
    /// `y = x` in another type.
    pub(crate) fn convert<X: Real, Y: Real>(x: &[X], y: &mut [Y]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Y::store(x.load());
        }
    }
}

/// A row to combine with, or one number for all columns.
#[derive(Clone, Copy)]
enum Operand<'a, X> {
    Row(&'a [X]),
    One(X),
}

#[inline(always)]
fn combine<X: Real, Y: Real>(y: &mut [Y], x: Operand<'_, X>, f: impl Fn(f32, f32) -> f32) {
    match x {
        Operand::Row(x) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = Y::store(f(y.load(), x.load()))),
        Operand::One(x) => y.iter_mut().for_each(|y| *y = Y::store(f(y.load(), x.load()))),
    }
}

kernel! {
    fn binary<X: Real, Y: Real>(f: BinaryOp, y: &mut [Y], x: Operand<'_, X>) {
        match f {
            BinaryOp::Add => combine(y, x, |y, x| y + x),
            BinaryOp::Sub => combine(y, x, |y, x| y - x),
            BinaryOp::Mul => combine(y, x, |y, x| y * x),
            BinaryOp::Div => combine(y, x, |y, x| y / x),
        }
    }
}

#[inline(always)]
fn map<T: Real>(y: &mut [T], f: impl Fn(f32) -> f32) {
    for y in y {
        *y = T::store(f(y.load()));
    }
}

kernel! {
    fn unary<T: Real>(f: UnaryOp, y: &mut [T]) {
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
        }
    }
}

typed! {
    unary: Unary[y] => run_unary,
    binary: Binary[x, y] => run_binary,
    random_normal: RandomNormal[y] => run_random_normal,
}

impl Cpu {
    pub(crate) fn fill(&self, call: Fill<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "fill";
        with_type!(OP, call.y.dtype(), [F64: f64, F32: f32, BF16: bf16, F16: f16, U32: u32], T => {
            let y = mat::write::<T>(OP, call.y)?;
            let value = T::nearest(call.value);
            let work = y.rows() * y.cols() / 8;
            self.for_each(work, Tiles::of_elements(y), |_, mut y| y.for_rows(|_, row| row.fill(value)));
            Ok(())
        })
    }

    pub(crate) fn cast(&self, call: Cast<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "cast";
        use DType::{BF16, F16, F32};
        let isa = self.isa();
        match (call.x.dtype(), call.y.dtype()) {
            (x, y) if x == y => {
                self.each_row(mat::read_bytes(&call.x), mat::write_bytes(call.y), |x, y| y.copy_from_slice(x));
                Ok(())
            }
            (x @ (F32 | BF16 | F16), y @ (F32 | BF16 | F16)) => {
                with_type!(OP, x, [F32: f32, BF16: bf16, F16: f16], X => {
                    with_type!(OP, y, [F32: f32, BF16: bf16, F16: f16], Y => {
                        let (x, y) = (mat::read::<X>(OP, &call.x)?, mat::write::<Y>(OP, call.y)?);
                        self.each_row(x, y, |x, y| convert(isa, x, y));
                        Ok(())
                    })
                })
            }
            (x, y) => with_type!(OP, x, [F64: f64, F32: f32, BF16: bf16, F16: f16, U32: u32], X => {
                with_type!(OP, y, [F64: f64, F32: f32, BF16: bf16, F16: f16, U32: u32], Y => {
                    let (x, y) = (mat::read::<X>(OP, &call.x)?, mat::write::<Y>(OP, call.y)?);
                    self.each_row(x, y, |x, y| {
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y = Y::nearest(x.number()));
                    });
                    Ok(())
                })
            }),
        }
    }

    /// Runs `f` on the rows of `x` and `y`, a piece at a time.
    fn each_row<X: Sync, Y: Send>(&self, x: Mat<'_, X>, y: MatMut<'_, Y>, f: impl Fn(&[X], &mut [Y]) + Sync) {
        let work = y.rows() * y.cols() / 4;
        self.for_each(work, Tiles::of_elements(y), |_, mut y| {
            let columns = y.col..y.col + y.cols();
            y.for_rows(|r, row| f(&x.row(r)[columns.clone()], row));
        });
    }

    fn run_unary<T: Real>(&self, call: Unary<'_, Buffer>) -> Result<(), CpuError> {
        let (f, isa) = (call.f, self.isa());
        let y = mat::write::<T>("unary", call.y)?;
        let work = y.rows() * y.cols();
        self.for_each(work, Tiles::of_elements(y), |_, mut y| y.for_rows(|_, row| unary(isa, f, row)));
        Ok(())
    }

    fn run_binary<X: Real, Y: Real>(&self, call: Binary<'_, Buffer>) -> Result<(), CpuError> {
        let (f, isa) = (call.f, self.isa());
        let (x, y) = (mat::read::<X>("binary", &call.x)?, mat::write::<Y>("binary", call.y)?);
        let work = y.rows() * y.cols() / 4;
        self.for_each(work, Tiles::of_elements(y), |_, mut y| {
            let columns = y.col..y.col + y.cols();
            y.for_rows(|r, row| binary(isa, f, row, operand(&x, r, columns.clone(), row.len())));
        });
        Ok(())
    }

    fn run_random_normal<T: Real>(&self, call: RandomNormal<'_, Buffer>) -> Result<(), CpuError> {
        let (seed, stream, std) = (call.seed, call.stream, call.std);
        let y = mat::write::<T>("random_normal", call.y)?.into_slice();
        self.for_each(20 * y.len(), Chunks::new(y, BLOCK), |i, y| {
            let mut drawn = [0.0; PIECE];
            for (piece, y) in y.chunks_mut(PIECE).enumerate() {
                let drawn = &mut drawn[..y.len()];
                rng::fill_normal(seed, stream, (i * BLOCK + piece * PIECE) as u64, std, drawn);
                y.iter_mut().zip(drawn).for_each(|(y, &mut x)| *y = T::store(x));
            }
        });
        Ok(())
    }
}

/// What row `r` of `y` is combined with, for the given columns.
fn operand<'a, X: Real>(x: &Mat<'a, X>, r: usize, columns: std::ops::Range<usize>, len: usize) -> Operand<'a, X> {
    let row = x.row(if x.rows() == 1 { 0 } else { r });
    match row {
        &[one] if len != 1 || columns.start > 0 => Operand::One(one),
        _ => Operand::Row(&row[columns]),
    }
}
