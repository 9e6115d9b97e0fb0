//! Reports on training runs: a loss curve in the terminal ([`curve`]), `report.html` ([`page`]), event files for
//! TensorBoard ([`events`]), and runs side by side ([`compare`]). All of them are made from `metrics.jsonl`
//! ([`history`]). [`tasks`] is the page of benchmark tasks; [`plot`] and [`load`] draw.

pub mod compare;
pub mod curve;
pub mod events;
pub mod history;
pub mod load;
pub mod page;
pub mod plot;
pub mod tasks;

use std::path::{Path, PathBuf};

use fathom_core::comm::Comm;
use fathom_core::device::Kernels;
use fathom_dataprep::durable;

use crate::checkpoint::{self, BestCheckpoint};
use crate::error::{Error, Result};
use crate::evaluate::Evaluated;
use crate::run::metrics::{FILE, StepMetrics};
use crate::run::{Event, Observer, Run, resolved};
use crate::tasks::metric::lower_is_better;
use events::Events;
use history::{History, Series};
use page::{Axis, Chart, Figure, Line, Page, escape, table};

/// The page's name in the output folder of a run.
pub const PAGE: &str = "report.html";

/// The reports of a run that is under way. A failure to write them becomes a message; it never ends the run.
#[derive(Debug)]
pub struct Report {
    folder: PathBuf,
    history: History,
    events: Option<Events>,
    /// Number of the first layer with experts.
    first_layer: usize,
    problems: Vec<String>,
}

impl Report {
    /// The reports of `run`, with the metrics of its earlier steps.
    pub fn of<D: Kernels, C: Comm<D>>(run: &Run<D, C>) -> Self {
        Self::open(run.output(), run.config().first_k_dense_replace, run.settings().train.tensorboard)
    }

    /// Opens the reports of the run in `folder` with its metrics so far, and starts an event file if `tensorboard` is
    /// set.
    pub fn open(folder: &Path, first_layer: usize, tensorboard: bool) -> Self {
        let mut problems = Vec::new();
        let mut keep = |what: &str, error: Error| problems.push(format!("{what}: {error}; training goes on without"));
        let read = if folder.join(FILE).is_file() { History::read(folder) } else { Ok(History::default()) };
        let history = read.unwrap_or_else(|error| {
            keep("the report begins here", error);
            History::default()
        });
        let events = tensorboard.then(|| Events::open(folder, history.seconds));
        let events = events.transpose().unwrap_or_else(|error| {
            keep("no TensorBoard events", error);
            None
        });
        Self { folder: folder.into(), history, events, first_layer, problems }
    }

    /// The metrics so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.history.push(metrics);
        if let Some(Err(error)) = self.events.as_mut().map(|events| events.write(metrics)) {
            self.problems.push(format!("no TensorBoard events from here on: {error}; training goes on"));
            self.events = None;
        }
    }

    /// Writes the page; `last` is the validation at the end of the run.
    fn write(&mut self, last: Option<&Evaluated>) {
        if let Err(error) = self.try_write(last) {
            self.problems.push(format!("no report: {error}; training goes on"));
        }
    }

    fn try_write(&self, last: Option<&Evaluated>) -> Result<()> {
        let html = run_page(&self.folder, &self.history, self.first_layer, last)?.html();
        replace(&self.folder.join(PAGE), &html)
    }
}

