//! Cases of FP8 matrices: encoding and decoding.

use fathom_core::device::{
    Dequantize, Encoded, GatherCodes, Kernels, Quantize, QuantizeBoth, Requantize, Scaled, ScaledMut, Tiles,
};
use fathom_core::dtype::DType;
use fathom_core::fp8::{Code, E4M3, E5M2, E5M6, TILE, pack_pair};
use fathom_core::tensor::{MatRef, View};
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Operand, Placed, case, sweep};
use crate::gemm::offsets;
use crate::values::{Draw, Rng, size};
use crate::{Failure, Options, Outcome};

/// [`Tiles`] apart from any device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tiling {
    Row(usize),
    Column,
    Groups(Vec<usize>),
    Block(usize),
}

impl Tiling {
    /// Rows and columns of the scales of a matrix `[rows, cols]`.
    pub(crate) fn scales(&self, rows: usize, cols: usize) -> (usize, usize) {
        let whole = |total: usize, part: usize| total / part * part.div_ceil(TILE);
        match self {
            Self::Row(part) => (rows, whole(cols, *part)),
            Self::Column => (rows.div_ceil(TILE), cols),
            Self::Groups(sizes) => (rows / TILE + sizes.len(), cols),
            Self::Block(part) => (whole(rows, *part), cols.div_ceil(TILE)),
        }
    }

    /// The index operand that [`Tiling::tiles`] reads: where groups start.
    pub(crate) fn offsets(&self) -> Operand {
        match self {
            Self::Groups(sizes) => offsets(sizes),
            _ => offsets(&[]),
        }
    }

    pub(crate) fn tiles<'a, B>(&self, offsets: MatRef<'a, B>) -> Tiles<'a, B> {
        match *self {
            Self::Row(part) => Tiles::Row { part },
            Self::Column => Tiles::Column,
            Self::Groups(_) => Tiles::Groups { offsets },
            Self::Block(part) => Tiles::Block { part },
        }
    }
}

/// One code: three of four near a normal number times 64, the others any, of which all are finite if `finite`.
fn code<C: Code>(rng: &mut Rng, x: f64, finite: bool) -> u16 {
    if rng.below(4) > 0 {
        return C::encode_finite((64.0 * x) as f32);
    }
    let code = rng.below(2 * usize::from(C::SIGN)) as u16;
    if finite && !C::decode(code).is_finite() { C::MAX_CODE } else { code }
}

/// Codes of a matrix `[rows, cols]`, to read.
pub(crate) fn codes(d: &Draw, i: u64, dtype: DType, (rows, cols): (usize, usize), finite: bool) -> Operand {
    let (mut rng, numbers) = (d.rng(i + 100), d.floats(i, rows * cols));
    let width = cols / dtype.numbers();
    let bits = match dtype {
        DType::E4M3 => numbers.iter().map(|&x| code::<E4M3>(&mut rng, x, finite).into()).collect(),
        DType::E5M2 => numbers.iter().map(|&x| code::<E5M2>(&mut rng, x, finite).into()).collect(),
        _ => {
            let mut pair = |two: &[f64]| {
                let [a, b] = [two[0], two[1]].map(|x| code::<E5M6>(&mut rng, x, finite));
                let [a, b, c] = pack_pair(a, b);
                u64::from(u32::from_le_bytes([a, b, c, 0]))
            };
            numbers.chunks_exact(2).map(&mut pair).collect()
        }
    };
    Operand::bits(dtype, rows, width, bits)
}

/// Scales of a matrix `[rows, cols]`, to read. Some are zero in the styles that have zeros.
pub(crate) fn scales(d: &Draw, i: u64, tiling: &Tiling, (rows, cols): (usize, usize)) -> Operand {
    let (r, c) = tiling.scales(rows, cols);
    let values = d.floats(i, r * c).into_iter().map(f64::abs).collect();
    Operand::floats(DType::F32, r, c, values)
}

/// What numbers are multiplied by: mostly one, else what makes them subnormal in f32, or as large as it holds.
fn stretch(rng: &mut Rng) -> f64 {
    f64::powi(2.0, [-126, -140, 60, 90, 0, 0, 0, 0][rng.below(8) as usize])
}

