//! The router, its gradient, and what keeps experts balanced.

use fathom_core::device::{Balance, Route, RouteGrad, UpdateBias};
use fathom_core::layer::router::{self, RouteConfig, Score};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat, check_index};
use crate::memory::Buffer;
use crate::par::{Chunks, Tiles};
use crate::simd::{kernel, sum, sum2};

/// Tokens routed by one task.
const ROWS: usize = 64;

/// The gradient of one token's logits; `ds` holds the gradient of its scores from elsewhere, and is used up.
fn route_grad(config: &RouteConfig, s: &[f32], experts: &[u32], dw: &[f32], ds: &mut [f32], dx: &mut [f32]) {
    let scale = config.scale as f32;
    // w = scale·s/S with S = Σ s over the chosen, or w = scale·s.
    let (mut total, mut mean) = (1.0, 0.0);
    if config.normalize {
        total = experts.iter().map(|&e| s[e as usize]).sum::<f32>() + 1e-20;
        mean = experts.iter().zip(dw).map(|(&e, dw)| dw * s[e as usize] / total).sum();
    }
    for (&e, dw) in experts.iter().zip(dw) {
        ds[e as usize] += scale * (dw - mean) / total;
    }
    match config.score {
        Score::Sigmoid => dx.iter_mut().zip(s).zip(ds).for_each(|((dx, s), ds)| *dx = *ds * s * (1.0 - s)),
        Score::Softmax => {
            let mean = sum2(ds, s, |ds, s| ds * s);
            dx.iter_mut().zip(s).zip(ds).for_each(|((dx, s), ds)| *dx = s * (*ds - mean));
        }
    }
}

kernel! {
    /// Gradient of the balance loss for one token: `scale·(f − mean)/Σs`, `mean = Σ f·s / Σ s`.
    fn balance_grad(s: &[f32], f: &[f32], scale: f32, ds: &mut [f32]) {
        let total = sum(s, |v| v);
        let mean = sum2(f, s, |f, s| f * s) / total;
        for (ds, &f) in ds.iter_mut().zip(f) {
            *ds = scale * (f - mean) / total;
        }
    }
}

kernel! {
    /// `p += s/Σs`.
    fn add_share(s: &[f32], p: &mut [f32]) {
        let total = sum(s, |v| v);
        for (p, &s) in p.iter_mut().zip(s) {
            *p += s / total;
        }
    }
}

impl Cpu {
    pub(crate) fn run_route(&self, call: Route<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "route";
        let config = call.config;
        let logits = mat::read::<f32>(OP, &call.logits)?;
        let bias = call.bias.as_ref().map(|b| mat::read::<f32>(OP, b)).transpose()?;
        let bias = bias.map(|b| b.row(0));
        let scores = Tiles::new(mat::write(OP, call.scores)?, ROWS, config.experts);
        let experts = Tiles::new(mat::write(OP, call.experts)?, ROWS, config.top_k);
        let weights = Tiles::new(mat::write(OP, call.weights)?, ROWS, config.top_k);
        let work = logits.rows() * config.experts * (2 + config.top_k);
        let scratch = config.experts + config.groups;
        self.for_each_with(work, scratch, (scores, experts, weights), |_, (mut s, mut e, mut w), memory| {
            // Exactly as many as the rule wants: it takes the rest after the experts for groups.
            let scratch = &mut memory[..scratch];
            for i in 0..s.rows() {
                let logits = logits.row(s.row + i);
                router::route(&config, logits, bias, s.row(i), e.row(i), w.row(i), scratch);
            }
        })
    }

