//! Checked calls of the primitive kernels.
//!
//! A call holds the views a kernel works on. Its fields are public to read, but it can only be made by its
//! constructor, which checks shapes and types once, for every driver.

use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, same};
use crate::tensor::{MatMut, MatRef};

/// What a call costs at least, whatever the device: the floor to measure a kernel against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations (a multiply-add is two).
    pub flops: u64,
    /// Bytes moved if every operand is read once and every result written once.
    pub bytes: u64,
}

impl Cost {
    pub(crate) const fn new(flops: u64, bytes: u64) -> Self {
        Self { flops, bytes }
    }
}

/// A call of some kernel: what wrappers need to know of it.
pub trait Call {
    /// The kernel's method name.
    const NAME: &'static str;
    /// Its floor.
    fn cost(&self) -> Cost;
}

pub(super) fn bytes_of<B>(m: &MatRef<'_, B>) -> u64 {
    (m.elements() * m.dtype().size()) as u64
}

pub(super) fn bytes_of_mut<B>(m: &MatMut<'_, B>) -> u64 {
    (m.elements() * m.dtype().size()) as u64
}

pub(super) fn is_index<B>(op: &'static str, m: &MatRef<'_, B>) -> Result<(), InvalidOp> {
    ensure(op, "an index operand must be U32", m.dtype() == DType::U32)
}

pub(super) fn same_shape<B>(op: &'static str, a: &MatRef<'_, B>, b: &MatRef<'_, B>) -> Result<(), InvalidOp> {
    same(op, "rows of its operands", a.rows(), b.rows())?;
    same(op, "columns of its operands", a.cols(), b.cols())
}

pub(super) fn is_float<B>(op: &'static str, m: &MatRef<'_, B>) -> Result<(), InvalidOp> {
    ensure(op, "a floating-point operand is an integer", m.dtype().is_float())
}

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
/// A device that leaves [`route`](super::Kernels::route) to its default body computes `Exp` and `Sigmoid` of f32 with
/// [`math::exp`](crate::math::exp), so that it chooses the experts every other device does.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
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
#[non_exhaustive]
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

/// How a row becomes one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reduction {
    /// `Σ x`.
    Sum,
    /// `Σ x²`.
    SumSquares,
    /// `max x`.
    Max,
}

/// `y[r] = reduce(x[r, :])`, or `y[r] += …` with `accumulate` (sums only).
///
/// The order of the sum is the device's, but fixed by the shape alone: the same bits for any number of threads.
#[non_exhaustive]
pub struct ReduceRows<'a, B> {
    /// How.
    pub f: Reduction,
    /// `[m, n]`.
    pub x: MatRef<'a, B>,
    /// `[m, 1]`.
    pub y: MatMut<'a, B>,
    /// Add to `y` instead of replacing it.
    pub accumulate: bool,
}

impl<'a, B> ReduceRows<'a, B> {
    /// Reduces each row of `x` into `y`.
    pub fn new(f: Reduction, x: MatRef<'a, B>, y: MatMut<'a, B>, accumulate: bool) -> Result<Self, InvalidOp> {
        is_float("reduce_rows", &x)?;
        is_float("reduce_rows", &y.as_ref())?;
        same("reduce_rows", "rows of y", x.rows(), y.rows())?;
        same("reduce_rows", "columns of y", 1, y.cols())?;
        ensure("reduce_rows", "a maximum cannot accumulate", !(accumulate && f == Reduction::Max))?;
        Ok(Self { f, x, y, accumulate })
    }
}

impl<B> Call for ReduceRows<'_, B> {
    const NAME: &'static str = "reduce_rows";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, bytes_of(&self.x) + bytes_of_mut(&self.y))
    }
}

/// `y[c] += Σ_r x[r, c]`: the gradient of a bias. The order of the sum is fixed by the shape.
#[non_exhaustive]
pub struct SumColumns<'a, B> {
    /// `[m, n]`.
    pub x: MatRef<'a, B>,
    /// `[1, n]`, added to.
    pub y: MatMut<'a, B>,
}

