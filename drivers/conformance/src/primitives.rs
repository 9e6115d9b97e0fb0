//! Cases of the primitive kernels.

use fathom_core::device::{
    Binary, BinaryOp, Cast, Fill, Form, GatherColumns, GatherRows, Gemm, GroupedGemm, Kernels, MaskWindow,
    RandomNormal, ReduceRows, Reduction, ScatterAddColumns, ScatterAddRows, SortByKey, SumColumns, TopK, Unary,
    UnaryOp,
};
use fathom_core::dtype::DType;
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Case, Magnitude, Operand, Placed, sweep};
use crate::values::{Draw, Style, size, some};
use crate::{Failure, Options, Outcome};

/// Declares a case: its kernel, its fields, its activations' type and its longest sum.
macro_rules! case {
    ($name:ident, $kernel:literal, { $($field:ident: $t:ty),* $(,)? }, |$self:ident| $terms:expr,
        operands $operands:block
        call |$device:ident, $($o:ident),*| $call:expr
    ) => {
        #[derive(Clone, Debug)]
        struct $name { d: Draw, $($field: $t),* }

        impl Case for $name {
            const KERNEL: &'static str = $kernel;
            fn operands(&$self) -> Vec<Operand> $operands
            fn call<D: Kernels>(&$self, $device: &D, operands: &mut [Placed<D>]) -> Result<(), D::Error> {
                let [$($o),*] = operands else { unreachable!("a case is called with its own operands") };
                $call
            }
            fn terms(&$self) -> usize { $terms }
            fn dtype(&self) -> DType { self.d.dtype }
        }
    };
}
pub(crate) use case;

/// Declares the public function of a kernel: the strategy its cases are drawn from.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $($field:tt: $from:expr),* => $build:expr) => {
        $(#[$doc])*
        pub fn $name<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
            let draw = Draw::any(options.dtypes(device));
            sweep(device, options.cases, (draw, $($from),*).prop_map($build))
        }
    };
}
pub(crate) use kernel;

case!(FillCase, "fill", { rows: usize, cols: usize, value: f64 }, |self| 1,
    operands { vec![Operand::result(self.d.dtype, self.rows, self.cols).gaps(self.d.gaps).exact()] }
    call |device, y| device.fill(Fill::new(y.view_mut(), self.value))
);
kernel!(
    /// [`Fill`]: bit for bit.
    fill, rows: size(40), cols: size(70), value: -3.0f64..3.0 =>
    |(d, rows, cols, value)| FillCase { d, rows, cols, value }
);

case!(CastCase, "cast", { rows: usize, cols: usize, to: DType }, |self| 1,
    operands {
        let x = self.d.floats(0, self.rows * self.cols);
        vec![
            Operand::floats(self.d.dtype, self.rows, self.cols, x).gaps(self.d.gaps),
            Operand::result(self.to, self.rows, self.cols).gaps(!self.d.gaps).exact(),
        ]
    }
    call |device, x, y| device.cast(Cast::new(x.view(), y.view_mut())?)
);
/// [`Cast`] from every type to every other: bit for bit, ties to even.
pub fn cast<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let dtypes = options.dtypes(device);
    let strategy = (Draw::any(dtypes.clone()), select(dtypes), size(40), size(70));
    sweep(device, options.cases, strategy.prop_map(|(d, to, rows, cols)| CastCase { d, rows, cols, to }))
}

