//! Task files: the description of a benchmark task in TOML.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::answer::{Filter, FilterSpec, Match};
use super::kind::Kind;
use super::metric::Metric;
use super::template::Templates;
use crate::error::{Error, Result};
use crate::infer::Sampling;

/// The largest task file that is read.
const MAX_FILE: u64 = 1 << 20;
/// The most new tokens or samples that a task may ask for.
const MAX_COUNT: usize = 1 << 20;

/// Where few-shot examples come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fewshot {
    /// Examples before an item, where the command line gives no number.
    pub count: usize,
    /// Files that are looked for, as [`Task::data`]; the items themselves where there are none.
    pub data: Vec<String>,
    /// How examples are chosen.
    pub sampler: Sampler,
    /// Draw one example more, leave out the item itself, and keep the first `count`.
    pub one_more: bool,
    /// Text between examples.
    pub separator: Option<String>,
    /// Always `count` examples, whatever is asked for.
    pub fixed: bool,
}

impl Fewshot {
    /// Text after an example.
    pub fn separator(&self) -> &str {
        self.separator.as_deref().unwrap_or("\n\n")
    }
}

/// How few-shot examples are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// At random for every item, by Python's generator with seed 1234, as lm-evaluation-harness does.
    #[default]
    Random,
    /// The first ones of the file.
    First,
}

/// How text is generated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// Texts that end the answer; the model's end token does so too.
    pub until: Vec<String>,
    /// New tokens at most. The prompt is cut at the left to leave room for them.
    pub max_tokens: usize,
    /// Answers to each item.
    pub samples: usize,
    /// Softmax temperature; 0 = greedy.
    pub temperature: f64,
    /// Top-p.
    pub top_p: f64,
}

impl Default for Generation {
    fn default() -> Self {
        Self { until: Vec::new(), max_tokens: 256, samples: 1, temperature: 0.0, top_p: 1.0 }
    }
}

/// A list of templates, or an expression that gives a list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum List {
    Expression(String),
    Templates(Vec<String>),
}

/// A task file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    version: Option<String>,
    group_version: Option<String>,
    kind: Kind,
    data: Vec<String>,
    columns: Option<Vec<String>>,
    description: Option<String>,
    prompt: Option<String>,
    choices: Option<List>,
    contexts: Option<List>,
    continuation: Option<String>,
    target: Option<String>,
    text: Option<String>,
    original: Option<String>,
    stride: Option<usize>,
    program: Option<String>,
    delimiter: Option<String>,
    metrics: Vec<String>,
    #[serde(default)]
    fewshot: Fewshot,
    #[serde(default)]
    generate: Generation,
    #[serde(default)]
    filter: Vec<FilterSpec>,
    #[serde(default, rename = "match")]
    matching: Match,
    #[serde(default)]
    members: BTreeMap<String, Vec<String>>,
}

/// A benchmark task, or a family of them that differ in a word.
#[derive(Debug)]
pub struct Task {
    /// The name.
    pub name: String,
    /// The version of the definition, as lm-evaluation-harness counts it.
    pub version: String,
    /// The version of the definition of its groups.
    pub group_version: String,
    /// What is asked of the model.
    pub kind: Kind,
    /// Files that are looked for in the folder of the data, the first that exists is taken. `{member}` is the word of a
    /// member of a family.
    pub data: Vec<String>,
    /// Columns of CSV files that have no header.
    pub columns: Option<Vec<String>>,
    /// `prompt`, `target` and so on; choices that are given one by one are `choice0`, `choice1` and so on.
    pub templates: Templates,
    /// How choices or contexts are given.
    pub listed: Listed,
    /// Whether the choices are contexts of one continuation.
    pub contexts: bool,
    /// Between a prompt and a choice, or a prompt and the target of an example.
    pub delimiter: String,
    /// The metrics.
    pub metrics: Vec<Metric>,
    /// Tokens that each window of a rolling task scores after the first; as many as the model's context has without.
    pub stride: Option<usize>,
    /// Few-shot examples.
    pub fewshot: Fewshot,
    /// Generation.
    pub generate: Generation,
    /// Filters of generated text, by name; none is one that keeps the text, called `none`.
    pub filters: Vec<Filter>,
    /// How an answer is compared with the target.
    pub matching: Match,
    /// Groups of members by name; empty for a task of one.
    pub members: BTreeMap<String, Vec<String>>,
    /// The file as it is written.
    pub source: String,
}

/// How the choices of an item are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// By an expression for the whole list.
    Expression,
    /// By templates, one for each.
    Templates(usize),
}

/// Names of the templates of choices that are given one by one.
const PLACES: [&str; 16] = [
    "choice0", "choice1", "choice2", "choice3", "choice4", "choice5", "choice6", "choice7", "choice8", "choice9",
    "choice10", "choice11", "choice12", "choice13", "choice14", "choice15",
];

