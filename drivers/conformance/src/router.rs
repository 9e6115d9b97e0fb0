//! Cases of the MoE router, its gradient, the balance loss and the bias update.

use fathom_core::device::{Balance, Route, RouteGrad, UpdateBias};
use fathom_core::routing::{GroupScore, RouteConfig, Score};
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Magnitude, Operand, case, kernel};
use crate::values::{Draw, size, some};

/// Every rule: with and without groups, both scores, both group scores.
fn rules() -> impl Strategy<Value = RouteConfig> {
    let groups = (select(vec![1usize, 1, 2, 4, 8]), 2usize..9, 1usize..9, 1usize..9);
    let score = select(vec![Score::Sigmoid, Score::Softmax]);
    let group_score = select(vec![GroupScore::TopTwo, GroupScore::Max]);
    (groups, score, group_score, any::<bool>(), select(vec![1.0, 2.5])).prop_map(
        |((groups, members, top_groups, top_k), score, group_score, normalize, scale)| {
            let top_groups = top_groups.min(groups);
            RouteConfig {
                experts: groups * members,
                top_k: top_k.min(top_groups * members),
                groups,
                top_groups,
                score,
                group_score,
                normalize,
                scale,
            }
        },
    )
}

case!(RouteCase, "route", { config: RouteConfig, rows: usize, biased: bool }, |self| self.config.experts,
    operands {
        let RouteConfig { experts: n, top_k: k, .. } = self.config;
        vec![
            Operand::floats(self.d.wide(), self.rows, n, self.d.floats(0, self.rows * n)).gaps(self.d.gaps),
            Operand::floats(self.d.wide(), 1, n, self.d.normals(1, n)),
            Operand::result(self.d.wide(), self.rows, n),
            Operand::index_result(self.rows, k),
            Operand::result(self.d.wide(), self.rows, k),
        ]
    }
    call |device, logits, bias, scores, experts, weights| {
        let bias = self.biased.then(|| bias.view());
        let results = (scores.view_mut(), experts.view_mut(), weights.view_mut());
        device.route(Route::new(self.config, logits.view(), bias, results.0, results.1, results.2)?)
    }
);
kernel!(
    /// [`Route`]: the experts bit for bit, with many equal scores; scores and weights within the tolerance.
    route, config: rules(), rows: size(40), biased: any::<bool>() =>
    |(d, config, rows, biased)| RouteCase { d, config, rows, biased }
);

/// Scores that a router could have given: sigmoids, or rows that sum to one.
fn scores(d: &Draw, score: Score, rows: usize, cols: usize) -> Vec<f64> {
    let mut scores: Vec<f64> = d.normals(0, rows * cols).into_iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    if score == Score::Softmax {
        for row in scores.chunks_exact_mut(cols) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|s| *s /= sum);
        }
    }
    scores
}

