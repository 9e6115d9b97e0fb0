//! The MoE router, its gradient, the balance loss and the bias update.

use fathom_core::device::{Balance, Route, RouteGrad, UpdateBias};
use fathom_core::routing::{self, GroupScore, RouteConfig, Score};

use crate::error::CpuError;
use crate::mat::{self, Mat, check_index};
use crate::memory::Buffer;
use crate::par::{Chunks, Tiles};
use crate::simd::{self, kernel, sum, sum2};
use crate::{Cpu, Isa};

/// Tokens routed by one task.
const ROWS: usize = 64;

kernel! {
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
    pub(crate) fn route(&self, call: Route<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "route";
        let config = call.config;
        let logits = mat::read::<f32>(OP, &call.logits)?;
        let bias = call.bias.as_ref().map(|b| mat::read::<f32>(OP, b)).transpose()?;
        let bias = bias.map(|b| b.row(0));
        let scores = Tiles::new(mat::write(OP, call.scores)?, ROWS, config.experts);
        let experts = Tiles::new(mat::write(OP, call.experts)?, ROWS, config.top_k);
        let weights = Tiles::new(mat::write(OP, call.weights)?, ROWS, config.top_k);
        let isa = self.isa();
        let work = logits.rows() * config.experts * (2 + config.top_k) / 4;
        self.for_each_with(work, Lanes::scratch(&config), (scores, experts, weights), |_, parts, scratch| {
            let (mut s, mut e, mut w) = parts;
            for from in (0..s.rows()).step_by(WIDTH) {
                let rows = from..(from + WIDTH).min(s.rows());
                let mut lanes = Lanes::new(&config, scratch);
                lanes.read(rows.clone().map(|i| logits.row(s.row + i)));
                let alone = route_lanes(isa, &config, bias, &mut lanes);
                for (lane, i) in rows.enumerate() {
                    if alone[lane] {
                        let logits = logits.row(s.row + i);
                        let scratch = &mut lanes.rest[..config.experts + config.groups];
                        routing::route(&config, logits, bias, s.row(i), e.row(i), w.row(i), scratch);
                    } else {
                        lanes.write(lane, s.row(i), e.row(i), w.row(i));
                    }
                }
            }
        })
    }

    pub(crate) fn route_grad(&self, call: RouteGrad<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "route_grad";
        let config = call.config;
        let (s, experts) = (mat::read::<f32>(OP, &call.scores)?, mat::read::<u32>(OP, &call.experts)?);
        let dw = mat::read::<f32>(OP, &call.dweights)?;
        let dscores = call.dscores.as_ref().map(|d| mat::read::<f32>(OP, d)).transpose()?;
        check_index(OP, &experts, config.experts)?;
        let (dx, isa) = (Tiles::new(mat::write(OP, call.dlogits)?, ROWS, config.experts), self.isa());
        self.for_each_with(2 * s.rows() * s.cols(), config.experts, dx, |_, mut dx, scratch| {
            let ds = &mut scratch[..config.experts];
            dx.for_rows(|r, dx| {
                match &dscores {
                    Some(d) => ds.copy_from_slice(d.row(r)),
                    None => ds.fill(0.0),
                }
                route_grad(isa, &config, s.row(r), experts.row(r), dw.row(r), ds, dx);
            });
        })
    }

    pub(crate) fn balance(&self, call: Balance<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "balance";
        let s = mat::read::<f32>(OP, &call.scores)?;
        let (tokens, experts, k, alpha) = (call.sequence, s.cols(), call.top_k, call.alpha);
        let mut loss = mat::write::<f32>(OP, call.loss)?;
        let sequences = s.rows() / tokens;
        let mut losses = self.alloc_f32(sequences)?;
        let losses = &mut losses.elements_mut::<f32>()[..sequences];
        let ds = Tiles::new(mat::write(OP, call.dscores)?, tokens, experts);
        let parts = (ds, Chunks::new(losses, 1));
        let work = s.rows() * experts * (2 + k) / 4;
        // The best of all experts by score, as a router without groups would choose them.
        let rule = RouteConfig {
            experts,
            top_k: k,
            groups: 1,
            top_groups: 1,
            score: Score::Sigmoid,
            group_score: GroupScore::Max,
            normalize: false,
            scale: 1.0,
        };
        self.for_each_with(work, 2 * experts + Lanes::scratch(&rule), parts, |_, (mut ds, loss), scratch| {
            let (f, rest) = scratch.split_at_mut(experts);
            let (p, rest) = rest.split_at_mut(experts);
            let mine = s.block(ds.row, tokens, 0, experts);
            count_and_share(self.isa(), &mine, f, p, Lanes::new(&rule, rest));
            let (n, t) = (experts as f64, tokens as f64);
            f.iter_mut().for_each(|f| *f *= (n / (k as f64 * t)) as f32);
            loss[0] = (alpha / t) as f32 * sum2(f, p, |f, p| f * p);
            ds.for_rows(|r, ds| balance_grad(self.isa(), s.row(r), f, (alpha / t) as f32, ds));
        })?;
        let total: f32 = losses.iter().sum();
        loss.row(0)[0] += total;
        Ok(())
    }

    pub(crate) fn update_bias(&self, call: UpdateBias<'_, Buffer>) -> Result<(), CpuError> {
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
fn count_and_share(isa: Isa, s: &Mat<'_, f32>, f: &mut [f32], p: &mut [f32], mut lanes: Lanes<'_>) {
    f.fill(0.0);
    p.fill(0.0);
    for from in (0..s.rows()).step_by(WIDTH) {
        let rows = from..(from + WIDTH).min(s.rows());
        lanes.read(rows.clone().map(|t| s.row(t)));
        lanes.biased.copy_from_slice(lanes.scores);
        let alone = choose(isa, lanes.biased, lanes.chosen);
        for (lane, t) in rows.enumerate() {
            if alone[lane] {
                let (copy, rest) = lanes.rest.split_at_mut(s.cols());
                let best = &mut bytemuck::cast_slice_mut(rest)[..lanes.chosen.len()];
                copy.copy_from_slice(s.row(t));
                routing::top_k(copy, best);
                best.iter().for_each(|&e| f[e as usize] += 1.0);
            } else {
                lanes.chosen.iter().for_each(|chosen| f[chosen[lane] as usize] += 1.0);
            }
            add_share(isa, s.row(t), p);
        }
    }
}

/// Tokens that are routed side by side, one to a lane.
const WIDTH: usize = 16;

/// Numbers of one expert, of a group, or of a place among the chosen, for [`WIDTH`] tokens.
type Lane<T> = [T; WIDTH];

/// The numbers of [`WIDTH`] tokens, turned so that a vector holds one expert's of all of them. Every token goes through
/// the operations of [`routing::route`] in their order, so it gets the same bits.
struct Lanes<'a> {
    /// Logits, then scores: a lane for every expert.
    scores: &'a mut [Lane<f32>],
    /// Scores by which experts are chosen; those taken become −∞.
    biased: &'a mut [Lane<f32>],
    groups: &'a mut [Lane<f32>],
    chosen: &'a mut [Lane<u32>],
    weights: &'a mut [Lane<f32>],
    /// For a token that is routed alone: `experts + groups` numbers, or `experts + top_k`.
    rest: &'a mut [f32],
}

impl<'a> Lanes<'a> {
    fn scratch(config: &RouteConfig) -> usize {
        let RouteConfig { experts, groups, top_k, .. } = *config;
        WIDTH * (2 * experts + groups + 2 * top_k) + experts + groups.max(top_k)
    }

    fn new(config: &RouteConfig, scratch: &'a mut [f32]) -> Self {
        let RouteConfig { experts, groups, top_k, .. } = *config;
        let mut scratch = &mut scratch[..Self::scratch(config)];
        let mut take = |n: usize| crate::attention::take(&mut scratch, n * WIDTH).as_chunks_mut().0;
        let (scores, biased, group_scores) = (take(experts), take(experts), take(groups));
        let (chosen, weights) = (take(top_k), take(top_k));
        let chosen = bytemuck::cast_slice_mut::<f32, u32>(chosen.as_flattened_mut()).as_chunks_mut().0;
        Self { scores, biased, groups: group_scores, chosen, weights, rest: scratch }
    }

    /// One row to each lane; lanes that get none hold zeros.
    fn read<'r>(&mut self, rows: impl Iterator<Item = &'r [f32]>) {
        self.scores.fill([0.0; WIDTH]);
        for (lane, row) in rows.enumerate() {
            self.scores.iter_mut().zip(row).for_each(|(to, &x)| to[lane] = x);
        }
    }

    fn write(&self, lane: usize, scores: &mut [f32], experts: &mut [u32], weights: &mut [f32]) {
        scores.iter_mut().zip(&*self.scores).for_each(|(to, from)| *to = from[lane]);
        experts.iter_mut().zip(&*self.chosen).for_each(|(to, from)| *to = from[lane]);
        weights.iter_mut().zip(&*self.weights).for_each(|(to, from)| *to = from[lane]);
    }
}

