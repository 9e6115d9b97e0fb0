//! Cases of element-by-element kernels: fill, cast, unary and binary functions, random numbers.

use fathom_core::device::{Binary, BinaryOp, Cast, Fill, Kernels, RandomNormal, Unary, UnaryOp};
use fathom_core::dtype::DType;
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, case, kernel, sweep};
use crate::values::{Draw, Style, size};
use crate::{Failure, Options, Outcome};

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
