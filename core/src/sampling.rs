//! The sampler's rule, for one row of logits: temperature, top-k, top-p, min-p, and the draw.
//!
//! A token's weight is a whole number, `⌊2⁴⁰·e^((x − largest)/temperature)⌋` by the exponential of [`math`]. Sums of
//! whole numbers do not depend on their order, so every device draws the same token from the same logits. Tokens that
//! are 28 nats below the largest weigh nothing and are never drawn: each is fewer than one token in 10¹².

use alloc::vec::Vec;

use crate::math;

/// The weight of the most probable token.
pub const ONE: u64 = 1 << 40;
/// Tokens of a vocabulary at most, so that sums of weights stay below 2⁶³.
pub const MOST_TOKENS: usize = 1 << 23;

/// How far a logit lies below the largest one, `largest − x ≥ 0` over the temperature, in units of 2⁻²⁷: the order in
/// which top-k and top-p keep tokens. All from 32 on are one number.
pub fn depth(below: f32) -> u32 {
    (below * 134_217_728.0) as u32
}

/// The weight of a token `depth` below the largest logit.
pub fn weight(depth: u32) -> u64 {
    (math::exp(-(depth as f32 / 134_217_728.0)) * ONE as f32) as u64
}

/// The upper half of a product of 64-bit numbers, and whether the lower half is not 0.
fn product(a: u64, b: u64) -> (u64, bool) {
    let x = u128::from(a) * u128::from(b);
    ((x >> 64) as u64, x as u64 != 0)
}

/// A number from 0 to below 1 in units of 2⁻⁶⁴; the largest such number from 1 on.
fn fraction(x: f64) -> u64 {
    (x * 18_446_744_073_709_551_616.0) as u64
}

/// What a token is chosen by: one row of [`Sample`](crate::device::Sample).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Softmax temperature, an f32 by its bits; 0 takes the largest logit and nothing else counts.
    temperature: u32,
    /// Keep this many of the largest logits, and those equal to the smallest of them; 0 keeps all.
    top_k: u32,
    /// Keep the most probable tokens until they have this share of the weight, in units of 2⁻⁶⁴; 0 keeps all.
    top_p: u64,
    /// Keep tokens of this weight or more.
    least: u64,
    /// The random number, in units of 2⁻⁶⁴.
    uniform: u64,
}

impl Rule {
    /// Numbers of a rule as a row of a matrix: temperature, top-k, then top-p, the least weight and the random number,
    /// each as two words, the lower first.
    pub const WORDS: usize = 8;
    /// The largest logit.
    pub const GREEDY: Self = Self { temperature: 0, top_k: 0, top_p: 0, least: 0, uniform: 0 };

    /// Draws by `uniform` in [0, 1) at a temperature above 0, where 0 is [greedy](Self::GREEDY). 0 for `top_k`, 1 for
    /// `top_p` and 0 for `min_p` keep all tokens.
    pub fn new(temperature: f64, top_k: usize, top_p: f64, min_p: f64, uniform: f64) -> Self {
        if temperature == 0.0 {
            return Self::GREEDY;
        }
        Self {
            temperature: single(temperature).to_bits(),
            top_k: u32::try_from(top_k).unwrap_or(0),
            // A share that is too small for a unit is still more than none.
            top_p: if top_p < 1.0 { fraction(top_p).max(1) } else { 0 },
            least: least(min_p, ONE),
            uniform: fraction(uniform),
        }
    }

    /// The rule as it lies in a row of a matrix.
    pub fn words(&self) -> [u32; Self::WORDS] {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let ([a, b], [c, d], [e, f]) = (halves(self.top_p), halves(self.least), halves(self.uniform));
        [self.temperature, self.top_k, a, b, c, d, e, f]
    }

    /// The rule of a row, whatever it holds: a temperature that is not above 0 is greedy, an infinite one the largest
    /// number, and a least weight above that of the most probable token is its weight.
    pub fn from_words([temperature, top_k, a, b, c, d, e, f]: [u32; Self::WORDS]) -> Self {
        let whole = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        if f32::from_bits(temperature).partial_cmp(&0.0) != Some(core::cmp::Ordering::Greater) {
            return Self::GREEDY;
        }
        let temperature = f32::from_bits(temperature).min(f32::MAX).to_bits();
        Self { temperature, top_k, top_p: whole(a, b), least: whole(c, d).min(ONE), uniform: whole(e, f) }
    }

