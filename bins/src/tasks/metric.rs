//! Metrics of answers, their means and standard errors, as lm-evaluation-harness defines them.

use super::kind::Kind;
use super::random::PythonRandom;

/// Resamples for the standard error of a perplexity.
pub const BOOTSTRAP: usize = 100_000;
/// Resamples that one generator draws.
const CHUNK: usize = 1000;

/// A metric of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Share of items whose most probable choice is right, or whose continuation is greedy.
    Acc,
    /// The same with log-likelihoods divided by the number of characters of the choice.
    AccNorm,
    /// The same, divided by the number of bytes in UTF-8.
    AccBytes,
    /// `exp(−mean log-likelihood)` of the continuations.
    Perplexity,
    /// `exp(−Σ log-likelihood / Σ words)`.
    WordPerplexity,
    /// `exp(−Σ log-likelihood / Σ bytes)`.
    BytePerplexity,
    /// `−Σ log-likelihood / (Σ bytes · ln 2)`.
    BitsPerByte,
    /// Share of items whose filtered answer is the target.
    ExactMatch,
    /// Probability that one of `k` programs passes, an unbiased estimate (Chen et al., arXiv 2107.03374, equation 1).
    Pass(usize),
}

impl Metric {
    /// The metric of a name in a task of a kind.
    ///
    /// # Errors
    /// A name that is unknown, or that the kind does not have.
    pub fn named(name: &str, kind: Kind) -> Result<Self, String> {
        let pass = || name.strip_prefix("pass@")?.parse().ok().filter(|&k: &usize| k > 0).map(Self::Pass);
        let known: &[(&str, Self)] = match kind {
            Kind::Choice => &[("acc", Self::Acc), ("acc_norm", Self::AccNorm), ("acc_bytes", Self::AccBytes)],
            Kind::Text => &[("acc", Self::Acc), ("perplexity", Self::Perplexity)],
            Kind::Rolling => &[
                ("word_perplexity", Self::WordPerplexity),
                ("byte_perplexity", Self::BytePerplexity),
                ("bits_per_byte", Self::BitsPerByte),
            ],
            Kind::Generate => &[("exact_match", Self::ExactMatch)],
        };
        if let Some((_, metric)) = known.iter().find(|(known, _)| *known == name) {
            return Ok(*metric);
        }
        if let Some(metric) = pass().filter(|_| kind == Kind::Generate) {
            return Ok(metric);
        }
        let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let more = if kind == Kind::Generate { ", pass@k" } else { "" };
        Err(format!("metrics: {name:?} is unknown for this kind; there are {}{more}", known.join(", ")))
    }

    /// The name.
    pub fn name(self) -> String {
        match self {
            Self::Acc => "acc".into(),
            Self::AccNorm => "acc_norm".into(),
            Self::AccBytes => "acc_bytes".into(),
            Self::Perplexity => "perplexity".into(),
            Self::WordPerplexity => "word_perplexity".into(),
            Self::BytePerplexity => "byte_perplexity".into(),
            Self::BitsPerByte => "bits_per_byte".into(),
            Self::ExactMatch => "exact_match".into(),
            Self::Pass(k) => format!("pass@{k}"),
        }
    }

    /// Whether higher is better.
    pub fn higher_is_better(self) -> bool {
        !lower_is_better(&self.name())
    }

    /// Whether its value for an item says that the answer is right.
    pub fn is_judgement(self) -> bool {
        matches!(self, Self::Acc | Self::AccNorm | Self::AccBytes | Self::ExactMatch | Self::Pass(_))
    }

    /// The metric and its standard error, where it has one, over the values of items.
    pub fn aggregate(self, values: &[Value], resamples: usize) -> (f64, Option<f64>) {
        match self {
            Self::Perplexity => {
                let logs: Vec<f64> = values.iter().map(|v| v.value).collect();
                let error = (resamples > 0 && logs.len() > 1).then(|| bootstrap_stderr(&logs, resamples));
                (perplexity(logs.iter().copied(), logs.len()), error)
            }
            Self::WordPerplexity | Self::BytePerplexity | Self::BitsPerByte => {
                let (sum, units) = values.iter().fold((0.0, 0.0), |(a, b), v| (a + v.value, b + v.weight));
                let mean = -sum / f64::max(units, 1.0);
                (if self == Self::BitsPerByte { mean / std::f64::consts::LN_2 } else { mean.exp() }, None)
            }
            _ => {
                let values: Vec<f64> = values.iter().map(|v| v.value).collect();
                (mean(&values), Some(mean_stderr(&values)))
            }
        }
    }
}

