//! `compare`: losses at the end and at equal tokens, speed, and differing settings of several runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::history::{History, Series};
use super::page::{Axis, Chart, Line, Page, table};
use super::{grouped, or_dash};
use crate::error::{Error, Result};
use crate::run::metrics::FILE;
use crate::run::resolved;

/// Share of the tokens over which the training loss at some number of tokens is averaged.
const WINDOW: u64 = 20;

/// A run to compare.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Name of the run, as the user wrote it.
    pub name: String,
    /// Its metrics.
    pub history: History,
    /// Its settings by key; empty where config.resolved.toml is missing.
    pub settings: BTreeMap<String, serde_json::Value>,
}

impl Compared {
    /// Reads the run in `folder`.
    ///
    /// # Errors
    /// Where the folder holds no metrics, or they or the settings cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        if !folder.join(FILE).is_file() {
            let folder = folder.display();
            return Err(Error::Run(format!("{folder} holds no {FILE}: name the output folder of a training run")));
        }
        let history = History::read(folder)?;
        if history.step == 0 {
            return Err(Error::Run(format!("{}: no step was taken yet", folder.join(FILE).display())));
        }
        let settings = if resolved::path(folder).is_file() { resolved::read(folder)? } else { BTreeMap::new() };
        Ok(Self { name: folder.display().to_string(), history, settings })
    }
}

/// A comparison of several runs.
#[derive(Clone, Debug)]
pub struct Comparison {
    runs: Vec<Compared>,
    /// Tokens that every run has trained on.
    common: u64,
}

/// A row of a table: what it is, and a cell for each run.
type Row = Vec<String>;

impl Comparison {
    /// Reads the runs in `folders`.
    ///
    /// # Errors
    /// No folder, or those of [`Compared::read`].
    pub fn read(folders: &[PathBuf]) -> Result<Self> {
        let mut runs = folders.iter().map(|folder| Compared::read(folder)).collect::<Result<Vec<_>>>()?;
        let Some(common) = runs.iter().map(|run| run.history.tokens).min() else {
            return Err(Error::Usage("nothing to compare: name the output folders of runs".into()));
        };
        shorten(&mut runs);
        Ok(Self { runs, common })
    }

    /// The runs.
    pub fn runs(&self) -> &[Compared] {
        &self.runs
    }

    fn head(&self) -> Row {
        std::iter::once(String::new()).chain(self.runs.iter().map(|run| run.name.clone())).collect()
    }

    fn row(&self, name: impl Into<String>, cell: impl Fn(&Compared) -> String) -> Row {
        std::iter::once(name.into()).chain(self.runs.iter().map(cell)).collect()
    }

    fn results(&self) -> Vec<Row> {
        let (from, to) = (self.common - self.common / WINDOW, self.common);
        let loss = |x: Option<f64>| or_dash(x, |x| format!("{x:.4}"));
        let best = |run: &Compared| run.history.validation.smallest();
        let mut rows = vec![
            self.row("steps", |run| grouped(run.history.step)),
            self.row("tokens", |run| grouped(run.history.tokens)),
            self.row("training loss, last tenth", |run| loss(run.history.final_loss())),
            self.row("validation loss, last", |run| loss(last(&run.history.validation, u64::MAX))),
            self.row("validation loss, best", |run| loss(best(run).map(|(_, loss)| loss))),
            self.row("step of the best", |run| best(run).map_or("–".into(), |(step, _)| grouped(step))),
        ];
        if self.runs.len() > 1 {
            let at = grouped(to);
            rows.push(
                self.row(format!("training loss at {at} tokens"), |run| loss(run.history.loss.mean_between(from, to))),
            );
            rows.push(
                self.row(format!("validation loss at {at} tokens"), |run| loss(last(&run.history.validation, to))),
            );
        }
        let tasks: BTreeSet<&(String, String)> = self.runs.iter().flat_map(|run| run.history.tasks.keys()).collect();
        rows.extend(tasks.into_iter().map(|of| {
            let score = |run: &Compared| loss(run.history.tasks.get(of).and_then(|series| last(series, u64::MAX)));
            self.row(format!("{} {}, last", of.0, of.1), score)
        }));
        rows.push(
            self.row("tokens per second", |run| or_dash(run.history.mean_speed(), |x| grouped(x.round() as u64))),
        );
        rows
    }

