//! Cases of attention, its gradient and the window mask.

use fathom_core::device::{Attention, AttentionGrad, Heads, Host, Kernels, MaskWindow};
use proptest::prelude::*;

use crate::case::{Magnitude, Operand, case, decode, execute, kernel, sweep};
use crate::values::{Draw, Style, size, some};
use crate::{Failure, Options, Outcome};

case!(MaskCase, "mask_window", { rows: usize, cols: usize, base: usize, last: usize }, |self| 1,
    operands {
        vec![
            Operand::indices(self.rows, 1, self.d.indices(1, self.rows, self.base + self.cols + 3)),
            Operand::floats(self.d.wide(), self.rows, self.cols, self.d.floats(0, self.rows * self.cols))
                .gaps(self.d.gaps)
                .exact(),
        ]
    }
    call |device, first, y| device.mask_window(MaskWindow::new(first.view(), self.base, self.last, y.view_mut())?)
);
kernel!(
    /// [`MaskWindow`]: bit for bit.
    mask_window, rows: size(40), cols: size(70), base: 0usize..20, last: 0usize..40 =>
    |(d, rows, cols, base, last)| MaskCase { d, rows, cols, base, last }
);

/// Queries, keys, values and starts of a case, as their operands.
pub(crate) fn inputs(d: &Draw, heads: &Heads, sequences: usize) -> [Operand; 4] {
    let Heads { heads: h, nope, rope, value, sequence, .. } = *heads;
    let t = sequences * sequence;
    // Scores of 10⁸ would leave nothing to compare.
    let style = if d.style == Style::Large { Style::Normal } else { d.style };
    let values = |i, cols: usize| Draw { style, ..*d }.floats(i, t * cols);
    let mut rng = d.rng(9);
    // Most rows start where the sequence or a document does; some starts lie outside and are clamped.
    let starts = (0..t).map(|t| match rng.below(4) {
        0 => rng.below(t + 3),
        1 => u32::MAX - rng.below(2),
        _ => (t - t % sequence) as u32 + rng.below(t % sequence + 1),
    });
    let starts = starts.collect();
    [
        Operand::floats(d.dtype, t, h * (nope + rope), values(0, h * (nope + rope))).gaps(d.gaps),
        Operand::floats(d.dtype, t, h * (nope + value), values(1, h * (nope + value))).gaps(!d.gaps),
        Operand::floats(d.dtype, t, rope, values(2, rope)).gaps(d.gaps),
        Operand::indices(t, 1, starts),
    ]
}

/// What the magnitudes of attention are made of, for one query row and head.
struct Row {
    t: usize,
    j: usize,
    /// How far an error in a score is amplified: 1 + max Σ|q·k|·scale over the keys.
    gain: f64,
    /// `(u, p)`: keys of the sequence up to the row, with at most the probability they can have.
    keys: Vec<(usize, f64)>,
}

/// Every query row and head, `lse` being that of the host.
fn rows(heads: &Heads, [q, kv, k_pe]: [&[f64]; 3], lse: &[f64]) -> Vec<Row> {
    let Heads { heads: h, nope, rope, value, scale, sequence } = *heads;
    let mut rows = Vec::new();
    for t in 0..lse.len() / h {
        for j in 0..h {
            let query = &q[(t * h + j) * (nope + rope)..][..nope + rope];
            let (mut gain, mut keys) = (1.0f64, Vec::new());
            for u in t - t % sequence..=t {
                let key = kv[(u * h + j) * (nope + value)..][..nope].iter().chain(&k_pe[u * rope..][..rope]);
                let terms = query.iter().zip(key).map(|(q, k)| scale * q * k);
                let (score, size) = terms.fold((0.0, 0.0), |(s, a), x| (s + x, a + x.abs()));
                gain = gain.max(1.0 + size);
                keys.push((u, (score - lse[t * h + j]).exp().min(1.0)));
            }
            rows.push(Row { t, j, gain, keys });
        }
    }
    rows
}

case!(AttentionCase, "attention", { heads: Heads, sequences: usize },
    |self| self.heads.nope + self.heads.rope + self.heads.sequence,
    operands {
        let Heads { heads: h, nope, value, sequence, .. } = self.heads;
        let t = self.sequences * sequence;
        let [q, kv, k_pe, starts] = inputs(&self.d, &self.heads, self.sequences);
        let (mut o_size, mut lse_size) = (vec![0.0; t * h * value], vec![0.0; t * h]);
        let (values, all) = (kv.values(), vec![f64::NEG_INFINITY; t * h]);
        // Not knowing the starts, take every probability for 1.
        for row in rows(&self.heads, [&q.values(), &values, &k_pe.values()], &all) {
            lse_size[row.t * h + row.j] = row.gain + (sequence as f64).ln();
            for c in 0..value {
                let v = |u: usize| values[(u * h + row.j) * (nope + value) + nope + c].abs();
                let largest = row.keys.iter().map(|&(u, _)| v(u)).fold(0.0, f64::max);
                o_size[(row.t * h + row.j) * value + c] = largest * row.gain;
            }
        }
        vec![
            q, kv, k_pe, starts,
            Operand::result(self.d.dtype, t, h * value).gaps(self.d.gaps).near(Magnitude::Given(o_size)),
            Operand::result(self.d.wide(), t, h).near(Magnitude::Given(lse_size)),
        ]
    }
    call |device, q, kv, k_pe, starts, o, lse| device.attention(Attention::new(
        self.heads, q.view(), kv.view(), k_pe.view(), starts.view(), o.view_mut(), lse.view_mut(),
    )?)
);

