//! Cases of choosing tokens.

use fathom_core::device::Sample;
use fathom_core::dtype::DType;
use fathom_core::sampling::Rule;
use proptest::prelude::*;

use crate::case::{Operand, case, kernel};
use crate::values::{size, some};

case!(SampleCase, "sample", { rows: usize, cols: usize, kinds: u32, broken: bool }, |self| 1,
    operands {
        let (m, n) = (self.rows, self.cols);
        let mut rng = self.d.rng(1);
        let mut logits = self.d.floats(0, m * n);
        if self.broken && m > 0 {
            let at = rng.below(m * n) as usize;
            logits[at] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][rng.below(3) as usize];
        }
        let mut rules = Vec::new();
        for _ in 0..m {
            // A bit of `kinds` for each filter, so that cases shrink to one.
            let mut pick = |bit: u32, some: &[f64], none: f64| {
                let x = some[rng.below(some.len()) as usize];
                if self.kinds >> bit & 1 == 1 { x } else { none }
            };
            let t = pick(0, &[0.0, 0.3, 1.0, 1.7, 50.0, 1e300], 0.0);
            let k = pick(1, &[1.0, 2.0, 5.0, 50.0, 0.0], 0.0) as usize;
            let p = pick(2, &[1e-9, 0.5, 0.9, 0.999, 1.0], 1.0);
            let min_p = pick(3, &[0.02, 0.3, 1.0, 0.0], 0.0);
            let uniform = f64::from(rng.below(1 << 20)) / f64::from(1 << 20);
            let rule = Rule::new(t, k, p, min_p, uniform).words();
            // Any numbers are a rule.
            let wild = self.kinds >> 4 & 1 == 1 && rng.below(4) == 0;
            rules.extend(rule.map(|word| if wild { rng.below(1 << 31) * (1 + rng.below(2)) } else { word }));
        }
        vec![
            Operand::floats(DType::F32, m, n, logits).gaps(self.d.gaps),
            Operand::indices(m, Rule::WORDS, rules).gaps(!self.d.gaps),
            Operand::index_result(m, 1).gaps(self.d.gaps),
        ]
    }
    call |device, logits, rules, tokens| {
        device.sample(Sample::new(logits.view(), rules.view(), tokens.view_mut())?)
    }
);
kernel!(
    /// [`Sample`]: bit for bit, by every filter alone and together, with many equal logits, and with a logit that is
    /// not finite.
    sample, rows: size(9), cols: prop_oneof![3 => some(70), 1 => 4000usize..9000], kinds: 0u32..32,
        broken: prop::bool::weighted(0.2) =>
    |(d, rows, cols, kinds, broken)| SampleCase { d, rows, cols, kinds, broken }
);
