//! Progress display of a run: a bar on a terminal, otherwise an occasional line.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::metrics::{StepMetrics, TaskScores, task_scores};
use crate::checkpoint::Best;
use crate::cli;

/// Shows the progress of a run on stderr.
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    first: u64,
    steps: u64,
    interval: Duration,
    printed: Option<Instant>,
    /// Exponential mean of tokens a second, so that the number can be read.
    rate: f64,
    validation: Option<f64>,
}

impl Progress {
    /// A run that has done `first` of `steps` steps. Without a terminal it prints a line every `interval`; where it is
    /// `silent`, nothing but messages.
    pub fn new(first: u64, steps: u64, interval: Duration, silent: bool) -> Self {
        let bar = (!silent && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{wide_bar} step {pos}/{len}  {msg}  {eta} left");
            let bar = ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_position(first);
            bar.reset_eta();
            bar
        });
        let (started, printed) = (Instant::now(), None);
        Self { bar, started, first, steps, interval, printed, rate: 0.0, validation: None }
    }

    /// Shows a step, and the lowest validation loss so far if its checkpoint is kept.
    pub fn step(&mut self, m: &StepMetrics, best: Option<Best>) {
        self.rate = if self.rate == 0.0 { m.tokens_per_second } else { 0.9 * self.rate + 0.1 * m.tokens_per_second };
        self.validation = m.validation_loss.or(self.validation);
        let best = best.map_or(String::new(), |b| format!(" (best {:.3} at step {})", b.validation_loss, b.step));
        let validation = self.validation.map_or(String::new(), |v| format!("  validation {v:.3}{best}"));
        let text = format!(
            "loss {:.3}{validation}  lr {:.1e}  {:.0} tok/s  max violation {:.2}",
            m.loss, m.lr, self.rate, m.max_violation
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(m.step);
                bar.set_message(text);
            }
            None => {
                let due = self.printed.is_none_or(|at| at.elapsed() >= self.interval);
                if due || m.step == self.steps || m.validation_loss.is_some() {
                    self.printed = Some(Instant::now());
                    eprintln!("step {}/{}  {text}  {} left", m.step, self.steps, self.left(m.step));
                }
            }
        }
        if let Some(text) = &m.sample {
            self.sample(m.step, text);
        }
    }

    fn sample(&self, step: u64, text: &str) {
        let text = cli::visible(text);
        let lines: String = text.lines().map(|line| format!("\n  | {line}")).collect();
        self.message(&format!("sample after step {step}:{lines}"));
    }

    /// Shows that `done` of `total` items of benchmark tasks are done.
    pub fn tasks(&mut self, step: u64, done: u64, total: u64) {
        let text = format!("tasks after step {step}: {done} of {total} items");
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None if self.printed.is_none_or(|at| at.elapsed() >= self.interval) => {
                self.printed = Some(Instant::now());
                eprintln!("{text}");
            }
            None => {}
        }
    }

    /// Prints the scores of benchmark tasks on one line; of groups alone, where there are groups.
    pub fn scores(&self, step: u64, scores: &TaskScores, took: Duration) {
        self.message(&format!("tasks after step {step} ({:.0} s): {}", took.as_secs_f64(), line(scores)));
    }

    /// Prints a message for the user.
    pub fn message(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Prints several messages.
    pub fn messages(&self, texts: &[String]) {
        texts.iter().for_each(|text| self.message(text));
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn left(&self, step: u64) -> String {
        let done = step.saturating_sub(self.first).max(1) as f64;
        let seconds = self.started.elapsed().as_secs_f64() / done * self.steps.saturating_sub(step) as f64;
        let seconds = seconds.round() as u64;
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => format!("{s} s"),
            (0, m, s) => format!("{m} min {s:02} s"),
            (h, m, _) => format!("{h} h {m:02} min"),
        }
    }
}

/// `arc_easy acc 0.3088 ± 0.0194, acc_norm 0.2842 ± 0.0189; lambada_openai …`.
fn line(scores: &TaskScores) -> String {
    let (mut line, mut last) = (String::new(), "");
    for score in task_scores(scores).filter(|score| !score.inner) {
        let separator = match last {
            "" => "",
            last if last == score.task => ", ",
            _ => "; ",
        };
        let name = if last == score.task { String::new() } else { format!("{} ", score.task) };
        let stderr = score.stderr.map_or(String::new(), |stderr| format!(" ± {stderr:.4}"));
        line += &format!("{separator}{name}{} {:.4}{stderr}", score.metric, score.value);
        last = score.task;
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn all_scores_are_on_one_line() {
        let of = |pairs: &[(&str, f64)]| pairs.iter().map(|&(key, value)| (key.to_owned(), value)).collect();
        let scores = BTreeMap::from([
            ("arc_easy".into(), of(&[("acc,none", 0.3), ("acc_stderr,none", 0.02), ("acc_norm,none", 0.25)])),
            ("mmlu".into(), of(&[("acc,none", 0.5)])),
            ("mmlu_law".into(), of(&[("acc,none", 0.5)])),
        ]);
        assert_eq!(line(&scores), "arc_easy acc 0.3000 ± 0.0200, acc_norm 0.2500; mmlu acc 0.5000");
    }
}
