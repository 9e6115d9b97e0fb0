//! A task file and an item of its data: texts of the item, or an error that says what is missing.
//!
//! After the file, each part behind a zero byte is an item, a line of JSON, or an answer that filters look at.
#![no_main]

use fathom::tasks::Task;
use fathom::tasks::template;
use fathom_fuzz::{Result, Unstructured, json, one};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

const KINDS: [&str; 5] = ["choice", "generate", "text", "rolling", "nothing"];
const METRICS: [&str; 6] = ["acc", "acc_norm", "exact_match", "pass@1", "word_perplexity", "f9"];
const FIELDS: [&str; 12] = [
    "prompt",
    "choices",
    "contexts",
    "continuation",
    "target",
    "text",
    "original",
    "program",
    "delimiter",
    "version",
    "stride",
    "description",
];
/// Templates, lists and expressions, as task files have them and as they go wrong.
const TEMPLATES: [&str; 20] = [
    "{{ question }}",
    "{{ a.split('_', 1)[0] ~ b }}",
    "{{ choices.label.index(key) }}",
    "choices.text",
    "{{ a | trim }}",
    "{{ a | regex_replace('(a)', '\\\\1$') }}",
    "{{ a | regex_replace('(?<!a)(a+)+$', 'x') }}",
    "{{ a[99] }}",
    "range(key)",
    "{{ a }}{{ b }}{{ c }}",
    "{% for x in range(99) %}{{ x }}{% endfor %}",
    "['a', 'b']",
    "[]",
    "{{ 'x' * key }}",
    "{{ a.capitalize() }}",
    "{{ key // 0 }}",
    "{{ {'a': 1}[key] }}",
    "{{ member }}",
    "{{ answer }}",
    "",
];
const PATTERNS: [&str; 10] = [
    r"#### (\-?[0-9\.\,]+)",
    r"(-?[$0-9.,]{2,})|(-?[0-9]+)",
    "(a+)+b",
    "(?s).*",
    "",
    "(",
    r"(a)|\1",
    "a{1000}",
    "^",
    r"\b(?=a)",
];
const ANSWERS: [&str; 5] =
    ["", "#### 1,234.", "aaaaaaaaaaaaaaaaaaaaaaaa!", "The answer is $5 or 6.\n", "\u{e9}\u{130}"];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let mut u = Unstructured::new(bytes);
    let (file, items, answer) = match choice & 1 {
        0 => {
            let mut parts = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy);
            let file = parts.next().unwrap_or_default().into_owned();
            let rest: Vec<_> = parts.map(std::borrow::Cow::into_owned).collect();
            let items = rest.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (file, items, rest.concat())
        }
        _ => match made(&mut u) {
            Ok(made) => made,
            Err(_) => return,
        },
    };
    let task = match Task::parse(&file) {
        Ok(task) => task,
        Err(problem) => return assert!(!problem.is_empty()),
    };
    assert!(!task.metrics.is_empty() && !task.name.is_empty());
    for item in &items {
        look(&task, item);
    }
    for answer in ANSWERS.into_iter().chain([answer.as_str()]) {
        for filter in &task.filters {
            let found = filter.apply(answer);
            let _ = task.matching.equal(&found, answer);
        }
    }
});

/// Every text that the task makes of an item.
fn look(task: &Task, item: &Map<String, Value>) {
    let item = template::value(item);
    for name in ["description", "prompt", "continuation", "target", "text", "original", "program"] {
        match task.templates.text(name, &item) {
            Ok(text) => assert!(text.len() < 1 << 28, "{name}: {} bytes", text.len()),
            Err(problem) => assert!(problem.starts_with(name), "{problem}"),
        }
    }
    if let Ok(choices) = task.choices(&item) {
        assert!(!choices.is_empty() && choices.len() <= 1000);
    }
}

/// The text of a task file, an item, and an answer.
fn made(u: &mut Unstructured<'_>) -> Result<(String, Vec<Map<String, Value>>, String)> {
    let mut file = toml_of("name", "t");
    file += &format!("data = ['x.jsonl']\nkind = '{}'\nmetrics = ['{}']\n", one(u, &KINDS)?, one(u, &METRICS)?);
    for _ in 0..u.int_in_range(0..=4)? {
        let (field, template) = (*one(u, &FIELDS)?, *one(u, &TEMPLATES)?);
        file += &match (field, u.arbitrary::<u8>()?) {
            ("stride", n) => format!("stride = {n}\n"),
            ("choices" | "contexts", 128..) => format!("{field} = ['a', {}]\n", quoted(template)),
            _ => toml_of(field, template),
        };
    }
    let table = |u: &mut Unstructured<'_>, keys: &[&str]| -> Result<String> {
        let mut lines = String::new();
        for _ in 0..u.int_in_range(0..=3)? {
            lines += &format!("{} = {}\n", one(u, keys)?, u.arbitrary::<i8>()?);
        }
        Ok(lines)
    };
    file += "[generate]\n";
    file += &table(u, &["max_tokens", "samples", "temperature", "top_p"])?;
    file += "[fewshot]\n";
    file += &table(u, &["count"])?;
    for i in 0..u.int_in_range(0..=2)? {
        file += &format!("[[filter]]\nname = 'f{i}'\nregex = {}\n", quoted(one(u, &PATTERNS)?));
        file += &table(u, &["group_select"])?;
    }
    file += &format!("[match]\nignore = [{}]\n", quoted(one(u, &PATTERNS)?));
    let mut item = Map::new();
    for name in ["question", "a", "b", "key", "choices"] {
        if u.arbitrary::<u8>()? < 200 {
            item.insert(name.into(), json(u, 3)?);
        }
    }
    let length = u.len();
    let answer = String::from_utf8_lossy(u.bytes(length)?).into_owned();
    Ok((file, vec![item], answer))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn toml_of(key: &str, text: &str) -> String {
    format!("{key} = {}\n", quoted(text))
}