/// The same numbers, rows or all of them stretched.
fn stretched(d: &Draw, mut o: Operand) -> Operand {
    let mut rng = d.rng(77);
    let (together, all) = (rng.below(2) == 0, stretch(&mut rng));
    let mut values = o.values();
    if o.cols > 0 {
        for row in values.chunks_exact_mut(o.cols) {
            let by = if together { all } else { stretch(&mut rng) };
            row.iter_mut().for_each(|x| *x *= by);
        }
    }
    o.bits = Operand::floats(o.dtype, o.rows, o.cols, values).bits;
    o
}

case!(QuantizeCase, "quantize",
    { format: DType, tiling: Tiling, rows: usize, cols: usize, power_of_two: bool }, |self| 1,
    operands {
        let (m, n) = (self.rows, self.cols);
        let (r, c) = self.tiling.scales(m, n);
        let x = Operand::floats(self.d.dtype, m, n, self.d.floats(0, m * n));
        vec![
            stretched(&self.d, x).gaps(self.d.gaps),
            Operand::result(self.format, m, n / self.format.numbers()).gaps(!self.d.gaps).exact(),
            Operand::result(DType::F32, r, c).gaps(self.d.gaps).exact(),
            self.tiling.offsets(),
        ]
    }
    call |device, x, codes, scales, offsets| {
        let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), self.tiling.tiles(offsets.view()))?;
        device.quantize(Quantize::new(x.view(), y, self.power_of_two)?)
    }
);

case!(DequantizeCase, "dequantize", { format: DType, tiling: Tiling, rows: usize, cols: usize }, |self| 1,
    operands {
        let shape = (self.rows, self.cols);
        vec![
            codes(&self.d, 0, self.format, shape, false).gaps(self.d.gaps),
            stretched(&self.d, scales(&self.d, 1, &self.tiling, shape)).gaps(!self.d.gaps),
            self.tiling.offsets(),
            Operand::result(self.d.dtype, self.rows, self.cols).gaps(self.d.gaps).exact(),
        ]
    }
    call |device, codes, scales, offsets, y| {
        let x = Scaled::new(codes.view(), scales.view(), self.tiling.tiles(offsets.view()))?;
        device.dequantize(Dequantize::new(x, y.view_mut())?)
    }
);

case!(RequantizeCase, "requantize",
    { from: (DType, Tiling), to: (DType, Tiling), rows: usize, cols: usize, power_of_two: bool }, |self| 1,
    operands {
        let shape = (self.rows, self.cols);
        let (r, c) = self.to.1.scales(self.rows, self.cols);
        vec![
            codes(&self.d, 0, self.from.0, shape, true).gaps(self.d.gaps),
            stretched(&self.d, scales(&self.d, 1, &self.from.1, shape)).gaps(!self.d.gaps),
            self.from.1.offsets(),
            Operand::result(self.to.0, self.rows, self.cols).gaps(!self.d.gaps).exact(),
            Operand::result(DType::F32, r, c).gaps(self.d.gaps).exact(),
            self.to.1.offsets(),
        ]
    }
    call |device, codes, scales, offsets, new_codes, new_scales, new_offsets| {
        let x = Scaled::new(codes.view(), scales.view(), self.from.1.tiles(offsets.view()))?;
        let tiles = self.to.1.tiles(new_offsets.view());
        let y = ScaledMut::new(new_codes.view_mut(), new_scales.view_mut(), tiles)?;
        device.requantize(Requantize::new(x, y, self.power_of_two)?)
    }
);

/// Which tilings of [`Encoded`] are asked for, and how they lie.
#[derive(Clone, Debug)]
pub(crate) struct Tilings {
    pub(crate) rows: Option<usize>,
    pub(crate) columns: Option<Tiling>,
    pub(crate) power_of_two: bool,
}

impl Tilings {
    /// Those of a matrix of parts of `part` columns and groups of `sizes` rows: one of the two at least.
    pub(crate) fn any(part: usize, sizes: Vec<usize>) -> impl Strategy<Value = Self> {
        (0..4usize, any::<bool>(), any::<bool>()).prop_map(move |(which, grouped, power_of_two)| Self {
            rows: (which != 1).then_some(part),
            columns: (which != 2).then(|| if grouped { Tiling::Groups(sizes.clone()) } else { Tiling::Column }),
            power_of_two,
        })
    }