case!(UnaryCase, "unary", { rows: usize, cols: usize, f: UnaryOp }, |self| 1,
    operands {
        let mut y = self.d.floats(0, self.rows * self.cols);
        match self.f {
            UnaryOp::Ln | UnaryOp::Sqrt | UnaryOp::ClipFactor(_) => y.iter_mut().for_each(|v| *v = v.abs()),
            _ => {}
        }
        let operand = Operand::floats(self.d.dtype, self.rows, self.cols, y).gaps(self.d.gaps);
        let magnitude = match self.f {
            UnaryOp::Affine(a, b) => {
                Magnitude::Given(operand.values().iter().map(|v| (a * v).abs() + b.abs()).collect())
            }
            // Near 1 a logarithm may be off by what 1 is.
            UnaryOp::Ln => Magnitude::Given(operand.values().iter().map(|v| v.ln().abs().max(1.0)).collect()),
            _ => Magnitude::Result,
        };
        vec![if self.f == UnaryOp::Sign { operand.exact() } else { operand.near(magnitude) }]
    }
    call |device, y| device.unary(Unary::new(self.f, y.view_mut())?)
);
kernel!(
    /// [`Unary`], every function.
    unary, rows: size(40), cols: size(70), f: select(vec![
        UnaryOp::Affine(-1.5, 0.25), UnaryOp::Sigmoid, UnaryOp::Exp, UnaryOp::Ln, UnaryOp::Square, UnaryOp::Sqrt,
        UnaryOp::Recip, UnaryOp::Sign, UnaryOp::ClipFactor(1.0),
    ]) => |(d, rows, cols, f)| UnaryCase { d, rows, cols, f }
);

case!(BinaryCase, "binary", { rows: usize, cols: usize, f: BinaryOp, repeat: (bool, bool), wide: bool }, |self| 1,
    operands {
        let (m, n) = (if self.repeat.0 { 1 } else { self.rows }, if self.repeat.1 { 1 } else { self.cols });
        let x = if self.wide { self.d.wide() } else { self.d.dtype };
        vec![
            Operand::floats(x, m, n, self.d.floats(0, m * n)).gaps(self.d.gaps),
            Operand::floats(self.d.dtype, self.rows, self.cols, self.d.floats(1, self.rows * self.cols))
                .gaps(!self.d.gaps)
                .near(Magnitude::Result),
        ]
    }
    call |device, x, y| device.binary(Binary::new(self.f, x.view(), y.view_mut())?)
);
kernel!(
    /// [`Binary`], every function, with rows and columns repeated, of the type of `y` or onto a narrower one.
    binary, rows: size(40), cols: size(70), repeat: any::<(bool, bool)>(), wide: any::<bool>(),
        f: select(vec![BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div]) =>
    |(d, rows, cols, repeat, wide, f)| BinaryCase { d, rows, cols, f, repeat, wide }
);

case!(ReduceCase, "reduce_rows", { rows: usize, cols: usize, f: Reduction, accumulate: bool }, |self| self.cols,
    operands {
        let x = self.d.floats(0, self.rows * self.cols);
        let y = Operand::floats(self.d.wide(), self.rows, 1, self.d.floats(1, self.rows)).gaps(self.d.gaps);
        vec![
            Operand::floats(self.d.dtype, self.rows, self.cols, x).gaps(!self.d.gaps),
            if self.f == Reduction::Max { y.exact() } else { y.near(Magnitude::Absolute) },
        ]
    }
    call |device, x, y| device.reduce_rows(ReduceRows::new(self.f, x.view(), y.view_mut(), self.accumulate)?)
);
kernel!(
    /// [`ReduceRows`]: sums, sums of squares, maxima.
    reduce_rows, rows: size(40), cols: some(200), f: select(vec![Reduction::Sum, Reduction::SumSquares, Reduction::Max]),
        accumulate: any::<bool>() =>
    |(d, rows, cols, f, accumulate)| {
        ReduceCase { d, rows, cols, f, accumulate: accumulate && f != Reduction::Max }
    }
);

case!(SumColumnsCase, "sum_columns", { rows: usize, cols: usize }, |self| self.rows + 1,
    operands {
        vec![
            Operand::floats(self.d.dtype, self.rows, self.cols, self.d.floats(0, self.rows * self.cols))
                .gaps(self.d.gaps),
            Operand::floats(self.d.wide(), 1, self.cols, self.d.floats(1, self.cols)).near(Magnitude::Absolute),
        ]
    }
    call |device, x, y| device.sum_columns(SumColumns::new(x.view(), y.view_mut())?)
);
kernel!(
    /// [`SumColumns`].
    sum_columns, rows: size(70), cols: size(70) => |(d, rows, cols)| SumColumnsCase { d, rows, cols }
);

