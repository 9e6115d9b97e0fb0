//! The router's rule, for one token (V3 report eq. 12–16, and DeepSeek-V2's).
//!
//! Scores are the sigmoid (V3) or softmax (V2) of the logits. Experts are *chosen* by score plus bias, and only inside
//! the groups that score best; they are *weighed* by the raw score of the chosen, normalised where the model says so,
//! times a constant. Groups that lose are masked with −∞, not with zero: a bias may be negative.
//!
//! This part needs no allocator; the layer over a device is `layer::moe`.

use crate::error::{InvalidOp, at_most, ensure, multiple};
use crate::math;

/// Scoring function of the router: from logits to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Sigmoid of each expert's logit: DeepSeek-V3.
    Sigmoid,
    /// Softmax over all experts: DeepSeek-V2.
    Softmax,
}

/// Score of a group of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// The sum of its two best biased scores: `noaux_tc`.
    TopTwo,
    /// Its best score: `group_limited_greedy`.
    Max,
}

/// The routing rule, by which tokens choose experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteConfig {
    /// Routed experts, `N`.
    pub experts: usize,
    /// Experts a token goes to, `K`.
    pub top_k: usize,
    /// Groups the experts are divided into; 1 for none.
    pub groups: usize,
    /// Groups a token may choose from.
    pub top_groups: usize,
    /// Scoring function of experts.
    pub score: Score,
    /// Scoring function of groups.
    pub group_score: GroupScore,
    /// Divide the weights of a token by their sum (plus 1e-20).
    pub normalize: bool,
    /// Multiplies the weights, `routed_scaling_factor`.
    pub scale: f64,
}

impl RouteConfig {
    /// Checks that the numbers fit each other.
    pub fn check(&self) -> Result<(), InvalidOp> {
        const OP: &str = "route";
        multiple(OP, "the number of experts", self.experts, "the number of groups", self.groups)?;
        let per_group = self.experts / self.groups;
        ensure(
            OP,
            "a group needs two experts",
            self.groups == 1 || self.group_score == GroupScore::Max || per_group > 1,
        )?;
        ensure(OP, "top-k and the groups kept must be at least 1", self.top_groups > 0 && self.top_k > 0)?;
        at_most(OP, "the number of groups kept", self.top_groups, "the number of groups", self.groups)?;
        at_most(OP, "top-k", self.top_k, "the number of experts of the kept groups", self.top_groups * per_group)
    }
}