impl Task {
    /// Reads a task file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] with the place for a file that is no task.
    pub fn load(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        if size > MAX_FILE {
            return Err(Error::Usage(format!("{}: {size} bytes, too many for a task file", path.display())));
        }
        let source = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&source).map_err(|problem| Error::Usage(format!("{}: {problem}", path.display())))
    }

    /// A task from the text of its file.
    ///
    /// # Errors
    /// Text that is not TOML or lacks what its kind needs; templates and regular expressions that cannot be read.
    pub fn parse(source: &str) -> Result<Self, String> {
        let file: File = toml::from_str(source).map_err(|e| e.to_string().trim_end().to_owned())?;
        if !is_name(&file.name) {
            return Err(format!("name = {:?}: must be of letters, digits, `_`, `-` and `.`", file.name));
        }
        check_fields(&file)?;
        let mut templates = Templates::default();
        let named = [
            ("description", &file.description),
            ("prompt", &file.prompt),
            ("continuation", &file.continuation),
            ("target", &file.target),
            ("text", &file.text),
            ("original", &file.original),
            ("program", &file.program),
        ];
        for (name, source) in named {
            source.as_ref().map_or(Ok(()), |source| templates.add(name, source))?;
        }
        let listed = match file.choices.as_ref().or(file.contexts.as_ref()) {
            Some(List::Templates(sources)) => {
                if sources.is_empty() || sources.len() > PLACES.len() {
                    return Err(format!("choices: {} of them; give 1 to {}, or one expression", sources.len(), 16));
                }
                PLACES.iter().zip(sources).try_for_each(|(name, source)| templates.add(name, source))?;
                Listed::Templates(sources.len())
            }
            Some(List::Expression(source)) => {
                templates.add_list("choices", source)?;
                Listed::Expression
            }
            None => Listed::Expression,
        };
        let metrics = file.metrics.iter().map(|name| Metric::named(name, file.kind)).collect::<Result<Vec<_>, _>>()?;
        if metrics.is_empty() {
            return Err("metrics = []: name at least one".into());
        }
        let programs = metrics.iter().filter_map(|m| if let Metric::Pass(k) = m { Some(*k) } else { None });
        if let Some(k) = programs.clone().find(|&k| k > file.generate.samples) {
            return Err(format!("pass@{k} needs generate.samples = {k} or more"));
        }
        if programs.count() > 0 && file.program.is_none() {
            return Err("pass@k needs `program`, the text that is run".into());
        }
        let generate = &file.generate;
        if generate.max_tokens == 0 || generate.max_tokens.max(generate.samples) > MAX_COUNT || generate.samples == 0 {
            return Err(format!("generate: max_tokens and samples must be from 1 to {MAX_COUNT}"));
        }
        let Generation { temperature, top_p, until: stop, .. } = generate.clone();
        let sampling = Sampling { temperature, top_p, stop, ..Sampling::default() };
        sampling.validate(usize::MAX).map_err(|invalid| format!("generate.{invalid}").replace("stop", "until"))?;
        let filters = Filter::all(&file.filter)?;
        let mut matching = file.matching;
        matching.compile()?;
        let version = file.version.unwrap_or_else(|| "1.0".into());
        Ok(Self {
            name: file.name,
            group_version: file.group_version.unwrap_or_else(|| version.clone()),
            version,
            kind: file.kind,
            data: file.data,
            columns: file.columns,
            templates,
            listed,
            contexts: file.contexts.is_some(),
            delimiter: file.delimiter.unwrap_or_else(|| " ".into()),
            metrics,
            stride: file.stride,
            fewshot: file.fewshot,
            generate: file.generate,
            filters,
            matching,
            members: file.members,
            source: source.to_owned(),
        })
    }

    /// Whether programs that the model wrote are run.
    pub fn runs_programs(&self) -> bool {
        self.templates.has("program")
    }

    /// The name of a member.
    pub fn member_name(&self, member: &str) -> String {
        if member.is_empty() { self.name.clone() } else { format!("{}_{member}", self.name) }
    }

    /// The choices of an item, or its contexts.
    ///
    /// # Errors
    /// Templates that fail; an empty list.
    pub fn choices(&self, item: &minijinja::Value) -> Result<Vec<String>, String> {
        let choices = match self.listed {
            Listed::Expression => self.templates.list("choices", item)?,
            Listed::Templates(n) => {
                PLACES[..n].iter().map(|name| self.templates.text(name, item)).collect::<Result<_, _>>()?
            }
        };
        if choices.is_empty() { Err("the list of choices is empty".into()) } else { Ok(choices) }
    }
}