kernel! {
    /// Routes all lanes. Says for each whether its token must be routed alone: where not all numbers are finite, the
    /// order of comparisons shows.
    fn route_lanes(config: &RouteConfig, bias: Option<&[f32]>, lanes: &mut Lanes<'_>) -> Lane<bool> {
        let Lanes { scores, biased, groups, chosen, weights, .. } = lanes;
        score_lanes(config.score, scores);
        for (e, (b, s)) in biased.iter_mut().zip(&**scores).enumerate() {
            let add = bias.map_or(0.0, |bias| bias[e]);
            for l in 0..WIDTH {
                b[l] = if bias.is_some() { s[l] + add } else { s[l] };
            }
        }
        let finite = all_finite(biased);
        if config.groups > 1 {
            mask_groups(config, biased, groups);
        }
        let mut alone = choose_lanes(biased, chosen);
        let mut total = [0.0; WIDTH];
        for (w, e) in weights.iter_mut().zip(&**chosen) {
            for l in 0..WIDTH {
                // An index that was not found belongs to a token that is routed alone.
                w[l] = scores.get(e[l] as usize).map_or(0.0, |s| s[l]);
                total[l] += w[l];
            }
        }
        let scale = config.scale as f32;
        for w in weights.iter_mut() {
            for l in 0..WIDTH {
                let weight = if config.normalize { w[l] / (total[l] + 1e-20) } else { w[l] };
                w[l] = weight * scale;
            }
        }
        for l in 0..WIDTH {
            alone[l] |= !finite[l];
        }
        alone
    }
}