case!(RouteGradCase, "route_grad", { config: RouteConfig, rows: usize, more: bool },
    |self| self.config.experts + self.config.top_k,
    operands {
        let RouteConfig { experts: n, top_k: k, .. } = self.config;
        let (m, wide) = (self.rows, self.d.wide());
        let s = Operand::floats(wide, m, n, scores(&self.d, self.config.score, m, n)).gaps(self.d.gaps);
        let mut rng = self.d.rng(1);
        let experts: Vec<u32> = (0..m).flat_map(|_| rng.permutation(n).into_iter().take(k)).collect();
        let dw = Operand::floats(wide, m, k, self.d.floats(2, m * k));
        let ds = Operand::floats(wide, m, n, self.d.floats(3, m * n)).gaps(!self.d.gaps);
        let (ss, dws) = (s.values(), dw.values());
        let mut size: Vec<f64> = ds.values().iter().map(|v| if self.more { v.abs() } else { 0.0 }).collect();
        for r in 0..m {
            let of_row = || experts[r * k..][..k].iter().zip(&dws[r * k..]);
            let chosen = || of_row().map(|(&e, dw)| (r * n + e as usize, dw.abs()));
            let sum: f64 = if self.config.normalize { chosen().map(|(at, _)| ss[at]).sum() } else { 1.0 };
            let mean: f64 = if self.config.normalize { chosen().map(|(at, dw)| dw * ss[at] / sum).sum() } else { 0.0 };
            for (at, dw) in chosen() {
                size[at] += self.config.scale * (dw + mean) / sum;
            }
            let row = r * n..(r + 1) * n;
            let mean: f64 = row.clone().map(|at| size[at] * ss[at]).sum();
            for at in row {
                size[at] = ss[at] * (size[at] + if self.config.score == Score::Softmax { mean } else { 0.0 });
            }
        }
        vec![
            s,
            Operand::indices(m, k, experts),
            dw,
            ds,
            Operand::result(wide, m, n).gaps(self.d.gaps).near(Magnitude::Given(size)),
        ]
    }
    call |device, scores, experts, dw, ds, dlogits| {
        let ds = self.more.then(|| ds.view());
        let views = (scores.view(), experts.view(), dw.view());
        device.route_grad(RouteGrad::new(self.config, views.0, views.1, views.2, ds, dlogits.view_mut())?)
    }
);
kernel!(
    /// [`RouteGrad`], with and without a gradient of the scores from elsewhere.
    route_grad, config: rules(), rows: size(40), more: any::<bool>() =>
    |(d, config, rows, more)| RouteGradCase { d, config, rows, more }
);

case!(BalanceCase, "balance", { experts: usize, top_k: usize, sequence: usize, sequences: usize, alpha: f64 },
    |self| self.experts + self.sequence + self.sequences,
    operands {
        let (rows, n) = (self.sequences * self.sequence, self.experts);
        let s = Operand::floats(self.d.wide(), rows, n, scores(&self.d, Score::Sigmoid, rows, n)).gaps(self.d.gaps);
        // No frequency is above N/K, and no share of a token above 1.
        let most = n as f64 / self.top_k as f64;
        let sums = s.values();
        let size = (0..rows * n).map(|i| {
            let sum: f64 = sums[i / n * n..][..n].iter().sum();
            2.0 * self.alpha / self.sequence as f64 * most / sum
        });
        let size = Magnitude::Given(size.collect());
        vec![
            s,
            Operand::floats(self.d.wide(), 1, 1, vec![0.5]).near(Magnitude::Result),
            Operand::result(self.d.wide(), rows, n).gaps(!self.d.gaps).near(size),
        ]
    }
    call |device, scores, loss, ds| device.balance(Balance::new(
        scores.view(), self.sequence, self.top_k, self.alpha, loss.view_mut(), ds.view_mut(),
    )?)
);
kernel!(
    /// [`Balance`].
    balance, experts: 1usize..20, top_k: 1usize..6, sequence: some(20), sequences: 0usize..4, alpha: 0.001f64..1.0 =>
    |(d, experts, top_k, sequence, sequences, alpha)| {
        BalanceCase { d, experts, top_k: top_k.min(experts), sequence, sequences, alpha }
    }
);

case!(UpdateBiasCase, "update_bias", { experts: usize, speed: f64 }, |self| 1,
    operands {
        let n = self.experts;
        let load = self.d.indices(0, n, 5).into_iter().map(f64::from).collect();
        let bias = Operand::floats(self.d.wide(), 1, n, self.d.normals(1, n));
        let size = Magnitude::Given(bias.values().iter().map(|b| b.abs() + self.speed).collect());
        vec![Operand::floats(self.d.wide(), 1, n, load), bias.near(size)]
    }
    call |device, load, bias| device.update_bias(UpdateBias::new(load.view(), self.speed, bias.view_mut())?)
);
kernel!(
    /// [`UpdateBias`], with loads that equal the mean.
    update_bias, experts: some(70), speed: 0.0001f64..0.1 =>
    |(d, experts, speed)| UpdateBiasCase { d, experts, speed }
);