/// Whether a name can be part of the name of a file.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// Checks that a task has the fields that its kind needs, and no others.
fn check_fields(file: &File) -> Result<(), String> {
    let has = [
        ("prompt", file.prompt.is_some()),
        ("choices", file.choices.is_some()),
        ("contexts", file.contexts.is_some()),
        ("continuation", file.continuation.is_some()),
        ("target", file.target.is_some()),
        ("text", file.text.is_some()),
        ("original", file.original.is_some()),
        ("program", file.program.is_some()),
    ];
    let (kind, need, may): (_, &[&str], &[&str]) = match file.kind {
        Kind::Choice if file.contexts.is_some() => ("choice", &["contexts", "continuation", "target"], &[]),
        Kind::Choice => ("choice", &["prompt", "choices", "target"], &[]),
        Kind::Text => ("text", &["prompt", "target"], &[]),
        Kind::Rolling => ("rolling", &["text"], &["original"]),
        Kind::Generate => ("generate", &["prompt", "target"], &["program"]),
    };
    for (name, is) in has {
        if !is && need.contains(&name) {
            return Err(format!("a task of kind \"{kind}\" needs `{name}`"));
        }
        if is && !need.contains(&name) && !may.contains(&name) {
            return Err(format!("a task of kind \"{kind}\" has no `{name}`: it has {}", need.join(", ")));
        }
    }
    if file.stride == Some(0) || file.stride.is_some() && file.kind != Kind::Rolling {
        return Err("stride: must be 1 or more, and belongs to a task of kind \"rolling\"".into());
    }
    if file.kind == Kind::Rolling && file.fewshot != Fewshot::default() {
        return Err("a task of kind \"rolling\" has no examples".into());
    }
    if file.kind != Kind::Generate && (file.generate != Generation::default() || !file.filter.is_empty()) {
        return Err(format!("a task of kind \"{kind}\" generates nothing: leave out `generate` and `filter`"));
    }
    let mut names: Vec<&String> = file.members.keys().chain(file.members.values().flatten()).collect();
    names.sort();
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Err(format!("members: {name:?}: must be of letters, digits, `_`, `-` and `.`"));
    }
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("members: {:?} is there twice; groups and members have different names", pair[0]));
    }
    if let Some((group, _)) = file.members.iter().find(|(_, members)| members.is_empty()) {
        return Err(format!("members: the group {group:?} is empty"));
    }
    if file.group_version.is_some() && file.members.is_empty() {
        return Err("group_version: belongs to a task with [members]".into());
    }
    if file.data.is_empty() {
        return Err("data = []: name at least one file that is looked for".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'x'\nkind = 'choice'\ndata = ['x.jsonl']\nprompt = '{{q}}'\nchoices = ['a', '{{b}}']\n\
                        target = '{{t}}'\nmetrics = ['acc']\n";

    #[test]
    fn a_task_file_says_what_is_wrong_with_it() {
        let task = Task::parse(GOOD).unwrap();
        assert_eq!(
            (task.delimiter.as_str(), task.fewshot.separator(), task.listed),
            (" ", "\n\n", Listed::Templates(2))
        );
        for (from, to, words) in [
            ("name = 'x'", "name = 'a/b'", "letters, digits"),
            ("prompt =", "promt =", "promt"),
            ("prompt = '{{q}}'\n", "", "needs `prompt`"),
            ("target", "text", "needs `target`"),
            ("'choice'", "'text'", "has no `choices`"),
            ("'choice'", "'chose'", "chose"),
            ("'{{q}}'", "'{{q'", "prompt: "),
            ("['a', '{{b}}']", "[]", "choices"),
            ("['acc']", "['f2']", "f2"),
            ("['acc']", "['exact_match']", "exact_match"),
            ("['acc']", "[]", "at least one"),
            ("['x.jsonl']", "[]", "at least one file"),
            ("metrics", "generate = {max_tokens = 7}\nmetrics", "generates nothing"),
            ("metrics", "stride = 7\nmetrics", "stride: "),
            ("metrics", "members = { g = ['a/b'] }\nmetrics", "\"a/b\": must be of letters"),
            ("metrics", "members = { g = ['a', 'a'] }\nmetrics", "\"a\" is there twice"),
            ("metrics", "members = { g = ['g'] }\nmetrics", "\"g\" is there twice"),
            ("metrics", "members = { g = [] }\nmetrics", "\"g\" is empty"),
            ("metrics", "group_version = '2'\nmetrics", "group_version"),
        ] {
            let error = Task::parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(words), "{to}: {error}");
        }
        let generates = "name = 'x'\nkind = 'generate'\ndata = ['x.jsonl']\nprompt = 'p'\ntarget = 't'\n\
                         metrics = ['exact_match']\n";
        for (generate, words) in [
            ("temperature = -1", "generate.temperature -1: must be 0 (greedy) or above"),
            ("temperature = nan", "generate.temperature NaN"),
            ("top_p = 0", "generate.top_p 0: must be above 0"),
            ("until = ['']", "generate.until"),
            ("samples = 0", "samples must be from 1"),
        ] {
            let error = Task::parse(&format!("{generates}generate = {{ {generate} }}")).unwrap_err();
            assert!(error.contains(words), "{generate}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        std::fs::write(&path, "name = 3").unwrap();
        let error = Task::load(&path).unwrap_err().to_string();
        assert!(error.contains("t.toml") && error.contains("line 1"), "{error}");
    }
}