    /// Whether the largest logit is taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0
    }

    /// The distribution that the token is drawn from, for logits that are finite or −∞, one of them finite.
    pub fn distribution(&self, logits: &[f32]) -> Distribution {
        if self.is_greedy() {
            return Distribution::one_hot(most_probable(logits));
        }
        let t = f32::from_bits(self.temperature);
        let all = Distribution::at_temperature(logits, t).top_k(self.top_k as usize);
        let mut some = if self.top_p == 0 { all } else { all.with_share(self.top_p) };
        some.retain_weights(self.least);
        some
    }

    /// The token; none where a logit is NaN or infinite, or there is no logit.
    pub fn choose(&self, logits: &[f32]) -> Option<u32> {
        if logits.is_empty() || logits.iter().any(|x| !x.is_finite()) {
            return None;
        }
        if self.is_greedy() {
            return Some(most_probable(logits));
        }
        Some(self.distribution(logits).at(self.uniform))
    }
}

/// A temperature as an f32 above 0. From 2¹⁴ on all are one: 30 nats are 0.2 % there, and depths still tell logits
/// apart.
fn single(temperature: f64) -> f32 {
    (temperature as f32).clamp(f32::MIN_POSITIVE, 16384.0)
}

/// The least whole weight that is at least `share` of `largest`.
fn least(share: f64, largest: u64) -> u64 {
    let exact = share * largest as f64;
    let floor = exact as u64;
    (floor + u64::from(floor as f64 != exact)).min(largest)
}

/// The place of the largest value, the first among equals; 0 for none.
pub fn most_probable(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best });
    best.unwrap_or(0) as u32
}

/// Tokens that can be drawn, in rising order of id, each with its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    tokens: Vec<u32>,
    /// Of each: how far its logit lies below the largest, over the temperature.
    below: Vec<f32>,
    weights: Vec<u64>,
}

impl Distribution {
    /// The softmax of finite `logits`; token ids are places.
    pub fn new(logits: &[f32]) -> Self {
        Self::at_temperature(logits, 1.0)
    }

