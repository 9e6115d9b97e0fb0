//! Results as a table and as JSON, in the layouts of lm-evaluation-harness.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value as Json, json};

use super::detail::Details;
use super::metric::{mean, pooled_stderr};

/// A metric of a task, as it is reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    /// The metric.
    pub metric: String,
    /// The filter of the answers; `none` without.
    pub filter: String,
    /// The value.
    pub value: f64,
    /// Its standard error, where it has one.
    pub stderr: Option<f64>,
    /// Whether higher is better.
    pub higher_is_better: bool,
}

/// The results of a task, and of what they are.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    /// The name.
    pub name: String,
    /// The version of the definition.
    pub version: String,
    /// Examples before an item.
    pub shots: usize,
    /// Items of the file.
    pub items: usize,
    /// Items that were asked.
    pub asked: usize,
    /// Items that were cut at the left to fit the model's context.
    pub cut: usize,
    /// The file of the items.
    pub file: PathBuf,
    /// SHA-256 of that file.
    pub hash: String,
    /// The file of the examples, if there are any.
    pub examples: Option<PathBuf>,
    /// The metrics.
    pub metrics: Vec<Reported>,
    /// What a report shows beside them.
    pub details: Details,
}

/// The results of a group of tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupResult {
    /// The name.
    pub name: String,
    /// Names of its tasks and groups.
    pub tasks: Vec<String>,
    /// Items over all tasks.
    pub items: usize,
    /// The version of the definition.
    pub version: String,
    /// Means weighted by items, with pooled errors, and macro means.
    pub metrics: Vec<Reported>,
}

impl GroupResult {
    /// Means over the results of tasks, each metric of which all have.
    pub fn new(name: String, tasks: Vec<String>, version: String, results: &[&TaskResult]) -> Self {
        let sizes: Vec<usize> = results.iter().map(|result| result.asked).collect();
        let total: usize = sizes.iter().sum();
        let mut metrics = Vec::new();
        for one in results.first().map_or(&[][..], |result| &result.metrics) {
            let same = |r: &&Reported| r.metric == one.metric && r.filter == one.filter;
            let all: Vec<&Reported> = results.iter().filter_map(|result| result.metrics.iter().find(same)).collect();
            let errors: Option<Vec<f64>> = all.iter().map(|r| r.stderr).collect();
            if all.len() < results.len() {
                continue;
            }
            let weighted = all.iter().zip(&sizes).map(|(r, &n)| r.value * n as f64).sum::<f64>() / total as f64;
            let stderr = errors.filter(|_| total > sizes.len()).map(|errors| pooled_stderr(&errors, &sizes));
            metrics.push(Reported { value: weighted, stderr, ..one.clone() });
            let values: Vec<f64> = all.iter().map(|r| r.value).collect();
            let metric = format!("{}_macro", one.metric);
            metrics.push(Reported { metric, value: mean(&values), stderr: None, ..one.clone() });
        }
        Self { name, tasks, items: total, version, metrics }
    }
}

/// All results, and the model they are of.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// The model folder.
    pub checkpoint: PathBuf,
    /// One line for each newer checkpoint that was passed over, with the reason.
    pub passed_over: Vec<String>,
    /// The step of the training run that wrote it, if one did.
    pub step: Option<u64>,
    /// Tokens that it had seen.
    pub tokens: Option<u64>,
    /// The tokenizer's fingerprint.
    pub tokenizer: String,
    /// What matrices are stored in.
    pub weights: String,
    /// The model's context, in tokens.
    pub context: usize,
    /// The tasks.
    pub tasks: Vec<TaskResult>,
    /// Groups of them, those that hold others first.
    pub groups: Vec<GroupResult>,
    /// Tasks of families whose files are not there.
    pub missing: Vec<String>,
    /// Seconds that it took.
    pub seconds: f64,
}

fn number(value: Option<f64>) -> Json {
    value.filter(|value| value.is_finite()).map_or_else(|| "N/A".into(), Json::from)
}