pub(crate) const FORMS: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

case!(GemmCase, "gemm", { form: Form, m: usize, n: usize, k: usize, alpha: f64, accumulate: bool, wide: bool },
    |self| self.k + 1,
    operands {
        let (a, b) = match self.form {
            Form::Nt => ((self.m, self.k), (self.n, self.k)),
            Form::Nn => ((self.m, self.k), (self.k, self.n)),
            Form::Tn => ((self.k, self.m), (self.k, self.n)),
        };
        let c = if self.wide { self.d.wide() } else { self.d.dtype };
        // Signs cancel; the sum of absolute products is the magnitude.
        vec![
            Operand::floats(self.d.dtype, a.0, a.1, self.d.floats(0, a.0 * a.1)).gaps(self.d.gaps),
            Operand::floats(self.d.dtype, b.0, b.1, self.d.floats(1, b.0 * b.1)).gaps(self.d.gaps),
            Operand::floats(c, self.m, self.n, self.d.floats(2, self.m * self.n))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
        ]
    }
    call |device, a, b, c| {
        let call = Gemm::new(self.form, a.view(), b.view(), c.view_mut())?.scaled(self.alpha);
        device.gemm(if self.accumulate { call.accumulating() } else { call })
    }
);
kernel!(
    /// [`Gemm`] in its three forms.
    gemm, form: select(FORMS.to_vec()), m: size(70), n: size(70), k: size(70), alpha: select(vec![1.0, 0.125, 0.3]),
        accumulate: any::<bool>(), wide: any::<bool>() =>
    |(d, form, m, n, k, alpha, accumulate, wide)| GemmCase { d, form, m, n, k, alpha, accumulate, wide }
);

/// Where groups of these sizes start, and the last one ends.
pub(crate) fn offsets(sizes: &[usize]) -> Operand {
    let mut offsets = vec![0];
    for &s in sizes {
        offsets.push(offsets[offsets.len() - 1] + s as u32);
    }
    Operand::indices(1, offsets.len(), offsets)
}

case!(GroupedCase, "grouped_gemm", { form: Form, sizes: Vec<usize>, n: usize, k: usize, wide: bool },
    |self| self.n.max(self.k).max(self.sizes.iter().copied().max().unwrap_or(0)) + 1,
    operands {
        let groups = self.sizes.len();
        let rows: usize = self.sizes.iter().sum();
        let (weight, input, output) = ((groups * self.n, self.k), (rows, self.k), (rows, self.n));
        let (a, b, c) = match self.form {
            Form::Nt => (input, weight, output),
            Form::Nn => (output, weight, input),
            Form::Tn => (output, input, weight),
        };
        let result = if self.wide { self.d.wide() } else { self.d.dtype };
        vec![
            Operand::floats(self.d.dtype, a.0, a.1, self.d.floats(0, a.0 * a.1)).gaps(self.d.gaps),
            Operand::floats(self.d.dtype, b.0, b.1, self.d.floats(1, b.0 * b.1)).gaps(self.d.gaps),
            offsets(&self.sizes),
            Operand::floats(result, c.0, c.1, self.d.floats(2, c.0 * c.1))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
        ]
    }
    call |device, a, b, offsets, c| {
        let (groups, c) = (self.sizes.len(), c.view_mut());
        device.grouped_gemm(GroupedGemm::new(self.form, groups, a.view(), b.view(), offsets.view(), c)?)
    }
);
kernel!(
    /// [`GroupedGemm`] in its three forms, with empty groups.
    grouped_gemm, form: select(FORMS.to_vec()), sizes: prop::collection::vec(size(33), 1..7), n: some(40), k: some(40),
        wide: any::<bool>() =>
    |(d, form, sizes, n, k, wide)| GroupedCase { d, form, sizes, n, k, wide }
);

/// What `gather_rows` gathers from, where rows are of the type of a case.
#[derive(Clone, Copy, Debug)]
enum Source {
    Same,
    /// Rounded on the way.
    Wide,
    /// Any bytes, of a type of indices or codes.
    Bytes(DType),
}

