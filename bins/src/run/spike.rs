//! Loss spikes: the bounds above which a step is one, from the steps before it, and their record in the metrics.
//!
//! A step's loss and gradient norm are compared with those of the steps before it: above the mean by
//! `train.spike_threshold` standard deviations is a spike. The gradient norm is looked at first, since it jumps before
//! the loss does. Both bounds are known before the step and go to the device as numbers, so the update is decided on
//! there and nothing is read back; all ranks have the same bounds and the same bits, and decide alike.
//!
//! Values of spikes do not enter the window, finite or not, so that one spike does not hide the next.

use fathom_core::train::Limits;
use serde::{Deserialize, Serialize};

use crate::checkpoint::SpikeWindow;
use crate::settings::{Spike as Settings, SpikePolicy};

/// A standard deviation is at least this share of the mean: where a loss hardly moves, its noise is no spike.
const LEAST_DEVIATION: f64 = 0.01;

/// A spike and what was done, in `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spike {
    /// The step whose update was not applied.
    pub step: u64,
    /// What was done: `skip` or `rollback`.
    pub action: Action,
    /// What was wrong: `grad_norm`, `loss` or `non_finite`.
    pub cause: Cause,
    /// The gradient norm or the loss; none where it is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The bound that it is above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The step of the checkpoint that the run returned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
}

/// What was done about a spike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The update was left out.
    Skip,
    /// The run returned to a checkpoint and went on behind the spike's data.
    Rollback,
}

/// What a spike was seen in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The norm of the gradient.
    GradNorm,
    /// The training loss.
    Loss,
    /// A number that is not finite.
    NonFinite,
}

impl std::fmt::Display for Spike {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.cause {
            Cause::GradNorm => "gradient norm",
            Cause::Loss => "loss",
            Cause::NonFinite => "a number",
        };
        write!(f, "step {}: ", self.step)?;
        match (self.value, self.limit) {
            (Some(value), Some(limit)) => write!(f, "{name} {value:.4} is above {limit:.4}")?,
            _ => write!(f, "{name} is not finite")?,
        }
        match (self.action, self.back_to) {
            (Action::Rollback, Some(step)) => write!(f, "; back to the checkpoint of step {step}, without this data"),
            _ => write!(f, "; its update was left out"),
        }
    }
}

/// The bounds of the next step, from the window before it.
pub fn limits(settings: &Settings, window: &SpikeWindow) -> Limits {
    if settings.policy == SpikePolicy::Off {
        return Limits::NONE;
    }
    let bound = |values: &[f32]| bound(values, settings).unwrap_or(f64::INFINITY);
    Limits { grad_norm: bound(&window.grad_norm), loss: bound(&window.loss) }
}

/// Mean plus `threshold` standard deviations; none before half a window of values.
fn bound(values: &[f32], settings: &Settings) -> Option<f64> {
    if values.len() < (settings.window / 2).max(2) {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares: f64 = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    let deviation = (squares / (n - 1.0)).sqrt().max(LEAST_DEVIATION * mean.abs());
    Some(mean + settings.threshold * deviation)
}

/// Takes a step that was applied into the window.
pub fn take(settings: &Settings, window: &mut SpikeWindow, grad_norm: f64, loss: f64) {
    if settings.policy == SpikePolicy::Off {
        return;
    }
    for (values, value) in [(&mut window.grad_norm, grad_norm), (&mut window.loss, loss)] {
        let value = value as f32;
        if value.is_finite() {
            values.push(value);
            let more = values.len().saturating_sub(settings.window);
            values.drain(..more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(policy: SpikePolicy) -> Settings {
        Settings { policy, threshold: 6.0, window: 16, limit: 10 }
    }

    /// A number in 0..1 that depends on `i` alone.
    fn noise(i: u64) -> f64 {
        (fathom_core::rng::bits(1, 2, i) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean and deviation in another way: by sums of squares, over a window that is kept whole.
    fn oracle(all: &[f64], settings: &Settings) -> f64 {
        let window: Vec<f64> = all.iter().rev().take(settings.window).map(|&x| f64::from(x as f32)).collect();
        if window.len() < settings.window / 2 {
            return f64::INFINITY;
        }
        let n = window.len() as f64;
        let (sum, squares) = window.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        let deviation = ((squares - sum * sum / n) / (n - 1.0)).max(0.0).sqrt();
        sum / n + settings.threshold * deviation.max(0.01 * sum.abs() / n)
    }

    #[test]
    fn a_hundred_spikes_are_seen_and_nothing_else_is() {
        let settings = settings(SpikePolicy::Skip);
        let (mut window, mut taken) = (SpikeWindow::default(), (Vec::new(), Vec::new()));
        let (mut planted, mut seen) = (0, 0);
        for i in 0..4000u64 {
            let spike = i > 20 && i % 37 == 0;
            let trend = 1.0 + 3.0 * (-(i as f64) / 500.0).exp();
            let (mut norm, mut loss) = (0.5 + 0.1 * noise(2 * i), trend + 0.1 * noise(2 * i + 1));
            match (spike, i % 3) {
                (true, 0) => norm *= 1.0 + 4.0 * noise(9 * i),
                (true, 1) => loss += 2.0,
                (true, _) => (norm, loss) = (1e30, f64::NAN),
                _ => {}
            }
            if spike && i % 3 == 0 {
                norm += 1.0;
            }
            let limits = limits(&settings, &window);
            let (want_norm, want_loss) = (oracle(&taken.0, &settings), oracle(&taken.1, &settings));
            let close = |got: f64, want: f64| got == want || (got / want - 1.0).abs() < 1e-9;
            assert!(close(limits.grad_norm, want_norm) && close(limits.loss, want_loss), "step {i}");
            let above = norm > limits.grad_norm || loss > limits.loss || !loss.is_finite();
            assert_eq!(above, spike, "step {i}: {norm} of {limits:?}, {loss}");
            planted += usize::from(spike);
            seen += usize::from(above);
            if !above {
                take(&settings, &mut window, norm, loss);
                taken.0.push(norm);
                taken.1.push(loss);
            }
        }
        println!("{seen} of {planted} spikes in 4000 steps");
        assert!(planted >= 100 && seen == planted && window.loss.len() == 16);
    }

    #[test]
    fn what_is_not_finite_never_enters_the_window_and_off_keeps_none() {
        let mut window = SpikeWindow::default();
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            take(&settings(SpikePolicy::Skip), &mut window, value, value);
        }
        take(&settings(SpikePolicy::Off), &mut window, 1.0, 1.0);
        assert_eq!(window, SpikeWindow::default());
        assert_eq!(limits(&settings(SpikePolicy::Off), &window), Limits::NONE);
    }

    #[test]
    fn a_window_has_the_same_bits_after_it_was_saved() {
        let settings = settings(SpikePolicy::Rollback);
        let mut window = SpikeWindow::default();
        (0..1000).for_each(|i| take(&settings, &mut window, 0.3 + noise(i) * 1e-3, 2.0 + noise(7 * i)));
        let text = serde_json::to_string(&window).unwrap();
        let again: SpikeWindow = serde_json::from_str(&text).unwrap();
        assert!(again == window && limits(&settings, &again) == limits(&settings, &window));
    }
}