impl<'a, B> SumColumns<'a, B> {
    /// Adds the column sums of `x` to `y`.
    pub fn new(x: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        is_float("sum_columns", &x)?;
        is_float("sum_columns", &y.as_ref())?;
        same("sum_columns", "rows of y", 1, y.rows())?;
        same("sum_columns", "columns of y", x.cols(), y.cols())?;
        Ok(Self { x, y })
    }
}

impl<B> Call for SumColumns<'_, B> {
    const NAME: &'static str = "sum_columns";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, bytes_of(&self.x) + 2 * bytes_of_mut(&self.y))
    }
}

/// Which of the two factors of a product is transposed. Matrices are row-major throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `c[m, n] = a[m, k] · b[n, k]ᵀ`: a linear layer's output, `b` its weight `[out, in]`.
    Nt,
    /// `c[m, n] = a[m, k] · b[k, n]`: a linear layer's input gradient.
    Nn,
    /// `c[m, n] = a[k, m]ᵀ · b[k, n]`: a linear layer's weight gradient.
    Tn,
}

/// A matrix product, `c = α·op(a)·op(b)`, or `c += …` with `accumulate`.
///
/// The value of a row of `c` does not depend on how many other rows there are.
#[non_exhaustive]
pub struct Gemm<'a, B> {
    /// Which factor is transposed.
    pub form: Form,
    /// First factor; see [`Form`] for its shape.
    pub a: MatRef<'a, B>,
    /// Second factor.
    pub b: MatRef<'a, B>,
    /// `[m, n]`.
    pub c: MatMut<'a, B>,
    /// α.
    pub alpha: f64,
    /// Add to `c` instead of replacing it.
    pub accumulate: bool,
}

impl<'a, B> Gemm<'a, B> {
    /// `c = op(a)·op(b)`.
    pub fn new(form: Form, a: MatRef<'a, B>, b: MatRef<'a, B>, c: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        for m in [&a, &b, &c.as_ref()] {
            is_float("gemm", m)?;
        }
        let ((m, ka), (n, kb)) = extents(form, &a, &b);
        same("gemm", "inner dimension of b", ka, kb)?;
        same("gemm", "rows of c", m, c.rows())?;
        same("gemm", "columns of c", n, c.cols())?;
        Ok(Self { form, a, b, c, alpha: 1.0, accumulate: false })
    }

    /// The same product scaled by `alpha`.
    pub fn scaled(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// The same product, added to `c`.
    pub fn accumulating(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// `(m, n, k)`.
    pub fn dimensions(&self) -> (usize, usize, usize) {
        let ((m, k), (n, _)) = extents(self.form, &self.a, &self.b);
        (m, n, k)
    }
}

fn extents<B>(form: Form, a: &MatRef<'_, B>, b: &MatRef<'_, B>) -> ((usize, usize), (usize, usize)) {
    match form {
        Form::Nt => ((a.rows(), a.cols()), (b.rows(), b.cols())),
        Form::Nn => ((a.rows(), a.cols()), (b.cols(), b.rows())),
        Form::Tn => ((a.cols(), a.rows()), (b.cols(), b.rows())),
    }
}

impl<B> Call for Gemm<'_, B> {
    const NAME: &'static str = "gemm";
    fn cost(&self) -> Cost {
        let (m, n, k) = self.dimensions();
        let out = bytes_of_mut(&self.c) * if self.accumulate { 2 } else { 1 };
        Cost::new(2 * m as u64 * n as u64 * k as u64, bytes_of(&self.a) + bytes_of(&self.b) + out)
    }
}

/// One matrix product per group of rows, the groups given by `offsets` on the device: group `g` is rows
/// `offsets[g]..offsets[g + 1]` of the row operands. No padding; groups may be empty.
///
/// | form | a | b | c |
/// |---|---|---|---|
/// | `Nt` | rows `[r, k]` | `[g·n, k]`, `g` weights `[n, k]` | rows `[r, n]` |
/// | `Nn` | rows `[r, n]` | `[g·n, k]` | rows `[r, k]` |
/// | `Tn` | rows `[r, n]` | rows `[r, k]` | `[g·n, k]`, always added to |
///
/// Offsets must rise from 0 to `r`; a driver clamps others rather than leave its buffers.
#[non_exhaustive]
pub struct GroupedGemm<'a, B> {
    /// See the table.
    pub form: Form,
    /// Number of groups.
    pub groups: usize,
    /// First factor.
    pub a: MatRef<'a, B>,
    /// Second factor.
    pub b: MatRef<'a, B>,
    /// `[1, groups + 1]` u32.
    pub offsets: MatRef<'a, B>,
    /// Result.
    pub c: MatMut<'a, B>,
}

