//! Cases of element-by-element kernels: fill, cast, unary and binary functions, random numbers.

use fathom_core::device::{Binary, BinaryOp, Cast, Fill, Kernels, RandomNormal, Unary, UnaryOp};
use fathom_core::dtype::DType;
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, case, decode, encode, kernel, sweep};
use crate::values::{Draw, Rng, Style, size};
use crate::{Failure, Options, Outcome};

/// The types that conversions are between.
const NUMBERS: [DType; 5] = [DType::F64, DType::F32, DType::BF16, DType::F16, DType::U32];

/// The type of a case that converts `from` to `to`: F32 where every device must have it.
fn judged(from: DType, to: DType) -> DType {
    let optional = [from, to].into_iter().find(|d| !matches!(d, DType::F32 | DType::U32));
    optional.unwrap_or(DType::F32)
}

/// Numbers of type `from` beside ties of `to`: halfway between two neighbours of `to`, and one step of `from` to either
/// side of it. What rounds twice, or looks at a part of the number only, misses some of them.
fn beside_ties(rng: &mut Rng, from: DType, to: DType, n: usize) -> Vec<u64> {
    (0..n)
        .map(|_| {
            let integers = from == DType::U32 || to == DType::U32;
            let scale =
                if integers { f64::powi(2.0, rng.below(31) as i32) } else { f64::powi(2.0, rng.below(12) as i32 - 6) };
            let x = rng.normal() * scale;
            let below = encode(to, if integers { x.abs() } else { x });
            let (a, b) = (decode(to, below), decode(to, below + 1));
            let tie = if b.is_finite() { (a + b) / 2.0 } else { a };
            let at = encode(from, tie);
            match rng.below(3) {
                0 => at,
                1 if decode(from, at + 1).is_finite() => at + 1,
                _ => at.saturating_sub(1),
            }
        })
        .collect()
}

case!(FillCase, "fill", { to: DType, rows: usize, cols: usize, value: f64 }, |self| 1,
    operands { vec![Operand::result(self.to, self.rows, self.cols).gaps(self.d.gaps).exact()] }
    call |device, y| device.fill(Fill::new(y.view_mut(), self.value))
);

/// Fills of the types `to`.
fn fills(to: Vec<DType>) -> impl Strategy<Value = FillCase> {
    let strategy = (Draw::any(vec![DType::F32]), select(to), size(40), size(70), -3.0f64..3.0, any::<bool>());
    strategy.prop_map(|(d, to, rows, cols, value, tie)| {
        let beside = || decode(DType::F64, beside_ties(&mut d.rng(1), DType::F64, to, 1)[0]);
        let value = if tie { beside() } else { value };
        let value = if to == DType::U32 { value.abs() } else { value };
        FillCase { d: Draw { dtype: judged(to, to), ..d }, to, rows, cols, value }
    })
}

/// [`Fill`] of every type, also by numbers beside its ties: bit for bit.
pub fn fill<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    sweep(device, options, fills(with_integers(options.dtypes(device))))
}

case!(CastCase, "cast", { from: DType, to: DType, rows: usize, cols: usize, ties: bool }, |self| 1,
    operands {
        let n = self.rows * self.cols;
        let floats = |dtype, values: Vec<f64>| Operand::floats(dtype, self.rows, self.cols, values);
        let x = if self.ties {
            let bits = beside_ties(&mut self.d.rng(1), self.from, self.to, n);
            Operand::bits(self.from, self.rows, self.cols, bits)
        } else if self.from == DType::U32 {
            Operand::indices(self.rows, self.cols, self.d.indices(1, n, 1 << 32))
        } else if self.to == DType::U32 {
            floats(self.from, self.d.floats(0, n).into_iter().map(f64::abs).collect())
        } else {
            floats(self.from, self.d.floats(0, n))
        };
        vec![x.gaps(self.d.gaps), Operand::result(self.to, self.rows, self.cols).gaps(!self.d.gaps).exact()]
    }
    call |device, x, y| device.cast(Cast::new(x.view(), y.view_mut())?)
);

/// Conversions between the types `among`.
fn casts(among: Vec<DType>) -> impl Strategy<Value = CastCase> {
    let types = (select(among.clone()), select(among));
    let strategy = (Draw::any(vec![DType::F32]), types, size(40), size(70), any::<bool>());
    strategy.prop_map(|(d, (from, to), rows, cols, ties)| CastCase {
        d: Draw { dtype: judged(from, to), ..d },
        from,
        to,
        rows,
        cols,
        ties,
    })
}

fn with_integers(mut dtypes: Vec<DType>) -> Vec<DType> {
    dtypes.push(DType::U32);
    dtypes
}

/// [`Cast`] from every type to every other, also of numbers beside ties: bit for bit, ties to even.
pub fn cast<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    sweep(device, options, casts(with_integers(options.dtypes(device))))
}

/// [`Cast`] and [`Fill`] between all types of numbers, those among them that a device may leave out: bit for bit.
pub(crate) fn conversions<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let twice = Options { cases: 2 * options.cases, ..options.clone() };
    let casts = sweep(device, &twice, casts(NUMBERS.to_vec()))?;
    let fills = sweep(device, options, fills(NUMBERS.to_vec()))?;
    let unsupported = casts.unsupported + fills.unsupported;
    Ok(Outcome { name: "conversions", cases: casts.cases + fills.cases, unsupported })
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
