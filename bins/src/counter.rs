//! Progress of counted work on stderr: a bar on a terminal, otherwise an occasional line.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::cli;

/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how far counted work is.
pub struct Counter {
    what: &'static str,
    unit: &'static str,
    bar: ProgressBar,
    started: Instant,
    line: Instant,
}

impl Counter {
    /// Progress of `what` ("eval"), counted in `unit` ("tokens").
    pub fn new(what: &'static str, unit: &'static str) -> Self {
        let now = Instant::now();
        Self { what, unit, bar: cli::progress_bar(0, unit), started: now, line: now }
    }

    /// Shows that `done` of `total` are done.
    pub fn show(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.line.elapsed() >= LINE_EVERY {
            self.line = Instant::now();
            eprintln!("{}", self.text(done, total, self.started.elapsed().as_secs_f64()));
        }
    }

    fn text(&self, done: u64, total: u64, seconds: f64) -> String {
        let rate = done as f64 / seconds.max(1e-3);
        let left = total.saturating_sub(done) as f64 / rate.max(1e-9);
        let share = 100.0 * done as f64 / total.max(1) as f64;
        let (what, unit) = (self.what, self.unit);
        format!("{what}: {share:.0} %, {done} of {total} {unit}, {rate:.0} {unit}/s, {left:.0} s left")
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let counter = Counter::new("eval", "tokens");
        assert_eq!(counter.text(250, 1000, 5.0), "eval: 25 %, 250 of 1000 tokens, 50 tokens/s, 15 s left");
    }
}
