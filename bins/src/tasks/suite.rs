//! Tasks with their data and requests, checked, and measured as often as one likes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use fathom_core::cache::bytes_per_token;
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::model::Model;

use super::builtin;
use super::compute::{Answer, Requests, unexpected};
use super::data::Pool;
use super::detail::Details;
use super::judge::{self, Judged, hash};
use super::kind::Kind;
use super::load::{self, Counted};
use super::options::Options;
use super::question::{Asked, Question, ask};
use super::results::{GroupResult, TaskResult};
use super::samples::{Response, Samples};
use super::sandbox::Sandbox;
use super::task::Task;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::infer::{Load, Sampling};
use crate::scored::{self, Windows};

/// Tasks that are ready to be measured: everything that can be wrong with them was looked for.
#[derive(Debug)]
pub struct Suite {
    chosen: Vec<(Arc<Task>, Vec<String>)>,
    sets: Vec<Set>,
    missing: Vec<String>,
    sandbox: Option<Sandbox>,
    resamples: usize,
    count_load: bool,
}

/// What measuring a [`Suite`] once costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Items of all tasks.
    pub items: u64,
    /// Texts that are computed.
    pub texts: u64,
    /// Their tokens, those that are generated included. Texts that begin alike need fewer.
    pub tokens: u64,
    /// Bytes of the largest cache.
    pub cache_bytes: u64,
}

/// Where answers are kept, and what identifies the model that they are of.
#[derive(Clone, Debug)]
pub struct Keep {
    /// The folder.
    pub folder: PathBuf,
    /// What an answer depends on beside the task and its data.
    pub model: String,
}

/// Results of tasks, and of groups of them.
pub type Measured = (Vec<TaskResult>, Vec<GroupResult>);

impl Suite {
    /// Finds the tasks and reads their data; makes and checks every request.
    ///
    /// # Errors
    /// Tasks and files that are not there; items and examples that do not fit their task or the model's context, by
    /// file and line; programs to run without leave, or on a system that cannot.
    pub fn new(codec: &Codec<'_>, options: &Options) -> Result<Self> {
        let wording = options.places.wording;
        let mut chosen: Vec<(Arc<Task>, Vec<String>)> = Vec::new();
        for name in &options.tasks {
            let (task, members) = builtin::find(name, wording)?;
            match chosen.iter_mut().find(|(known, _)| known.name == task.name) {
                Some((known, _)) if known.source != task.source => {
                    let tasks = wording.name("tasks");
                    return Err(Error::Usage(format!("{tasks}: two tasks are called {}", task.name)));
                }
                Some((_, known)) => {
                    let more: Vec<String> = members.into_iter().filter(|member| !known.contains(member)).collect();
                    known.extend(more);
                }
                None => chosen.push((task.into(), members)),
            }
        }
        if chosen.is_empty() {
            return Err(Error::Usage(format!("{}: names no task", wording.name("tasks"))));
        }
        let named: Vec<String> = chosen.iter().flat_map(|(t, all)| all.iter().map(|m| t.member_name(m))).collect();
        options.places.check(&named)?;
        let programs = chosen.iter().find(|(task, _)| task.runs_programs());
        if let Some((task, _)) = programs.filter(|_| !options.unsafe_code) {
            return Err(Error::Usage(format!(
                "{} runs programs that the model writes, in a process with limits: allow it by {}",
                task.name,
                wording.switch("confirm-run-unsafe-code")
            )));
        }
        let (mut sets, mut missing) = (Vec::new(), Vec::new());
        for (task, members) in &chosen {
            let before = sets.len();
            for member in members {
                match Set::new(codec, task, member, options)? {
                    Some(set) => sets.push(set),
                    None => missing.push(task.member_name(member)),
                }
            }
            // Members of a family that have no file are told apart, unless none has one.
            if sets.len() == before {
                return Err(options.places.missing(task, members.first().map_or("", |member| member)));
            }
        }
        let sandbox = programs.is_some().then(Sandbox::new).transpose()?;
        let Options { resamples, count_load, .. } = *options;
        Ok(Self { chosen, sets, missing, sandbox, resamples, count_load })
    }

