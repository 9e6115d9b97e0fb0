//! Cases of gather and scatter by index.

use fathom_core::device::{Combine, GatherColumns, GatherRows, Out, ScatterAddColumns, ScatterAddRows};
use fathom_core::dtype::DType;
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, case, kernel};
use crate::values::{size, some};

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

case!(CombineCase, "combine", { tokens: usize, k: usize, cols: usize, accumulate: bool }, |self| self.k + 1,
    operands {
        let rows = self.tokens * self.k;
        vec![
            Operand::floats(self.d.dtype, rows, self.cols, self.d.floats(0, rows * self.cols)).gaps(self.d.gaps),
            Operand::indices(self.tokens, self.k, self.d.rng(1).permutation(rows)),
            Operand::floats(self.d.dtype, self.tokens, self.cols, self.d.floats(2, self.tokens * self.cols))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
        ]
    }
    call |device, x, inverse, y| {
        device.combine(Combine::new(x.view(), inverse.view(), y.view_mut(), Out::add_if(self.accumulate))?)
    }
);
kernel!(
    /// [`Combine`].
    combine, tokens: size(33), k: 1usize..9, cols: size(70), accumulate: any::<bool>() =>
    |(d, tokens, k, cols, accumulate)| CombineCase { d, tokens, k, cols, accumulate }
);
