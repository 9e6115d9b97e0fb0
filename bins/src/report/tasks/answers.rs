//! Examples of right and of wrong answers.

use std::fmt::Write as _;

use super::{counted, folded};
use crate::cli::visible;
use crate::report::page::{escape, table};
use crate::tasks::detail::{EXAMPLES, Example};
use crate::tasks::metric::argmax;
use crate::tasks::question::Asked;
use crate::tasks::results::{Results, TaskResult};
use crate::tasks::samples::Response;

/// Characters of a text that are shown without being asked for: its end, where the question stands.
const SHOWN: usize = 700;
/// Characters of a text that the page holds, and of a cell of a table.
const MOST: usize = 20_000;
const CELL: usize = 1_000;

/// The examples of every task.
pub fn section(results: &Results) -> String {
    let mut out = format!(
        "<h2>Examples</h2>\n<p>Of each task the first {EXAMPLES} items of its file that are answered right, and the \
         first {EXAMPLES} that are answered wrong.</p>\n"
    );
    for task in results.tasks.iter().filter(|task| !task.details.examples.is_empty()) {
        let mut examples: Vec<&Example> = task.details.examples.iter().collect();
        // Right ones first; the sort keeps the order of the file.
        examples.sort_by_key(|example| example.right == Some(false));
        let cards: String = examples.into_iter().map(|example| card(task, example)).collect();
        let cards = format!("<div class=\"cards\">{cards}</div>");
        let judge = task.details.judge.as_ref().map_or(String::new(), |judge| format!(" by {judge}"));
        out += &folded(&format!("{}{judge}", task.name), results.tasks.len() <= 12, &cards);
    }
    out
}

fn card(task: &TaskResult, example: &Example) -> String {
    let (class, verdict) = match example.right {
        Some(true) => ("right", "✓ right"),
        Some(false) => ("wrong", "✗ wrong"),
        None => ("", "answered"),
    };
    let question = &example.question;
    let mut inside = String::new();
    match (&question.asked, &example.response) {
        (Asked::Choice { pairs, choices, gold }, Response::Scores(scores)) => {
            let contexts = pairs.windows(2).any(|two| two[0].0 != two[1].0);
            if let Some((context, continuation)) = pairs.first() {
                match contexts {
                    // The choices are contexts: what they have in common are the examples before them.
                    true => {
                        let before = choices.first().and_then(|choice| context.strip_suffix(&choice[..]));
                        inside += &before.filter(|text| !text.is_empty()).map_or(String::new(), |t| text("prompt", t));
                        inside += &text("continuation of each choice", continuation);
                    }
                    false => inside += &text("prompt", context),
                }
            }
            inside += &choice_table(choices, *gold, &scores.iter().map(|(log, _)| *log).collect::<Vec<_>>());
        }
        (Asked::Text { context, continuation }, response) => {
            inside += &text("prompt", context);
            inside += &text("target", continuation);
            if let Response::Scores(scores) = response {
                for (log, greedy) in scores {
                    let greedy = if *greedy { "every token" } else { "not every token" };
                    let _ = write!(inside, "<p>Log-likelihood {log:.4}; {greedy} of it is the most probable one.</p>");
                }
            }
        }
        (Asked::Rolling { text: whole, words, bytes }, response) => {
            inside += &text("text", whole);
            if let Response::Rolling(log) = response {
                let (words, bytes) = (counted(*words, "word"), counted(*bytes, "byte"));
                let _ = write!(inside, "<p>Log-likelihood {log:.4} over {words}, {bytes}.</p>");
            }
        }
        (Asked::Generate { prompt, target }, response) => {
            inside += &text("prompt", prompt);
            inside += &text("target", target);
            if let Response::Texts(texts) = response {
                texts.iter().for_each(|answer| inside += &text("answer", answer));
            }
            for (filter, answers) in example.answers.iter().filter(|(filter, _)| filter != "none") {
                answers.iter().for_each(|answer| inside += &text(&format!("answer by {filter}"), answer));
            }
        }
        // `judge` refuses answers of another kind than the question.
        _ => {}
    }
    let examples = question.examples.len();
    let shots = if examples == 0 { String::new() } else { format!(", after {}", counted(examples, "example")) };
    let name = escape(&task.name);
    format!(
        "<article class=\"{class}\"><h3><b>{verdict}</b> {name}, item {}{shots}</h3>{inside}</article>\n",
        question.item
    )
}

/// The choices with their log-likelihoods and probabilities.
fn choice_table(choices: &[String], gold: usize, logs: &[f64]) -> String {
    let chosen = argmax(logs.iter().copied());
    let best = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - best).exp()).sum();
    let row = |(i, (choice, log)): (usize, (&String, &f64))| {
        let mark = match (i == chosen, i == gold) {
            (true, true) => "chosen, target",
            (true, false) => "chosen",
            (false, true) => "target",
            (false, false) => "",
        };
        vec![mark.into(), visible(&cut(choice, CELL)), format!("{log:.4}"), format!("{:.4}", (log - best).exp() / sum)]
    };
    let rows: Vec<Vec<String>> = choices.iter().zip(logs).enumerate().map(row).collect();
    table(&["", "choice", "log-likelihood", "probability"].map(String::from), &rows, 2)
}

/// At most `most` characters of a text, and how many are left out.
fn cut(text: &str, most: usize) -> String {
    let n = text.chars().count();
    if n <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most).collect();
    format!("{kept} … {} more", counted(n - most, "character"))
}

/// A text under its name, folded where it is long.
fn text(name: &str, text: &str) -> String {
    let shown = |text: &str| escape(&visible(text));
    let n = text.chars().count();
    if n <= SHOWN {
        let text = if text.is_empty() { "<i>empty</i>".into() } else { shown(text) };
        return format!("<h4>{}</h4><pre>{text}</pre>", escape(name));
    }
    let end: String = text.chars().skip(n - SHOWN).collect();
    let whole =
        folded(&format!("all {}", counted(n, "character")), false, &format!("<pre>{}</pre>", shown(&cut(text, MOST))));
    format!("<h4>{}, its end</h4><pre>… {}</pre>{whole}", escape(name), shown(&end))
}
