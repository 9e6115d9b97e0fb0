//! Tasks from their files to their results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fathom_core::device::Kernels;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::builtin;
use super::compute::{Answer, Requests, unexpected};
use super::data::{Places, Pool};
use super::kind::Kind;
use super::metric::{BOOTSTRAP, Metric, Value, argmax, pass_at};
use super::question::{Asked, Question, ask};
use super::results::{GroupResult, Reported, Results, TaskResult};
use super::samples::{Response, Samples};
use super::sandbox::{Outcome, Sandbox};
use super::task::Task;
use super::template;
use super::tokens::{self, Scored};
use crate::checkpoint::State;
use crate::error::{Error, Result};
use crate::infer::Sampling;
use crate::session::Session;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of tasks, groups and members, or task files.
    pub tasks: Vec<String>,
    /// Where data is.
    pub places: Places,
    /// Examples before each item; the tasks' own numbers where this is `None`.
    pub shots: Option<usize>,
    /// Items of each task; 0 for all.
    pub limit: usize,
    /// Folder for `results.json` and the answers; a run that was killed goes on from it.
    pub output: Option<PathBuf>,
    /// Whether programs that the model writes are run.
    pub unsafe_code: bool,
    /// Resamples for the standard errors of perplexities.
    pub resamples: usize,
    /// What matrices are stored in, for the record.
    pub weights: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            places: Places::default(),
            shots: None,
            limit: 0,
            output: None,
            unsafe_code: false,
            resamples: BOOTSTRAP,
            weights: "stored".into(),
        }
    }
}

/// A task with its data.
struct Ready<'a> {
    task: &'a Task,
    member: String,
    items: Pool,
    /// `None` where the items are the examples.
    examples: Option<Pool>,
    shots: usize,
}

impl Ready<'_> {
    fn name(&self) -> String {
        self.task.member_name(&self.member)
    }

    fn questions(&self, limit: usize) -> Result<Vec<Question>> {
        ask(self.task, &self.items, self.examples.as_ref().unwrap_or(&self.items), self.shots, limit)
    }

    /// Identifies everything that an answer depends on.
    fn run<D: Kernels>(&self, session: &Session<D>, options: &Options) -> String {
        let tokenizer = session.tokenizer().map_or("", |tokenizer| tokenizer.fingerprint());
        let step = step(session.checkpoint()).unwrap_or(0);
        let parts: [&str; 9] = [
            &session.checkpoint().display().to_string(),
            &step.to_string(),
            tokenizer,
            &options.weights,
            &self.task.source,
            &self.name(),
            &self.shots.to_string(),
            &self.items.hash,
            self.examples.as_ref().map_or("", |pool| pool.hash.as_str()),
        ];
        hash(&parts.join("\0"))[..16].to_owned()
    }
}

