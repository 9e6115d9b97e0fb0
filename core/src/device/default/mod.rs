//! Default bodies of the fused kernels, written in primitives.
//!
//! They are what a new driver trains with before it has fused kernels, and a second definition of each to
//! hold against [`Host`](super::Host). They are meant to be right on any device, not fast: operands are first copied to
//! one type (f64 where the main operand is, else f32), each step is one primitive over whole matrices, and results are
//! rounded when they are stored. Nothing reads back from the device, and a choice that hangs on data is a gather; but
//! `sample` reads its logits, since whole numbers of 64 bits are no type of a device, and its result is read anyway.

mod attention;
mod decode;
mod elementwise;
mod gemm_fp8;
mod gemv;
mod index;
mod loss;
mod norm;
mod optimizer;
mod quantize;
mod reduce;
mod rope;
mod router;
mod sample;
mod swiglu;

pub(super) use attention::*;
pub use decode::*;
pub(super) use elementwise::*;
pub(super) use gemm_fp8::*;
pub use gemv::*;
pub(super) use index::*;
pub(super) use loss::*;
pub use norm::*;
pub(super) use optimizer::*;
pub use quantize::*;
pub(super) use reduce::*;
pub(super) use rope::*;
pub(super) use router::*;
pub use sample::*;
pub use swiglu::*;

use super::call::{
    Binary, BinaryOp, Cast, Form, GatherColumns, GatherRows, Gemm, Out, ReduceRows, Reduction, ScatterAddColumns,
    SumColumns, TopK, Unary, UnaryOp,
};
use super::primitives::Primitives;
use super::tensor::{Tensor, View, ViewMut};
use crate::dtype::DType;

/// Primitives as functions from tensors to tensors, all in one floating-point type.
struct Work<'d, D> {
    device: &'d D,
    dtype: DType,
}

impl<'d, D: Primitives> Work<'d, D> {
    /// Work in f64 where `dtype` is F64, else in f32.
    fn new(device: &'d D, dtype: DType) -> Self {
        let dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        Self { device, dtype }
    }

    fn empty(&self, rows: usize, cols: usize) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::empty(self.device, &[rows, cols], self.dtype)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::zeros(self.device, &[rows, cols], self.dtype)
    }

    fn indices(&self, rows: usize, cols: usize) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::empty(self.device, &[rows, cols], DType::U32)
    }

    /// A matrix of constants: `value(r, c)`, small whole numbers.
    fn constant(&self, rows: usize, cols: usize, value: impl Fn(usize, usize) -> f32) -> Result<Tensor<D>, D::Error> {
        let values: alloc::vec::Vec<f32> = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
        let t = Tensor::<D>::from_slice(self.device, &[rows, cols], DType::F32, &values)?;
        self.copy(t.view())
    }

    /// `x` in the working type, without gaps.
    fn copy(&self, x: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut y = self.empty(x.rows(), x.cols())?;
        self.device.cast(Cast::new(x, y.view_mut())?)?;
        Ok(y)
    }

    /// Rounds `x` into a result.
    fn store(&self, x: View<'_, D>, y: ViewMut<'_, D>) -> Result<(), D::Error> {
        self.device.cast(Cast::new(x, y)?)
    }

    /// `y = f(y)`.
    fn map(&self, f: UnaryOp, y: &mut Tensor<D>) -> Result<(), D::Error> {
        self.device.unary(Unary::new(f, y.view_mut())?)
    }

    /// `y = a·y`.
    fn scale(&self, a: f64, y: &mut Tensor<D>) -> Result<(), D::Error> {
        self.map(UnaryOp::Affine(a, 0.0), y)
    }

    /// `y = y ∘ x`, a single row or column of `x` repeated.
    fn apply(&self, f: BinaryOp, y: &mut Tensor<D>, x: View<'_, D>) -> Result<(), D::Error> {
        self.device.binary(Binary::new(f, x, y.view_mut())?)
    }

    /// One number per row.
    fn reduce(&self, f: Reduction, x: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut y = self.empty(x.rows(), 1)?;
        self.device.reduce_rows(ReduceRows::new(f, x, y.view_mut(), Out::Replace)?)?;
        Ok(y)
    }

    /// `Σ_c a[r, c]·b[r, c]`, one number per row.
    fn dot(&self, a: View<'_, D>, b: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut product = self.copy(a)?;
        self.apply(BinaryOp::Mul, &mut product, b)?;
        self.reduce(Reduction::Sum, product.view())
    }

    /// The sum of every row, column after column: the same bits on every device, which a reduction need not give.
    fn ordered_sum(&self, x: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut y = self.zeros(x.rows(), 1)?;
        for c in 0..x.cols() {
            self.apply(BinaryOp::Add, &mut y, x.columns(c..c + 1)?)?;
        }
        Ok(y)
    }

    /// `y += Σ_r x[r, :]`.
    fn sum_columns(&self, x: View<'_, D>, y: ViewMut<'_, D>) -> Result<(), D::Error> {
        sum_columns(self.device, SumColumns::new(x, y)?)
    }

    /// `op(a)·op(b)`.
    fn product(&self, form: Form, a: View<'_, D>, b: View<'_, D>, shape: [usize; 2]) -> Result<Tensor<D>, D::Error> {
        let mut c = self.empty(shape[0], shape[1])?;
        self.device.gemm(Gemm::new(form, a, b, c.view_mut())?)?;
        Ok(c)
    }

    /// The columns of the `k` largest elements of every row.
    fn top_k(&self, x: View<'_, D>, k: usize) -> Result<Tensor<D>, D::Error> {
        let mut index = self.indices(x.rows(), k)?;
        self.device.top_k(TopK::new(x, index.view_mut())?)?;
        Ok(index)
    }

    /// `x[r, index[r, j]]`.
    fn pick(&self, x: &Tensor<D>, index: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut y = self.empty(index.rows(), index.cols())?;
        self.device.gather_columns(GatherColumns::new(x.view(), index, y.view_mut())?)?;
        Ok(y)
    }

    /// Ones where `index` points, in a matrix of `cols` columns; an index of `u32::MAX` points nowhere.
    fn one_hot(&self, index: View<'_, D>, cols: usize) -> Result<Tensor<D>, D::Error> {
        let one = self.constant(1, 1, |_, _| 1.0)?;
        let mut y = self.zeros(index.rows(), cols)?;
        self.device.scatter_add_columns(ScatterAddColumns::new(one.view(), index, y.view_mut())?)?;
        Ok(y)
    }

    /// Rows `index` of `x`, in the working type.
    fn rows(&self, x: View<'_, D>, index: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut y = Tensor::<D>::empty(self.device, &[index.rows(), x.cols()], x.dtype())?;
        self.device.gather_rows(GatherRows::new(x, index, 1, y.view_mut())?)?;
        self.copy(y.view())
    }
}
