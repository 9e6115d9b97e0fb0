//! Cases of inference's products with weights as they are stored.

use fathom_core::device::{Factor, GemmMixed, Gemv, GroupedGemmMixed, GroupedGemv, Kernels, Out, Scaled};
use fathom_core::dtype::DType;
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, Placed, case, sweep};
use crate::gemm::offsets;
use crate::quantize::{Tiling, codes, scales, side};
use crate::values::{Draw, size};
use crate::{Failure, Options, Outcome};

/// A weight `[rows, cols]` of type `dtype`: its numbers or codes, and the scales of codes in parts of `part` rows.
fn weight(d: &Draw, dtype: DType, part: usize, (rows, cols): (usize, usize)) -> [Operand; 2] {
    match dtype {
        DType::E4M3 => {
            let codes = codes(d, 1, DType::E4M3, (rows, cols), true).gaps(d.gaps);
            [codes, scales(d, 2, &Tiling::Block(part), (rows, cols)).gaps(!d.gaps)]
        }
        _ => {
            let numbers = Operand::floats(dtype, rows, cols, d.floats(1, rows * cols)).gaps(d.gaps);
            [numbers, Operand::floats(DType::F32, 0, 0, Vec::new())]
        }
    }
}

fn scaled<'a, D: Kernels>(
    w: &'a Placed<D>,
    scales: &'a Placed<D>,
    none: &'a Placed<D>,
    part: usize,
) -> Result<Scaled<'a, D::Buffer>, D::Error> {
    Ok(Scaled::new(w.view(), scales.view(), Tiling::Block(part).tiles(none.view()))?)
}

fn read<'a, D: Kernels>(
    dtype: DType,
    w: &'a Placed<D>,
    scales: &'a Placed<D>,
    none: &'a Placed<D>,
    part: usize,
) -> Result<Factor<'a, D::Buffer>, D::Error> {
    Ok(match dtype {
        DType::E4M3 => Factor::Fp8(scaled(w, scales, none, part)?),
        _ => Factor::Float(w.view()),
    })
}

/// Types of a case: the activations', and the weight's, which is theirs, another that the device is asked for, or E4M3.
fn types<D: Kernels>(device: &D, options: &Options) -> impl Strategy<Value = (Draw, DType)> + use<D> {
    let all = options.dtypes(device);
    let mut weights: Vec<DType> = all.iter().copied().filter(|&dtype| dtype != DType::F64).collect();
    weights.push(DType::E4M3);
    // Codes stand for f32 numbers, so a device may decode them to that.
    (Draw::any(all), select(weights)).prop_map(|(d, w)| match (d.dtype, w) {
        (DType::F64, DType::E4M3) => (Draw { dtype: DType::F32, ..d }, w),
        _ => (d, w),
    })
}

/// Types that a product with codes is stored in.
fn mixed(options: &Options) -> Vec<DType> {
    options.dtypes.iter().copied().filter(|d| matches!(d, DType::F32 | DType::BF16)).collect()
}

/// Rows, and parts and columns of a weight: few rows of long sums, or many of short ones.
fn shapes() -> impl Strategy<Value = (usize, (usize, usize), usize)> {
    let part = || (side(), 0usize..3);
    prop_oneof![(0usize..18, part(), side()), (0usize..3, part(), prop_oneof![500usize..530, 1020usize..1030])]
}

case!(GemvCase, "gemv", { w: DType, m: usize, n: usize, k: usize, part: usize, add: bool, wide: bool },
    |self| self.k + 1,
    operands {
        let [w, scales] = weight(&self.d, self.w, self.part, (self.n, self.k));
        let y = if self.wide { self.d.wide() } else { self.d.dtype };
        vec![
            Operand::floats(self.d.dtype, self.m, self.k, self.d.floats(0, self.m * self.k)).gaps(self.d.gaps),
            w,
            scales,
            Operand::floats(y, self.m, self.n, self.d.floats(3, self.m * self.n))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
            offsets(&[]),
        ]
    }
    call |device, x, w, scales, y, none| {
        let w = read::<D>(self.w, w, scales, none, self.part)?;
        device.gemv(Gemv::new(x.view(), w, y.view_mut(), Out::add_if(self.add))?)
    }
);

/// [`Gemv`] of 0 to 17 rows, with weights of every type, the codes in one part or in several.
pub fn gemv<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let cases = (types(device, options), shapes(), any::<bool>(), any::<bool>()).prop_map(
        |((d, w), (m, (part, parts), k), add, wide)| GemvCase { d, w, m, n: part * parts, k, part, add, wide },
    );
    sweep(device, options, cases)
}

