//! Items as contexts and continuations, with examples before them.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::data::Pool;
use super::kind::Kind;
use super::random::PythonRandom;
use super::task::{Sampler, Task};
use super::template;
use super::wording::Wording;
use crate::error::{Error, Result};

/// The seed of the choice of examples, the harness's own.
const SEED: u32 = 1234;

/// An item as it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The item's place in its file, from 0.
    pub item: usize,
    /// The places of its examples in theirs.
    pub examples: Vec<usize>,
    /// What is asked.
    pub asked: Asked,
}

/// What is asked of the model about an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// Which continuation of a context is the most probable.
    Choice {
        /// A context and a continuation for each choice.
        pairs: Vec<(Arc<str>, String)>,
        /// The choices, which acc_norm measures.
        choices: Vec<String>,
        /// The place of the right one.
        gold: usize,
    },
    /// How probable a continuation is.
    Text {
        /// The text before it.
        context: String,
        /// The continuation.
        continuation: String,
    },
    /// How probable a text is.
    Rolling {
        /// The text.
        text: String,
        /// Words and bytes of the original.
        words: usize,
        /// Bytes of the original.
        bytes: usize,
    },
    /// The text that the model writes.
    Generate {
        /// The prompt.
        prompt: String,
        /// The right answer.
        target: String,
    },
}

/// The first `limit` items of a task as questions, with `shots` examples each.
///
/// # Errors
/// [`Error::Line`] for an item or example that a template fails at, or whose label is none of its choices;
/// [`Error::Usage`] for more examples than there are.
pub fn ask(
    task: &Task,
    items: &Pool,
    examples: &Pool,
    shots: usize,
    limit: usize,
    wording: Wording,
) -> Result<Vec<Question>> {
    let mut chooser = Chooser { task, pool: examples, shots, wording, random: PythonRandom::new(SEED) };
    let count = if limit == 0 { items.items.len() } else { limit.min(items.items.len()) };
    (0..count)
        .map(|item| {
            let fields = &items.items[item].fields;
            let chosen = chooser.choose(fields)?;
            let mut before = String::new();
            let value = template::value(fields);
            if task.templates.has("description") {
                before.push_str(&task.templates.text("description", &value).map_err(|e| items.error(item, e))?);
            }
            for &example in &chosen {
                let text = shown(task, &examples.items[example].fields).map_err(|e| examples.error(example, e))?;
                before.push_str(&text);
            }
            let asked = asked(task, &value, &before).map_err(|problem| items.error(item, problem))?;
            Ok(Question { item, examples: chosen, asked })
        })
        .collect()
}

/// Chooses examples, item by item in order.
struct Chooser<'a> {
    task: &'a Task,
    pool: &'a Pool,
    shots: usize,
    wording: Wording,
    random: PythonRandom,
}

impl Chooser<'_> {
    fn choose(&mut self, item: &Map<String, Json>) -> Result<Vec<usize>> {
        let (n, shots, one_more) = (self.pool.items.len(), self.shots, self.task.fewshot.one_more);
        if shots == 0 {
            return Ok(Vec::new());
        }
        let others = || (0..n).filter(|&i| !one_more || self.pool.items[i].fields != *item).collect::<Vec<_>>();
        let chosen = match self.task.fewshot.sampler {
            Sampler::First => others(),
            Sampler::Random => {
                let drawn = self.random.sample(n, shots.saturating_add(usize::from(one_more)));
                let mut kept: Vec<usize> =
                    drawn.into_iter().filter(|&i| !one_more || self.pool.items[i].fields != *item).collect();
                if kept.len() < shots {
                    // Several examples equal the item.
                    let others = others();
                    kept = self.random.sample(others.len(), shots).into_iter().map(|i| others[i]).collect();
                }
                kept
            }
        };
        if chosen.len() < shots {
            let path = self.pool.path.display();
            let option = self.wording.name("num-fewshot");
            return Err(Error::Usage(format!("{option} {shots}: {path} has only {n} examples")));
        }
        Ok(chosen[..shots].to_vec())
    }
}

/// An example with its answer.
fn shown(task: &Task, fields: &Map<String, Json>) -> Result<String, String> {
    let value = template::value(fields);
    let (question, answer) = match task.kind {
        Kind::Choice => {
            let choices = task.choices(&value)?;
            let gold = gold(task, &value, &choices)?;
            match task.contexts {
                true => (choices[gold].clone(), task.templates.text("continuation", &value)?),
                false => (task.templates.text("prompt", &value)?, choices[gold].clone()),
            }
        }
        _ => (task.templates.text("prompt", &value)?, task.templates.text("target", &value)?),
    };
    let (delimiter, separator) = (&task.delimiter, task.fewshot.separator());
    Ok(if answer.is_empty() { question } else { format!("{question}{delimiter}{answer}{separator}") })
}

/// The place of the right choice: the target is its number from 0, or the choice itself. A target that can be both is a
/// number, as in the harness.
fn gold(task: &Task, value: &minijinja::Value, choices: &[String]) -> Result<usize, String> {
    let target = task.templates.text("target", value)?;
    let number = target.trim().parse::<usize>().ok().filter(|&place| place < choices.len());
    let place = number.or_else(|| choices.iter().position(|choice| *choice == target));
    place.ok_or_else(|| {
        let n = choices.len();
        format!("the label {target:?} is neither a number from 0 to {} nor one of the {n} choices", n - 1)
    })
}

