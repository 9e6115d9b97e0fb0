//! The time limit of a run, `train.max_hours`: when to stop so that a checkpoint is written in time.

use std::time::Duration;

/// Share of an estimate that is kept as a margin, and the least margin: no two saves take the same time.
const MARGIN: f64 = 0.25;
const LEAST: Duration = Duration::from_secs(2);
/// Bytes a second that a first checkpoint is taken to be written at, before one was measured: a slow shared disk.
const FIRST_SAVE: f64 = 100e6;
/// Steps whose longest time is that of the next.
const STEPS: usize = 16;

/// What takes time between two looks at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Step,
    Validation,
    Sample,
    Tasks,
    Save,
}

/// The limit, and how long what comes next will take.
#[derive(Clone, Debug)]
pub(super) struct TimeLimit {
    limit: Option<Duration>,
    steps: Vec<Duration>,
    next: usize,
    validation: Duration,
    sample: Duration,
    tasks: Duration,
    save: Duration,
}

impl TimeLimit {
    /// `hours` from the start of the process on, 0 for no limit. A checkpoint has `bytes`.
    pub fn new(hours: f64, bytes: u64) -> Self {
        let limit = (hours > 0.0).then(|| Duration::try_from_secs_f64(hours * 3600.0).unwrap_or(Duration::MAX));
        let save = Duration::try_from_secs_f64(bytes as f64 / FIRST_SAVE).unwrap_or(Duration::MAX);
        let none = Duration::ZERO;
        Self { limit, steps: Vec::new(), next: 0, validation: none, sample: none, tasks: none, save }
    }

    /// Notes how long something took.
    pub fn took(&mut self, part: Part, time: Duration) {
        match part {
            Part::Step if self.steps.len() < STEPS => self.steps.push(time),
            Part::Step => {
                self.steps[self.next % STEPS] = time;
                self.next += 1;
            }
            Part::Validation => self.validation = time,
            Part::Sample => self.sample = time,
            Part::Tasks => self.tasks = time,
            Part::Save => self.save = time,
        }
    }

    /// Whether another step, what is `due` after it, and then a checkpoint would end after the limit, `elapsed` after
    /// the start.
    pub fn is_over(&self, elapsed: Duration, due: &[Part]) -> bool {
        let Some(limit) = self.limit else { return false };
        let step = self.steps.iter().max().copied().unwrap_or_default();
        let of = |part: &Part| match part {
            Part::Step => step,
            Part::Validation => self.validation,
            Part::Sample => self.sample,
            Part::Tasks => self.tasks,
            Part::Save => self.save,
        };
        let needed = due.iter().map(of).chain([step, self.save]).fold(Duration::ZERO, Duration::saturating_add);
        let margin = Duration::try_from_secs_f64(needed.as_secs_f64() * MARGIN).unwrap_or(Duration::MAX).max(LEAST);
        elapsed.saturating_add(needed).saturating_add(margin) > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_step_and_a_save_end_before_the_limit() {
        let mut limit = TimeLimit::new(1.0, 0);
        limit.took(Part::Step, seconds(100));
        limit.took(Part::Step, seconds(60));
        limit.took(Part::Save, seconds(60));
        // 160 s and a quarter of that.
        assert!(!limit.is_over(seconds(3400), &[]));
        assert!(limit.is_over(seconds(3401), &[]));
        limit.took(Part::Validation, seconds(40));
        assert!(!limit.is_over(seconds(3350), &[Part::Validation]));
        assert!(limit.is_over(seconds(3351), &[Part::Validation]));
        // Only the last steps count.
        (0..STEPS).for_each(|_| limit.took(Part::Step, seconds(20)));
        assert!(!limit.is_over(seconds(3500), &[]));
        assert!(limit.is_over(seconds(3501), &[]));
    }

    #[test]
    fn before_the_first_save_its_bytes_count_and_no_limit_never_ends() {
        let limit = TimeLimit::new(1.0, 10_000_000_000);
        assert!(!limit.is_over(seconds(3475), &[]) && limit.is_over(seconds(3476), &[]));
        let none = TimeLimit::new(0.0, u64::MAX);
        assert!(!none.is_over(Duration::MAX, &[Part::Tasks, Part::Save]));
        assert!(!TimeLimit::new(1e300, 0).is_over(seconds(1 << 40), &[Part::Sample]));
        assert!(TimeLimit::new(1e-9, 0).is_over(Duration::ZERO, &[]));
    }
}
