//! Notice of a step that takes far longer than those before it: what the run waits for.

use std::collections::VecDeque;
use std::time::Duration;

/// A step is slow from this many times the median on, and from this time on: a small model's step takes milliseconds,
/// and a busy machine holds it up for longer than ten of them.
const TIMES: u32 = 10;
const LEAST: Duration = Duration::from_secs(10);
/// Time between two notices.
const EVERY: Duration = Duration::from_secs(60);
/// Steps that make a median: as many as count, and as few as are enough.
const STEPS: usize = 64;
const FEWEST: usize = 5;

/// The times of the last steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps(VecDeque<Duration>);

impl Steps {
    /// Adds the time of a step. Returns the median, once there are enough steps.
    pub fn add(&mut self, time: Duration) -> Option<Duration> {
        if self.0.len() == STEPS {
            self.0.pop_front();
        }
        self.0.push_back(time);
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() >= FEWEST).then(|| sorted[sorted.len() / 2])
    }
}

/// Looks at the step that is under way, by the clock of the watch.
#[derive(Clone, Debug, Default)]
pub(super) struct Slow {
    /// The step under way, and when it was first seen.
    step: Option<(u64, Duration)>,
    said: Option<Duration>,
}

impl Slow {
    /// Whether it is to be said at `time` that a step is slow: how long it has taken, and how many times the median
    /// that is. `step` is the step under way and the `median` before it; `None` between two steps, when a run may
    /// validate, measure or save.
    pub fn look(&mut self, time: Duration, step: Option<(u64, Option<Duration>)>) -> Option<(Duration, f64)> {
        let Some((step, median)) = step else {
            self.step = None;
            return None;
        };
        let since = match self.step {
            Some((seen, since)) if seen == step => since,
            _ => self.step.insert((step, time)).1,
        };
        let (took, median) = (time.saturating_sub(since), median?);
        if took < LEAST.max(median.saturating_mul(TIMES)) {
            return None;
        }
        if self.said.is_some_and(|said| time.saturating_sub(said) < EVERY) {
            return None;
        }
        self.said = Some(time);
        Some((took, took.as_secs_f64() / median.as_secs_f64().max(1e-9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_median_needs_some_steps_and_forgets_old_ones() {
        let mut steps = Steps::default();
        let few: Vec<_> = (1..=4).map(|s| steps.add(seconds(s))).collect();
        assert_eq!(few, [None; 4]);
        assert_eq!(steps.add(seconds(1000)), Some(seconds(3)));
        let last = (0..STEPS).map(|_| steps.add(seconds(7))).last();
        assert_eq!((last, steps.0.len()), (Some(Some(seconds(7))), STEPS));
    }

    #[test]
    fn a_step_of_ten_times_the_median_is_said_once_a_minute() {
        let mut slow = Slow::default();
        let mut look = |time: u64, step: u64| slow.look(seconds(time), Some((step, Some(seconds(3)))));
        assert_eq!(look(100, 7), None);
        assert_eq!(look(129, 7), None);
        assert_eq!(look(130, 7), Some((seconds(30), 10.0)));
        assert_eq!((look(140, 7), look(189, 7)), (None, None));
        assert_eq!(look(190, 7), Some((seconds(90), 30.0)));
        // The next step counts from its beginning, and the minute goes on.
        assert_eq!((look(191, 8), look(230, 8)), (None, None));
        assert_eq!(look(250, 8), Some((seconds(59), 59.0 / 3.0)));
    }

    #[test]
    fn short_steps_the_first_steps_and_what_is_between_steps_are_not_said() {
        let mut slow = Slow::default();
        let brief = Some(Duration::from_millis(20));
        assert_eq!(slow.look(seconds(0), Some((7, brief))), None);
        assert_eq!(slow.look(seconds(9), Some((7, brief))), None);
        assert!(slow.look(seconds(10), Some((7, brief))).is_some());
        let mut slow = Slow::default();
        for time in [0, 50, 5000] {
            assert_eq!(slow.look(seconds(time), Some((1, None))), None, "no median yet");
        }
        // A checkpoint that takes an hour between two steps.
        let mut slow = Slow::default();
        assert_eq!(slow.look(seconds(0), Some((7, brief))), None);
        assert_eq!(slow.look(seconds(1), None), None);
        assert_eq!(slow.look(seconds(3600), None), None);
        assert_eq!(slow.look(seconds(3601), Some((7, brief))), None);
    }
}