impl<'a, B> GroupedGemm<'a, B> {
    /// One product per group.
    pub fn new(
        form: Form,
        groups: usize,
        a: MatRef<'a, B>,
        b: MatRef<'a, B>,
        offsets: MatRef<'a, B>,
        c: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "grouped_gemm";
        for m in [&a, &b, &c.as_ref()] {
            is_float(OP, m)?;
        }
        is_index(OP, &offsets)?;
        ensure(OP, "needs at least one group", groups > 0)?;
        same(OP, "offsets", groups + 1, offsets.elements())?;
        ensure(OP, "offsets must have no gaps", offsets.is_contiguous())?;
        let call = Self { form, groups, a, b, offsets, c };
        let stacked = if form == Form::Tn { call.c.as_ref() } else { b };
        same(OP, "rows of the stacked weights must divide by the groups", 0, stacked.rows() % groups)?;
        let (n, k) = (stacked.rows() / groups, stacked.cols());
        let (rows_in, rows_out) = if form == Form::Tn { (b, a) } else { (a, call.c.as_ref()) };
        same(OP, "rows of its row operands", rows_in.rows(), rows_out.rows())?;
        let (in_cols, out_cols) = if form == Form::Nn { (n, k) } else { (k, n) };
        same(OP, "columns of the input rows", in_cols, rows_in.cols())?;
        same(OP, "columns of the output rows", out_cols, rows_out.cols())?;
        Ok(call)
    }

    /// `(n, k)`: the shape of one group's weight.
    pub fn weight(&self) -> (usize, usize) {
        let stacked = if self.form == Form::Tn { self.c.as_ref() } else { self.b };
        (stacked.rows() / self.groups, stacked.cols())
    }

    /// Rows over all groups.
    pub fn rows(&self) -> usize {
        self.a.rows()
    }
}

impl<B> Call for GroupedGemm<'_, B> {
    const NAME: &'static str = "grouped_gemm";
    fn cost(&self) -> Cost {
        let (n, k) = self.weight();
        let out = bytes_of_mut(&self.c) * if self.form == Form::Tn { 2 } else { 1 };
        Cost::new(2 * self.rows() as u64 * n as u64 * k as u64, bytes_of(&self.a) + bytes_of(&self.b) + out)
    }
}

/// `y[r, :] = x[index[r] / divisor, :]`, rounded where `y` is of a narrower type. An index outside `x` is an error, or reads as zeros on an asynchronous device.
#[non_exhaustive]
pub struct GatherRows<'a, B> {
    /// `[n, c]` of any type.
    pub x: MatRef<'a, B>,
    /// `[m, 1]` u32.
    pub index: MatRef<'a, B>,
    /// What an index is divided by: top-k, where indices count (token, choice) pairs and `x` holds tokens.
    pub divisor: usize,
    /// `[m, c]`, of the type of `x`, or both floating point.
    pub y: MatMut<'a, B>,
}

