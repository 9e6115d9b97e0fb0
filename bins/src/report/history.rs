//! The metrics of a run in bounded memory, for the curves of a report.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Result;
use crate::run::metrics::{FILE, Rows, StepMetrics, task_scores};

/// Maximum number of points of a curve.
const POINTS: usize = 1000;
/// Maximum number of samples kept: the newest, and the first.
const SAMPLES: usize = 50;

/// A point of a curve: several consecutive values of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Step of the last value.
    pub step: u64,
    /// Tokens trained on up to that step.
    pub tokens: u64,
    /// Number of values.
    pub count: u64,
    /// Sum of the values.
    pub sum: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Point {
    /// Mean of the values.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn add(&mut self, later: &Point) {
        (self.step, self.tokens) = (later.step, later.tokens);
        self.count += later.count;
        self.sum += later.sum;
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
    }
}

/// One metric over the steps of a run, in a bounded number of points that keep mean, minimum and maximum.
///
/// A point covers the steps `k·2^shift + 1 ..= (k + 1)·2^shift`, so the points do not depend on where a run was
/// resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    points: Vec<Point>,
    shift: u32,
    limit: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self::new(POINTS)
    }
}

impl Series {
    /// A series of at most `limit` points.
    pub fn new(limit: usize) -> Self {
        Self { points: Vec::new(), shift: 0, limit: limit.max(2) }
    }

    /// Appends the value of a step; steps rise. A value that is not finite is left out.
    pub fn push(&mut self, step: u64, tokens: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.append(Point { step, tokens, count: 1, sum: value, min: value, max: value });
        while self.points.len() > self.limit {
            self.shift += 1;
            for point in std::mem::take(&mut self.points) {
                self.append(point);
            }
        }
    }

    fn append(&mut self, point: Point) {
        let place = |step: u64| step.saturating_sub(1) >> self.shift;
        match self.points.last_mut() {
            Some(last) if place(last.step) == place(point.step) => last.add(&point),
            _ => self.points.push(point),
        }
    }

    /// The points, by step.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Mean of the values whose tokens are in `(after, until]`, point by point.
    pub fn mean_between(&self, after: u64, until: u64) -> Option<f64> {
        let inside = || self.points.iter().filter(|point| point.tokens > after && point.tokens <= until);
        let count: u64 = inside().map(|point| point.count).sum();
        (count > 0).then(|| inside().map(|point| point.sum).sum::<f64>() / count as f64)
    }

    /// The smallest value, and the step of its point.
    pub fn smallest(&self) -> Option<(u64, f64)> {
        self.points.iter().map(|point| (point.step, point.min)).min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Every metric of a run so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Steps so far.
    pub step: u64,
    /// Tokens so far.
    pub tokens: u64,
    /// Seconds spent in steps so far.
    pub seconds: f64,
    /// Training loss, nats per token.
    pub loss: Series,
    /// Training loss of each data source, where there are several.
    pub loss_by_source: BTreeMap<String, Series>,
    /// Validation loss, nats per token.
    pub validation: Series,
    /// Loss of the MTP modules, nats per token.
    pub mtp_loss: Series,
    /// Sequence-wise balance loss.
    pub balance_loss: Series,
    /// Learning rate.
    pub lr: Series,
    /// Gradient L2 norm before clipping.
    pub grad_norm: Series,
    /// Tokens per second.
    pub speed: Series,
    /// MaxVio of the worst layer.
    pub max_violation: Series,
    /// MaxVio of each MoE layer.
    pub violation_by_layer: Vec<Series>,
    /// The newest expert load: its step, and for each MoE layer the tokens of each expert.
    pub expert_load: Option<(u64, Vec<Vec<f32>>)>,
    /// Scores of benchmark tasks, by task and metric; of groups alone, where there are groups.
    pub tasks: BTreeMap<(String, String), Series>,
    /// Texts that the model generated, with their steps.
    pub samples: Vec<(u64, String)>,
}

impl History {
    /// Reads the metrics of the run in `folder`, one line in memory at a time.
    ///
    /// # Errors
    /// Those of [`Rows`].
    pub fn read(folder: &Path) -> Result<Self> {
        let mut history = Self::default();
        for row in Rows::open(&folder.join(FILE))? {
            history.push(&row?);
        }
        Ok(history)
    }