fn metrics(alias: &str, items: usize, reported: &[Reported]) -> Json {
    let mut map = Map::from_iter([("alias".to_owned(), alias.into()), ("sample_len".to_owned(), items.into())]);
    for Reported { metric, filter, value, stderr, .. } in reported {
        map.insert(format!("{metric},{filter}"), number(Some(*value)));
        map.insert(format!("{metric}_stderr,{filter}"), number(*stderr));
    }
    map.into()
}

impl Results {
    /// The harness's `results.json`; `source` beside its own keys says of what the results are.
    pub fn json(&self) -> Json {
        let by_task = |f: &dyn Fn(&TaskResult) -> Json| -> Json {
            self.tasks.iter().map(|task| (task.name.clone(), f(task))).collect::<Map<_, _>>().into()
        };
        let directions = |reported: &[Reported]| -> Json {
            reported.iter().map(|r| (r.metric.clone(), r.higher_is_better.into())).collect::<Map<_, _>>().into()
        };
        let groups: Map<String, Json> =
            self.groups.iter().map(|g| (g.name.clone(), metrics(&g.name, g.items, &g.metrics))).collect();
        let mut results = groups.clone();
        if let Json::Object(tasks) = by_task(&|t| metrics(&t.name, t.asked, &t.metrics)) {
            results.extend(tasks);
        }
        let groups_and_tasks = self.groups.iter().map(|g| (&g.name, &g.version));
        let groups_and_tasks = groups_and_tasks.chain(self.tasks.iter().map(|t| (&t.name, &t.version)));
        let version = |v: &String| v.parse::<f64>().map_or_else(|_| v.clone().into(), Json::from);
        let versions: Map<String, Json> = groups_and_tasks.map(|(name, v)| (name.clone(), version(v))).collect();
        let subtasks: BTreeMap<&str, &[String]> = self.groups.iter().map(|g| (&g.name[..], &g.tasks[..])).collect();
        json!({
            "results": results,
            "groups": groups,
            "group_subtasks": subtasks,
            "versions": versions,
            "n-shot": by_task(&|t| t.shots.into()),
            "higher_is_better": by_task(&|t| directions(&t.metrics)),
            "n-samples": by_task(&|t| json!({"original": t.items, "effective": t.asked})),
            "config": {
                "model": "fathom",
                "model_args": format!("checkpoint={},weights={}", self.checkpoint.display(), self.weights),
            },
            "model_name": self.checkpoint,
            "max_length": self.context,
            "source": {
                "checkpoint": self.checkpoint,
                "passed_over": self.passed_over,
                "step": self.step,
                "tokens": self.tokens,
                "tokenizer": self.tokenizer,
                "weights": self.weights,
                "files": by_task(&|t| {
                    json!({"items": t.file, "sha256": t.hash, "examples": t.examples, "cut_items": t.cut})
                }),
                "missing_tasks": self.missing,
            },
            "total_evaluation_time_seconds": self.seconds,
        })
    }

    /// The tables that the harness prints, and lines that say of what the results are.
    pub fn text(&self) -> String {
        let mut text = format!("checkpoint     {}\n", self.checkpoint.display());
        if let Some(step) = self.step {
            text += &format!("step           {step}\n");
        }
        text += &format!("tokenizer      {}\nweights        {}\n", self.tokenizer, self.weights);
        for task in &self.tasks {
            text += &format!("{}: {} of {} items of {}", task.name, task.asked, task.items, task.file.display());
            if let Some(examples) = &task.examples {
                text += &format!(", examples from {}", examples.display());
            }
            if task.cut > 0 {
                text += &format!(", {} cut at the left to the context of {} tokens", task.cut, self.context);
            }
            text += "\n";
        }
        if !self.missing.is_empty() {
            text += &format!("not measured, since there are no files: {}\n", self.missing.join(", "));
        }
        let rows = self.tasks.iter().map(|t| (&t.name, &t.version, t.shots.to_string(), &t.metrics[..]));
        text += &table("Tasks", rows);
        if !self.groups.is_empty() {
            let rows = self.groups.iter().map(|g| (&g.name, &g.version, String::new(), &g.metrics[..]));
            text += &format!("\n{}", table("Groups", rows));
        }
        text
    }
}

