//! Calls that work element by element: fill, cast, unary and binary functions, random numbers.

use super::{Call, Cost, bytes_of, bytes_of_mut, is_float, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, same};

/// `y = value`.
#[non_exhaustive]
pub struct Fill<'a, B> {
    /// `[m, n]` of any type.
    pub y: MatMut<'a, B>,
    /// The value, converted to the type of `y`.
    pub value: f64,
}

impl<'a, B> Fill<'a, B> {
    /// Fills `y` with `value`. Cannot fail.
    pub fn new(y: MatMut<'a, B>, value: f64) -> Self {
        Self { y, value }
    }
}

impl<B> Call for Fill<'_, B> {
    const NAME: &'static str = "fill";
    fn cost(&self) -> Cost {
        Cost::new(0, bytes_of_mut(&self.y))
    }
}

/// `y = x`, converted to the type of `y` (round to nearest, ties to even). Either may be strided.
#[non_exhaustive]
pub struct Cast<'a, B> {
    /// `[m, n]`.
    pub x: MatRef<'a, B>,
    /// `[m, n]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> Cast<'a, B> {
    /// Copies `x` to `y`.
    pub fn new(x: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        same_shape("cast", &x, &y.as_ref())?;
        let number = |d: DType| d.is_float() || d == DType::U32;
        ensure("cast", "codes are made by quantize, not by a cast", number(x.dtype()) && number(y.dtype()))?;
        Ok(Self { x, y })
    }
}

impl<B> Call for Cast<'_, B> {
    const NAME: &'static str = "cast";
    fn cost(&self) -> Cost {
        Cost::new(0, bytes_of(&self.x) + bytes_of_mut(&self.y))
    }
}

/// A function of one number.
///
/// A device that leaves [`route`](crate::device::Kernels::route) to its default body computes `Exp` and `Sigmoid` of
/// f32 with [`math::exp`](crate::math::exp), so that it chooses the experts every other device does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnaryOp {
    /// `a·y + b`.
    Affine(f64, f64),
    /// `1 / (1 + e^-y)`.
    Sigmoid,
    /// `e^y`.
    Exp,
    /// Natural logarithm; `ln 0 = -inf`.
    Ln,
    /// `y²`.
    Square,
    /// `√y`.
    Sqrt,
    /// `1 / y`.
    Recip,
    /// −1, 0 or 1; 0 for 0 and for NaN.
    Sign,
    /// `min(1, max / (√y + 1e-6))`, the factor that clips gradients of squared norm `y` to norm `max`; NaN for a `y`
    /// that is not finite. The 1e-6 is PyTorch's.
    ClipFactor(f64),
}

/// `y = f(y)`, element by element, in place.
#[non_exhaustive]
pub struct Unary<'a, B> {
    /// The function.
    pub f: UnaryOp,
    /// `[m, n]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> Unary<'a, B> {
    /// Applies `f` to every element of `y`.
    pub fn new(f: UnaryOp, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        is_float("unary", &y.as_ref())?;
        Ok(Self { f, y })
    }
}

impl<B> Call for Unary<'_, B> {
    const NAME: &'static str = "unary";
    fn cost(&self) -> Cost {
        Cost::new(self.y.elements() as u64, 2 * bytes_of_mut(&self.y))
    }
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `y + x`.
    Add,
    /// `y - x`.
    Sub,
    /// `y * x`.
    Mul,
    /// `y / x`.
    Div,
}

/// `y = y ∘ x`, element by element, in place. An `x` of one row or one column (or both) is repeated.
#[non_exhaustive]
pub struct Binary<'a, B> {
    /// The function.
    pub f: BinaryOp,
    /// `[m, n]`, `[1, n]`, `[m, 1]` or `[1, 1]`.
    pub x: MatRef<'a, B>,
    /// `[m, n]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> Binary<'a, B> {
    /// Combines `y` with `x`.
    pub fn new(f: BinaryOp, x: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        is_float("binary", &x)?;
        is_float("binary", &y.as_ref())?;
        if x.rows() != 1 {
            same("binary", "rows of x", y.rows(), x.rows())?;
        }
        if x.cols() != 1 {
            same("binary", "columns of x", y.cols(), x.cols())?;
        }
        Ok(Self { f, x, y })
    }
}

impl<B> Call for Binary<'_, B> {
    const NAME: &'static str = "binary";
    fn cost(&self) -> Cost {
        Cost::new(self.y.elements() as u64, bytes_of(&self.x) + 2 * bytes_of_mut(&self.y))
    }
}

/// `y[i] = std · n(seed, stream, i)`, `i` counting elements in row-major order: normally distributed, and a function of
/// its arguments alone ([`rng::fill_normal`](crate::rng::fill_normal)).
#[non_exhaustive]
pub struct RandomNormal<'a, B> {
    /// Which random numbers.
    pub seed: u64,
    /// Which sequence of them: a different one for every parameter.
    pub stream: u64,
    /// Standard deviation.
    pub std: f64,
    /// `[m, n]` without gaps.
    pub y: MatMut<'a, B>,
}

impl<'a, B> RandomNormal<'a, B> {
    /// Fills `y` with random numbers.
    pub fn new(seed: u64, stream: u64, std: f64, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        is_float("random_normal", &y.as_ref())?;
        ensure("random_normal", "needs a view without gaps", y.is_contiguous())?;
        Ok(Self { seed, stream, std, y })
    }
}

impl<B> Call for RandomNormal<'_, B> {
    const NAME: &'static str = "random_normal";
    fn cost(&self) -> Cost {
        Cost::new(0, bytes_of_mut(&self.y))
    }
}