/// A file beside a page, to see whether one can be written there.
fn fresh(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Writes a page as a whole, or leaves what was there.
fn replace(path: &Path, html: &str) -> Result<()> {
    durable::replace(&durable::DISK, path, html.as_bytes()).map_err(Error::io("replace", path))
}

impl Observer for Report {
    fn observe(&mut self, event: Event<'_>) -> Vec<String> {
        match event {
            Event::Step(metrics) => self.step(metrics),
            // No step is written twice, so the reports begin again from the file.
            Event::Completed(_) => *self = Self::open(&self.folder, self.first_layer, self.events.is_some()),
            Event::Saved => self.write(None),
            Event::Finished(validation) => self.write(validation),
        }
        std::mem::take(&mut self.problems)
    }
}

/// The page of one run.
fn run_page(folder: &Path, history: &History, first_layer: usize, last: Option<&Evaluated>) -> Result<Page> {
    let h = history;
    let by_source = h.loss_by_source.iter().enumerate().map(|(i, (name, series))| Line::new(name, i + 1, series));
    // What cannot be read of the checkpoints is said in their table.
    let best = checkpoint::best(folder).unwrap_or_default();
    let validation = Line::new("validation", 1, &h.validation).with_dots();
    let validation = match &best {
        Some(best) => validation.with_ring(best.measured_at, best.validation_loss),
        None => validation,
    };
    let loss = vec![Line::new("training", 0, &h.loss), validation, Line::new("MTP", 2, &h.mtp_loss)];
    let layers = h.violation_by_layer.iter().enumerate();
    let layers = layers.map(|(i, series)| Line::new(format!("layer {}", i + first_layer), i, series));
    let scores = |falls: bool| -> Vec<Line> {
        let of = h.tasks.iter().filter(|((_, metric), _)| lower_is_better(metric) == falls);
        let line = |(i, ((task, metric), series)): (usize, (&(String, String), &Series))| {
            Line::new(format!("{task} {metric}"), i, series).with_dots()
        };
        of.enumerate().map(line).collect()
    };
    let charts = vec![
        Chart { wide: true, fall: true, ..Chart::new("Loss", "nats per token", loss) },
        Chart { wide: true, ..Chart::new("Task scores", "benchmark tasks, share of items", scores(false)) },
        Chart { wide: true, fall: true, ..Chart::new("Task perplexities", "and bits per byte", scores(true)) },
        Chart { fall: true, ..Chart::new("Loss by data source", "nats per token", by_source.collect()) },
        Chart { zero: true, ..Chart::new("Learning rate", "", vec![Line::new("learning rate", 0, &h.lr)]) },
        Chart {
            zero: true,
            fall: true,
            ..Chart::new("Gradient norm", "L2, before clipping", vec![Line::new("gradient norm", 0, &h.grad_norm)])
        },
        Chart {
            zero: true,
            ..Chart::new("Speed", "tokens per second", vec![Line::new("tokens per second", 0, &h.speed)])
        },
        Chart {
            zero: true,
            ..Chart::new(
                "MaxVio",
                "busiest expert over the mean − 1, worst layer",
                vec![Line::new("MaxVio", 0, &h.max_violation)],
            )
        },
        Chart { zero: true, ..Chart::new("MaxVio by layer", "busiest expert over the mean − 1", layers.collect()) },
    ];
    let name = folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut tiles = vec![("training loss, last tenth", or_dash(h.final_loss(), |x| format!("{x:.4}")))];
    if let Some(last) = last {
        tiles.push(("validation loss at the end", format!("{:.4}", last.loss)));
        tiles.extend(last.bits_per_byte.map(|bits| ("bits per byte", format!("{bits:.4}"))));
    }
    if let Some((step, loss)) = h.validation.smallest() {
        tiles.push(("best validation loss", format!("{loss:.4} (step {step})")));
    }
    tiles.push(("steps", grouped(h.step)));
    tiles.push(("tokens", grouped(h.tokens)));
    tiles.push(("tokens per second", or_dash(h.mean_speed(), |x| grouped(x.round() as u64))));
    tiles.push(("time in steps", duration(h.seconds)));
    let mut load = String::new();
    if let Some((step, loads)) = &h.expert_load {
        let layers: Vec<_> = loads.iter().enumerate().map(|(i, load)| (i + first_layer, load.clone())).collect();
        let mut figure = load::figure("Expert load", &format!("step {}", grouped(*step)), &layers)?;
        figure.drawing += &load::scale();
        load = Figure { wide: true, ..figure }.html();
    }
    Ok(Page {
        title: name.unwrap_or_else(|| folder.display().to_string()),
        lead: "A training run of Fathom. Lines are means; bands reach from the smallest to the largest value.".into(),
        summary: page::tiles(&tiles),
        axis: Axis::Steps,
        charts,
        sections: load + &sections(folder, h, best),
    })
}

/// Samples, checkpoints and settings.
fn sections(folder: &Path, history: &History, best: Option<BestCheckpoint>) -> String {
    let mut out = String::new();
    let newest = history.samples.last().map(|(step, _)| *step);
    if newest.is_some() {
        out += "<h2>Samples</h2>\n";
    }
    for (step, text) in history.samples.iter().rev() {
        let open = if Some(*step) == newest { " open" } else { "" };
        let text = escape(&crate::cli::visible(text));
        out += &format!("<details{open}><summary>step {step}</summary><pre>{text}</pre></details>\n");
    }
    let found = checkpoint::survey(folder).unwrap_or_default();
    if !found.is_empty() {
        let row = |found: &checkpoint::Found| {
            let mut state = found.damage.as_ref().map_or("complete".into(), ToString::to_string);
            if let Some(best) = best.filter(|best| best.step == found.step) {
                state += &format!("; the best: validation loss {:.4}", best.validation_loss);
            }
            let name = found.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            vec![name, state, grouped(found.step)]
        };
        let head = ["folder", "state", "step"].map(String::from);
        out += &format!("<h2>Checkpoints</h2>\n{}", table(&head, &found.iter().map(row).collect::<Vec<_>>(), 2));
    }
    if let Ok(settings) = std::fs::read_to_string(resolved::path(folder)) {
        let settings = escape(&settings);
        out += &format!(
            "<h2>Settings</h2>\n<details><summary>config.resolved.toml</summary><pre>{settings}</pre></details>\n"
        );
    }
    out
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn or_dash(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.map_or("–".into(), text)
}

/// Seconds in words.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::history::tests::step;
    use super::*;

    #[test]
    fn a_run_has_a_page_with_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(resolved::path(folder.path()), "[train]\nsample_prompt = \"<b>\"\n").unwrap();
        std::fs::create_dir(folder.path().join("step-00000400")).unwrap();
        let mut report = Report::open(folder.path(), 1, true);
        for s in 1..=500u64 {
            let load = if s == 400 { vec![vec![1.0, 2.0, 0.0, 5.0]; 3] } else { Vec::new() };
            let sample = s.is_multiple_of(250).then(|| format!("<i>text {s}\u{1b}[2J"));
            let scores = |value| [("acc,none".to_owned(), value), ("acc_stderr,none".to_owned(), 0.01)].into();
            let tasks = if s == 500 { [("piqa".to_owned(), scores(0.5))].into() } else { Default::default() };
            let metrics = StepMetrics { expert_load: load, sample, tasks, ..step(s) };
            assert_eq!(report.observe(Event::Step(&metrics)), Vec::<String>::new());
        }
        assert_eq!(report.observe(Event::Finished(None)), Vec::<String>::new());
        let html = std::fs::read_to_string(folder.path().join(PAGE)).unwrap();
        for part in [
            "Loss",
            "Learning rate",
            "Gradient norm",
            "Speed",
            "MaxVio by layer",
            "layer 3</text>",
            "step-00000400",
            "piqa acc",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(html.contains("&lt;i&gt;text 500\\u{1b}[2J") && html.contains("sample_prompt = &quot;&lt;b&gt;&quot;"));
        assert!(!folder.path().join("report.tmp").exists());
    }

    #[test]
    fn a_report_that_cannot_be_written_is_said_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut report = Report::open(&gone, 0, true);
        let mut problems = report.observe(Event::Step(&step(1)));
        problems.extend(report.observe(Event::Saved));
        assert!(problems.len() == 2 && problems.iter().all(|text| text.contains("gone")), "{problems:?}");
        assert!(report.observe(Event::Step(&step(2))).is_empty());
    }

    #[test]
    fn numbers_are_written_to_be_read() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.4, 61.0, 3660.0, 90_000.0].map(duration), ["0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
