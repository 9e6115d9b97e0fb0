//! Speculative decoding: drafts of the MTP module, accepted or replaced so that the output stays that of the model.
//!
//! Greedy: a draft is accepted while it is the most probable token. Sampled: a draft drawn from `q` is accepted with
//! probability `min(1, p/q)`, else the token is drawn from `max(p − q, 0)` (Leviathan et al., arXiv 2211.17192,
//! algorithm 1). `p` and `q` have passed the same samplers.

use super::distribution::{Distribution, most_probable};
use super::sampling::{Draw, History, Sampling};

/// A token that the MTP module proposes.
#[derive(Clone, Debug, PartialEq)]
pub struct Drafted {
    /// The token.
    pub token: u32,
    /// The distribution it was drawn from; `None` for greedy sampling.
    pub distribution: Option<Distribution>,
}

/// Drafts the token for place `position` of the output from the module's finite logits. `history` holds the tokens
/// before it, earlier drafts included. Changes `logits`.
pub fn draft(sampling: &Sampling, history: &History, logits: &mut [f32], position: usize) -> Drafted {
    if sampling.is_greedy() {
        return Drafted { token: sampling.greedy(history, logits), distribution: None };
    }
    let distribution = sampling.distribution(history, logits);
    let token = distribution.draw(sampling.uniform(Draw::Draft, position));
    Drafted { token, distribution: Some(distribution) }
}

/// The token for place `position` of the output from the model's finite logits, given a draft of it; and whether that
/// is the draft. Changes `logits`.
pub fn verify(
    sampling: &Sampling,
    history: &History,
    logits: &mut [f32],
    draft: &Drafted,
    position: usize,
) -> (u32, bool) {
    let Some(q) = &draft.distribution else {
        sampling.penalize(history, logits);
        let token = most_probable(logits);
        return (token, token == draft.token);
    };
    let p = sampling.distribution(history, logits);
    let (target, drafted) = (p.probability(draft.token), q.probability(draft.token));
    if sampling.uniform(Draw::Accept, position) * drafted < target {
        return (draft.token, true);
    }
    // Equal distributions reject nothing but by rounding.
    let rest = p.residual(q).unwrap_or(p);
    (rest.draw(sampling.uniform(Draw::Residual, position)), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// χ² of `counts` against probabilities.
    fn chi_square(counts: &[u32], probabilities: &[f64]) -> f64 {
        let n = f64::from(counts.iter().sum::<u32>());
        let term = |(&count, &p): (&u32, &f64)| (f64::from(count) - n * p).powi(2) / (n * p);
        counts.iter().zip(probabilities).map(term).sum()
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let mut all = vec![0.0; logits.len()];
        Distribution::new(logits).probabilities().for_each(|(token, p)| all[token as usize] = p);
        all
    }

    #[test]
    fn sampled_tokens_have_the_model_s_distribution_and_drafts_their_acceptance() {
        let (target, module) = ([0.3f32, 1.1, -0.4, 0.9, -1.5], [1.0f32, 0.2, -0.3, 0.8, -1.0]);
        let (p, q) = (softmax(&target), softmax(&module));
        let acceptance: f64 = p.iter().zip(&q).map(|(p, q)| p.min(*q)).sum();
        let (mut counts, mut drafts, mut accepted) = ([0u32; 5], [0u32; 5], 0u32);
        let n = 40_000;
        for position in 0..n {
            let sampling = Sampling { seed: 5, ..Sampling::default() };
            let history = History::default();
            let drafted = draft(&sampling, &history, &mut module.to_vec(), position);
            let (token, right) = verify(&sampling, &history, &mut target.to_vec(), &drafted, position);
            assert!(!right || token == drafted.token);
            drafts[drafted.token as usize] += 1;
            counts[token as usize] += 1;
            accepted += u32::from(right);
        }
        // 4 degrees of freedom: 99.9 % of the values lie below 18.47.
        assert!(chi_square(&counts, &p) < 18.47, "{counts:?} for {p:?}");
        assert!(chi_square(&drafts, &q) < 18.47, "{drafts:?} for {q:?}");
        assert!(chi_square(&counts, &q) > 100.0, "the test tells the distributions apart");
        let rate = f64::from(accepted) / n as f64;
        assert!((rate - acceptance).abs() < 4.0 * (acceptance / n as f64).sqrt(), "{rate} for {acceptance}");
    }

    #[test]
    fn a_draft_that_the_filters_forbid_is_rejected_and_equal_distributions_reject_nothing() {
        let sampling = Sampling { top_k: 1, seed: 2, ..Sampling::default() };
        let history = History::default();
        for position in 0..200 {
            let wrong = Drafted { token: 0, distribution: Some(Distribution::one_hot(0)) };
            let (token, right) = verify(&sampling, &history, &mut [0.0, 3.0], &wrong, position);
            assert_eq!((token, right), (1, false));
            let sampling = Sampling { seed: 2, ..Sampling::default() };
            let drafted = draft(&sampling, &history, &mut [0.5, 1.0, 0.2], position);
            assert_eq!(verify(&sampling, &history, &mut [0.5, 1.0, 0.2], &drafted, position), (drafted.token, true));
        }
    }

    #[test]
    fn greedy_drafts_are_compared_with_the_most_probable_token() {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let drafted = draft(&sampling, &History::default(), &mut [0.0, 2.0, 1.0], 0);
        assert_eq!(drafted, Drafted { token: 1, distribution: None });
        assert_eq!(verify(&sampling, &History::default(), &mut [0.0, 1.0, 2.0], &drafted, 0), (2, false));
        assert_eq!(verify(&sampling, &History::default(), &mut [0.0, 3.0, 2.0], &drafted, 0), (1, true));
    }
}
