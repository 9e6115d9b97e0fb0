//! Calibration of tasks with choices: how often a choice is right, against the probability that the model gave it.

use super::metric::argmax;

/// Bins of equal width between 0 and 1.
pub const BINS: usize = 10;

/// The chosen answer to an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// Its probability: the softmax of the choices' log-likelihoods.
    pub probability: f64,
    /// Whether it is right.
    pub right: bool,
}

impl Confidence {
    /// The most probable choice, the first among equals, and whether it is `gold`. `None` where a log-likelihood is not
    /// finite.
    pub fn of(logs: &[f64], gold: usize) -> Option<Self> {
        let chosen = argmax(logs.iter().copied());
        let best = *logs.get(chosen)?;
        let sum: f64 = logs.iter().map(|log| (log - best).exp()).sum();
        let probability = 1.0 / sum;
        probability.is_finite().then_some(Self { probability, right: chosen == gold })
    }
}

/// Items whose probability lies in a bin: the `i`-th of `n` from 0 is `(i/n, (i + 1)/n]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// Items.
    pub items: usize,
    /// Sum of their probabilities.
    sum: f64,
    /// Items that are right.
    right: usize,
}

impl Bin {
    /// Mean probability of the chosen answers.
    pub fn probability(&self) -> f64 {
        self.sum / self.items.max(1) as f64
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.items.max(1) as f64
    }

    /// The standard error of the accuracy, as that of a metric; `None` for fewer than two items.
    pub fn stderr(&self) -> Option<f64> {
        let p = self.accuracy();
        (self.items > 1).then(|| (p * (1.0 - p) / (self.items - 1) as f64).sqrt())
    }
}

/// The answers in bins.
pub fn bins(answers: &[Confidence]) -> [Bin; BINS] {
    let mut bins = [Bin::default(); BINS];
    for answer in answers {
        let place = (answer.probability * BINS as f64).ceil() as usize;
        let bin = &mut bins[place.clamp(1, BINS) - 1];
        bin.items += 1;
        bin.sum += answer.probability;
        bin.right += usize::from(answer.right);
    }
    bins
}

/// The expected calibration error (Guo et al., arXiv 1706.04599, equation 3): the mean over items of the distance
/// between accuracy and mean probability of their bin. `None` without items.
pub fn expected_error(bins: &[Bin]) -> Option<f64> {
    let items: usize = bins.iter().map(|bin| bin.items).sum();
    let sum: f64 = bins.iter().map(|bin| bin.items as f64 * (bin.accuracy() - bin.probability()).abs()).sum();
    (items > 0).then(|| sum / items as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(probability: f64, right: bool) -> Confidence {
        Confidence { probability, right }
    }

    #[test]
    fn the_probability_is_the_softmax_of_the_choices() {
        // e⁻¹ : e⁻² : e⁻³ = 0.6652 : 0.2447 : 0.0900.
        let found = Confidence::of(&[-2.0, -1.0, -3.0], 1).unwrap();
        assert!((found.probability - 0.665_240_955_774_821_8).abs() < 1e-15 && found.right);
        // Far below what exp can hold, and the first of equal ones.
        assert_eq!(Confidence::of(&[-5000.0, -5000.0], 1), Some(answer(0.5, false)));
        assert_eq!(Confidence::of(&[f64::NAN, f64::NAN], 0), None);
        assert_eq!(Confidence::of(&[], 0), None);
    }

    #[test]
    fn bins_end_at_tenths_and_the_error_is_the_one_by_hand() {
        let answers = [(0.25, true), (0.3, false), (0.31, false), (0.95, true), (1.0, true), (0.0, false)];
        let bins = bins(&answers.map(|(p, right)| answer(p, right)));
        assert_eq!(bins.map(|bin| bin.items), [1, 0, 2, 1, 0, 0, 0, 0, 0, 2]);
        assert_eq!((bins[2].accuracy(), bins[2].probability()), (0.5, 0.275));
        assert_eq!((bins[9].accuracy(), bins[9].probability()), (1.0, 0.975));
        // By hand: (1·|0 − 0| + 2·|0.5 − 0.275| + 1·|0 − 0.31| + 2·|1 − 0.975|) / 6.
        let want = (0.45 + 0.31 + 0.05) / 6.0;
        assert!((expected_error(&bins).unwrap() - want).abs() < 1e-15);
        assert_eq!(expected_error(&[Bin::default()]), None);
        assert_eq!((bins[2].stderr(), bins[3].stderr()), (Some(0.5), None));
    }
}