    /// Tasks of families whose files are not there.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// What measuring a model of `config` costs.
    pub fn cost(&self, config: &ModelConfig) -> Cost {
        let mut cost = Cost::default();
        for set in &self.sets {
            let options = set.requests.options(config, &|_| true);
            let bytes = options.cache_tokens as u64 * bytes_per_token(config, options.format, 0) as u64;
            cost = Cost {
                items: cost.items + set.questions.len() as u64,
                texts: cost.texts + set.requests.len() as u64,
                tokens: cost.tokens + set.requests.tokens(),
                cache_bytes: cost.cache_bytes.max(bytes),
            };
        }
        cost
    }

    /// Measures a model whose codec is that of [`new`](Self::new), or equal to it. `progress` is told how many of how
    /// many items are done. `None` where `go_on` was false before the end.
    ///
    /// # Errors
    /// Those of the engine; [`Error::Line`] for an item that it fails at; answers that cannot be kept.
    pub fn measure<D: Kernels>(
        &self,
        model: (&Codec<'_>, &Model<D>),
        keep: Option<&Keep>,
        go_on: &dyn Fn() -> bool,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Option<Measured>> {
        let total = self.sets.iter().map(|set| set.questions.len() as u64).sum();
        let (mut done, mut tasks) = (0, Vec::new());
        for set in &self.sets {
            let mut told = |items| progress(done + items, total);
            let Some(result) = set.measure(model, self, keep, go_on, &mut told)? else { return Ok(None) };
            done += set.questions.len() as u64;
            tasks.push(result);
        }
        let groups = groups(&self.chosen, &tasks);
        Ok(Some((tasks, groups)))
    }
}

/// Results of the groups of families all of whose members were asked for, and several measured.
fn groups(chosen: &[(Arc<Task>, Vec<String>)], results: &[TaskResult]) -> Vec<GroupResult> {
    let mut groups = Vec::new();
    for (task, asked) in chosen.iter().filter(|(task, _)| !task.members.is_empty()) {
        let complete = |members: &[String]| members.iter().all(|member| asked.contains(member));
        let of = |members: &[String]| -> Vec<&TaskResult> {
            let names: Vec<String> = members.iter().map(|member| task.member_name(member)).collect();
            results.iter().filter(|result| names.contains(&result.name)).collect()
        };
        let group = |name: String, all: &[&TaskResult], below: Vec<String>| {
            GroupResult::new(name, below, task.group_version.clone(), all)
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

/// A task with its data and its requests.
#[derive(Debug)]
pub struct Set {
    /// The task.
    pub task: Arc<Task>,
    /// The items.
    pub items: Pool,
    member: String,
    /// `None` where the items are the examples.
    examples: Option<Pool>,
    shots: usize,
    questions: Vec<Question>,
    requests: Requests,
    /// Of each request, the place of its question and its place among the question's requests.
    owners: Vec<(usize, usize)>,
    /// Of each question, its number of requests.
    parts: Vec<usize>,
    /// Questions that are cut at the left to fit the model's context.
    cut: usize,
}

impl Set {
    /// Reads the data of a task, and makes and checks all requests; `None` where there is no file.
    fn new(codec: &Codec<'_>, task: &Arc<Task>, member: &str, options: &Options) -> Result<Option<Self>> {
        let places = &options.places;
        let Some(path) = places.items(task, member)? else { return Ok(None) };
        let items = Pool::read(&path, task, member)?;
        // A text that is measured as a whole has no examples before it.
        let shots = match task.kind {
            Kind::Rolling => 0,
            _ if task.fewshot.fixed => task.fewshot.count,
            _ => options.shots.unwrap_or(task.fewshot.count),
        };
        let examples = if shots > 0 { places.examples(task, member)? } else { None };
        let examples = examples.map(|path| Pool::read(&path, task, member)).transpose()?;
        let pool = examples.as_ref().unwrap_or(&items);
        let questions = ask(task, &items, pool, shots, options.limit, places.wording)?;
        let mut set = Self {
            task: task.clone(),
            items,
            member: member.into(),
            examples,
            shots,
            questions: Vec::new(),
            requests: Requests::default(),
            owners: Vec::new(),
            parts: Vec::new(),
            cut: 0,
        };
        let holds_text = |asked: &Asked| !matches!(asked, Asked::Rolling { bytes: 0, .. });
        if let Some(first) = questions.first().filter(|_| !questions.iter().any(|q| holds_text(&q.asked))) {
            let problem = "the text is empty, and so is every other: nothing is measured".into();
            return Err(set.items.error(first.item, problem));
        }
        for (place, question) in questions.iter().enumerate() {
            set.request(codec, place, question)?;
            if task.runs_programs() {
                judge::program((task, &set.items), question.item, "")?;
            }
        }
        set.requests.seal();
        set.questions = questions;
        Ok(Some(set))
    }

    fn name(&self) -> String {
        self.task.member_name(&self.member)
    }

    /// Makes the requests of a question.
    fn request(&mut self, codec: &Codec<'_>, place: usize, question: &Question) -> Result<()> {
        self.parts.push(0);
        let task = Arc::clone(&self.task);
        let error = |items: &Pool, problem: String| items.error(question.item, problem);
        let mut cut = 0;
        match &question.asked {
            Asked::Choice { pairs, .. } => {
                for (context, continuation) in pairs {
                    let scored = scored::pair(codec, context, continuation)?.map_err(|e| error(&self.items, e))?;
                    cut = cut.max(scored.cut);
                    let number = self.own(place);
                    self.requests.score(&scored, number);
                }
            }
            Asked::Text { context, continuation } => {
                let scored = scored::pair(codec, context, continuation)?.map_err(|e| error(&self.items, e))?;
                cut = scored.cut;
                let number = self.own(place);
                self.requests.score(&scored, number);
            }
            Asked::Rolling { text, .. } => {
                let windows = Windows::new(codec, text, task.stride)?;
                if !windows.is_empty() {
                    let number = self.own(place);
                    self.requests.total(windows, number);
                }
            }
            Asked::Generate { prompt, .. } => {
                let settings = &task.generate;
                let prompt = scored::prompt(codec, prompt, settings.max_tokens)?;
                let (tokens, left) = prompt.map_err(|e| error(&self.items, e))?;
                cut = left;
                let mut stop = settings.until.clone();
                let end = codec.end_text();
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
                    let number = self.own(place);
                    self.requests.generate(tokens.clone(), sampling, number);
                }
            }
        }
        self.cut += usize::from(cut > 0);
        Ok(())
    }

    /// The number of a further request of a question.
    fn own(&mut self, place: usize) -> usize {
        self.owners.push((place, self.parts[place]));
        self.parts[place] += 1;
        self.owners.len() - 1
    }

    /// Identifies everything that an answer depends on.
    fn identity(&self, model: &str) -> String {
        let parts: [&str; 6] = [
            model,
            &self.task.source,
            &self.name(),
            &self.shots.to_string(),
            &self.items.hash,
            self.examples.as_ref().map_or("", |pool| pool.hash.as_str()),
        ];
        hash(&parts.join("\0"))[..16].to_owned()
    }

    fn measure<D: Kernels>(
        &self,
        model: (&Codec<'_>, &Model<D>),
        suite: &Suite,
        keep: Option<&Keep>,
        go_on: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<TaskResult>> {
        let (mut samples, known) = match keep {
            None => (None, BTreeMap::new()),
            Some(Keep { folder, model }) => {
                let (samples, known) = Samples::open(folder, &self.name(), &self.identity(model))?;
                (Some(samples), known)
            }
        };
        let source = (&*self.task, &self.items);
        let known_before: Vec<bool> = self.questions.iter().map(|q| known.contains_key(&q.item)).collect();
        let mut answers = Answers::new(self, known);
        progress(answers.responses.len() as u64);
        let mut judged: BTreeMap<usize, Vec<Judged>> = BTreeMap::new();
        let mut finish = |answers: &Answers<'_>, place: usize| -> Result<()> {
            let question = &self.questions[place];
            // What is left unjudged here is not counted as an answer.
            let Some(response) = answers.responses.get(&question.item).filter(|_| go_on()) else { return Ok(()) };
            let all = judge::judge(source, question, response, suite.sandbox.as_ref())?;
            if let Some(samples) = &mut samples {
                samples.add(question.item, judge::lines(source, question, response, &all)?)?;
            }
            judged.insert(question.item, all);
            Ok(())
        };
        for place in 0..self.questions.len() {
            finish(&answers, place)?;
        }
        let wanted = |number: usize| self.owners.get(number).is_some_and(|&(place, _)| !known_before[place]);
        let mut load = (suite.count_load && model.1.config().has_moe_layers()).then(Load::default);
        let complete = self.requests.run(model, &wanted, go_on, load.as_mut(), |number, answer| {
            let &(place, _) = self.owners.get(number).ok_or_else(unexpected)?;
            let answer = answer.map_err(|e| self.items.error(self.questions[place].item, e.to_string()))?;
            if let Some(place) = answers.take(number, answer)? {
                finish(&answers, place)?;
                progress(answers.responses.len() as u64);
            }
            Ok(())
        })?;
        if !complete || !go_on() {
            return Ok(None);
        }
        if let Some(samples) = samples {
            samples.finish()?;
        }
        let new = self.questions.iter().zip(&known_before).filter(|(_, known)| !**known);
        let items: BTreeSet<usize> = new.map(|(question, _)| question.item).collect();
        let counted = load.map(|load| Counted { items, load });
        let load = match (counted, keep) {
            (Some(counted), Some(Keep { folder, model })) => {
                Some(load::keep(folder, &self.name(), &self.identity(model), counted)?)
            }
            (counted, _) => counted,
        };
        let details = judge::details(&self.task, &self.questions, &answers.responses, &judged);
        Ok(Some(TaskResult {
            name: self.name(),
            version: self.task.version.clone(),
            shots: self.shots,
            items: self.items.items.len(),
            asked: self.questions.len(),
            cut: self.cut,
            file: self.items.path.clone(),
            hash: self.items.hash.clone(),
            examples: self.examples.as_ref().map(|pool| pool.path.clone()),
            metrics: judge::report(&self.task, &self.questions, &judged, suite.resamples),
            details: Details { load, ..details },
        }))
    }
}

/// Answers to the requests of a set so far.
struct Answers<'a> {
    set: &'a Set,
    /// Of questions that wait for more.
    partial: Vec<Vec<Option<Answer>>>,
    /// By item.
    responses: BTreeMap<usize, Response>,
}

impl<'a> Answers<'a> {
    /// The answers of an earlier run, and those to texts without tokens.
    fn new(set: &'a Set, known: BTreeMap<usize, Response>) -> Self {
        let partial = set.parts.iter().map(|&parts| vec![None; parts]).collect();
        let empty = set.questions.iter().zip(&set.parts).filter(|(_, parts)| **parts == 0);
        let mut responses: BTreeMap<usize, Response> =
            empty.map(|(question, _)| (question.item, Response::Rolling(0.0))).collect();
        let asked: BTreeSet<usize> = set.questions.iter().map(|question| question.item).collect();
        responses.extend(known.into_iter().filter(|(item, _)| asked.contains(item)));
        Self { set, partial, responses }
    }

    /// Takes an answer; gives the place of the question that it completes.
    fn take(&mut self, number: usize, answer: Answer) -> Result<Option<usize>> {
        let &(place, part) = self.set.owners.get(number).ok_or_else(unexpected)?;
        self.partial[place][part] = Some(answer);
        if self.partial[place].iter().any(Option::is_none) {
            return Ok(None);
        }
        let answers: Vec<Answer> = std::mem::take(&mut self.partial[place]).into_iter().flatten().collect();
        let response = match answers.first() {
            Some(Answer::Text(_)) => {
                let text = |answer| if let Answer::Text(text) = answer { Ok(text) } else { Err(unexpected()) };
                Response::Texts(answers.into_iter().map(text).collect::<Result<_>>()?)
            }
            Some(Answer::Total(log)) => Response::Rolling(*log),
            _ => {
                let score = |answer| match answer {
                    Answer::Scores(scores) => Ok((scores.sum(), scores.greedy.iter().all(|&is| is))),
                    _ => Err(unexpected()),
                };
                Response::Scores(answers.into_iter().map(score).collect::<Result<_>>()?)
            }
        };
        self.responses.insert(self.set.questions[place].item, response);
        Ok(Some(place))
    }
}
