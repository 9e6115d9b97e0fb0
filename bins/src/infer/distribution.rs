//! Log-probabilities of tokens, beside the core's distributions.

pub use fathom_core::sampling::{Distribution, most_probable};

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