case!(GroupedGemvCase, "grouped_gemv", { w: DType, sizes: Vec<usize>, n: usize, k: usize, part: usize, wide: bool },
    |self| self.k + 1,
    operands {
        let (rows, groups) = (self.sizes.iter().sum::<usize>(), self.sizes.len());
        let [w, scales] = weight(&self.d, self.w, self.part, (groups * self.n, self.k));
        let y = if self.wide { self.d.wide() } else { self.d.dtype };
        vec![
            Operand::floats(self.d.dtype, rows, self.k, self.d.floats(0, rows * self.k)).gaps(self.d.gaps),
            w,
            scales,
            offsets(&self.sizes),
            Operand::floats(y, rows, self.n, self.d.floats(3, rows * self.n))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
            offsets(&[]),
        ]
    }
    call |device, x, w, scales, offsets, y, none| {
        let w = read::<D>(self.w, w, scales, none, self.part)?;
        device.grouped_gemv(GroupedGemv::new(self.sizes.len(), x.view(), w, offsets.view(), y.view_mut())?)
    }
);

/// Sizes of groups, the parts of a weight, and its columns.
fn groups() -> impl Strategy<Value = (Vec<usize>, (usize, usize), usize)> {
    (prop::collection::vec(size(17), 1..6), (side(), 1usize..3), side())
}

/// [`GroupedGemv`] with weights of every type, and with empty groups.
pub fn grouped_gemv<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let cases =
        (types(device, options), groups(), any::<bool>()).prop_map(|((d, w), (sizes, (part, parts), k), wide)| {
            GroupedGemvCase { d, w, sizes, n: part * parts, k, part, wide }
        });
    sweep(device, options, cases)
}

case!(MixedCase, "gemm_mixed", { m: usize, n: usize, k: usize, part: usize, add: bool, wide: bool },
    |self| self.k + 1,
    operands {
        let [w, scales] = weight(&self.d, DType::E4M3, self.part, (self.n, self.k));
        let c = if self.wide { self.d.wide() } else { self.d.dtype };
        vec![
            Operand::floats(self.d.dtype, self.m, self.k, self.d.floats(0, self.m * self.k)).gaps(self.d.gaps),
            w,
            scales,
            Operand::floats(c, self.m, self.n, self.d.floats(3, self.m * self.n))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
            offsets(&[]),
        ]
    }
    call |device, a, w, scales, c, none| {
        let w = scaled::<D>(w, scales, none, self.part)?;
        device.gemm_mixed(GemmMixed::new(a.view(), w, c.view_mut(), Out::add_if(self.add))?)
    }
);

/// [`GemmMixed`], the weight in one part or in several, into F32 and into BF16.
pub fn gemm_mixed<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let rows = prop_oneof![(size(40), 1usize..20), (size(5), side()), (Just(2usize), 500usize..530)];
    let strategy = (Draw::any(mixed(options)), rows, (side(), 0usize..3), any::<bool>(), any::<bool>());
    let cases = strategy.prop_map(|(d, (m, k), (part, parts), add, wide)| MixedCase {
        d,
        m,
        n: part * parts,
        k,
        part,
        add,
        wide,
    });
    sweep(device, options, cases)
}

case!(GroupedMixedCase, "grouped_gemm_mixed", { sizes: Vec<usize>, n: usize, k: usize, part: usize, wide: bool },
    |self| self.k + 1,
    operands {
        let (rows, groups) = (self.sizes.iter().sum::<usize>(), self.sizes.len());
        let [w, scales] = weight(&self.d, DType::E4M3, self.part, (groups * self.n, self.k));
        let c = if self.wide { self.d.wide() } else { self.d.dtype };
        vec![
            Operand::floats(self.d.dtype, rows, self.k, self.d.floats(0, rows * self.k)).gaps(self.d.gaps),
            w,
            scales,
            offsets(&self.sizes),
            Operand::floats(c, rows, self.n, self.d.floats(3, rows * self.n))
                .gaps(!self.d.gaps)
                .near(Magnitude::Absolute),
            offsets(&[]),
        ]
    }
    call |device, a, w, scales, offsets, c, none| {
        let (groups, w) = (self.sizes.len(), scaled::<D>(w, scales, none, self.part)?);
        device.grouped_gemm_mixed(GroupedGemmMixed::new(groups, a.view(), w, offsets.view(), c.view_mut())?)
    }
);

/// [`GroupedGemmMixed`] with empty groups, into F32 and into BF16.
pub fn grouped_gemm_mixed<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let cases = (Draw::any(mixed(options)), groups(), any::<bool>())
        .prop_map(|(d, (sizes, (part, parts), k), wide)| GroupedMixedCase { d, sizes, n: part * parts, k, part, wide });
    sweep(device, options, cases)
}