    /// Codes and scales of both, and the offsets of groups. What is not asked for stays as it is.
    pub(crate) fn operands(&self, d: &Draw, (rows, cols): (usize, usize)) -> Vec<Operand> {
        let result = |tiling: Option<&Tiling>, gaps: bool| {
            let (r, c) = tiling.map_or((1, 1), |tiling| tiling.scales(rows, cols));
            let both = [Operand::result(DType::E4M3, rows, cols).gaps(gaps), Operand::result(DType::F32, r, c)];
            both.map(|o| if tiling.is_some() { o.exact() } else { o.untouched() })
        };
        let [codes, scales] = result(self.rows.map(Tiling::Row).as_ref(), !d.gaps);
        let [column_codes, column_scales] = result(self.columns.as_ref(), d.gaps);
        let offsets = self.columns.as_ref().map_or_else(|| offsets(&[]), Tiling::offsets);
        vec![codes, scales, column_codes, column_scales, offsets]
    }

    /// Those operands as a result.
    pub(crate) fn encoded<'a, D: Kernels>(
        &self,
        [codes, scales, column_codes, column_scales, offsets]: [&'a mut Placed<D>; 5],
    ) -> Result<Encoded<'a, D::Buffer>, D::Error> {
        let rows = self.rows.map(|part| ScaledMut::new(codes.view_mut(), scales.view_mut(), Tiles::Row { part }));
        let columns = self.columns.as_ref().map(|tiling| {
            ScaledMut::new(column_codes.view_mut(), column_scales.view_mut(), tiling.tiles(offsets.view()))
        });
        Ok(Encoded::new(rows.transpose()?, columns.transpose()?, self.power_of_two)?)
    }
}

case!(QuantizeBothCase, "quantize_both", { to: Tilings, rows: usize, cols: usize }, |self| 1,
    operands {
        let x = Operand::floats(self.d.dtype, self.rows, self.cols, self.d.floats(0, self.rows * self.cols));
        let mut operands = vec![stretched(&self.d, x).gaps(self.d.gaps)];
        operands.extend(self.to.operands(&self.d, (self.rows, self.cols)));
        operands
    }
    call |device, x, codes, scales, column_codes, column_scales, offsets| {
        let y = self.to.encoded([codes, scales, column_codes, column_scales, offsets])?;
        device.quantize_both(QuantizeBoth::new(x.view(), y)?)
    }
);

/// `x` in each of the tilings of `y`, one after the other.
pub(crate) fn each<D: Kernels>(device: &D, x: View<'_, D>, y: Encoded<'_, D::Buffer>) -> Result<(), D::Error> {
    let mut tilings = y.rows.into_iter().chain(y.columns);
    tilings.try_for_each(|to| device.quantize(Quantize::new(x, to, y.power_of_two)?))
}

case!(GatherCodesCase, "gather_codes",
    { to: Tilings, part: usize, rows: usize, cols: usize, tokens: usize, divisor: usize }, |self| 1,
    operands {
        let from = (self.tokens, self.cols);
        let index = self.d.indices(2, self.rows, self.tokens * self.divisor);
        let mut operands = vec![
            codes(&self.d, 0, DType::E4M3, from, true).gaps(self.d.gaps),
            stretched(&self.d, scales(&self.d, 1, &Tiling::Row(self.part), from)).gaps(!self.d.gaps),
            Operand::indices(self.rows, 1, index),
        ];
        operands.extend(self.to.operands(&self.d, (self.rows, self.cols)));
        operands
    }
    call |device, x, x_scales, index, codes, scales, column_codes, column_scales, offsets| {
        let x = Scaled::new(x.view(), x_scales.view(), Tiles::Row { part: self.part })?;
        let y = self.to.encoded([codes, scales, column_codes, column_scales, offsets])?;
        device.gather_codes(GatherCodes::new(x, index.view(), self.divisor, y)?)
    }
);

/// Length of a side: a few, or near one or two tiles.
pub(crate) fn side() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..10, 3 => 126usize..131, 1 => 254usize..259]
}

/// A tiling that `format` can have, with a matrix it fits.
fn tilings(format: DType) -> BoxedStrategy<(Tiling, usize, usize)> {
    let even = format == DType::E5M6Pair;
    let row = (size(9), side(), 0usize..4).prop_map(move |(rows, part, parts)| {
        let part = if even { part + part % 2 } else { part };
        (Tiling::Row(part), rows, parts * part)
    });
    if even {
        return row.boxed();
    }
    let column = (prop_oneof![size(9), side()], size(9)).prop_map(|(rows, cols)| (Tiling::Column, rows, cols));
    let groups = (prop::collection::vec(prop_oneof![size(9), side()], 1..5), size(9))
        .prop_map(|(sizes, cols)| (Tiling::Groups(sizes.clone()), sizes.iter().sum(), cols));
    let block = (side(), 0usize..3, prop_oneof![size(9), side()])
        .prop_map(|(part, parts, cols)| (Tiling::Block(part), parts * part, cols));
    prop_oneof![row, column, groups, block].boxed()
}