/// Whether a column holds numbers, which stand at the right.
const RIGHT: [bool; 9] = [false, true, false, true, false, false, true, false, true];

fn table<'a>(first: &str, rows: impl Iterator<Item = (&'a String, &'a String, String, &'a [Reported])>) -> String {
    let header = [first, "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"].map(String::from);
    let mut cells = Vec::new();
    for (name, version, shots, metrics) in rows {
        for (i, r) in metrics.iter().enumerate() {
            let once = |text: &str| if i == 0 { text.to_owned() } else { String::new() };
            let arrow = if r.higher_is_better { "↑" } else { "↓" };
            let stderr = r.stderr.filter(|error| error.is_finite());
            cells.push([
                once(name),
                once(version),
                r.filter.clone(),
                shots.clone(),
                r.metric.clone(),
                arrow.into(),
                format!("{:.4}", r.value),
                if r.stderr.is_some() { "±".into() } else { String::new() },
                r.stderr
                    .map_or_else(String::new, |_| stderr.map_or_else(|| "N/A".into(), |error| format!("{error:.4}"))),
            ]);
        }
    }
    let width = |i: usize| cells.iter().chain([&header]).map(|row| row[i].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<String>| format!("|{}|\n", cells.join("|"));
    let mut text = line(header.iter().zip(&widths).map(|(cell, &w)| format!("{cell:^w$}")).collect());
    let rule = |i: usize| if RIGHT[i] { "-".repeat(widths[i] - 1) + ":" } else { "-".repeat(widths[i]) };
    text += &line((0..header.len()).map(rule).collect());
    for row in cells {
        let cell = |i: usize| {
            let (cell, w) = (&row[i], widths[i]);
            if RIGHT[i] { format!("{cell:>w$}") } else { format!("{cell:<w$}") }
        };
        text += &line((0..row.len()).map(cell).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, asked: usize, value: f64, stderr: f64) -> TaskResult {
        let reported = Reported {
            metric: "acc".into(),
            filter: "none".into(),
            value,
            stderr: Some(stderr),
            higher_is_better: true,
        };
        TaskResult {
            name: name.into(),
            version: "1.0".into(),
            shots: 0,
            items: asked,
            asked,
            cut: 0,
            file: "x.jsonl".into(),
            hash: String::new(),
            examples: None,
            metrics: vec![reported],
            details: Details::default(),
        }
    }

    #[test]
    fn groups_have_weighted_and_macro_means() {
        let (a, b) = (result("g_a", 10, 0.5, 0.1), result("g_b", 30, 0.1, 0.05));
        let group = GroupResult::new("g".into(), vec!["g_a".into(), "g_b".into()], "2".into(), &[&a, &b]);
        let values: Vec<f64> = group.metrics.iter().map(|r| r.value).collect();
        assert!((values[0] - 0.2).abs() < 1e-12 && (values[1] - 0.3).abs() < 1e-12, "{values:?}");
        assert_eq!((group.items, group.metrics[1].metric.as_str()), (40, "acc_macro"));
    }

    #[test]
    fn the_table_is_the_harness_s() {
        let rows = [result("arc_easy", 570, 0.308_771_9, 0.019_367_5), result("x", 1, 1.0, f64::NAN)];
        let rows = rows.iter().map(|t| (&t.name, &t.version, t.shots.to_string(), &t.metrics[..]));
        assert_eq!(
            table("Tasks", rows),
            "\
| Tasks  |Version|Filter|n-shot|Metric|   |Value |   |Stderr|
|--------|------:|------|-----:|------|---|-----:|---|-----:|
|arc_easy|    1.0|none  |     0|acc   |↑  |0.3088|±  |0.0194|
|x       |    1.0|none  |     0|acc   |↑  |1.0000|±  |   N/A|
"
        );
    }
}
