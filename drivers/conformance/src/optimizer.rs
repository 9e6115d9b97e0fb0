//! Cases of AdamW and of linear interpolation.

use fathom_core::device::{AdamRates, AdamW, Lerp};
use proptest::prelude::*;

use crate::case::{Magnitude, Operand, case, kernel};
use crate::values::size;

case!(AdamCase, "adamw", { n: usize, clip: f64, rates: AdamRates, narrow: bool }, |self| 1,
    operands {
        let (n, wide) = (self.n, self.d.wide());
        let moments = if self.narrow { self.d.dtype } else { wide };
        let w = Operand::floats(wide, 1, n, self.d.normals(0, n));
        let g = Operand::floats(wide, 1, n, self.d.floats(1, n));
        let m = Operand::floats(moments, 1, n, self.d.normals(2, n));
        let v = Operand::floats(moments, 1, n, self.d.normals(3, n).into_iter().map(|x| x * x).collect());
        let AdamRates { lr, beta1, beta2, eps, .. } = self.rates;
        let (c1, c2) = self.rates.corrections();
        let (ws, gs, ms, vs) = (w.values(), g.values(), m.values(), v.values());
        let moment = |i: usize| beta1 * ms[i].abs() + (1.0 - beta1) * (self.clip * gs[i]).abs();
        let m_size: Vec<f64> = (0..n).map(moment).collect();
        let w_size = (0..n).map(|i| {
            let v = beta2 * vs[i] + (1.0 - beta2) * (self.clip * gs[i]).powi(2);
            ws[i].abs() + lr / c1 * m_size[i] / ((v / c2).sqrt() + eps)
        });
        vec![
            w.near(Magnitude::Given(w_size.collect())),
            g,
            m.near(Magnitude::Given(m_size)),
            v.near(Magnitude::Result),
            Operand::floats(wide, 1, 1, vec![self.clip]),
        ]
    }
    call |device, w, g, m, v, clip| device.adamw(AdamW::new(
        w.view_mut(), g.view(), m.view_mut(), v.view_mut(), clip.view(), self.rates,
    )?)
);

pub(crate) fn rates() -> impl Strategy<Value = AdamRates> {
    (1e-5f64..1e-1, 0.0f64..0.95, 0.5f64..0.999, prop_oneof![Just(0.0), Just(0.1)], 1u64..2000)
        .prop_map(|(lr, beta1, beta2, decay, step)| AdamRates { lr, beta1, beta2, eps: 1e-8, decay, step })
}

kernel!(
    /// [`AdamW`], with moments as wide as the weights or as narrow as activations.
    adamw, n: size(200), clip: 0.01f64..1.0, rates: rates(), narrow: any::<bool>() =>
    |(d, n, clip, rates, narrow)| AdamCase { d, n, clip, rates, narrow }
);

case!(LerpCase, "lerp", { n: usize, weight: f64 }, |self| 1,
    operands {
        let dtype = self.d.wide();
        let y = Operand::floats(dtype, 1, self.n, self.d.floats(0, self.n));
        let x = Operand::floats(dtype, 1, self.n, self.d.floats(1, self.n));
        let magnitude = |(y, x): (f64, f64)| y.abs() + self.weight * (x.abs() + y.abs());
        let magnitudes = y.values().into_iter().zip(x.values()).map(magnitude).collect();
        vec![y.near(Magnitude::Given(magnitudes)), x]
    }
    call |device, y, x| device.lerp(Lerp::new(y.view_mut(), x.view(), self.weight)?)
);

kernel!(
    /// [`Lerp`] of matrices as wide as weights.
    lerp, n: size(2000), weight: prop_oneof![Just(1.0), 0.0f64..1.0] => |(d, n, weight)| LerpCase { d, n, weight }
);
