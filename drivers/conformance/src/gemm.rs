//! Cases of matrix products (GEMM), plain and grouped.

use fathom_core::device::{Form, Gemm, GroupedGemm, Out};
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, case, kernel};
use crate::values::{size, some};

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
        device.gemm(call.out(Out::add_if(self.accumulate)))
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

case!(GroupedCase, "grouped_gemm", { form: Form, sizes: Vec<usize>, n: usize, k: usize, accumulate: bool, wide: bool },
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
        let call = GroupedGemm::new(self.form, groups, a.view(), b.view(), offsets.view(), c)?;
        device.grouped_gemm(call.out(Out::add_if(self.accumulate)))
    }
);
kernel!(
    /// [`GroupedGemm`] in its three forms, with empty groups.
    grouped_gemm, form: select(FORMS.to_vec()), sizes: prop::collection::vec(size(33), 1..7), n: some(40), k: some(40),
        accumulate: any::<bool>(), wide: any::<bool>() =>
    |(d, form, sizes, n, k, accumulate, wide)| GroupedCase { d, form, sizes, n, k, accumulate, wide }
);
