//! Cases of reductions.

use fathom_core::device::{Out, ReduceRows, Reduction, SumColumns};
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, case, kernel};
use crate::values::{size, some};

case!(ReduceCase, "reduce_rows", { rows: usize, cols: usize, f: Reduction, accumulate: bool }, |self| self.cols,
    operands {
        let x = self.d.floats(0, self.rows * self.cols);
        let y = Operand::floats(self.d.wide(), self.rows, 1, self.d.floats(1, self.rows)).gaps(self.d.gaps);
        vec![
            Operand::floats(self.d.dtype, self.rows, self.cols, x).gaps(!self.d.gaps),
            if self.f == Reduction::Max { y.exact() } else { y.near(Magnitude::Absolute) },
        ]
    }
    call |device, x, y| {
        device.reduce_rows(ReduceRows::new(self.f, x.view(), y.view_mut(), Out::add_if(self.accumulate))?)
    }
);
kernel!(
    /// [`ReduceRows`]: sums, sums of squares, maxima.
    reduce_rows, rows: size(40), cols: some(200),
        f: select(vec![Reduction::Sum, Reduction::SumSquares, Reduction::Max]),
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