case!(GatherRowsCase, "gather_rows", { from: Source, rows: usize, cols: usize, picks: usize, divisor: usize }, |self| 1,
    operands {
        let n = self.rows * self.cols;
        let floats = |dtype| Operand::floats(dtype, self.rows, self.cols, self.d.floats(0, n));
        let (x, y) = match self.from {
            Source::Same => (floats(self.d.dtype), self.d.dtype),
            Source::Wide => (floats(self.d.wide()), self.d.dtype),
            Source::Bytes(dtype) => {
                let mut rng = self.d.rng(0);
                let bits = (0..n).map(|_| rng.bits(8 * dtype.size() as u32)).collect();
                (Operand::bits(dtype, self.rows, self.cols, bits), dtype)
            }
        };
        vec![
            x.gaps(self.d.gaps),
            Operand::indices(self.picks, 1, self.d.indices(1, self.picks, self.rows * self.divisor)),
            Operand::result(y, self.picks, self.cols).gaps(!self.d.gaps).exact(),
        ]
    }
    call |device, x, i, y| device.gather_rows(GatherRows::new(x.view(), i.view(), self.divisor, y.view_mut())?)
);
kernel!(
    /// [`GatherRows`] of numbers, rounded or not, of indices and of codes: bit for bit.
    gather_rows, from: prop_oneof![
            2 => Just(Source::Same),
            1 => Just(Source::Wide),
            2 => select(vec![DType::U32, DType::E4M3, DType::E5M2, DType::E5M6Pair]).prop_map(Source::Bytes),
        ],
        rows: some(40), cols: size(70), picks: size(70), divisor: 1usize..4 =>
    |(d, from, rows, cols, picks, divisor)| GatherRowsCase { d, from, rows, cols, picks, divisor }
);

case!(ScatterRowsCase, "scatter_add_rows", { rows: usize, cols: usize, adds: usize }, |self| self.adds + 1,
    operands {
        vec![
            Operand::floats(self.d.dtype, self.adds, self.cols, self.d.floats(0, self.adds * self.cols))
                .gaps(self.d.gaps),
            Operand::indices(self.adds, 1, self.d.indices(1, self.adds, self.rows)),
            Operand::floats(self.d.wide(), self.rows, self.cols, self.d.floats(2, self.rows * self.cols))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
        ]
    }
    call |device, x, i, y| device.scatter_add_rows(ScatterAddRows::new(x.view(), i.view(), y.view_mut())?)
);
kernel!(
    /// [`ScatterAddRows`], rows hit more than once among them.
    scatter_add_rows, rows: some(20), cols: size(70), adds: size(70) =>
    |(d, rows, cols, adds)| ScatterRowsCase { d, rows, cols, adds }
);

case!(GatherColumnsCase, "gather_columns", { rows: usize, cols: usize, picks: usize }, |self| 1,
    operands {
        vec![
            Operand::floats(self.d.dtype, self.rows, self.cols, self.d.floats(0, self.rows * self.cols))
                .gaps(self.d.gaps),
            Operand::indices(self.rows, self.picks, self.d.indices(1, self.rows * self.picks, self.cols)),
            Operand::result(self.d.dtype, self.rows, self.picks).gaps(!self.d.gaps).exact(),
        ]
    }
    call |device, x, i, y| device.gather_columns(GatherColumns::new(x.view(), i.view(), y.view_mut())?)
);
kernel!(
    /// [`GatherColumns`]: bit for bit.
    gather_columns, rows: size(40), cols: some(40), picks: size(9) =>
    |(d, rows, cols, picks)| GatherColumnsCase { d, rows, cols, picks }
);

