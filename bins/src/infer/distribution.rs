//! Distributions over tokens: filters, draws, residuals and log-probabilities.

/// Tokens that can be drawn, in rising order of id, each with its logit and its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    /// Not normalized: `exp(logit − largest logit)`.
    weights: Vec<f64>,
}

impl Distribution {
    /// The softmax of finite `logits`; token ids are places.
    pub fn new(logits: &[f32]) -> Self {
        let tokens = (0..logits.len() as u32).collect();
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights = logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).collect();
        Self { tokens, logits: logits.to_vec(), weights }
    }

    /// All probability on one token.
    pub fn one_hot(token: u32) -> Self {
        Self { tokens: vec![token], logits: vec![0.0], weights: vec![1.0] }
    }

    /// Probabilities by token id; tokens of probability 0 cannot be drawn.
    pub fn from_probabilities(probabilities: &[f64]) -> Self {
        let kept = probabilities.iter().enumerate().filter(|(_, p)| **p > 0.0);
        let (tokens, weights): (Vec<u32>, Vec<f64>) = kept.map(|(token, &p)| (token as u32, p)).unzip();
        let logits = weights.iter().map(|w| w.ln() as f32).collect();
        Self { tokens, logits, weights }
    }

    fn total(&self) -> f64 {
        self.weights.iter().sum()
    }

    fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut kept = 0;
        for i in 0..self.tokens.len() {
            if keep(i) {
                self.tokens[kept] = self.tokens[i];
                self.logits[kept] = self.logits[i];
                self.weights[kept] = self.weights[i];
                kept += 1;
            }
        }
        self.tokens.truncate(kept);
        self.logits.truncate(kept);
        self.weights.truncate(kept);
    }

    /// Divides the logits by a temperature above 0.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        if temperature != 1.0 {
            let largest = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let scaled = |x: f32| f64::from(x - largest) / temperature;
            self.weights = self.logits.iter().map(|&x| scaled(x).exp()).collect();
            // Relative to the largest, so that the smallest temperatures give no infinite logits but the lowest.
            self.logits.iter_mut().for_each(|x| *x = scaled(*x) as f32);
        }
        self
    }

    /// Keeps the `k` largest logits and those equal to the smallest of them; all for 0.
    #[must_use]
    pub fn top_k(mut self, k: usize) -> Self {
        if k > 0 && k < self.tokens.len() {
            let mut order = self.logits.clone();
            let (_, &mut least, _) = order.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            let logits = std::mem::take(&mut self.logits);
            self.logits = logits.clone();
            self.retain(|i| logits[i] >= least);
        }
        self
    }

    /// Keeps the smallest set of most probable tokens whose probability reaches `p`, and at least one; all for 1.
    /// Among equals those with lower ids are kept first.
    #[must_use]
    pub fn top_p(mut self, p: f64) -> Self {
        if p >= 1.0 || self.tokens.len() < 2 {
            return self;
        }
        let drop = (1.0 - p) * self.total();
        // All tokens below this weight together weigh less than what is dropped, so they need no sorting.
        let small = drop / self.tokens.len() as f64;
        let mut dropped: f64 = self.weights.iter().filter(|w| **w < small).sum();
        let mut order: Vec<usize> = (0..self.tokens.len()).filter(|&i| self.weights[i] >= small).collect();
        order.sort_unstable_by(|&a, &b| self.logits[a].total_cmp(&self.logits[b]).then(b.cmp(&a)));
        let mut keep: Vec<bool> = self.weights.iter().map(|w| *w >= small).collect();
        order.pop();
        for i in order {
            dropped += self.weights[i];
            if dropped > drop {
                break;
            }
            keep[i] = false;
        }
        self.retain(|i| keep[i]);
        self
    }

    /// Keeps the tokens whose probability is at least `share` of the largest one; all for 0.
    #[must_use]
    pub fn min_p(mut self, share: f64) -> Self {
        if share > 0.0 {
            let least = share * self.weights.iter().copied().fold(0.0, f64::max);
            let weights = self.weights.clone();
            self.retain(|i| weights[i] >= least);
        }
        self
    }

    /// Draws by the inverse of the cumulative distribution, in order of ids, for `uniform` in [0, 1).
    pub fn draw(&self, uniform: f64) -> u32 {
        let mut left = uniform * self.total();
        for (&token, &weight) in self.tokens.iter().zip(&self.weights) {
            if left < weight {
                return token;
            }
            left -= weight;
        }
        // Only rounding leads here; the last token that can be drawn is the right one.
        let last = self.weights.iter().rposition(|w| *w > 0.0).unwrap_or(0);
        self.tokens.get(last).copied().unwrap_or(0)
    }

    /// The probability of a token; 0 for one that was filtered out.
    pub fn probability(&self, token: u32) -> f64 {
        self.tokens.binary_search(&token).map_or(0.0, |i| self.weights[i] / self.total())
    }

    /// Tokens that can be drawn, with their probabilities, in rising order of id.
    pub fn probabilities(&self) -> impl Iterator<Item = (u32, f64)> {
        let total = self.total();
        self.tokens.iter().zip(&self.weights).map(move |(&token, &weight)| (token, weight / total))
    }

    /// `max(p − q, 0)`, normalized: the distribution after a draft drawn from `q` was rejected in favor of this one
    /// (Leviathan et al., "Fast inference from transformers via speculative decoding", arXiv 2211.17192, algorithm 1).
    /// `None` where the two are equal, since nothing is rejected then.
    pub fn residual(&self, q: &Distribution) -> Option<Distribution> {
        let (tokens, weights): (Vec<u32>, Vec<f64>) =
            self.probabilities().map(|(token, p)| (token, p - q.probability(token))).filter(|(_, w)| *w > 0.0).unzip();
        let logits = weights.iter().map(|w| w.ln() as f32).collect();
        (!tokens.is_empty()).then_some(Self { tokens, logits, weights })
    }
}

/// The place of the largest value, the first among equals; 0 for none.
pub fn most_probable(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best });
    best.unwrap_or(0) as u32
}

/// The logarithm of `Σ exp(logit)`, for finite logits: what is subtracted from a logit to give a log-probability.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    largest + sum.ln()
}

/// Log-probabilities at one place of the output, of the model's raw logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of the probability of the chosen token.
    pub chosen: f32,
    /// The most probable tokens with theirs, the most probable first, the lower id first among equals.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// The log-probability of `token` and of the `n` most probable tokens, from finite raw logits.
    pub fn new(logits: &[f32], token: u32, n: usize) -> Self {
        let normalizer = log_sum_exp(logits);
        let logprob =
            |id: u32| logits.get(id as usize).map_or(f32::NEG_INFINITY, |&x| (f64::from(x) - normalizer) as f32);
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let compare = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if n < order.len() {
            order.select_nth_unstable_by(n, compare);
            order.truncate(n);
        }
        order.sort_unstable_by(compare);
        Self { chosen: logprob(token), top: order.into_iter().map(|id| (id, logprob(id))).collect() }
    }
}
