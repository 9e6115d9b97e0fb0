//! Cases of products of FP8 matrices, plain and grouped.

use fathom_core::device::{Form, GemmFp8, GroupedGemmFp8, Kernels, Out, Scaled};
use fathom_core::dtype::DType;
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, case, sweep};
use crate::gemm::{FORMS, offsets};
use crate::quantize::{Tiling, codes, scales, side};
use crate::values::{Draw, size};
use crate::{Failure, Options, Outcome};

/// An E4M3 factor: codes and scales.
fn factor(d: &Draw, i: u64, tiling: &Tiling, shape: (usize, usize)) -> [Operand; 2] {
    let codes = codes(d, i, DType::E4M3, shape, true).gaps(d.gaps);
    [codes, scales(d, i + 1, tiling, shape).gaps(!d.gaps)]
}

/// The tilings of the factors of a product of `form`: parts of `part`, inner dimension `k`.
fn factors(form: Form, part: usize, k: usize) -> (Tiling, Tiling) {
    match form {
        Form::Nt => (Tiling::Row(k), Tiling::Block(part)),
        Form::Nn => (Tiling::Row(part), Tiling::Block(part)),
        Form::Tn => (Tiling::Column, Tiling::Column),
    }
}

case!(GemmCase, "gemm_fp8", { form: Form, m: usize, n: usize, k: usize, part: usize, accumulate: bool },
    |self| self.k + 1,
    operands {
        let (m, n, k) = (self.m, self.n, self.k);
        let (a, b) = match self.form {
            Form::Nt => ((m, k), (n, k)),
            Form::Nn => ((m, k), (k, n)),
            Form::Tn => ((k, m), (k, n)),
        };
        let tilings = factors(self.form, self.part, k);
        let [a, a_scales] = factor(&self.d, 0, &tilings.0, a);
        let [b, b_scales] = factor(&self.d, 2, &tilings.1, b);
        let c = Operand::floats(self.d.dtype, m, n, self.d.floats(4, m * n)).gaps(!self.d.gaps);
        vec![a, a_scales, b, b_scales, c.near(Magnitude::Absolute), offsets(&[])]
    }
    call |device, a, a_scales, b, b_scales, c, none| {
        let tilings = factors(self.form, self.part, self.k);
        let a = Scaled::new(a.view(), a_scales.view(), tilings.0.tiles(none.view()))?;
        let b = Scaled::new(b.view(), b_scales.view(), tilings.1.tiles(none.view()))?;
        device.gemm_fp8(GemmFp8::new(self.form, a, b, c.view_mut(), Out::add_if(self.accumulate))?)
    }
);

/// [`GemmFp8`] in its three forms, the weight in one part or in several, into F32 and into BF16.
pub fn gemm_fp8<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    // Many rows or long sides, not both: the host counts every product.
    let sides = prop_oneof![(size(40), 1usize..20), (size(4), side())];
    let strategy = (Draw::any(products(options)), select(FORMS.to_vec()), sides, (side(), 0usize..3), any::<bool>());
    let cases = strategy.prop_map(|(d, form, (m, other), (part, parts), accumulate)| {
        let (n, k) = if form == Form::Nt { (part * parts, other) } else { (other, part * parts) };
        GemmCase { d, form, m, n, k, part, accumulate }
    });
    sweep(device, options, cases)
}

/// Types that a product of codes is stored in.
fn products(options: &Options) -> Vec<DType> {
    options.dtypes.iter().copied().filter(|d| matches!(d, DType::F32 | DType::BF16)).collect()
}

case!(GroupedCase, "grouped_gemm_fp8",
    { form: Form, sizes: Vec<usize>, n: usize, k: usize, part: usize, accumulate: bool },
    |self| self.n.max(self.k).max(self.sizes.iter().copied().max().unwrap_or(0)) + 1,
    operands {
        let (rows, weights) = (self.sizes.iter().sum(), self.sizes.len() * self.n);
        let (weight, input, output) = ((weights, self.k), (rows, self.k), (rows, self.n));
        let (a, b, c) = match self.form {
            Form::Nt => (input, weight, output),
            Form::Nn => (output, weight, input),
            Form::Tn => (output, input, weight),
        };
        let tilings = self.tilings();
        let [a, a_scales] = factor(&self.d, 0, &tilings.0, a);
        let [b, b_scales] = factor(&self.d, 2, &tilings.1, b);
        let c = Operand::floats(self.d.dtype, c.0, c.1, self.d.floats(4, c.0 * c.1)).gaps(!self.d.gaps);
        vec![a, a_scales, b, b_scales, offsets(&self.sizes), c.near(Magnitude::Absolute)]
    }
    call |device, a, a_scales, b, b_scales, offsets, c| {
        let (tilings, groups) = (self.tilings(), self.sizes.len());
        let a = Scaled::new(a.view(), a_scales.view(), tilings.0.tiles(offsets.view()))?;
        let b = Scaled::new(b.view(), b_scales.view(), tilings.1.tiles(offsets.view()))?;
        let call = GroupedGemmFp8::new(self.form, groups, a, b, offsets.view(), c.view_mut())?;
        device.grouped_gemm_fp8(call.out(Out::add_if(self.accumulate)))
    }
);

impl GroupedCase {
    fn tilings(&self) -> (Tiling, Tiling) {
        match self.form {
            Form::Tn => (Tiling::Groups(self.sizes.clone()), Tiling::Groups(self.sizes.clone())),
            form => factors(form, self.part, self.k),
        }
    }
}

/// [`GroupedGemmFp8`] in its three forms, with empty groups, into F32 and into BF16.
pub fn grouped_gemm_fp8<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    // Long groups for sums over rows, short ones where the sums are long already.
    let groups = |rows| prop::collection::vec(rows, 1..5);
    let sides = prop_oneof![(groups(size(40).boxed()), 1usize..20), (groups(size(3).boxed()), side())];
    let many = groups(prop_oneof![size(9), side()].boxed());
    let strategy = (
        Draw::any(products(options)),
        select(FORMS.to_vec()),
        sides,
        (side(), 1usize..3),
        (many, 1usize..10, 1usize..10),
        any::<bool>(),
    );
    let cases =
        strategy.prop_map(|(d, form, (few, k), (part, parts), (many, short_n, short_k), accumulate)| match form {
            Form::Tn => GroupedCase { d, form, sizes: many, n: short_n, k: short_k, part: 1, accumulate },
            _ => GroupedCase { d, form, sizes: few, n: part * parts, k, part, accumulate },
        });
    sweep(device, options, cases)
}