fn asked(task: &Task, value: &minijinja::Value, before: &str) -> Result<Asked, String> {
    let text = |name: &str| task.templates.text(name, value);
    Ok(match task.kind {
        Kind::Choice => {
            let choices = task.choices(value)?;
            let gold = gold(task, value, &choices)?;
            let delimiter = &task.delimiter;
            let pairs = if task.contexts {
                let continuation = format!("{delimiter}{}", text("continuation")?);
                choices.iter().map(|context| (format!("{before}{context}").into(), continuation.clone())).collect()
            } else {
                let context: Arc<str> = format!("{before}{}", text("prompt")?).into();
                choices.iter().map(|choice| (context.clone(), format!("{delimiter}{choice}"))).collect()
            };
            Asked::Choice { pairs, choices, gold }
        }
        Kind::Text => Asked::Text { context: format!("{before}{}", text("prompt")?), continuation: text("target")? },
        Kind::Rolling => {
            let whole = text("text")?;
            let original = if task.templates.has("original") { text("original")? } else { whole.clone() };
            Asked::Rolling { text: whole, words: words(&original), bytes: original.len() }
        }
        Kind::Generate => Asked::Generate { prompt: format!("{before}{}", text("prompt")?), target: text("target")? },
    })
}

/// Pieces between runs of white space, empty ones at the ends included: `len(re.split(r"\s+", text))`.
fn words(text: &str) -> usize {
    let mut runs = 0;
    let mut space = false;
    for c in text.chars() {
        let is = c.is_whitespace();
        runs += usize::from(is && !space);
        space = is;
    }
    runs + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_python_splits_them() {
        for (text, n) in [("", 1), ("a", 1), ("a b", 2), (" a\n\n b ", 4), (" ", 2)] {
            assert_eq!(words(text), n, "{text:?}");
        }
    }

    fn pool(folder: &Path, name: &str, lines: &str, task: &Task) -> Pool {
        let path = folder.join(name);
        std::fs::write(&path, lines).unwrap();
        Pool::read(&path, task, "").unwrap()
    }

    use std::path::Path;

    #[test]
    fn examples_come_before_the_item_and_are_never_the_item() {
        let folder = tempfile::tempdir().unwrap();
        let source = "name = 'x'\nkind = 'choice'\ndata = ['x']\ndescription = \"D.\\n\"\nprompt = '{{q}}:'\n\
                      choices = 'c'\ntarget = '{{t}}'\nmetrics = ['acc']\nfewshot = { one_more = true }";
        let task = Task::parse(source).unwrap();
        let lines: String = (0..9).map(|i| format!("{{\"q\":\"q{i}\",\"c\":[\"a\",\"b\"],\"t\":\"b\"}}\n")).collect();
        let items = pool(folder.path(), "x.jsonl", &lines, &task);
        let questions = ask(&task, &items, &items, 8, 0, Wording::Options).unwrap();
        for (i, question) in questions.iter().enumerate() {
            let mut drawn = question.examples.clone();
            drawn.sort_unstable();
            assert_eq!(drawn, (0..9).filter(|&other| other != i).collect::<Vec<_>>());
        }
        let question = &ask(&task, &items, &items, 1, 1, Wording::Options).unwrap()[0];
        let example = question.examples[0];
        let context: Arc<str> = format!("D.\nq{example}: b\n\nq0:").into();
        let pairs = [" a", " b"].map(|choice| (context.clone(), choice.to_owned())).to_vec();
        assert_eq!(question.asked, Asked::Choice { pairs, choices: vec!["a".into(), "b".into()], gold: 1 });
        let error = ask(&task, &items, &items, 9, 0, Wording::Options).unwrap_err().to_string();
        assert!(error.contains("has only 9 examples"), "{error}");
    }

    #[test]
    fn bad_items_are_named_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let source = "name = 'x'\nkind = 'choice'\ndata = ['x']\nprompt = '{{q}}'\nchoices = 'c'\n\
                      target = '{{t}}'\nmetrics = ['acc']";
        let task = Task::parse(source).unwrap();
        for (line, words) in [
            (r#"{"c":["a"],"t":0}"#, "no field q"),
            (r#"{"q":"q","c":[],"t":0}"#, "list of choices is empty"),
            (r#"{"q":"q","c":["a"],"t":"1"}"#, "the label \"1\" is neither"),
            (r#"{"q":"q","c":["a"],"t":"b"}"#, "the label \"b\" is neither"),
            (r#"{"q":"q","c":"a","t":"b"}"#, "must be a list"),
        ] {
            let items =
                pool(folder.path(), "x.jsonl", &format!("{{\"q\":\"\",\"c\":[\"a\"],\"t\":\"a\"}}\n{line}\n"), &task);
            let error = ask(&task, &items, &items, 0, 0, Wording::Options).unwrap_err().to_string();
            assert!(error.contains("x.jsonl:2: ") && error.contains(words), "{error}");
        }
    }
}