/// The floating-point type a rule is computed in: f32 with the bits of [`math`], or f64 for finite differences.
pub trait Real: Copy + PartialOrd {
    /// `-∞`.
    const NEG_INFINITY: Self;
    /// `1 / (1 + e^-x)`.
    fn sigmoid(self) -> Self;
    /// `e^x`.
    fn exp(self) -> Self;
    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self - other`.
    fn sub(self, other: Self) -> Self;
    /// `self * other`.
    fn mul(self, other: Self) -> Self;
    /// `self / other`.
    fn div(self, other: Self) -> Self;
    /// The nearest number of this type.
    fn from_f64(x: f64) -> Self;
}

macro_rules! real {
    ($t:ty, $exp:path, $sigmoid:expr) => {
        impl Real for $t {
            const NEG_INFINITY: Self = <$t>::NEG_INFINITY;
            fn sigmoid(self) -> Self {
                $sigmoid(self)
            }
            fn exp(self) -> Self {
                $exp(self)
            }
            fn add(self, other: Self) -> Self {
                self + other
            }
            fn sub(self, other: Self) -> Self {
                self - other
            }
            fn mul(self, other: Self) -> Self {
                self * other
            }
            fn div(self, other: Self) -> Self {
                self / other
            }
            fn from_f64(x: f64) -> Self {
                x as $t
            }
        }
    };
}
real!(f32, math::exp, math::sigmoid);
real!(f64, libm::exp, |x: f64| 1.0 / (1.0 + libm::exp(-x)));

/// Scores of one token, `scores[e]` from `logits[e]`.
pub fn score<T: Real>(config: &RouteConfig, logits: &[T], scores: &mut [T]) {
    match config.score {
        Score::Sigmoid => {
            for (s, &x) in scores.iter_mut().zip(logits) {
                *s = x.sigmoid();
            }
        }
        Score::Softmax => {
            let max = logits.iter().fold(T::NEG_INFINITY, |m, &x| if x > m { x } else { m });
            let mut sum = T::from_f64(0.0);
            for (s, &x) in scores.iter_mut().zip(logits) {
                *s = x.sub(max).exp();
                sum = sum.add(*s);
            }
            for s in scores {
                *s = s.div(sum);
            }
        }
    }
}

/// Routes one token: `scores` from `logits`, the chosen `experts` by falling biased score (among equals the lower
/// expert first), and their `weights`.
///
/// `biased` is scratch of `experts + groups` numbers. All slices have the lengths of a configuration that passed
/// [`RouteConfig::check`].
pub fn route<T: Real>(
    config: &RouteConfig,
    logits: &[T],
    bias: Option<&[T]>,
    scores: &mut [T],
    experts: &mut [u32],
    weights: &mut [T],
    scratch: &mut [T],
) {
    score(config, logits, scores);
    let (biased, group_scores) = scratch.split_at_mut(config.experts);
    biased.copy_from_slice(scores);
    if let Some(bias) = bias {
        for (b, &add) in biased.iter_mut().zip(bias) {
            *b = b.add(add);
        }
    }
    if config.groups > 1 {
        mask_groups(config, biased, group_scores);
    }
    top_k(biased, experts);
    for (w, &e) in weights.iter_mut().zip(experts.iter()) {
        *w = scores[e as usize];
    }
    let mut scale = T::from_f64(config.scale);
    if config.normalize {
        let sum = weights.iter().fold(T::from_f64(0.0), |a, &w| a.add(w));
        let sum = sum.add(T::from_f64(1e-20));
        for w in weights.iter_mut() {
            *w = w.div(sum);
        }
    }
    if config.scale == 1.0 {
        scale = T::from_f64(1.0);
    }
    for w in weights {
        *w = w.mul(scale);
    }
}

/// The columns of the largest elements, largest first, the lower column among equals; as many as `index` holds.
/// What was taken is overwritten by −∞ in `x`.
pub fn top_k<T: Real>(x: &mut [T], index: &mut [u32]) {
    for (taken, slot) in (0..).zip(0..index.len()) {
        let mut best: Option<usize> = None;
        for (i, &v) in x.iter().enumerate() {
            let better = match best {
                None => !index[..taken].contains(&(i as u32)),
                Some(b) => v > x[b] && !index[..taken].contains(&(i as u32)),
            };
            if better {
                best = Some(i);
            }
        }
        index[slot] = best.unwrap_or(0) as u32;
    }
    for &i in index.iter() {
        if let Some(v) = x.get_mut(i as usize) {
            *v = T::NEG_INFINITY;
        }
    }
}

fn mask_groups<T: Real>(config: &RouteConfig, biased: &mut [T], group_scores: &mut [T]) {
    let size = config.experts / config.groups;
    for (g, members) in group_scores.iter_mut().zip(biased.chunks_exact(size)) {
        let (mut first, mut second) = (T::NEG_INFINITY, T::NEG_INFINITY);
        for &m in members {
            if m > first {
                (first, second) = (m, first);
            } else if m > second {
                second = m;
            }
        }
        *g = match config.group_score {
            GroupScore::TopTwo => first.add(second),
            GroupScore::Max => first,
        };
    }
    for _ in 0..config.top_groups {
        let mut best = 0;
        for (i, &g) in group_scores.iter().enumerate() {
            if g > group_scores[best] {
                best = i;
            }
        }
        group_scores[best] = T::NEG_INFINITY;
    }
    // A group that was kept now scores −∞. One that scored −∞ (or NaN) to begin with holds nothing worth choosing.
    for (g, members) in group_scores.iter().zip(biased.chunks_exact_mut(size)) {
        if *g > T::NEG_INFINITY {
            members.fill(T::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RouteConfig {
        RouteConfig {
            experts: 6,
            top_k: 2,
            groups: 3,
            top_groups: 1,
            score: Score::Sigmoid,
            group_score: GroupScore::TopTwo,
            normalize: true,
            scale: 2.0,
        }
    }

    #[test]
    fn bias_chooses_and_raw_scores_weigh() {
        let logits = [0.0f32, 1.0, 2.0, 2.0, -1.0, -1.0];
        let bias = [0.0, 0.0, -1.0, -1.0, 0.9, 0.8];
        let (mut s, mut e, mut w, mut scratch) = ([0.0; 6], [0; 2], [0.0; 2], [0.0; 9]);
        route(&config(), &logits, Some(&bias), &mut s, &mut e, &mut w, &mut scratch);
        assert_eq!(e, [4, 5], "the last group has the best biased pair");
        assert_eq!(w, [1.0, 1.0], "equal raw scores share the scale");
    }

    #[test]
    fn a_negative_bias_does_not_let_a_lost_group_in() {
        let logits = [0.0f32; 6];
        let bias = [-3.0, -3.0, -2.0, -2.5, -4.0, -4.0];
        let (mut s, mut e, mut w, mut scratch) = ([0.0; 6], [0; 2], [0.0; 2], [0.0; 9]);
        route(&config(), &logits, Some(&bias), &mut s, &mut e, &mut w, &mut scratch);
        assert_eq!(e, [2, 3]);
    }

    #[test]
    fn equal_scores_go_to_the_lower_expert() {
        let mut index = [0; 3];
        top_k(&mut [1.0f32, 2.0, 2.0, 1.0], &mut index);
        assert_eq!(index, [1, 2, 0]);
    }

    #[test]
    fn impossible_rules_are_refused() {
        assert!(RouteConfig { groups: 4, ..config() }.check().is_err());
        assert!(RouteConfig { top_k: 3, ..config() }.check().is_err());
        assert!(RouteConfig { top_groups: 4, ..config() }.check().is_err());
        assert!(config().check().is_ok());
    }
}