impl<'a, B> GatherRows<'a, B> {
    /// Gathers rows of `x`.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, divisor: usize, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "gather_rows";
        is_index(OP, &index)?;
        same(OP, "columns of the index", 1, index.cols())?;
        same(OP, "rows of y", index.rows(), y.rows())?;
        same(OP, "columns of y", x.cols(), y.cols())?;
        let floats = x.dtype().is_float() && y.dtype().is_float();
        ensure(OP, "x and y must have one type, or both be floating point", floats || x.dtype() == y.dtype())?;
        ensure(OP, "needs a divisor above zero", divisor > 0)?;
        Ok(Self { x, index, divisor, y })
    }
}

impl<B> Call for GatherRows<'_, B> {
    const NAME: &'static str = "gather_rows";
    fn cost(&self) -> Cost {
        Cost::new(0, 2 * bytes_of_mut(&self.y) + bytes_of(&self.index))
    }
}

/// `y[index[r], :] += x[r, :]`, each row of `y` summed in the order of `r`: the gradient of an embedding.
#[non_exhaustive]
pub struct ScatterAddRows<'a, B> {
    /// `[m, c]`.
    pub x: MatRef<'a, B>,
    /// `[m, 1]` u32, each below `n`.
    pub index: MatRef<'a, B>,
    /// `[n, c]`, added to.
    pub y: MatMut<'a, B>,
}

impl<'a, B> ScatterAddRows<'a, B> {
    /// Adds rows of `x` into `y`.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "scatter_add_rows";
        is_index(OP, &index)?;
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "columns of the index", 1, index.cols())?;
        same(OP, "rows of the index", x.rows(), index.rows())?;
        same(OP, "columns of y", x.cols(), y.cols())?;
        Ok(Self { x, index, y })
    }
}

impl<B> Call for ScatterAddRows<'_, B> {
    const NAME: &'static str = "scatter_add_rows";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, 3 * bytes_of(&self.x) + bytes_of(&self.index))
    }
}

/// `y[r, j] = x[r, index[r, j]]`.
#[non_exhaustive]
pub struct GatherColumns<'a, B> {
    /// `[m, n]`.
    pub x: MatRef<'a, B>,
    /// `[m, k]` u32, each below `n`.
    pub index: MatRef<'a, B>,
    /// `[m, k]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> GatherColumns<'a, B> {
    /// Picks `k` elements of every row.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "gather_columns";
        is_index(OP, &index)?;
        is_float(OP, &x)?;
        same(OP, "rows of the index", x.rows(), index.rows())?;
        same_shape(OP, &index, &y.as_ref())?;
        ensure(OP, "x and y must have one type", x.dtype() == y.dtype())?;
        Ok(Self { x, index, y })
    }
}

impl<B> Call for GatherColumns<'_, B> {
    const NAME: &'static str = "gather_columns";
    fn cost(&self) -> Cost {
        Cost::new(0, 2 * bytes_of_mut(&self.y) + bytes_of(&self.index))
    }
}

/// `y[r, index[r, j]] += x[r, j]`. An index of `u32::MAX` adds nothing.
#[non_exhaustive]
pub struct ScatterAddColumns<'a, B> {
    /// `[m, k]`, or `[1, 1]` repeated.
    pub x: MatRef<'a, B>,
    /// `[m, k]` u32.
    pub index: MatRef<'a, B>,
    /// `[m, n]`, added to.
    pub y: MatMut<'a, B>,
}

impl<'a, B> ScatterAddColumns<'a, B> {
    /// Adds `k` numbers into every row.
    pub fn new(x: MatRef<'a, B>, index: MatRef<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "scatter_add_columns";
        is_index(OP, &index)?;
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "rows of the index", y.rows(), index.rows())?;
        if x.elements() != 1 {
            same_shape(OP, &x, &index)?;
        }
        Ok(Self { x, index, y })
    }
}

impl<B> Call for ScatterAddColumns<'_, B> {
    const NAME: &'static str = "scatter_add_columns";
    fn cost(&self) -> Cost {
        Cost::new(self.index.elements() as u64, bytes_of(&self.x) + 3 * bytes_of(&self.index))
    }
}

