//! Answers to items judged, their lines for the file of samples, and metrics over all items.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::data::Pool;
use super::detail::{Details, chance};
use super::metric::{Metric, Value, argmax, pass_at};
use super::question::{Asked, Question};
use super::results::Reported;
use super::samples::Response;
use super::sandbox::{Outcome, Sandbox};
use super::task::Task;
use super::template;
use crate::error::{Error, Result};

/// SHA-256 of a text, in hexadecimal.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a filter's answers to an item, for each metric of the task.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The filter.
    pub filter: String,
    /// The filtered answers.
    pub answers: Vec<String>,
    /// A value for each metric.
    pub values: Vec<Value>,
}

/// Judges the response to an item, once for each filter.
///
/// # Errors
/// A response of another kind than was asked for; a program that cannot be run.
pub fn judge(
    (task, items): (&Task, &Pool),
    question: &Question,
    response: &Response,
    sandbox: Option<&Sandbox>,
) -> Result<Vec<Judged>> {
    let whole = |value: &dyn Fn(Metric) -> Value| {
        let values = task.metrics.iter().map(|&metric| value(metric)).collect();
        Ok(vec![Judged { filter: "none".into(), answers: Vec::new(), values }])
    };
    match (&question.asked, response) {
        (Asked::Choice { choices, gold, .. }, Response::Scores(scores)) if scores.len() == choices.len() => {
            whole(&|metric| {
                let unit = |choice: &String| match metric {
                    Metric::AccNorm => choice.chars().count() as f64,
                    Metric::AccBytes => choice.len() as f64,
                    _ => 1.0,
                };
                let values = scores.iter().zip(choices).map(|((log, _), choice)| log / unit(choice));
                Value::flag(argmax(values) == *gold)
            })
        }
        (Asked::Text { .. }, Response::Scores(scores)) if scores.len() == 1 => whole(&|metric| match metric {
            Metric::Perplexity => Value::of(scores[0].0),
            _ => Value::flag(scores[0].1),
        }),
        (Asked::Rolling { words, bytes, .. }, Response::Rolling(log)) => whole(&|metric| {
            let units = if metric == Metric::WordPerplexity { *words } else { *bytes };
            Value { value: *log, weight: units as f64 }
        }),
        (Asked::Generate { target, .. }, Response::Texts(texts)) => {
            let one = |filter: &super::answer::Filter| {
                let answers: Vec<String> = texts.iter().map(|text| filter.apply(text)).collect();
                let passed = match sandbox {
                    Some(sandbox) if task.runs_programs() => passed((task, items), question.item, &answers, sandbox)?,
                    _ => 0,
                };
                let value = |&metric: &Metric| match metric {
                    Metric::Pass(k) => Value::of(pass_at(k, answers.len(), passed)),
                    _ => Value::flag(answers.first().is_some_and(|answer| task.matching.equal(answer, target))),
                };
                let values = task.metrics.iter().map(value).collect();
                Ok(Judged { filter: filter.name.clone(), answers, values })
            };
            task.filters.iter().map(one).collect()
        }
        _ => Err(items.error(question.item, "its answer in the file of samples is of another kind".into())),
    }
}

/// How many of the programs with these answers pass.
fn passed((task, items): (&Task, &Pool), item: usize, answers: &[String], sandbox: &Sandbox) -> Result<usize> {
    let mut passed = 0;
    for answer in answers {
        passed += usize::from(sandbox.run(&program((task, items), item, answer)?)? == Outcome::Passed);
    }
    Ok(passed)
}

/// The program of an item with an answer.
///
/// # Errors
/// [`Error::Line`] where the template fails at the item.
pub fn program((task, items): (&Task, &Pool), item: usize, answer: &str) -> Result<String> {
    let mut fields = items.items[item].fields.clone();
    fields.insert("answer".into(), answer.into());
    let program = task.templates.text("program", &template::value(&fields));
    program.map_err(|problem| items.error(item, problem))
}