    fn differences(&self) -> Vec<Row> {
        let mut keys: Vec<&String> = self.runs.iter().flat_map(|run| run.settings.keys()).collect();
        keys.sort();
        keys.dedup();
        let differs =
            |key: &&&String| self.runs.iter().any(|run| run.settings.get(**key) != self.runs[0].settings.get(**key));
        let shown = |value: Option<&serde_json::Value>| match value {
            None => "–".into(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        keys.iter().filter(differs).map(|key| self.row(key.as_str(), |run| shown(run.settings.get(*key)))).collect()
    }

    /// The comparison as text.
    pub fn text(&self) -> String {
        let mut out = columns(&self.head(), &self.results());
        let differences = self.differences();
        if !differences.is_empty() {
            out += "\nSettings that differ\n";
            out += &columns(&self.head(), &differences);
        } else if self.runs.len() > 1 {
            out += "\nNo setting differs.\n";
        }
        out
    }

    /// The comparison as a page with the curves of all runs.
    pub fn html(&self) -> String {
        let lines = |series: fn(&History) -> &Series, dots: bool| -> Vec<Line> {
            let line = |(i, run): (usize, &Compared)| {
                let line = Line::new(&run.name, i, series(&run.history));
                if dots { line.with_dots() } else { line }
            };
            self.runs.iter().enumerate().map(line).collect()
        };
        let charts = vec![
            Chart {
                wide: true,
                fall: true,
                ..Chart::new("Training loss", "nats per token", lines(|h| &h.loss, false))
            },
            Chart {
                wide: true,
                fall: true,
                ..Chart::new("Validation loss", "nats per token", lines(|h| &h.validation, true))
            },
            Chart { zero: true, ..Chart::new("Learning rate", "", lines(|h| &h.lr, false)) },
            Chart {
                zero: true,
                fall: true,
                ..Chart::new("Gradient norm", "L2, before clipping", lines(|h| &h.grad_norm, false))
            },
            Chart { zero: true, ..Chart::new("Speed", "tokens per second", lines(|h| &h.speed, false)) },
            Chart {
                zero: true,
                ..Chart::new(
                    "MaxVio",
                    "busiest expert over the mean − 1, worst layer",
                    lines(|h| &h.max_violation, false),
                )
            },
        ];
        let mut sections = String::new();
        let differences = self.differences();
        if !differences.is_empty() {
            sections += &format!("<h2>Settings that differ</h2>\n{}", table(&self.head(), &differences, 1));
        }
        let names: Vec<&str> = self.runs.iter().map(|run| run.name.as_str()).collect();
        let page = Page {
            title: names.join(" – "),
            lead: "Training runs of Fathom, side by side.".into(),
            summary: table(&self.head(), &self.results(), 1),
            axis: Axis::Tokens,
            charts,
            sections,
        };
        page.html()
    }
}

/// The last value at no more than `tokens` tokens.
fn last(series: &Series, tokens: u64) -> Option<f64> {
    series.points().iter().rev().find(|point| point.tokens <= tokens).map(super::history::Point::mean)
}

/// Leaves the folder that all runs lie in out of their names.
fn shorten(runs: &mut [Compared]) {
    let parent = |run: &Compared| Path::new(&run.name).parent().map(Path::to_path_buf);
    let shared =
        runs.first().and_then(parent).filter(|first| runs.iter().all(|run| parent(run).as_ref() == Some(first)));
    if shared.is_some() {
        for run in runs {
            if let Some(name) = Path::new(&run.name).file_name() {
                run.name = name.to_string_lossy().into_owned();
            }
        }
    }
}

/// Columns of text: the first to the left, the others to the right.
fn columns(head: &Row, rows: &[Row]) -> String {
    let all = || std::iter::once(head).chain(rows);
    let width = |column: usize| all().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in all() {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::step;
    use super::*;
    use crate::run::metrics::StepMetrics;

    fn run(root: &Path, name: &str, steps: u64, add: f64, settings: &str) -> PathBuf {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let line = |s: u64| {
            let m = step(s);
            let m = StepMetrics { loss: m.loss + add, validation_loss: m.validation_loss.map(|x| x + add), ..m };
            serde_json::to_string(&m).unwrap() + "\n"
        };
        std::fs::write(folder.join(FILE), (1..=steps).map(line).collect::<String>()).unwrap();
        std::fs::write(resolved::path(&folder), settings).unwrap();
        folder
    }

    #[test]
    fn runs_are_compared_at_equal_tokens_and_by_their_settings() {
        let root = tempfile::tempdir().unwrap();
        let a = run(root.path(), "a", 400, 0.0, "[schedule]\nlr = 0.001\n[train]\nseed = 1\n");
        let b = run(root.path(), "b", 800, 0.5, "[schedule]\nlr = 0.002\n[train]\nseed = 1\n");
        let comparison = Comparison::read(&[a, b]).unwrap();
        let text = comparison.text();
        let row = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            let cells: Vec<&str> = line.split_whitespace().rev().take(2).collect();
            [cells[1].to_owned(), cells[0].to_owned()]
        };
        assert_eq!(row("tokens "), ["40,000", "80,000"]);
        assert_eq!(row("schedule.lr"), ["0.001", "0.002"]);
        assert!(!text.contains("train.seed"), "{text}");
        let [one, two] = row("training loss at 40,000 tokens").map(|x| x.parse::<f64>().unwrap());
        assert!((two - one - 0.5).abs() < 1e-3, "{one} {two}");
        let [one, two] = row("validation loss at 40,000 tokens").map(|x| x.parse::<f64>().unwrap());
        assert!((two - one - 0.5).abs() < 1e-3, "{one} {two}");
        let html = comparison.html();
        assert!(html.contains("\"name\":\"b\"") && html.contains("schedule.lr") && html.contains("\"axis\":1"));
    }

    #[test]
    fn a_folder_without_a_run_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = Comparison::read(&[root.path().join("x")]).unwrap_err();
        assert!(error.to_string().contains("x holds no metrics.jsonl"), "{error}");
        let empty = run(root.path(), "empty", 0, 0.0, "");
        assert!(Comparison::read(&[empty]).unwrap_err().to_string().contains("no step"));
        assert!(Comparison::read(&[]).is_err());
    }
}