/// A format, a tiling, and a matrix that both fit.
fn scaled() -> impl Strategy<Value = (DType, (Tiling, usize, usize))> {
    let format = select(vec![DType::E4M3, DType::E4M3, DType::E5M2, DType::E5M6Pair]);
    format.prop_flat_map(|format| (Just(format), tilings(format)))
}

/// [`Quantize`] in every format and tiling, subnormal and huge numbers among the others: bit for bit.
pub fn quantize<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), scaled(), any::<bool>());
    sweep(
        device,
        options,
        strategy.prop_map(|(d, (format, (tiling, rows, cols)), power_of_two)| QuantizeCase {
            d,
            format,
            tiling,
            rows,
            cols,
            power_of_two,
        }),
    )
}

/// [`Dequantize`] of every format and tiling, NaN among the codes and zero among the scales: bit for bit.
pub fn dequantize<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), scaled());
    sweep(
        device,
        options,
        strategy.prop_map(|(d, (format, (tiling, rows, cols)))| DequantizeCase { d, format, tiling, rows, cols }),
    )
}

/// [`Requantize`] from rows or blocks to every tiling: bit for bit.
pub fn requantize<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let groups = prop::collection::vec(prop_oneof![size(9), side()], 1..4);
    let strategy = (
        Draw::any(vec![DType::F32]),
        (select(vec![DType::E4M3, DType::E5M2, DType::E5M6Pair]), any::<bool>()),
        (select(vec![DType::E4M3, DType::E4M3, DType::E5M2]), 0..4),
        (groups, side(), 1usize..3),
        any::<bool>(),
    );
    let cases = strategy.prop_map(|(d, (format, blocks), (to, kind), (sizes, part, parts), power_of_two)| {
        let part = if format == DType::E5M6Pair { part + part % 2 } else { part };
        let (rows, cols): (usize, usize) = (sizes.iter().sum(), part * parts);
        let blocks = blocks && format != DType::E5M6Pair;
        let from = if blocks { Tiling::Block(rows.max(1)) } else { Tiling::Row(part) };
        let tiling = match kind {
            0 => Tiling::Row(cols),
            1 => Tiling::Block(rows.max(1)),
            2 => Tiling::Column,
            _ => Tiling::Groups(sizes),
        };
        RequantizeCase { d, from: (format, from), to: (to, tiling), rows, cols, power_of_two }
    });
    sweep(device, options, cases)
}

/// Groups of rows, columns of a part, parts, and tilings of the matrix that they make.
pub(crate) fn grouped_parts() -> impl Strategy<Value = (Vec<usize>, usize, usize, Tilings)> {
    let groups = prop::collection::vec(prop_oneof![3 => size(9), 1 => side()], 1..4);
    let part = prop_oneof![12 => side(), 1 => 1020usize..1160];
    (groups, part, 0usize..3).prop_flat_map(|(sizes, part, parts)| {
        let tilings = Tilings::any(part, sizes.clone());
        (Just(sizes), Just(part), Just(parts), tilings)
    })
}

/// [`QuantizeBoth`] in either tiling and in both: the bits of [`Quantize`].
pub fn quantize_both<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), grouped_parts());
    let cases = strategy.prop_map(|(d, (sizes, part, parts, to))| {
        let (rows, cols) = (sizes.iter().sum(), part * parts);
        QuantizeBothCase { d, to, rows, cols }
    });
    sweep(device, options, cases)
}

/// [`GatherCodes`] in either tiling and in both: bit for bit.
pub fn gather_codes<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(vec![DType::F32]), grouped_parts(), 1usize..9, 1usize..5);
    let cases = strategy.prop_map(|(d, (sizes, part, parts, to), tokens, divisor)| {
        let (rows, cols) = (sizes.iter().sum(), part * parts);
        GatherCodesCase { d, to, part, rows, cols, tokens, divisor }
    });
    sweep(device, options, cases)
}