kernel! {
    /// [`choose_lanes`], and whether all of a lane's numbers were finite, as one answer.
    fn choose(x: &mut [Lane<f32>], chosen: &mut [Lane<u32>]) -> Lane<bool> {
        let finite = all_finite(x);
        let mut alone = choose_lanes(x, chosen);
        for l in 0..WIDTH {
            alone[l] |= !finite[l];
        }
        alone
    }
}

/// Logits become scores.
#[inline(always)]
fn score_lanes(score: Score, x: &mut [Lane<f32>]) {
    if score == Score::Sigmoid {
        for x in x.as_flattened_mut() {
            *x = simd::sigmoid(*x);
        }
        return;
    }
    let (mut most, mut total) = ([f32::NEG_INFINITY; WIDTH], [0.0; WIDTH]);
    for x in &*x {
        for l in 0..WIDTH {
            most[l] = if x[l] > most[l] { x[l] } else { most[l] };
        }
    }
    for x in &mut *x {
        for l in 0..WIDTH {
            x[l] = simd::exp(x[l] - most[l]);
            total[l] += x[l];
        }
    }
    for x in x {
        for l in 0..WIDTH {
            x[l] /= total[l];
        }
    }
}

#[inline(always)]
fn all_finite(x: &[Lane<f32>]) -> Lane<bool> {
    let mut sum = [0.0; WIDTH];
    for x in x {
        for l in 0..WIDTH {
            sum[l] += x[l];
        }
    }
    sum.map(f32::is_finite)
}

/// Members of groups that are not among the best become −∞.
#[inline(always)]
fn mask_groups(config: &RouteConfig, biased: &mut [Lane<f32>], groups: &mut [Lane<f32>]) {
    let size = config.experts / config.groups;
    for (group, members) in groups.iter_mut().zip(biased.chunks_exact(size)) {
        let (mut first, mut second) = ([f32::NEG_INFINITY; WIDTH], [f32::NEG_INFINITY; WIDTH]);
        for m in members {
            for l in 0..WIDTH {
                let low = if m[l] > first[l] { first[l] } else { m[l] };
                first[l] = if m[l] > first[l] { m[l] } else { first[l] };
                second[l] = if low > second[l] { low } else { second[l] };
            }
        }
        for l in 0..WIDTH {
            group[l] = if config.group_score == GroupScore::TopTwo { first[l] + second[l] } else { first[l] };
        }
    }
    for _ in 0..config.top_groups {
        let (mut most, mut best) = (groups[0], [0u32; WIDTH]);
        for (g, group) in (0u32..).zip(&*groups) {
            for l in 0..WIDTH {
                best[l] = if group[l] > most[l] { g } else { best[l] };
                most[l] = if group[l] > most[l] { group[l] } else { most[l] };
            }
        }
        for l in 0..WIDTH {
            groups[best[l] as usize][l] = f32::NEG_INFINITY;
        }
    }
    // A group that was kept now scores −∞.
    for (group, members) in groups.iter().zip(biased.chunks_exact_mut(size)) {
        for m in members {
            for l in 0..WIDTH {
                m[l] = if group[l] > f32::NEG_INFINITY { f32::NEG_INFINITY } else { m[l] };
            }
        }
    }
}

/// The experts of the largest numbers of every lane, largest first, the lower among equals; those taken become −∞.
/// Returns which lanes had fewer numbers above −∞.
#[inline(always)]
fn choose_lanes(x: &mut [Lane<f32>], chosen: &mut [Lane<u32>]) -> Lane<bool> {
    let mut short = [false; WIDTH];
    for index in chosen {
        let (mut most, mut best) = ([f32::NEG_INFINITY; WIDTH], [u32::MAX; WIDTH]);
        for (e, x) in (0u32..).zip(&*x) {
            for l in 0..WIDTH {
                best[l] = if x[l] > most[l] { e } else { best[l] };
                most[l] = if x[l] > most[l] { x[l] } else { most[l] };
            }
        }
        for l in 0..WIDTH {
            match x.get_mut(best[l] as usize) {
                Some(taken) => taken[l] = f32::NEG_INFINITY,
                None => short[l] = true,
            }
        }
        *index = best;
    }
    short
}