/// Whether lower is better, for a metric by its name.
pub fn lower_is_better(name: &str) -> bool {
    name.ends_with("perplexity") || name == "bits_per_byte"
}

/// One item's share of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// The value, or a sum of log-likelihoods.
    pub value: f64,
    /// Words or bytes that the sum is over; 1 elsewhere.
    pub weight: f64,
}

impl Value {
    /// A value of one item.
    pub fn of(value: f64) -> Self {
        Self { value, weight: 1.0 }
    }

    /// 1 or 0.
    pub fn flag(is: bool) -> Self {
        Self::of(f64::from(u8::from(is)))
    }
}

/// The place of the largest value, the first among equals.
pub fn argmax(values: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.into_iter().enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

/// The mean.
pub fn mean(values: &[f64]) -> f64 {
    // An empty sum is -0.0.
    values.iter().fold(0.0, |sum, x| sum + x) / values.len().max(1) as f64
}

/// `√(Σ(x − mean)² / (n − 1))`.
fn sample_deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len().saturating_sub(1) as f64).sqrt()
}

/// The standard error of the mean; NaN for one value.
pub fn mean_stderr(values: &[f64]) -> f64 {
    sample_deviation(values) / (values.len() as f64).sqrt()
}

fn perplexity(logs: impl Iterator<Item = f64>, n: usize) -> f64 {
    (-logs.sum::<f64>() / n.max(1) as f64).exp()
}

/// The deviation of perplexities of resamples, drawn with the generators that the harness draws with.
fn bootstrap_stderr(logs: &[f64], resamples: usize) -> f64 {
    let chunk = CHUNK.min(resamples);
    let mut drawn = Vec::with_capacity(resamples);
    for seed in 0..resamples / chunk {
        let mut random = PythonRandom::new(seed as u32);
        for _ in 0..chunk {
            drawn.push(perplexity((0..logs.len()).map(|_| logs[random.choice(logs.len())]), logs.len()));
        }
    }
    sample_deviation(&drawn)
}

/// The standard error of a mean over groups, weighted by size, from the groups' errors: pooled variance.
pub fn pooled_stderr(errors: &[f64], sizes: &[usize]) -> f64 {
    let total: usize = sizes.iter().sum();
    let term = |(&error, &n): (&f64, &usize)| (n as f64 - 1.0) * error * error * n as f64;
    let pooled = errors.iter().zip(sizes).map(term).sum::<f64>() / (total - sizes.len()) as f64;
    (pooled / total as f64).sqrt()
}

/// `1 − Π (1 − k/i)` for `i` from `n − passed + 1` to `n`: the probability that one of `k` of `n` programs passes.
pub fn pass_at(k: usize, n: usize, passed: usize) -> f64 {
    if n - passed < k {
        return 1.0;
    }
    1.0 - (n - passed + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_take_the_first_and_means_have_errors() {
        assert_eq!(argmax([-2.0, -1.0, -1.0]), 1);
        let (value, error) = Metric::Acc.aggregate(&[1.0, 0.0, 1.0, 1.0].map(Value::of), 0);
        assert_eq!((value, error), (0.75, Some(0.25)));
        let units = [Value { value: -6.0, weight: 2.0 }, Value { value: -2.0, weight: 2.0 }];
        assert_eq!(Metric::BytePerplexity.aggregate(&units, 0), (2f64.exp(), None));
        assert_eq!(Metric::BitsPerByte.aggregate(&units, 0).0, 2.0 / std::f64::consts::LN_2);
    }

    #[test]
    fn groups_are_pooled() {
        // Two groups with deviations 1 and 2: ((3-1)·1 + (5-1)·4) / (8 - 2) = 3.
        let errors = [1.0 / 3f64.sqrt(), 2.0 / 5f64.sqrt()];
        assert!((pooled_stderr(&errors, &[3, 5]) - (3.0 / 8.0f64).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn pass_at_k_counts_the_draws_that_hold_a_right_program() {
        assert!((pass_at(1, 4, 1) - 0.25).abs() < 1e-15);
        assert!((pass_at(2, 4, 2) - 5.0 / 6.0).abs() < 1e-15);
        assert_eq!((pass_at(2, 4, 3), pass_at(1, 3, 0)), (1.0, 0.0));
    }
}