    pub(crate) fn run_route_grad(&self, call: RouteGrad<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "route_grad";
        let config = call.config;
        let (s, experts) = (mat::read::<f32>(OP, &call.scores)?, mat::read::<u32>(OP, &call.experts)?);
        let dw = mat::read::<f32>(OP, &call.dweights)?;
        let dscores = call.dscores.as_ref().map(|d| mat::read::<f32>(OP, d)).transpose()?;
        check_index(OP, &experts, config.experts)?;
        let dx = Tiles::new(mat::write(OP, call.dlogits)?, ROWS, config.experts);
        self.for_each_with(2 * s.rows() * s.cols(), config.experts, dx, |_, mut dx, scratch| {
            let ds = &mut scratch[..config.experts];
            dx.for_rows(|r, dx| {
                match &dscores {
                    Some(d) => ds.copy_from_slice(d.row(r)),
                    None => ds.fill(0.0),
                }
                route_grad(&config, s.row(r), experts.row(r), dw.row(r), ds, dx);
            });
        })
    }

    pub(crate) fn run_balance(&self, call: Balance<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "balance";
        let s = mat::read::<f32>(OP, &call.scores)?;
        let (tokens, experts, k, alpha) = (call.sequence, s.cols(), call.top_k, call.alpha);
        let mut loss = mat::write::<f32>(OP, call.loss)?;
        let sequences = s.rows() / tokens;
        let mut losses = self.alloc_f32(sequences)?;
        let losses = &mut losses.elements_mut::<f32>()[..sequences];
        let mut chosen = self.alloc_f32(sequences * k)?;
        let chosen = &mut chosen.elements_mut::<u32>()[..sequences * k];
        let ds = Tiles::new(mat::write(OP, call.dscores)?, tokens, experts);
        let parts = (ds, Chunks::new(losses, 1), Chunks::new(chosen, k));
        let work = s.rows() * experts * (2 + k);
        self.for_each_with(work, 3 * experts, parts, |_, (mut ds, loss, best), scratch| {
            let (f, rest) = scratch.split_at_mut(experts);
            let (p, copy) = rest.split_at_mut(experts);
            let copy = &mut copy[..experts];
            let mine = s.block(ds.row, tokens, 0, experts);
            count_and_share(self.isa(), &mine, best, f, p, copy);
            let (n, t) = (experts as f64, tokens as f64);
            f.iter_mut().for_each(|f| *f *= (n / (k as f64 * t)) as f32);
            loss[0] = (alpha / t) as f32 * sum2(f, p, |f, p| f * p);
            ds.for_rows(|r, ds| balance_grad(self.isa(), s.row(r), f, (alpha / t) as f32, ds));
        })?;
        let total: f32 = losses.iter().sum();
        loss.row(0)[0] += total;
        Ok(())
    }

    pub(crate) fn run_update_bias(&self, call: UpdateBias<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "update_bias";
        let load = mat::read::<f32>(OP, &call.load)?;
        let mut bias = mat::write::<f32>(OP, call.bias)?;
        let (load, bias) = (load.row(0), bias.row(0));
        // sign(mean − load) without the division, in f64: exact as long as the counts are.
        let n = load.len() as f64;
        let total: f64 = load.iter().map(|&l| f64::from(l)).sum();
        for (b, &l) in bias.iter_mut().zip(load) {
            let excess = total - n * f64::from(l);
            let sign = f64::from(i8::from(excess > 0.0) - i8::from(excess < 0.0));
            *b = (f64::from(*b) + call.speed * sign) as f32;
        }
        Ok(())
    }
}

/// Over the tokens of a sequence: `f[e]` how many have expert `e` among their best, `p[e] = Σ_t s[t, e]/Σ s[t, :]`.
fn count_and_share(
    isa: crate::Isa,
    s: &Mat<'_, f32>,
    best: &mut [u32],
    f: &mut [f32],
    p: &mut [f32],
    copy: &mut [f32],
) {
    f.fill(0.0);
    p.fill(0.0);
    for t in 0..s.rows() {
        copy.copy_from_slice(s.row(t));
        router::top_k(copy, best);
        for &e in &*best {
            f[e as usize] += 1.0;
        }
        add_share(isa, s.row(t), p);
    }
}