    /// Adds the next step.
    pub fn push(&mut self, m: &StepMetrics) {
        let (step, tokens) = (m.step, m.tokens);
        (self.step, self.tokens) = (step, tokens);
        self.seconds += m.seconds;
        self.loss.push(step, tokens, m.loss);
        self.balance_loss.push(step, tokens, m.balance_loss);
        self.lr.push(step, tokens, m.lr);
        self.grad_norm.push(step, tokens, m.grad_norm);
        self.speed.push(step, tokens, m.tokens_per_second);
        self.max_violation.push(step, tokens, f64::from(m.max_violation));
        for (value, series) in [(m.validation_loss, &mut self.validation), (m.mtp_loss, &mut self.mtp_loss)] {
            value.into_iter().for_each(|value| series.push(step, tokens, value));
        }
        for (name, &loss) in &m.loss_by_source {
            self.loss_by_source.entry(name.clone()).or_default().push(step, tokens, loss);
        }
        for score in task_scores(&m.tasks).filter(|score| !score.inner) {
            let series = self.tasks.entry((score.task.into(), score.metric.into())).or_default();
            series.push(step, tokens, score.value);
        }
        let violations = m.violation_by_layer();
        // All layers together have about as many points as one curve of the whole model times eight.
        let limit = (8 * POINTS / violations.len().max(1)).clamp(100, POINTS);
        self.violation_by_layer.resize_with(violations.len().max(self.violation_by_layer.len()), || Series::new(limit));
        for (series, violation) in self.violation_by_layer.iter_mut().zip(violations) {
            series.push(step, tokens, f64::from(violation));
        }
        if !m.expert_load.is_empty() {
            self.expert_load = Some((step, m.expert_load.clone()));
        }
        if let Some(sample) = &m.sample {
            if self.samples.len() >= SAMPLES {
                self.samples.remove(1);
            }
            self.samples.push((step, sample.clone()));
        }
    }

    /// Mean training loss over the last tenth of the tokens.
    pub fn final_loss(&self) -> Option<f64> {
        self.loss.mean_between(self.tokens - self.tokens / 10, self.tokens)
    }

    /// Mean speed in tokens per second.
    pub fn mean_speed(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens as f64 / self.seconds)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A step of a made-up run: the loss falls, with noise; validation every 10 steps.
    pub fn step(step: u64) -> StepMetrics {
        let noise = (step as f64 * 12.9898).sin() * 0.2;
        StepMetrics {
            step,
            tokens: step * 100,
            loss: 2.0 + 3.0 * (-(step as f64) / 200.0).exp() + noise,
            grad_norm: 1.0,
            lr: 1e-3,
            tokens_per_second: 1000.0,
            max_violation: 0.5,
            seconds: 0.1,
            validation_loss: step.is_multiple_of(10).then(|| 2.1 + 3.0 * (-(step as f64) / 200.0).exp()),
            ..StepMetrics::default()
        }
    }

    #[test]
    fn a_long_run_has_bounded_points_that_keep_extremes_and_means() {
        let mut series = Series::new(100);
        let value = |step: u64| if step == 77_777 { 1e6 } else { (step % 7) as f64 };
        let steps = 100_000u64;
        (1..=steps).for_each(|step| series.push(step, step * 10, value(step)));
        assert!(series.points().len() <= 100 && series.points().len() >= 40);
        assert_eq!(series.points().iter().map(|point| point.count).sum::<u64>(), steps);
        assert_eq!(series.points().iter().map(|point| point.max).fold(0.0, f64::max), 1e6);
        assert_eq!(series.points().last().map(|point| (point.step, point.tokens)), Some((steps, steps * 10)));
        let mean = series.mean_between(0, steps * 10).unwrap();
        let wanted = (1..=steps).map(value).sum::<f64>() / steps as f64;
        assert!((mean - wanted).abs() < 1e-9 * wanted, "{mean} {wanted}");
        assert_eq!(series.smallest().map(|(_, value)| value), Some(0.0));
    }

    #[test]
    fn a_resumed_run_has_the_points_of_one_that_was_not_stopped() {
        let (mut whole, mut parts) = (History::default(), History::default());
        (1..=5000).for_each(|s| whole.push(&step(s)));
        (1..=1234).for_each(|s| parts.push(&step(s)));
        (1235..=5000).for_each(|s| parts.push(&step(s)));
        assert_eq!(whole, parts);
        assert!(whole.final_loss().is_some_and(|loss| (loss - 2.0).abs() < 0.05));
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let mut series = Series::default();
        series.push(1, 1, f64::NAN);
        series.push(2, 2, f64::INFINITY);
        series.push(3, 3, 1.0);
        assert_eq!(series.points().len(), 1);
        assert_eq!(Series::default().mean_between(0, 10), None);
    }

    #[test]
    fn samples_are_bounded_and_the_first_stays() {
        let mut history = History::default();
        for s in 1..=200 {
            history.push(&StepMetrics { sample: Some(format!("text {s}")), ..step(s) });
        }
        assert_eq!(history.samples.len(), SAMPLES);
        assert_eq!((history.samples[0].0, history.samples[SAMPLES - 1].0), (1, 200));
    }
}
