//! Counts and times of the server, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::infer::{Load, Occupancy, Stats};

/// Upper bounds of the buckets for times to the first token, in seconds.
const FIRST: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Upper bounds of the buckets for times between tokens, in seconds.
const BETWEEN: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How often times fell under each bound.
#[derive(Clone, Debug)]
struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], sum: 0.0, count: 0 }
    }

    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(i) = self.bounds.iter().position(|&bound| seconds <= bound) {
            self.counts[i] += 1;
        }
        self.sum += seconds;
        self.count += 1;
    }
}

/// Everything that the thread of the engine counts.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Requests and pages.
    pub load: Occupancy,
    /// Counts since the start.
    pub stats: Stats,
    /// Tokens that went to each expert, if they are counted.
    pub experts: Option<Load>,
    first: Histogram,
    between: Histogram,
    cancelled: u64,
}

impl Engine {
    /// A time from a request's arrival to its first token.
    pub fn first_token(&mut self, time: Duration) {
        self.first.observe(time);
    }

    /// A time between two tokens of a choice.
    pub fn next_token(&mut self, time: Duration) {
        self.between.observe(time);
    }

    /// A job that ended before it was complete.
    pub fn cancelled(&mut self) {
        self.cancelled += 1;
    }
}

/// Counts and times of a server.
#[derive(Debug)]
pub struct Metrics {
    engine: Mutex<Engine>,
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let (load, stats) = (Occupancy::default(), Stats::default());
        let (first, between) = (Histogram::new(&FIRST), Histogram::new(&BETWEEN));
        let engine = Engine { load, stats, experts: None, first, between, cancelled: 0 };
        Self { engine: Mutex::new(engine), requests: Mutex::default() }
    }
}

impl Metrics {
    /// The counts of the engine's thread.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an answer.
    pub fn answered(&self, route: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
    }

    /// All of it as text; `connections` are open now.
    pub fn text(&self, model: &str, connections: usize) -> String {
        let engine = self.engine().clone();
        let (load, stats) = (engine.load, engine.stats);
        let mut text = Text::default();
        let version = format!("version=\"{}\",model=\"{}\"", env!("CARGO_PKG_VERSION"), escaped(model));
        text.one("fathom_info", "gauge", "Version and model", &version, 1);
        text.one("fathom_connections", "gauge", "Open connections", "", connections);
        text.one("fathom_requests_running", "gauge", "Sequences that are computed: the batch size", "", load.running);
        text.one("fathom_requests_waiting", "gauge", "Sequences that wait for pages of the cache", "", load.waiting);
        text.one("fathom_cache_pages", "gauge", "Pages of the latent cache", "", load.pages);
        text.one("fathom_cache_pages_used", "gauge", "Pages that sequences hold", "", load.used_pages);
        for (name, help, count) in [
            ("fathom_prompt_tokens_total", "Tokens of prompts", stats.prompt_tokens),
            ("fathom_prompt_tokens_cached_total", "Tokens of prompts that were found in the cache", stats.reused),
            ("fathom_generated_tokens_total", "Generated tokens", stats.generated),
            ("fathom_sequences_total", "Sequences that were added", stats.requests),
            ("fathom_steps_total", "Steps of the engine", stats.steps),
            ("fathom_preemptions_total", "Times that a sequence gave its pages back", stats.preempted),
            ("fathom_drafted_tokens_total", "Drafts that were verified", stats.drafted),
            ("fathom_accepted_tokens_total", "Drafts that were accepted", stats.accepted),
        ] {
            text.one(name, "counter", help, "", count);
        }
        for (phase, seconds) in [("prefill", stats.prefill_seconds), ("decode", stats.decode_seconds)] {
            let name = format!("fathom_{phase}_seconds_total");
            let help = format!(
                "Seconds of the steps that {}",
                if phase == "prefill" { "only read prompts" } else { "decode" }
            );
            text.one(&name, "counter", &help, "", seconds);
        }
        text.one("fathom_requests_cancelled_total", "counter", "Requests that ended early", "", engine.cancelled);
        text.histogram(
            "fathom_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            &engine.first,
        );
        text.histogram("fathom_time_per_output_token_seconds", "Between two tokens of a choice", &engine.between);
        if let Some(experts) = &engine.experts {
            let name = "fathom_expert_tokens_total";
            text.head(name, "counter", "Tokens that the router of a layer sent to an expert");
            for (layer, counts) in &experts.layers {
                for (expert, count) in counts.iter().enumerate() {
                    text.value(name, &format!("layer=\"{layer}\",expert=\"{expert}\""), count);
                }
            }
        }
        text.head("fathom_http_requests_total", "counter", "Answers by route and status");
        for ((route, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text.value("fathom_http_requests_total", &format!("route=\"{route}\",status=\"{status}\""), count);
        }
        text.0
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &str, value: impl Display) {
        self.head(name, kind, help);
        self.value(name, labels, value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut under = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            under += count;
            self.value(&bucket, &format!("le=\"{bound}\""), under);
        }
        self.value(&bucket, "le=\"+Inf\"", histogram.count);
        self.value(&format!("{name}_sum"), "", histogram.sum);
        self.value(&format!("{name}_count"), "", histogram.count);
    }
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_labels_escaped() {
        let metrics = Metrics::default();
        for milliseconds in [1, 7, 7, 300_000] {
            metrics.engine().first_token(Duration::from_millis(milliseconds));
        }
        metrics.answered("/v1/models", 200);
        metrics.answered("/v1/models", 200);
        let text = metrics.text("a\"b", 3);
        for line in [
            "fathom_time_to_first_token_seconds_bucket{le=\"0.005\"} 1",
            "fathom_time_to_first_token_seconds_bucket{le=\"0.01\"} 3",
            "fathom_time_to_first_token_seconds_bucket{le=\"120\"} 3",
            "fathom_time_to_first_token_seconds_bucket{le=\"+Inf\"} 4",
            "fathom_time_to_first_token_seconds_count 4",
            "fathom_http_requests_total{route=\"/v1/models\",status=\"200\"} 2",
            "fathom_connections 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("model=\"a\\\"b\""));
        let helped = |line: &str| {
            let name = line.split(['{', ' ']).next().unwrap();
            ["_bucket", "_sum", "_count", ""]
                .iter()
                .any(|end| name.strip_suffix(end).is_some_and(|name| text.contains(&format!("# TYPE {name} "))))
        };
        assert!(text.lines().all(|line| line.starts_with('#') || helped(line)));
    }
}