/// The step of the training run that wrote a checkpoint.
fn step(checkpoint: &Path) -> Option<u64> {
    State::read(checkpoint).ok().map(|state| state.step)
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Measures a model on tasks. `progress` is told how many of how many items are done.
///
/// # Errors
/// Tasks and files that are not there; items and examples that do not fit their task, by file and line; programs to run
/// without leave; those of the engine.
pub fn run<D: Kernels>(session: &Session<D>, options: &Options, mut progress: impl FnMut(u64, u64)) -> Result<Results> {
    let started = Instant::now();
    if let Some(folder) = &options.output {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let mut chosen: Vec<(Task, Vec<String>)> = Vec::new();
    for name in &options.tasks {
        let (task, members) = builtin::find(name)?;
        match chosen.iter_mut().find(|(known, _)| known.name == task.name) {
            Some((known, _)) if known.source != task.source => {
                return Err(Error::Usage(format!("--tasks: two tasks are called {}", task.name)));
            }
            Some((_, known)) => {
                let more: Vec<String> = members.into_iter().filter(|member| !known.contains(member)).collect();
                known.extend(more);
            }
            None => chosen.push((task, members)),
        }
    }
    let (ready, missing) = prepare(&chosen, options)?;
    let programs = ready.iter().find(|ready| ready.task.runs_programs());
    let sandbox = match (programs, options.unsafe_code) {
        (None, _) => None,
        (Some(_), true) => Some(Sandbox::new()?),
        (Some(ready), false) => {
            return Err(Error::Usage(format!(
                "{} runs programs that the model writes, in a process with limits: allow it by \
                 --confirm-run-unsafe-code",
                ready.name()
            )));
        }
    };
    // What is wrong with an item is said before hours of work.
    let mut total = 0;
    for ready in &ready {
        total += ready.questions(options.limit)?.len() as u64;
    }
    let (mut done, mut tasks) = (0, Vec::new());
    for ready in &ready {
        let questions = ready.questions(options.limit)?;
        let before = done;
        let result = measure(session, ready, &questions, options, sandbox.as_ref(), &mut |items| {
            progress(before + items, total);
        })?;
        done += questions.len() as u64;
        tasks.push(result);
    }
    let results = Results {
        checkpoint: session.checkpoint().into(),
        step: step(session.checkpoint()),
        tokenizer: session.tokenizer().map_or_else(String::new, |t| format!("{} {}", t.kind(), t.fingerprint())),
        weights: options.weights.clone(),
        context: session.context(),
        groups: groups(&chosen, &tasks),
        tasks,
        missing,
        seconds: started.elapsed().as_secs_f64(),
    };
    if let Some(folder) = &options.output {
        let path = folder.join("results.json");
        let text = serde_json::to_string_pretty(&results.json()).map_err(|e| Error::Run(e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
    }
    Ok(results)
}

/// Reads the data of all tasks. Members of a family that have no file are told apart, unless none has one.
fn prepare<'a>(chosen: &'a [(Task, Vec<String>)], options: &Options) -> Result<(Vec<Ready<'a>>, Vec<String>)> {
    let (mut ready, mut missing) = (Vec::new(), Vec::new());
    for (task, members) in chosen {
        let before = ready.len();
        for member in members {
            let Some(path) = options.places.items(task, member)? else {
                missing.push(task.member_name(member));
                continue;
            };
            let items = Pool::read(&path, task, member)?;
            // A text that is measured as a whole has no examples before it.
            let shots = if task.kind == Kind::Rolling { 0 } else { options.shots.unwrap_or(task.fewshot.count) };
            let examples = if shots > 0 { options.places.examples(task, member)? } else { None };
            let examples = examples.map(|path| Pool::read(&path, task, member)).transpose()?;
            ready.push(Ready { task, member: member.clone(), items, examples, shots });
        }
        if ready.len() == before {
            return Err(options.places.missing(task, members.first().map_or("", |member| member)));
        }
    }
    Ok((ready, missing))
}

/// Results of the groups of families all of whose members were asked for, and several measured.
fn groups(chosen: &[(Task, Vec<String>)], results: &[TaskResult]) -> Vec<GroupResult> {
    let mut groups = Vec::new();
    for (task, asked) in chosen.iter().filter(|(task, _)| !task.members.is_empty()) {
        let complete = |members: &[String]| members.iter().all(|member| asked.contains(member));
        let of = |members: &[String]| -> Vec<&TaskResult> {
            let names: Vec<String> = members.iter().map(|member| task.member_name(member)).collect();
            results.iter().filter(|result| names.contains(&result.name)).collect()
        };
        let group = |name: String, all: &[&TaskResult], below: Vec<String>| {
            GroupResult::new(name, below, task.version.clone(), all)
        };
        let parts = task.members.iter().filter(|(_, members)| complete(members));
        let parts: Vec<(String, Vec<&TaskResult>)> =
            parts.map(|(name, members)| (task.member_name(name), of(members))).collect();
        let parts: Vec<_> = parts.into_iter().filter(|(_, results)| !results.is_empty()).collect();
        let all: Vec<&TaskResult> = parts.iter().flat_map(|(_, results)| results.clone()).collect();
        if task.members.values().all(|members| complete(members)) && all.len() > 1 {
            groups.push(group(task.name.clone(), &all, parts.iter().map(|(name, _)| name.clone()).collect()));
        }
        for (name, results) in parts {
            let below = results.iter().map(|result| result.name.clone()).collect();
            groups.push(group(name, &results, below));
        }
    }
    groups
}

/// Measures a model on one task.
fn measure<D: Kernels>(
    session: &Session<D>,
    ready: &Ready<'_>,
    questions: &[Question],
    options: &Options,
    sandbox: Option<&Sandbox>,
    progress: &mut dyn FnMut(u64),
) -> Result<TaskResult> {
    let (mut samples, known) = match &options.output {
        None => (None, BTreeMap::new()),
        Some(folder) => {
            let (samples, known) = Samples::open(folder, &ready.name(), &ready.run(session, options))?;
            (Some(samples), known)
        }
    };
    let mut work = Work::new(session, ready, questions, known)?;
    let requests = std::mem::take(&mut work.requests);
    progress(work.done);
    let mut finish = |work: &mut Work, place: usize| -> Result<()> {
        let question = &questions[place];
        let Some(response) = work.responses.get(&question.item) else { return Ok(()) };
        let judged = judge(ready, question, response, sandbox)?;
        if let Some(samples) = &mut samples {
            samples.add(question.item, lines(ready, question, response, &judged)?)?;
        }
        work.judged.insert(question.item, judged);
        Ok(())
    };
    for place in 0..questions.len() {
        finish(&mut work, place)?;
    }
    requests.run(session, |number, answer| {
        if let Some(place) = work.take(number, answer)? {
            finish(&mut work, place)?;
            progress(work.done);
        }
        Ok(())
    })?;
    if let Some(samples) = samples {
        samples.finish()?;
    }
    Ok(TaskResult {
        name: ready.name(),
        version: ready.task.version.clone(),
        shots: ready.shots,
        items: ready.items.items.len(),
        asked: questions.len(),
        cut: work.cut,
        file: ready.items.path.clone(),
        hash: ready.items.hash.clone(),
        examples: ready.examples.as_ref().map(|pool| pool.path.clone()),
        metrics: report(ready.task, questions, &work.judged, options.resamples),
    })
}

/// Requests of a task, and the answers so far.
struct Work {
    requests: Requests,
    /// Of each request, the place of its question and its place among the question's requests.
    owners: Vec<(usize, usize)>,
    /// Answers of questions that wait for more.
    partial: Vec<Vec<Option<Answer>>>,
    items: Vec<usize>,
    /// Whether the answers are parts of one text.
    rolling: bool,
    responses: BTreeMap<usize, Response>,
    judged: BTreeMap<usize, Vec<Judged>>,
    done: u64,
    cut: usize,
}

impl Work {
    fn new<D: Kernels>(
        session: &Session<D>,
        ready: &Ready<'_>,
        questions: &[Question],
        responses: BTreeMap<usize, Response>,
    ) -> Result<Self> {
        let mut work = Self {
            requests: Requests::default(),
            owners: Vec::new(),
            partial: Vec::new(),
            items: questions.iter().map(|question| question.item).collect(),
            rolling: false,
            responses,
            judged: BTreeMap::new(),
            done: 0,
            cut: 0,
        };
        for (place, question) in questions.iter().enumerate() {
            work.partial.push(Vec::new());
            let error = |problem: String| ready.items.error(question.item, problem);
            let answered = work.responses.contains_key(&question.item);
            let mut cut = 0;
            match &question.asked {
                Asked::Choice { pairs, .. } => {
                    for (context, continuation) in pairs {
                        let scored = tokens::pair(session, context, continuation)?.map_err(error)?;
                        cut = cut.max(scored.cut);
                        work.score(place, &scored, answered);
                    }
                }
                Asked::Text { context, continuation } => {
                    let scored = tokens::pair(session, context, continuation)?.map_err(error)?;
                    cut = scored.cut;
                    work.score(place, &scored, answered);
                }
                Asked::Rolling { text, .. } => {
                    work.rolling = true;
                    for window in tokens::rolling(session, text, ready.task.stride)? {
                        work.score(place, &window, answered);
                    }
                }
                Asked::Generate { prompt, .. } => {
                    let settings = &ready.task.generate;
                    let (tokens, left) = tokens::prompt(session, prompt, settings.max_tokens)?.map_err(error)?;
                    cut = left;
                    let mut stop = settings.until.clone();
                    let end = session.end_text()?;
                    stop.extend((!end.is_empty() && !stop.contains(&end)).then_some(end));
                    for sample in 0..settings.samples {
                        let sampling = Sampling {
                            temperature: settings.temperature,
                            top_p: settings.top_p,
                            max_new_tokens: settings.max_tokens,
                            stop: stop.clone(),
                            seed: 1234,
                            request: (question.item * settings.samples + sample) as u64,
                            ..Sampling::default()
                        };
                        if !answered {
                            work.requests.generate(tokens.clone(), sampling, work.owners.len());
                        }
                        work.own(place, answered);
                    }
                }
            }
            work.cut += usize::from(cut > 0);
            if !answered && work.partial[place].is_empty() {
                // A text without tokens.
                work.responses.insert(question.item, Response::Rolling(0.0));
            }
            work.done += u64::from(work.responses.contains_key(&question.item));
        }
        Ok(work)
    }

    fn own(&mut self, place: usize, answered: bool) {
        if !answered {
            self.owners.push((place, self.partial[place].len()));
            self.partial[place].push(None);
        }
    }

    fn score(&mut self, place: usize, scored: &Scored, answered: bool) {
        if !answered {
            self.requests.score(scored, self.owners.len());
        }
        self.own(place, answered);
    }

    /// Takes an answer; gives the place of the question that it completes.
    fn take(&mut self, number: usize, answer: Answer) -> Result<Option<usize>> {
        let &(place, part) = self.owners.get(number).ok_or_else(unexpected)?;
        self.partial[place][part] = Some(answer);
        if self.partial[place].iter().any(Option::is_none) {
            return Ok(None);
        }
        let answers: Vec<Answer> = self.partial[place].drain(..).flatten().collect();
        let response = match answers.first() {
            Some(Answer::Text(_)) => {
                let text = |answer| if let Answer::Text(text) = answer { Ok(text) } else { Err(unexpected()) };
                Response::Texts(answers.into_iter().map(text).collect::<Result<_>>()?)
            }
            _ => {
                let score = |answer| match answer {
                    Answer::Scores(scores) => Ok((scores.sum(), scores.greedy.iter().all(|&is| is))),
                    Answer::Text(_) => Err(unexpected()),
                };
                let scores: Vec<(f64, bool)> = answers.into_iter().map(score).collect::<Result<_>>()?;
                match self.rolling {
                    true => Response::Rolling(scores.iter().map(|(log, _)| log).sum()),
                    false => Response::Scores(scores),
                }
            }
        };
        self.responses.insert(self.items[place], response);
        self.done += 1;
        Ok(Some(place))
    }
}

/// The value of a filter's answers to an item, for each metric of the task.
struct Judged {
    filter: String,
    answers: Vec<String>,
    values: Vec<Value>,
}

/// Judges the response to an item, once for each filter.
fn judge(
    ready: &Ready<'_>,
    question: &Question,
    response: &Response,
    sandbox: Option<&Sandbox>,
) -> Result<Vec<Judged>> {
    let task = ready.task;
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
                    Some(sandbox) if task.runs_programs() => passed(ready, question.item, &answers, sandbox)?,
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
        _ => Err(ready.items.error(question.item, "its answer in the file of samples is of another kind".into())),
    }
}

/// How many of the programs with these answers pass.
fn passed(ready: &Ready<'_>, item: usize, answers: &[String], sandbox: &Sandbox) -> Result<usize> {
    let mut passed = 0;
    for answer in answers {
        let mut fields = ready.items.items[item].fields.clone();
        fields.insert("answer".into(), answer.clone().into());
        let program = ready.task.templates.text("program", &template::value(&fields));
        let program = program.map_err(|problem| ready.items.error(item, problem))?;
        passed += usize::from(sandbox.run(&program)? == Outcome::Passed);
    }
    Ok(passed)
}

/// Lines of an item for the file of samples, one for each filter.
fn lines(ready: &Ready<'_>, question: &Question, response: &Response, judged: &[Judged]) -> Result<Vec<Json>> {
    let fields = &ready.items.items[question.item].fields;
    let (arguments, target): (Json, Json) = match &question.asked {
        Asked::Choice { pairs, gold, .. } => (json!(pairs), json!(gold)),
        Asked::Text { context, continuation } => (json!([[context, continuation]]), json!(continuation)),
        Asked::Rolling { text, .. } => (json!([[text]]), json!(text)),
        Asked::Generate { prompt, target } => (json!([[prompt, {"until": ready.task.generate.until}]]), json!(target)),
    };
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let document = serde_json::to_string(fields).map_err(|e| Error::Run(e.to_string()))?;
    let responses = response.json();
    let first = |value: &Json| value.get(0).cloned().unwrap_or_default();
    let names: Vec<String> = ready.task.metrics.iter().map(|metric| metric.name()).collect();
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
fn report(
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
