//! The page of benchmark tasks: scores with error bars, scores over the tokens of a run, calibration, the load of
//! experts, and examples.

mod answers;
mod scores;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chrono::Utc;

use super::page::{Axis, Figure, Page, escape, table, tiles};
use super::plot::{self, Share};
use super::{duration, fresh, grouped, load, replace};
use crate::error::{Error, Result};
use crate::infer::Load;
use crate::run::metrics::{FILE, Rows, StepMetrics};
use crate::tasks::calibration::{BINS, Bin, Confidence, bins, expected_error};
use crate::tasks::results::{Results, TaskResult};

/// Half the width of a 95 % interval in standard errors.
const WIDTH: f64 = 1.96;

/// The file of a page that is written when everything is measured.
#[derive(Clone, Debug)]
pub struct Target(PathBuf);

impl Target {
    /// Checks that a page can be written to `path`: hours of work should not end with a page that cannot be
    /// written. Folders on the way are created.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder; [`Error::Io`] where a file cannot be created beside it.
    pub fn new(path: &Path) -> Result<Self> {
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::Usage(format!("--report {}: is a folder; name a file, report.html", path.display())));
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let draft = fresh(path);
        std::fs::File::create(&draft).map_err(Error::io("create", &draft))?;
        std::fs::remove_file(&draft).map_err(Error::io("remove", &draft))?;
        Ok(Self(path.into()))
    }

    /// Writes the page of these results: of one checkpoint, or of several of a run by rising step, of which the last
    /// one is shown in full.
    ///
    /// # Errors
    /// [`Error::Io`]; no results.
    pub fn write(&self, results: &[Results]) -> Result<()> {
        replace(&self.0, &page(results)?.html())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// The page of results of one checkpoint, or of several of a run by rising step.
///
/// # Errors
/// No results; a drawing that fails.
pub fn page(all: &[Results]) -> Result<Page> {
    let Some(newest) = all.last() else { return Err(Error::Run("there are no results to report on".into())) };
    let mut sections = scores::section(newest)?;
    let during = during(newest);
    let steps = during.as_deref().unwrap_or_default();
    if all.len() > 1 || !steps.is_empty() {
        sections += &scores::over_tokens(all, steps)?;
    }
    if let Err(error) = &during {
        let _ = writeln!(sections, "<p>Without the scores of the training: {}</p>", escape(&error.to_string()));
    }
    sections += &calibration(newest)?;
    sections += &expert_load(newest)?;
    sections += &answers::section(newest);
    let name: PathBuf = {
        let parts: Vec<_> = newest.checkpoint.components().collect();
        parts[parts.len().saturating_sub(2)..].iter().collect()
    };
    Ok(Page {
        title: format!("Benchmark tasks of {}", name.display()),
        lead: format!(
            "Measured by Fathom {} with the prompts and metrics of lm-evaluation-harness; written on {}.",
            env!("CARGO_PKG_VERSION"),
            Utc::now().format("%Y-%m-%d %H:%M UTC")
        ),
        summary: summary(newest, all.len()),
        axis: Axis::Tokens,
        charts: Vec::new(),
        sections,
    })
}

/// The steps after which the run of the checkpoint measured tasks.
fn during(results: &Results) -> Result<Vec<StepMetrics>> {
    let metrics = results.step.and(results.checkpoint.parent()).map(|run| run.join(FILE));
    let Some(path) = metrics.filter(|path| path.is_file()) else { return Ok(Vec::new()) };
    Rows::open(&path)?.filter(|row| row.as_ref().map_or(true, |row| !row.tasks.is_empty())).collect()
}

/// What the results are of.
fn summary(results: &Results, checkpoints: usize) -> String {
    let mut figures = Vec::new();
    figures.extend(results.step.map(|step| ("step", grouped(step))));
    figures.extend(results.tokens.map(|tokens| ("tokens seen", grouped(tokens))));
    figures.extend((checkpoints > 1).then(|| ("checkpoints", checkpoints.to_string())));
    figures.push(("tasks", results.tasks.len().to_string()));
    figures.push(("items", grouped(results.tasks.iter().map(|task| task.asked as u64).sum())));
    figures.push(("weights", results.weights.clone()));
    figures.push(("context", format!("{} tokens", grouped(results.context as u64))));
    figures.push(("time", duration(results.seconds)));
    let about = [("checkpoint", results.checkpoint.display().to_string()), ("tokenizer", results.tokenizer.clone())];
    let about: Vec<Vec<String>> = about.map(|(name, value)| vec![name.into(), value]).into();
    let head = ["task", "few-shot", "items", "of", "cut at the left", "examples from", "SHA-256 of the file", "file"];
    let file = |task: &TaskResult| {
        let examples = task.examples.as_ref().map(|path| path.display().to_string());
        vec![
            task.name.clone(),
            task.shots.to_string(),
            grouped(task.asked as u64),
            grouped(task.items as u64),
            task.cut.to_string(),
            examples.unwrap_or_else(|| if task.shots > 0 { "the same file".into() } else { "–".into() }),
            task.hash.chars().take(12).collect(),
            task.file.display().to_string(),
        ]
    };
    let files: Vec<Vec<String>> = results.tasks.iter().map(file).collect();
    let mut out = tiles(&figures);
    let rows: String = about.iter().map(|row| format!("<dt>{}</dt><dd>{}</dd>", row[0], escape(&row[1]))).collect();
    let _ = writeln!(out, "<dl>{rows}</dl>");
    let files = format!("<div class=\"files\">{}</div>", table(&head.map(String::from), &files, usize::MAX));
    out += &folded(&format!("files of {}", counted(results.tasks.len(), "task")), results.tasks.len() <= 12, &files);
    if !results.missing.is_empty() {
        let text = format!("<p>{}</p>", escape(&results.missing.join(", ")));
        let n = counted(results.missing.len(), "task");
        out += &folded(&format!("{n} not measured, since there are no files"), false, &text);
    }
    out
}

/// Both ends of the interval of a share.
fn share_ends(value: f64, half: f64) -> (f64, f64) {
    ((value - half).max(0.0), (value + half).min(1.0))
}

/// Something below a line that opens and closes it.
fn folded(summary: &str, open: bool, inside: &str) -> String {
    let open = if open { " open" } else { "" };
    format!("<details{open}><summary>{}</summary>{inside}</details>\n", escape(summary))
}

/// `1 item`, `2,000 items`.
fn counted(n: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

/// Tasks by family, in the order in which they were asked for.
fn families(results: &Results) -> Vec<(&str, Vec<&TaskResult>)> {
    let mut families: Vec<(&str, Vec<&TaskResult>)> = Vec::new();
    for task in &results.tasks {
        let family = &task.details.family[..];
        match families.iter_mut().find(|(known, _)| *known == family) {
            Some((_, tasks)) => tasks.push(task),
            None => families.push((family, vec![task])),
        }
    }
    families
}

/// A family of several tasks with their number, or the task.
fn family_name(family: &str, tasks: &[&TaskResult]) -> String {
    match tasks {
        [one] => one.name.clone(),
        _ => format!("{family} ({} tasks)", tasks.len()),
    }
}

fn calibration(results: &Results) -> Result<String> {
    let mut figures = String::new();
    for (family, tasks) in families(results) {
        let answers: Vec<Confidence> = tasks.iter().flat_map(|task| task.details.confidences.clone()).collect();
        let bins = bins(&answers);
        let Some(error) = expected_error(&bins) else { continue };
        let share = |bin: &Bin| Share {
            items: bin.items,
            probability: bin.probability(),
            accuracy: bin.accuracy(),
            ends: bin.stderr().map(|stderr| share_ends(bin.accuracy(), WIDTH * stderr)),
        };
        let title = family_name(family, &tasks);
        let note = format!("ECE {error:.4}, {}", counted(answers.len(), "item"));
        let name = format!("{title}: accuracy over the probability of the chosen answer, {note}");
        let head = ["probability", "items", "mean probability", "accuracy", "± 95 %"].map(String::from);
        let row = |(i, bin): (usize, &Bin)| {
            let edge = |i: usize| format!("{:.1}", i as f64 / BINS as f64);
            let number = |x: f64| if bin.items > 0 { format!("{x:.4}") } else { "–".into() };
            vec![
                format!("{} – {}", edge(i), edge(i + 1)),
                grouped(bin.items as u64),
                number(bin.probability()),
                number(bin.accuracy()),
                bin.stderr().map_or("–".into(), |stderr| number(WIDTH * stderr)),
            ]
        };
        let rows: Vec<Vec<String>> = bins.iter().enumerate().map(row).collect();
        let drawing = plot::reliability(&name, &bins.iter().map(share).collect::<Vec<_>>())?;
        figures += &Figure { title, note, drawing, numbers: table(&head, &rows, 1), ..Figure::default() }.html();
    }
    if figures.is_empty() {
        return Ok(figures);
    }
    Ok(format!(
        "<h2>Calibration</h2>\n<p>How often the chosen answer is right, against its probability: the softmax of the \
         choices’ log-likelihoods. Items are in {BINS} bins of equal width, (0, 0.1] to (0.9, 1]; a dot is the mean \
         probability and the accuracy of a bin, with its 95 % interval, and on the dashed line they agree. ECE, the \
         expected calibration error, is Σ (items of the bin / all items) · |accuracy − mean probability|.</p>\n\
         <div class=\"small\">{figures}</div>\n"
    ))
}

fn expert_load(results: &Results) -> Result<String> {
    let mut figures = String::new();
    for (family, tasks) in families(results) {
        let (mut sum, mut items, mut missing) = (Load::default(), 0, 0);
        for task in &tasks {
            let Some(counted) = &task.details.load else { continue };
            sum.add(&counted.load);
            items += counted.items.len();
            missing += (0..task.asked).filter(|item| !counted.items.contains(item)).count();
        }
        let title = family_name(family, &tasks);
        if tasks.iter().any(|task| task.details.load.is_some()) && missing > 0 {
            let _ = writeln!(
                figures,
                "<p><b>{}</b>: the load of {} is not counted: an earlier call computed them and was \
                 stopped before it kept their load. Another --output counts all of them.</p>",
                escape(&title),
                counted(missing, "item")
            );
        }
        if sum.tokens == 0 {
            continue;
        }
        let of = format!("{} of {}", counted(sum.tokens as usize, "token"), counted(items, "item"));
        let layers: Vec<(usize, Vec<f32>)> =
            sum.layers.iter().map(|(&n, counts)| (n, counts.iter().map(|&count| count as f32).collect())).collect();
        figures += &load::figure(&title, &of, &layers)?.html();
    }
    if figures.is_empty() {
        return Ok(figures);
    }
    Ok(format!(
        "<h2>Expert load</h2>\n<p>Tokens that the routers sent to each expert of each layer, over the layer’s mean, \
         while the prompts and answers of a task were computed. What several requests begin with alike is computed, \
         and counted, once. MaxVio is the load of the busiest expert over the mean, minus one.</p>\n\
         {}<div class=\"small\">{figures}</div>\n",
        load::scale()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::detail::{Details, Example};
    use crate::tasks::load::Counted;
    use crate::tasks::question::{Asked, Question};
    use crate::tasks::results::{GroupResult, Reported};
    use crate::tasks::samples::Response;

    fn task(name: &str, asked: usize, details: Details) -> TaskResult {
        TaskResult {
            name: name.into(),
            version: "1".into(),
            shots: 0,
            items: asked,
            asked,
            cut: 0,
            file: "x.jsonl".into(),
            hash: "0".repeat(64),
            examples: None,
            metrics: Vec::new(),
            details,
        }
    }

    fn metric(name: &str, value: f64, higher_is_better: bool) -> Reported {
        Reported { metric: name.into(), filter: "none".into(), value, stderr: Some(0.1), higher_is_better }
    }

    /// A group of two tasks, and one task alone.
    pub fn results(step: u64) -> Results {
        let details = |family: &str, chance| Details { family: family.into(), chance, ..Details::default() };
        let member = |name: &str, asked, chance| TaskResult {
            metrics: vec![metric("acc", 0.5, true)],
            ..task(name, asked, details("g", Some(chance)))
        };
        let (one, two) = (member("g_one", 10, 0.5), member("g_two", 30, 0.25));
        let group = GroupResult::new("g".into(), vec!["g_one".into(), "g_two".into()], "1".into(), &[&one, &two]);
        let perplexity = vec![metric("perplexity", 12.5, false)];
        let alone = TaskResult { metrics: perplexity, ..task("alone", 2, details("alone", None)) };
        Results {
            checkpoint: format!("runs/a/step-{step:08}").into(),
            passed_over: Vec::new(),
            step: Some(step),
            tokens: Some(1000 * step),
            tokenizer: "bytes".into(),
            weights: "stored".into(),
            context: 64,
            tasks: vec![one, two, alone],
            groups: vec![group],
            missing: vec!["g_three".into()],
            seconds: 1.0,
        }
    }

    #[test]
    fn a_page_names_what_it_is_of() {
        let html = page(&[results(1), results(2)]).unwrap().html();
        let parts = ["a/step-00000002", "2,000", "checkpoints", "g_three", "x.jsonl", "Over the run"];
        for part in parts {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("Calibration") && !html.contains("Expert load"), "sections without content");
        assert!(page(&[]).is_err());
    }

    #[test]
    fn the_load_of_a_family_is_a_sum_and_what_is_missing_is_said() {
        let mut results = results(1);
        let load = |counts: [u64; 2]| Load { tokens: 8, layers: [(3, counts.to_vec())].into() };
        results.tasks[0].details.load = Some(Counted { items: (0..10).collect(), load: load([8, 0]) });
        results.tasks[1].details.load = Some(Counted { items: (0..29).collect(), load: load([4, 4]) });
        let html = expert_load(&results).unwrap();
        // 12 and 4 of 16: 1.5 and 0.5 of the mean.
        assert!(html.contains("16 tokens of 39 items; largest MaxVio 0.50 in layer 3; no expert without a token"));
        assert!(html.contains("<b>g (2 tasks)</b>: the load of 1 item is not counted"));
        assert!(html.contains("<td class=\"number\">150</td><td class=\"number\">50</td>"));
    }

    #[test]
    fn answers_are_shown_as_text() {
        let (right, wrong) = ("<b>yes</b>".to_owned(), "\u{1b}[31mno".to_owned());
        let pair = |choice: &String| ("<script>Is it?".into(), format!(" {choice}"));
        let asked = Asked::Choice { pairs: vec![pair(&right), pair(&wrong)], choices: vec![right, wrong], gold: 0 };
        let mut results = results(1);
        results.tasks[2].details.examples = vec![Example {
            question: Question { item: 7, examples: vec![1], asked },
            response: Response::Scores(vec![(-1.0, false), (-2.0, false)]),
            answers: Vec::new(),
            right: Some(true),
        }];
        let html = answers::section(&results);
        for part in [
            "✓ right</b> alone, item 7, after 1 example",
            "&lt;script&gt;Is it?",
            "<td>chosen, target</td><td>&lt;b&gt;yes&lt;/b&gt;</td><td class=\"number\">-1.0000</td>\
             <td class=\"number\">0.7311</td>",
            "<td>\\u{1b}[31mno</td>",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
    }

    #[test]
    fn a_page_that_cannot_be_written_is_known_before() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Target::new(folder.path()).unwrap_err().to_string().contains("is a folder"));
        let target = Target::new(&folder.path().join("new/page.html")).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 0, "nothing is left behind");
        target.write(&[results(1)]).unwrap();
        assert!(target.path().is_file());
        assert!(Target::new(&folder.path().join("new/page.html/x.html")).is_err());
    }
}
