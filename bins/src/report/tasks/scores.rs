//! Scores of a checkpoint with error bars, and of several checkpoints over tokens.

use super::{WIDTH, counted, folded, share_ends};
use crate::error::Result;
use crate::report::grouped;
use crate::report::page::{Figure, table};
use crate::report::plot::{self, Curve, Interval};
use crate::run::metrics::StepMetrics;
use crate::tasks::results::{GroupResult, Reported, Results, TaskResult};

/// Members of groups that are shown without being asked for.
const OPEN: usize = 12;

/// A task or a group with its scores.
struct Row<'a> {
    name: &'a str,
    shots: Option<usize>,
    items: usize,
    metrics: &'a [Reported],
    /// The accuracy of blind choice, where items have choices; and the mean over tasks.
    chance: Option<(f64, f64)>,
    /// Whether a group that has a row holds it.
    member: bool,
}

impl Row<'_> {
    fn chance(&self, metric: &Reported) -> Option<f64> {
        let (weighted, plain) = self.chance?;
        Some(if metric.metric.ends_with("_macro") { plain } else { weighted })
    }
}

/// The tasks below a group.
fn tasks<'a>(results: &'a Results, group: &GroupResult) -> Vec<&'a TaskResult> {
    let below = |name: &String| match results.groups.iter().find(|other| other.name == *name) {
        Some(other) if other.name != group.name => tasks(results, other),
        _ => results.tasks.iter().filter(|task| task.name == *name).collect(),
    };
    group.tasks.iter().flat_map(below).collect()
}

/// Groups and tasks: each group before what it holds, in the order in which tasks were asked for.
fn rows(results: &Results) -> Vec<Row<'_>> {
    let (mut rows, mut shown) = (Vec::new(), Vec::new());
    for one in &results.tasks {
        let groups = results.groups.iter().filter(|group| tasks(results, group).iter().any(|t| t.name == one.name));
        let mut member = false;
        for group in groups {
            member = true;
            if !shown.contains(&&group.name) {
                shown.push(&group.name);
                rows.push(group_row(results, group));
            }
        }
        rows.push(Row {
            name: &one.name,
            shots: Some(one.shots),
            items: one.asked,
            metrics: &one.metrics,
            chance: one.details.chance.map(|chance| (chance, chance)),
            member,
        });
    }
    rows
}

fn group_row<'a>(results: &'a Results, group: &'a GroupResult) -> Row<'a> {
    let tasks = tasks(results, group);
    let chances: Option<Vec<f64>> = tasks.iter().map(|task| task.details.chance).collect();
    let chance = chances.filter(|all| !all.is_empty()).map(|all| {
        let weighted: f64 = all.iter().zip(&tasks).map(|(chance, task)| chance * task.asked as f64).sum();
        (weighted / group.items.max(1) as f64, all.iter().sum::<f64>() / all.len() as f64)
    });
    let shots = tasks.first().map(|task| task.shots).filter(|&n| tasks.iter().all(|task| task.shots == n));
    Row { name: &group.name, shots, items: group.items, metrics: &group.metrics, chance, member: false }
}

/// Half the width of the 95 % interval.
fn half(metric: &Reported) -> Option<f64> {
    metric.stderr.filter(|stderr| stderr.is_finite()).map(|stderr| WIDTH * stderr)
}

/// Both ends of the 95 % interval.
fn ends(metric: &Reported) -> Option<(f64, f64)> {
    let (value, half) = (metric.value, half(metric)?);
    Some(if is_share(metric) { share_ends(value, half) } else { (value - half, value + half) })
}

/// Whether the metric is a share of items.
fn is_share(metric: &Reported) -> bool {
    metric.higher_is_better && (0.0..=1.0).contains(&metric.value)
}

/// The metric, with its filter where it has several.
fn name(metric: &Reported) -> String {
    match &metric.filter[..] {
        "none" => metric.metric.clone(),
        filter => format!("{}, {filter}", metric.metric),
    }
}