    fn at_temperature(logits: &[f32], temperature: f32) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let below: Vec<f32> = logits.iter().map(|&x| (largest - x) / temperature).collect();
        let weights = below.iter().map(|&d| weight(depth(d))).collect();
        Self { tokens: (0..logits.len() as u32).collect(), below, weights }
    }

    /// All probability on one token.
    pub fn one_hot(token: u32) -> Self {
        Self { tokens: [token].into(), below: [0.0].into(), weights: [ONE].into() }
    }

    /// Probabilities by token id; tokens of probability 0 cannot be drawn.
    pub fn from_probabilities(probabilities: &[f64]) -> Self {
        Self::of((0..).zip(probabilities.iter().copied()))
    }

    /// Tokens and their probabilities, of which those above 0 count; they need not sum to 1.
    fn of(tokens: impl Iterator<Item = (u32, f64)>) -> Self {
        let (tokens, p): (Vec<u32>, Vec<f64>) = tokens.filter(|(_, p)| *p > 0.0).unzip();
        let (sum, largest) = (p.iter().sum::<f64>(), p.iter().copied().fold(0.0, f64::max));
        // Finer than weights of logits are, since probabilities that differ little are subtracted.
        let fine = (1u64 << 62) as f64 / sum;
        let weights = p.iter().map(|p| ((p * fine) as u64).max(1)).collect();
        let below = p.iter().map(|p| libm::log(largest / p) as f32).collect();
        Self { tokens, below, weights }
    }

    fn total(&self) -> u64 {
        self.weights.iter().sum()
    }

    fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut kept = 0;
        for i in 0..self.tokens.len() {
            if keep(i) {
                self.tokens[kept] = self.tokens[i];
                self.below[kept] = self.below[i];
                self.weights[kept] = self.weights[i];
                kept += 1;
            }
        }
        self.tokens.truncate(kept);
        self.below.truncate(kept);
        self.weights.truncate(kept);
    }

    /// Divides the logits by a temperature above 0.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        let t = single(temperature);
        self.below.iter_mut().for_each(|d| *d /= t);
        self.weights = self.below.iter().map(|&d| weight(depth(d))).collect();
        self
    }

    /// Keeps the `k` largest logits and those equal to the smallest of them; all for 0.
    #[must_use]
    pub fn top_k(mut self, k: usize) -> Self {
        if k > 0 && k < self.tokens.len() {
            let mut order: Vec<u32> = self.below.iter().map(|&d| depth(d)).collect();
            let (_, &mut most, _) = order.select_nth_unstable(k - 1);
            let below = self.below.clone();
            self.retain(|i| depth(below[i]) <= most);
        }
        self
    }

    /// Keeps the smallest set of most probable tokens whose probability reaches `p`, and at least one; all for 1.
    /// Among equals those with lower ids are kept first.
    #[must_use]
    pub fn top_p(self, p: f64) -> Self {
        if p >= 1.0 { self } else { self.with_share(fraction(p).max(1)) }
    }

    /// As [`top_p`](Self::top_p), in units of 2⁻⁶⁴.
    fn with_share(mut self, share: u64) -> Self {
        let total = self.total();
        let (whole, more) = product(share, total);
        // What may be left out.
        let drop = total - (whole + u64::from(more)).min(total);
        // All tokens deeper than this together weigh less than that, so they need no sorting. The margin is far more
        // than what an exponential may be off by.
        let small = drop / (self.tokens.len() as u64).max(1);
        let deep = match small {
            0 => f64::INFINITY,
            small => libm::log(self.largest() as f64 / small as f64) + 1e-3,
        };
        let is_deep = |i: usize| f64::from(self.below[i]) > deep;
        let mut dropped: u64 = (0..self.tokens.len()).filter(|&i| is_deep(i)).map(|i| self.weights[i]).sum();
        let mut order: Vec<usize> = (0..self.tokens.len()).filter(|&i| !is_deep(i)).collect();
        let mut keep: Vec<bool> = (0..self.tokens.len()).map(|i| !is_deep(i)).collect();
        order.sort_unstable_by_key(|&i| (depth(self.below[i]), i));
        while order.len() > 1
            && let Some(i) = order.pop()
        {
            dropped += self.weights[i];
            if dropped > drop {
                break;
            }
            keep[i] = false;
        }
        self.retain(|i| keep[i]);
        self
    }

    fn largest(&self) -> u64 {
        self.weights.iter().copied().max().unwrap_or(0)
    }

    /// Keeps the tokens whose probability is at least `share` of the largest one; all for 0.
    #[must_use]
    pub fn min_p(mut self, share: f64) -> Self {
        self.retain_weights(least(share, self.largest()));
        self
    }

    fn retain_weights(&mut self, least: u64) {
        if least > 0 {
            let weights = self.weights.clone();
            self.retain(|i| weights[i] >= least);
        }
    }

    /// Draws by the inverse of the cumulative distribution, in order of ids, for `uniform` in [0, 1).
    pub fn draw(&self, uniform: f64) -> u32 {
        self.at(fraction(uniform))
    }

    /// As [`draw`](Self::draw), in units of 2⁻⁶⁴.
    fn at(&self, uniform: u64) -> u32 {
        let mut left = product(uniform, self.total()).0;
        for (&token, &weight) in self.tokens.iter().zip(&self.weights) {
            if left < weight {
                return token;
            }
            left -= weight;
        }
        // Only a distribution without tokens leads here.
        0
    }

    /// The probability of a token; 0 for one that was filtered out.
    pub fn probability(&self, token: u32) -> f64 {
        self.tokens.binary_search(&token).map_or(0.0, |i| self.weights[i] as f64 / self.total() as f64)
    }

    /// Tokens that can be drawn, with their probabilities, in rising order of id.
    pub fn probabilities(&self) -> impl Iterator<Item = (u32, f64)> {
        let total = self.total() as f64;
        self.tokens.iter().zip(&self.weights).map(move |(&token, &weight)| (token, weight as f64 / total))
    }

    /// `max(p − q, 0)`, normalized: the distribution after a draft drawn from `q` was rejected in favor of this one
    /// (Leviathan et al., "Fast inference from transformers via speculative decoding", arXiv 2211.17192, algorithm 1).
    /// `None` where the two are equal, since nothing is rejected then.
    pub fn residual(&self, q: &Distribution) -> Option<Distribution> {
        let rest = Self::of(self.probabilities().map(|(token, p)| (token, p - q.probability(token))));
        (!rest.tokens.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::rng;

    /// The definition once more, without any shortcut: all tokens in order of probability.
    fn plainly(logits: &[f32], t: f32, k: usize, p: u64, least: u64, uniform: u64) -> u32 {
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let mut order: Vec<(u32, u32)> = (0..).zip(logits).map(|(i, x)| (depth((largest - x) / t), i)).collect();
        order.sort_unstable();
        if k > 0 && k < order.len() {
            let most = order[k - 1].0;
            order.retain(|(depth, _)| *depth <= most);
        }
        if p > 0 {
            let total: u128 = order.iter().map(|(depth, _)| u128::from(weight(*depth))).sum();
            let mut sum = 0u128;
            let mut kept = 0;
            // Until sum / total >= p / 2^64.
            while kept < order.len() && (kept == 0 || sum << 64 < u128::from(p) * total) {
                sum += u128::from(weight(order[kept].0));
                kept += 1;
            }
            order.truncate(kept);
        }
        order.retain(|(depth, _)| weight(*depth) >= least.min(ONE));
        order.sort_unstable_by_key(|(_, token)| *token);
        let total: u128 = order.iter().map(|(depth, _)| u128::from(weight(*depth))).sum();
        let mut left = (u128::from(uniform) * total) >> 64;
        for (depth, token) in order {
            let weight = u128::from(weight(depth));
            if left < weight {
                return token;
            }
            left -= weight;
        }
        panic!("the draw lies below the total");
    }

    #[test]
    fn choices_are_those_of_the_definition() {
        for case in 0..3000u64 {
            let draw = |use_: u64| rng::uniform(case, 1, use_);
            let n = 1 + (draw(0) * 300.0) as usize;
            let spread = [0.0, 0.3, 2.0, 10.0][(draw(1) * 4.0) as usize];
            // Every third case has many equal logits.
            let round = |x: f32| if case % 3 == 0 { (x * 2.0).round() / 2.0 } else { x };
            let logits: Vec<f32> = (0..n).map(|i| round(rng::normal(case, 2, i as u64) * spread)).collect();
            let (t, k) = ([0.3, 1.0, 1.7][(draw(2) * 3.0) as usize], (draw(3) * 20.0) as usize);
            let (p, min_p) =
                ([1.0, 0.999, 0.9, 0.5, 1e-9][(draw(4) * 5.0) as usize], [0.0, 0.05, 1.0][case as usize % 3]);
            let rule = Rule::new(t, k, p, min_p, draw(5));
            assert_eq!(Rule::from_words(rule.words()), rule);
            let want = plainly(&logits, t as f32, k, rule.top_p, rule.least, rule.uniform);
            assert_eq!(rule.choose(&logits), Some(want), "case {case}: {rule:?} of {n} tokens");
            let whole = Distribution::new(&logits).temperature(t).top_k(k).top_p(p).min_p(min_p);
            assert_eq!(whole, rule.distribution(&logits));
            assert_eq!(whole.draw(draw(5)), want);
        }
    }

    #[test]
    fn weights_fall_with_depth_and_end() {
        assert_eq!((weight(0), weight(u32::MAX), depth(0.0), depth(32.0), depth(f32::INFINITY)), {
            (ONE, 0, 0, u32::MAX, u32::MAX)
        });
        let of = |nats: f32| weight(depth(nats)) as f64 / ONE as f64;
        for i in 0..270 {
            let nats = i as f32 * 0.1;
            let want = libm::exp(-f64::from(nats));
            assert!((of(nats) - want).abs() <= 1e-6 * want + 1e-12, "{nats}: {} for {want}", of(nats));
        }
    }

    #[test]
    fn rows_of_anything_are_rules() {
        let logits = [1.0, 3.0, 2.0];
        for words in
            [[0; 8], [u32::MAX; 8], [f32::INFINITY.to_bits(), 0, 0, 0, 0, 9, 5, 5], [1 << 31, 1, 1, 1, 1, 1, 1, 1]]
        {
            let token = Rule::from_words(words).choose(&logits);
            assert!(token.is_some_and(|t| t < 3), "{words:?}: {token:?}");
        }
        assert_eq!(Rule::from_words([u32::MAX; 8]).choose(&logits), Some(1), "NaN for a temperature is greedy");
        let hot = Rule { uniform: u64::MAX, ..Rule::new(1e300, 0, 1.0, 0.0, 0.0) };
        assert_eq!(hot.choose(&logits), Some(2));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Rule::GREEDY.choose(&[0.0, bad]), None);
            assert_eq!(hot.choose(&[0.0, bad]), None);
        }
        assert_eq!(Rule::GREEDY.choose(&[]), None);
        assert_eq!(Rule::GREEDY.choose(&[0.0, -0.0, 0.0]), Some(0));
        assert_eq!(vec![least(0.0, ONE), least(1.0, ONE), least(0.3, 10), least(0.25, 10)], [0, ONE, 3, 3]);
    }
}