/// Lines of an item for the file of samples, one for each filter.
///
/// # Errors
/// Fields that cannot be written as JSON.
pub fn lines(
    (task, items): (&Task, &Pool),
    question: &Question,
    response: &Response,
    judged: &[Judged],
) -> Result<Vec<Json>> {
    let fields = &items.items[question.item].fields;
    let (arguments, target): (Json, Json) = match &question.asked {
        Asked::Choice { pairs, gold, .. } => {
            let pairs: Vec<[&str; 2]> =
                pairs.iter().map(|(context, continuation)| [&**context, continuation]).collect();
            (json!(pairs), json!(gold))
        }
        Asked::Text { context, continuation } => (json!([[context, continuation]]), json!(continuation)),
        Asked::Rolling { text, .. } => (json!([[text]]), json!(text)),
        Asked::Generate { prompt, target } => (json!([[prompt, {"until": task.generate.until}]]), json!(target)),
    };
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let document = serde_json::to_string(fields).map_err(|e| Error::Run(e.to_string()))?;
    let responses = response.json();
    let first = |value: &Json| value.get(0).cloned().unwrap_or_default();
    let names: Vec<String> = task.metrics.iter().map(|metric| metric.name()).collect();
    let line = |judged: &Judged| {
        let filtered = match response {
            Response::Texts(_) => json!(judged.answers),
            _ => responses.as_array().into_iter().flatten().map(first).collect(),
        };
        let mut line = json!({
            "doc_id": question.item,
            "doc": fields,
            "target": target,
            "arguments": arguments,
            "resps": responses,
            "filtered_resps": filtered,
            "filter": judged.filter,
            "metrics": names,
            "examples": question.examples,
            "doc_hash": hash(&document),
            "prompt_hash": hash(&text(&first(&first(&arguments)))),
            "target_hash": hash(&text(&target)),
        });
        for (name, value) in names.iter().zip(&judged.values) {
            line[name] = if value.weight == 1.0 { json!(value.value) } else { json!([value.value, value.weight]) };
        }
        line
    };
    Ok(judged.iter().map(line).collect())
}

/// Metrics over all items.
pub fn report(
    task: &Task,
    questions: &[Question],
    judged: &BTreeMap<usize, Vec<Judged>>,
    resamples: usize,
) -> Vec<Reported> {
    let all: Vec<&Vec<Judged>> = questions.iter().filter_map(|question| judged.get(&question.item)).collect();
    let mut reported = Vec::new();
    for (place, filter) in all.first().map_or(&[][..], |first| first).iter().map(|j| &j.filter).enumerate() {
        for (i, metric) in task.metrics.iter().enumerate() {
            let values: Vec<Value> = all.iter().map(|judged| judged[place].values[i]).collect();
            let (value, stderr) = metric.aggregate(&values, resamples);
            let (metric, higher_is_better) = (metric.name(), metric.higher_is_better());
            reported.push(Reported { metric, filter: filter.clone(), value, stderr, higher_is_better });
        }
    }
    reported
}

/// Details of a task for a report, but for the load of experts, from the answers and their judgement by item.
pub fn details(
    task: &Task,
    questions: &[Question],
    responses: &BTreeMap<usize, Response>,
    judged: &BTreeMap<usize, Vec<Judged>>,
) -> Details {
    // The first metric of the first filter that is a yes or no.
    let judge = task.metrics.iter().position(|metric| metric.is_judgement());
    let name = |place: usize| match &task.filters[..] {
        [filter, _, ..] => format!("{}, {}", task.metrics[place].name(), filter.name),
        _ => task.metrics[place].name(),
    };
    let (family, chance) = (task.name.clone(), chance(questions));
    let mut details = Details { family, chance, judge: judge.map(name), ..Details::default() };
    for question in questions {
        let (response, judged) = (responses.get(&question.item), judged.get(&question.item));
        let (Some(response), Some(judged)) = (response, judged) else { continue };
        let right = judge.and_then(|place| Some(judged.first()?.values.get(place)?.value > 0.0));
        details.add(question, response, right, || {
            judged.iter().map(|judged| (judged.filter.clone(), judged.answers.clone())).collect()
        });
    }
    details
}