case!(AttentionGradCase, "attention_grad", { heads: Heads, sequences: usize },
    |self| self.heads.nope + self.heads.rope + self.heads.value + self.heads.sequence,
    operands {
        let Heads { heads: h, nope, rope, value, scale, sequence } = self.heads;
        let t = self.sequences * sequence;
        let forward = AttentionCase { d: self.d, heads: self.heads, sequences: self.sequences };
        let before = forward.operands();
        let after = execute(&forward, &Host::new(), &before).expect("the host attends");
        let read = |i: usize| after[i].iter().map(|&b| decode(before[i].dtype, b)).collect::<Vec<f64>>();
        let (q, kv, k_pe, o, lse) = (read(0), read(1), read(2), read(4), read(5));
        let d_o = Operand::floats(self.d.dtype, t, h * value, self.d.normals(3, t * h * value)).gaps(!self.d.gaps);
        let dos = d_o.values();

        let (mut dq, mut dkv, mut dk_pe) = (vec![0.0; q.len()], vec![0.0; kv.len()], vec![0.0; k_pe.len()]);
        for Row { t, j, gain, keys } in rows(&self.heads, [&q, &kv, &k_pe], &lse) {
            let (q_at, o_at) = ((t * h + j) * (nope + rope), (t * h + j) * value);
            let mean: f64 = (o_at..o_at + value).map(|i| (o[i] * dos[i]).abs()).sum();
            for (u, p) in keys {
                let kv_at = (u * h + j) * (nope + value);
                let dp: f64 = (0..value).map(|c| (dos[o_at + c] * kv[kv_at + nope + c]).abs()).sum();
                let ds = gain * scale * p * (dp + mean);
                for c in 0..nope {
                    dq[q_at + c] += ds * kv[kv_at + c].abs();
                    dkv[kv_at + c] += ds * q[q_at + c].abs();
                }
                for c in 0..rope {
                    dq[q_at + nope + c] += ds * k_pe[u * rope + c].abs();
                    dk_pe[u * rope + c] += ds * q[q_at + nope + c].abs();
                }
                for c in 0..value {
                    dkv[kv_at + nope + c] += gain * p * dos[o_at + c].abs();
                }
            }
        }
        let mut operands: Vec<Operand> = before[..4].to_vec();
        operands.extend([
            Operand::floats(self.d.dtype, t, h * value, o),
            Operand::floats(self.d.wide(), t, h, lse),
            d_o,
            Operand::result(self.d.dtype, t, h * (nope + rope)).gaps(self.d.gaps).near(Magnitude::Given(dq)),
            Operand::result(self.d.dtype, t, h * (nope + value)).gaps(!self.d.gaps).near(Magnitude::Given(dkv)),
            Operand::result(self.d.dtype, t, rope).gaps(self.d.gaps).near(Magnitude::Given(dk_pe)),
        ]);
        operands
    }
    call |device, q, kv, k_pe, starts, o, lse, d_o, dq, dkv, dk_pe| device.attention_grad(AttentionGrad::new(
        self.heads, q.view(), kv.view(), k_pe.view(), starts.view(), o.view(), lse.view(), d_o.view(),
        dq.view_mut(), dkv.view_mut(), dk_pe.view_mut(),
    )?)
);

/// Heads of all proportions, without positions among them, and how many sequences.
fn shapes() -> impl Strategy<Value = (Heads, usize)> {
    let sequence = prop_oneof![4 => some(20), 1 => 60usize..70];
    (1usize..4, size(20), 0usize..9, some(20), sequence, 0usize..4, 0.1f64..0.6).prop_map(
        |(heads, nope, rope, value, sequence, sequences, scale)| {
            let nope = if rope == 0 { nope.max(1) } else { nope };
            (Heads { heads, nope, rope, value, scale, sequence }, sequences)
        },
    )
}

/// [`Attention`]: documents, sequences, and starts that must be clamped.
pub fn attention<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), shapes());
    sweep(device, options, strategy.prop_map(|(d, (heads, sequences))| AttentionCase { d, heads, sequences }))
}

/// [`AttentionGrad`], from the host's forward results.
pub fn attention_grad<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), shapes());
    sweep(device, options, strategy.prop_map(|(d, (heads, sequences))| AttentionGradCase { d, heads, sequences }))
}