/// The columns of the `k` largest elements of every row, largest first; among equals the lower column.
#[non_exhaustive]
pub struct TopK<'a, B> {
    /// `[m, n]`, free of NaN.
    pub x: MatRef<'a, B>,
    /// `[m, k]` u32, `k ≤ n`.
    pub index: MatMut<'a, B>,
}

impl<'a, B> TopK<'a, B> {
    /// Finds the largest of every row.
    pub fn new(x: MatRef<'a, B>, index: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "top_k";
        is_float(OP, &x)?;
        is_index(OP, &index.as_ref())?;
        same(OP, "rows of the index", x.rows(), index.rows())?;
        ensure(OP, "k is larger than a row", index.cols() <= x.cols())?;
        Ok(Self { x, index })
    }
}

impl<B> Call for TopK<'_, B> {
    const NAME: &'static str = "top_k";
    fn cost(&self) -> Cost {
        Cost::new(self.x.elements() as u64, bytes_of(&self.x) + bytes_of_mut(&self.index))
    }
}

/// A stable counting sort of small keys: where each of `m` items goes when they are grouped by key.
///
/// `order[p]` is the item at place `p`, `inverse[i]` the place of item `i`, and the items of key `g` lie at places
/// `offsets[g]..offsets[g + 1]`. Keys at or above `buckets` are an error, or count as the last bucket on an
/// asynchronous device.
#[non_exhaustive]
pub struct SortByKey<'a, B> {
    /// `m` keys, u32, in any shape without gaps.
    pub keys: MatRef<'a, B>,
    /// Number of keys there are.
    pub buckets: usize,
    /// `[m, 1]` u32.
    pub order: MatMut<'a, B>,
    /// `m` elements u32, in any shape without gaps.
    pub inverse: MatMut<'a, B>,
    /// `[1, buckets + 1]` u32.
    pub offsets: MatMut<'a, B>,
}

impl<'a, B> SortByKey<'a, B> {
    /// Groups items by key.
    pub fn new(
        keys: MatRef<'a, B>,
        buckets: usize,
        order: MatMut<'a, B>,
        inverse: MatMut<'a, B>,
        offsets: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "sort_by_key";
        for m in [&keys, &order.as_ref(), &inverse.as_ref(), &offsets.as_ref()] {
            is_index(OP, m)?;
            ensure(OP, "operands must have no gaps", m.is_contiguous())?;
        }
        same(OP, "elements of order", keys.elements(), order.elements())?;
        same(OP, "elements of inverse", keys.elements(), inverse.elements())?;
        same(OP, "elements of offsets", buckets.saturating_add(1), offsets.elements())?;
        Ok(Self { keys, buckets, order, inverse, offsets })
    }
}

impl<B> Call for SortByKey<'_, B> {
    const NAME: &'static str = "sort_by_key";
    fn cost(&self) -> Cost {
        Cost::new(0, 4 * bytes_of(&self.keys) + bytes_of_mut(&self.offsets))
    }
}

/// Masks scores: `y[r, c] = -inf` unless `first[r] ≤ base + c ≤ last + r`.
#[non_exhaustive]
pub struct MaskWindow<'a, B> {
    /// `[m, 1]` u32: the first position that row `r` sees.
    pub first: MatRef<'a, B>,
    /// The position of column 0.
    pub base: usize,
    /// The last position that row 0 sees; row `r` sees `r` more.
    pub last: usize,
    /// `[m, n]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> MaskWindow<'a, B> {
    /// Masks `y`.
    pub fn new(first: MatRef<'a, B>, base: usize, last: usize, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "mask_window";
        is_index(OP, &first)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "rows of first", y.rows(), first.rows())?;
        same(OP, "columns of first", 1, first.cols())?;
        Ok(Self { first, base, last, y })
    }
}

impl<B> Call for MaskWindow<'_, B> {
    const NAME: &'static str = "mask_window";
    fn cost(&self) -> Cost {
        Cost::new(0, 2 * bytes_of_mut(&self.y))
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