case!(ScatterColumnsCase, "scatter_add_columns", { rows: usize, cols: usize, adds: usize, one: bool },
    |self| self.adds + 1,
    operands {
        let mut index = self.d.indices(1, self.rows * self.adds, self.cols);
        let mut rng = self.d.rng(3);
        for i in &mut index {
            if rng.below(5) == 0 {
                *i = u32::MAX;
            }
        }
        let (m, n) = if self.one { (1, 1) } else { (self.rows, self.adds) };
        vec![
            Operand::floats(self.d.wide(), m, n, self.d.floats(0, m * n)).gaps(self.d.gaps),
            Operand::indices(self.rows, self.adds, index).gaps(self.d.gaps),
            Operand::floats(self.d.wide(), self.rows, self.cols, self.d.floats(2, self.rows * self.cols))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
        ]
    }
    call |device, x, i, y| device.scatter_add_columns(ScatterAddColumns::new(x.view(), i.view(), y.view_mut())?)
);
kernel!(
    /// [`ScatterAddColumns`], with columns hit more than once and indices that add nothing.
    scatter_add_columns, rows: size(40), cols: some(40), adds: size(9), one: any::<bool>() =>
    |(d, rows, cols, adds, one)| ScatterColumnsCase { d, rows, cols, adds, one }
);

case!(TopKCase, "top_k", { rows: usize, cols: usize, k: usize }, |self| 1,
    operands {
        vec![
            Operand::floats(self.d.wide(), self.rows, self.cols, self.d.floats(0, self.rows * self.cols))
                .gaps(self.d.gaps),
            Operand::index_result(self.rows, self.k).gaps(!self.d.gaps),
        ]
    }
    call |device, x, index| device.top_k(TopK::new(x.view(), index.view_mut())?)
);
kernel!(
    /// [`TopK`]: bit for bit, with many equal elements.
    top_k, rows: size(40), cols: some(70), k: 0usize..10 =>
    |(d, rows, cols, k)| TopKCase { d, rows, cols, k: k.min(cols) }
);

case!(SortCase, "sort_by_key", { items: usize, per: usize, buckets: usize }, |self| 1,
    operands {
        let n = self.items * self.per;
        vec![
            Operand::indices(self.items, self.per, self.d.indices(0, n, self.buckets)),
            Operand::index_result(n, 1),
            Operand::index_result(self.items, self.per),
            Operand::index_result(1, self.buckets + 1),
        ]
    }
    call |device, keys, order, inverse, offsets| device.sort_by_key(SortByKey::new(
        keys.view(), self.buckets, order.view_mut(), inverse.view_mut(), offsets.view_mut(),
    )?)
);
kernel!(
    /// [`SortByKey`]: bit for bit, with keys that do not occur.
    sort_by_key, items: size(70), per: 1usize..9, buckets: some(70) =>
    |(d, items, per, buckets)| SortCase { d, items, per, buckets }
);

case!(MaskCase, "mask_window", { rows: usize, cols: usize, base: usize, last: usize }, |self| 1,
    operands {
        vec![
            Operand::indices(self.rows, 1, self.d.indices(1, self.rows, self.base + self.cols + 3)),
            Operand::floats(self.d.wide(), self.rows, self.cols, self.d.floats(0, self.rows * self.cols))
                .gaps(self.d.gaps)
                .exact(),
        ]
    }
    call |device, first, y| device.mask_window(MaskWindow::new(first.view(), self.base, self.last, y.view_mut())?)
);
kernel!(
    /// [`MaskWindow`]: bit for bit.
    mask_window, rows: size(40), cols: size(70), base: 0usize..20, last: 0usize..40 =>
    |(d, rows, cols, base, last)| MaskCase { d, rows, cols, base, last }
);

case!(NormalCase, "random_normal", { rows: usize, cols: usize, stream: u64, std: f64 }, |self| 1,
    operands {
        let n = self.rows * self.cols;
        vec![Operand::result(self.d.dtype, self.rows, self.cols).near(Magnitude::Given(vec![8.0 * self.std; n]))]
    }
    call |device, y| device.random_normal(RandomNormal::new(self.d.seed, self.stream, self.std, y.view_mut())?)
);
kernel!(
    /// [`RandomNormal`]: the numbers of [`rng::normal`](fathom_core::rng::normal).
    random_normal, rows: size(40), cols: size(70), stream: any::<u64>(), std: 0.001f64..2.0 =>
    |(d, rows, cols, stream, std)| NormalCase { d: Draw { style: Style::Normal, ..d }, rows, cols, stream, std }
);