/// Scores with error bars, as a chart and as a table.
///
/// # Errors
/// A drawing that fails.
pub fn section(results: &Results) -> Result<String> {
    let rows = rows(results);
    let (members, main): (Vec<&Row<'_>>, Vec<&Row<'_>>) = rows.iter().partition(|row| row.member);
    let mut out = format!(
        "<h2>Scores</h2>\n<p>Error bars are 95 % intervals: ± {WIDTH} standard errors, as lm-evaluation-harness \
         computes them (of a perplexity by bootstrap); where all answers are right or all are wrong they have no width. \
         A tick is chance: the mean over items of one over the number of choices.</p>\n<div class=\"small\">"
    );
    out += &chart("Tasks and groups", &main)?;
    out += "</div>\n";
    out += &numbers(&main);
    if !members.is_empty() {
        let inside =
            format!("<div class=\"small\">{}</div>{}", chart("Members of groups", &members)?, numbers(&members));
        out += &folded(&format!("{} of groups", counted(members.len(), "task")), members.len() <= OPEN, &inside);
    }
    Ok(out)
}

fn chart(title: &str, rows: &[&Row<'_>]) -> Result<String> {
    let mut intervals = Vec::new();
    for (color, row) in rows.iter().enumerate() {
        for metric in row.metrics.iter().filter(|metric| is_share(metric)) {
            intervals.push(Interval {
                label: format!("{} · {}", row.name, name(metric)),
                value: metric.value,
                ends: ends(metric),
                level: row.chance(metric),
                color: (color % 8) as u8,
            });
        }
    }
    if intervals.is_empty() {
        return Ok(String::new());
    }
    let drawing = plot::intervals(&format!("{title}: value, 95 % interval and chance of each metric"), &intervals)?;
    let note = "value, 95 % interval; tick: chance".into();
    Ok(Figure { title: title.into(), note, drawing, wide: true, ..Figure::default() }.html())
}

fn numbers(rows: &[&Row<'_>]) -> String {
    let head = ["task", "metric", "few-shot", "items", "value", "± 95 %", "from", "to", "chance"].map(String::from);
    let mut cells = Vec::new();
    for row in rows {
        for (i, metric) in row.metrics.iter().enumerate() {
            let number = |x: Option<f64>| x.map_or("–".into(), |x| format!("{x:.4}"));
            let arrow = if metric.higher_is_better { "↑" } else { "↓" };
            cells.push(vec![
                if i == 0 { row.name.to_owned() } else { String::new() },
                format!("{} {arrow}", name(metric)),
                row.shots.map_or("–".into(), |n| n.to_string()),
                grouped(row.items as u64),
                number(Some(metric.value)),
                number(half(metric)),
                number(ends(metric).map(|(from, _)| from)),
                number(ends(metric).map(|(_, to)| to)),
                number(row.chance(metric)),
            ]);
        }
    }
    table(&head, &cells, 2)
}

/// A chart for every task and group, of its scores over the tokens of the run, with those that the training measured
/// at the steps of `during`.
///
/// # Errors
/// A drawing that fails.
pub fn over_tokens(all: &[Results], during: &[StepMetrics]) -> Result<String> {
    let Some(newest) = all.last() else { return Ok(String::new()) };
    let by_checkpoint: Vec<(&Results, Vec<Row<'_>>)> = all.iter().map(|results| (results, rows(results))).collect();
    let (mut main, mut members, mut count) = (String::new(), String::new(), 0);
    for row in rows(newest) {
        let figures = figures(&row, &by_checkpoint, during)?;
        count += usize::from(row.member);
        let to = if row.member { &mut members } else { &mut main };
        figures.iter().for_each(|figure| *to += &figure.html());
    }
    let training = match during {
        [] => "",
        _ => {
            " Open dots are scores that the training measured on the way; they may be of other items or examples, \
             which the run’s settings eval.* say."
        }
    };
    let mut out = format!(
        "<h2>Over the run</h2>\n<p>Scores of {} against the tokens that they had seen, with 95 % intervals; the dashed \
         line is chance.{training}</p>\n<div class=\"small\">{main}</div>\n",
        counted(all.len(), "checkpoint")
    );
    if count > 0 {
        let inside = format!("<div class=\"small\">{members}</div>");
        out += &folded(&format!("{} of groups over the run", counted(count, "task")), count <= OPEN, &inside);
    }
    Ok(out)
}

/// The shares of a row in one figure, and one figure for each other metric.
fn figures(row: &Row<'_>, all: &[(&Results, Vec<Row<'_>>)], during: &[StepMetrics]) -> Result<Vec<Figure>> {
    let (shares, others): (Vec<&Reported>, Vec<&Reported>) = row.metrics.iter().partition(|metric| is_share(metric));
    let mut parts: Vec<Vec<&Reported>> = others.into_iter().map(|metric| vec![metric]).collect();
    if !shares.is_empty() {
        parts.insert(0, shares);
    }
    parts.into_iter().map(|metrics| figure(row, &metrics, all, during)).collect()
}

fn figure(
    row: &Row<'_>,
    metrics: &[&Reported],
    all: &[(&Results, Vec<Row<'_>>)],
    during: &[StepMetrics],
) -> Result<Figure> {
    // A score and its standard error that the training measured.
    let measured = |step: &StepMetrics, metric: &Reported| -> Option<(f64, Option<f64>)> {
        let (scores, filter) = (step.tasks.get(row.name)?, &metric.filter);
        let get = |name: &str| scores.get(&format!("{name},{filter}")).copied();
        Some((get(&metric.metric)?, get(&format!("{}_stderr", metric.metric))))
    };
    let find = |rows: &[Row<'_>], metric: &Reported| -> Option<Reported> {
        let row = rows.iter().find(|other| other.name == row.name)?;
        row.metrics.iter().find(|m| m.metric == metric.metric && m.filter == metric.filter).cloned()
    };
    let line = |(i, metric): (usize, &&Reported)| {
        let point = |(results, rows): &(&Results, Vec<Row<'_>>)| {
            let found = find(rows, metric)?;
            Some((results.tokens? as f64, found.value, ends(&found)))
        };
        Curve { name: name(metric), color: (i % 8) as u8, points: all.iter().filter_map(point).collect(), dots: false }
    };
    let mut lines: Vec<Curve> = metrics.iter().enumerate().map(line).collect();
    for (i, metric) in metrics.iter().enumerate() {
        let point = |step: &StepMetrics| Some((step.tokens as f64, measured(step, metric)?.0, None));
        let points: Vec<_> = during.iter().filter_map(point).collect();
        if !points.is_empty() {
            lines.push(Curve {
                name: format!("{}, in training", name(metric)),
                color: (i % 8) as u8,
                points,
                dots: true,
            });
        }
    }
    let level = metrics.first().and_then(|metric| row.chance(metric));
    let title = row.name.to_owned();
    let note = match metrics {
        [one] => format!("{} over tokens", name(one)),
        _ => "over tokens".into(),
    };
    let label = format!("{title}: {} over tokens", lines.iter().map(|l| l.name.clone()).collect::<Vec<_>>().join(", "));
    let drawing = plot::curves(&label, &lines, level)?;
    let columns = metrics.iter().flat_map(|metric| [name(metric), "± 95 %".into()]);
    let head: Vec<String> = ["step", "tokens"].map(String::from).into_iter().chain(columns).collect();
    let cells = all.iter().map(|(results, rows)| {
        let number = |x: Option<f64>| x.map_or("–".into(), |x| format!("{x:.4}"));
        let whole = |n: Option<u64>| n.map_or("–".into(), grouped);
        let mut cells = vec![whole(results.step), whole(results.tokens)];
        for metric in metrics {
            let found = find(rows, metric);
            cells.extend([number(found.as_ref().map(|m| m.value)), number(found.as_ref().and_then(half))]);
        }
        cells
    });
    let in_training = during.iter().filter(|step| metrics.iter().any(|metric| measured(step, metric).is_some()));
    let in_training = in_training.map(|step| {
        let number = |x: Option<f64>| x.map_or("–".into(), |x| format!("{x:.4}"));
        let mut cells = vec![format!("{}, in training", grouped(step.step)), grouped(step.tokens)];
        for metric in metrics {
            let found = measured(step, metric);
            cells.extend([number(found.map(|(x, _)| x)), number(found.and_then(|(_, stderr)| Some(WIDTH * stderr?)))]);
        }
        cells
    });
    let numbers = table(&head, &cells.chain(in_training).collect::<Vec<_>>(), 0);
    let legend = if lines.len() > 1 { lines.iter().map(|l| (l.name.clone(), l.color)).collect() } else { Vec::new() };
    Ok(Figure { title, note, legend, drawing, numbers, wide: false })
}

#[cfg(test)]
mod tests {
    use super::super::tests::results;
    use super::*;

    #[test]
    fn groups_come_before_their_members_and_have_their_chance() {
        let results = results(1);
        let rows = rows(&results);
        let names: Vec<(&str, bool)> = rows.iter().map(|row| (row.name, row.member)).collect();
        assert_eq!(names, [("g", false), ("g_one", true), ("g_two", true), ("alone", false)]);
        // 10 items of two choices and 30 of four, weighted and not.
        let chances: Vec<Option<f64>> = rows[0].metrics.iter().map(|metric| rows[0].chance(metric)).collect();
        assert_eq!(chances, [Some(0.3125), Some(0.375)]);
        assert_eq!((rows[1].chance(&rows[1].metrics[0]), rows[3].chance(&rows[3].metrics[0])), (Some(0.5), None));
    }

    #[test]
    fn intervals_are_of_two_standard_errors_nearly() {
        let html = section(&results(1)).unwrap();
        // 0.5 ± 1.96 · 0.1.
        for cell in ["0.5000", "0.1960", "0.3040", "0.6960"] {
            assert!(html.contains(&format!("<td class=\"number\">{cell}</td>")), "{cell}");
        }
        assert!(!html.contains("alone · perplexity"), "a perplexity has no place among shares");
        assert!(html.contains("<td>perplexity ↓</td>"));
    }

    #[test]
    fn every_checkpoint_is_a_point() {
        let all = [results(1), results(2), results(3)];
        let html = over_tokens(&all, &[]).unwrap();
        for part in ["Scores of 3 checkpoints", "g: acc, acc_macro over tokens", "alone: perplexity over tokens"] {
            assert!(html.contains(part), "{part}");
        }
        let g = &html[html.find("g: acc, acc_macro").unwrap()..html.find("alone: perplexity").unwrap()];
        let drawn = &g[..g.find("</svg>").unwrap()];
        assert_eq!(drawn.matches("<circle").count(), 6, "three points for each of two lines");
        assert_eq!(drawn.matches("<polygon").count(), 1, "a band where there are errors");
        assert!(g.contains("<td class=\"number\">3,000</td>"));
        // Those of the training: an open dot, and a row of the table.
        let scores = [("acc,none".to_owned(), 0.375), ("acc_stderr,none".to_owned(), 0.05)].into();
        let step =
            StepMetrics { step: 7, tokens: 1500, tasks: [("g".to_owned(), scores)].into(), ..Default::default() };
        let html = over_tokens(&all[2..], &[step]).unwrap();
        for part in ["acc, in training", "7, in training", "<td class=\"number\">0.3750</td>", "0.0980", "Open dots"] {
            assert!(html.contains(part), "{part}");
        }
        let drawn = &html[html.find("g: acc, acc_macro").unwrap()..];
        let drawn = &drawn[..drawn.find("</svg>").unwrap()];
        assert_eq!(drawn.matches("<circle").count(), 3, "a dot of the training beside those of the checkpoint");
    }
}
