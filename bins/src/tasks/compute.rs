//! All requests of a task through the engine, in an order in which texts that begin alike find each other's pages.
//!
//! Equal texts are computed once, with all their endings. The others form trees: a text waits for the one whose
//! beginning it shares, so that shared beginnings (examples, the context of all choices) are computed once. Among
//! those that wait for nothing, the deepest and then the longest go first. Windows of whole texts come after them, made
//! when their turn comes.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::model::Model;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::infer::engine::Id;
use crate::infer::{Engine, EngineOptions, Event, Load, Request, Sampling, ScoreRequest, Scores};
use crate::scored::{Scored, Windows};

/// Tokens of a page where texts are only scored: few, since only full pages are shared.
const PAGE: usize = 4;
/// Tokens of a page where texts are generated, whose every token reads all pages before it.
const DECODE_PAGE: usize = 16;
/// Bytes that the cache takes, at most, where one text needs less: room for texts that run and for beginnings that
/// others wait for.
const CACHE_BYTES: usize = 256 << 20;
/// Sequences at a time.
const SEQUENCES: usize = 64;
/// Tokens of a step.
const STEP: usize = 1024;

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Scores of an ending.
    Scores(Scores),
    /// Log-likelihood of a whole text.
    Total(f64),
    /// Generated text.
    Text(String),
}

/// Requests, each of which is answered once by its number.
#[derive(Debug, Default)]
pub struct Requests {
    jobs: Vec<Job>,
    /// Jobs that score, by their text and the number of scored tokens.
    known: HashMap<(Vec<u32>, usize), usize>,
    /// Whole texts, and the number of the request for each.
    texts: Vec<(Windows, usize)>,
}

#[derive(Debug)]
struct Job {
    tokens: Vec<u32>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Endings, and the numbers of the requests for each.
    Score(Vec<(Vec<u32>, Vec<usize>)>),
    Generate(Box<Sampling>, usize),
}

impl Job {
    /// The numbers of the requests that it answers.
    fn numbers(&self) -> impl Iterator<Item = usize> + '_ {
        let (endings, one) = match &self.work {
            Work::Score(endings) => (&endings[..], None),
            Work::Generate(_, number) => (&[][..], Some(*number)),
        };
        endings.iter().flat_map(|(_, numbers)| numbers.iter().copied()).chain(one)
    }

    /// Tokens that it generates at most.
    fn new_tokens(&self) -> usize {
        if let Work::Generate(sampling, _) = &self.work { sampling.max_new_tokens } else { 0 }
    }

    /// Gives it to an engine.
    fn add<D: Kernels>(&self, engine: &mut Engine<'_, D>) -> Result<Id> {
        let tokens = self.tokens.clone();
        match &self.work {
            Work::Score(endings) => {
                let endings = endings.iter().map(|(ending, _)| ending.clone()).collect();
                engine.add_scoring(ScoreRequest { tokens, endings })
            }
            Work::Generate(sampling, _) => engine.add(Request::new(tokens, (**sampling).clone())),
        }
    }

    /// Gives the answers to those who wait for them.
    fn give(
        &self,
        outcome: Result<Vec<Answer>>,
        given: &mut dyn FnMut(usize, Result<Answer>) -> Result<()>,
    ) -> Result<()> {
        match (outcome, &self.work) {
            (Err(error), _) => self.numbers().next().map_or(Ok(()), |number| given(number, Err(error))),
            (Ok(answers), Work::Generate(_, number)) => {
                answers.into_iter().try_for_each(|answer| given(*number, Ok(answer)))
            }
            (Ok(answers), Work::Score(endings)) => {
                for ((_, numbers), answer) in endings.iter().zip(answers) {
                    numbers.iter().try_for_each(|&number| given(number, Ok(answer.clone())))?;
                }
                Ok(())
            }
        }
    }
}

/// A text that the engine computes.
#[derive(Clone, Copy, Debug)]
enum Running {
    Job(usize),
    /// A text, and the place of its window.
    Window(usize, usize),
}

/// Log-likelihoods of a text's windows, and how many are still to come.
#[derive(Debug)]
struct Sums {
    logs: Vec<f64>,
    missing: usize,
}

impl Requests {
    /// Asks for the probability of the scored tokens. The answer comes under `number`.
    pub fn score(&mut self, scored: &Scored, number: usize) {
        let ScoreRequest { tokens, endings } = scored.request();
        let jobs = &mut self.jobs;
        let job = *self.known.entry((tokens.clone(), scored.count)).or_insert_with(|| {
            jobs.push(Job { tokens, work: Work::Score(Vec::new()) });
            jobs.len() - 1
        });
        let Some(Job { work: Work::Score(known), .. }) = jobs.get_mut(job) else { return };
        for ending in endings {
            match known.iter_mut().find(|(other, _)| *other == ending) {
                Some((_, numbers)) => numbers.push(number),
                None => known.push((ending, vec![number])),
            }
        }
    }

    /// Asks for the probability of a whole text of at least one token. The answer comes under `number`.
    pub fn total(&mut self, windows: Windows, number: usize) {
        self.texts.push((windows, number));
    }

    /// Asks for the text after a prompt. The answer comes under `number`.
    pub fn generate(&mut self, prompt: Vec<u32>, sampling: Sampling, number: usize) {
        self.jobs.push(Job { tokens: prompt, work: Work::Generate(Box::new(sampling), number) });
    }

    /// Gives back the memory that only further requests would need.
    pub fn seal(&mut self) {
        self.known = HashMap::new();
    }

    /// Texts that are computed.
    pub fn len(&self) -> usize {
        self.jobs.len() + self.texts.iter().map(|(windows, _)| windows.len()).sum::<usize>()
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.texts.is_empty()
    }

    /// Tokens of all texts, at most: those that texts begin with alike are counted for each.
    pub fn tokens(&self) -> u64 {
        let jobs = self.jobs.iter().map(|job| (job.tokens.len() + job.new_tokens()) as u64);
        let texts = self.texts.iter().map(|(windows, _)| windows.len() as u64 * windows.longest() as u64);
        jobs.chain(texts).sum()
    }

    /// The engine that suits the requests whose number is `wanted`.
    pub fn options(&self, config: &ModelConfig, wanted: &dyn Fn(usize) -> bool) -> EngineOptions {
        let jobs = self.jobs.iter().filter(|job| job.numbers().any(wanted));
        let mut lengths: Vec<(usize, usize)> = jobs.map(|job| (job.tokens.len() + 1, job.new_tokens())).collect();
        for (windows, _) in self.texts.iter().filter(|(_, number)| wanted(*number)) {
            let all = windows.len().min(2 * SEQUENCES);
            lengths.extend(std::iter::repeat_n((windows.longest() + 1, 0), all));
        }
        // Twice the longest that run at a time: half for beginnings that are kept.
        lengths.sort_unstable_by_key(|&(prompt, new)| std::cmp::Reverse(prompt + new));
        lengths.truncate(2 * SEQUENCES);
        let page_tokens = if lengths.iter().any(|&(_, new)| new > 0) { DECODE_PAGE } else { PAGE };
        let options = EngineOptions { page_tokens, step_tokens: STEP, sequences: SEQUENCES, ..Default::default() };
        options.sized_within(config, lengths, CACHE_BYTES)
    }

    /// Computes those whose number is `wanted`; gives each answer, or why there is none, to `answered` as soon as it is
    /// known. False where `go_on` was false before the end. The load of experts is added to `load`, if it is to be
    /// counted.
    ///
    /// # Errors
    /// Those of the engine, and of `answered`, which end the computation.
    pub fn run<D: Kernels>(
        &self,
        (codec, model): (&Codec<'_>, &Model<D>),
        wanted: &dyn Fn(usize) -> bool,
        go_on: &dyn Fn() -> bool,
        load: Option<&mut Load>,
        mut answered: impl FnMut(usize, Result<Answer>) -> Result<()>,
    ) -> Result<bool> {
        let places: Vec<usize> = (0..self.jobs.len()).filter(|&job| self.jobs[job].numbers().any(wanted)).collect();
        let mut order = Order::new(&places.iter().map(|&job| &self.jobs[job].tokens[..]).collect::<Vec<_>>());
        let texts = self.texts.iter().enumerate().filter(|(_, (_, number))| wanted(*number));
        let mut windows = texts.flat_map(|(text, (windows, _))| (0..windows.len()).map(move |place| (text, place)));
        let mut sums: HashMap<usize, Sums> = HashMap::new();
        let mut running: BTreeMap<Id, Running> = BTreeMap::new();
        let mut engine: Option<Engine<'_, D>> = None;
        loop {
            if !go_on() {
                return Ok(false);
            }
            while running.len() < SEQUENCES {
                let next = order.next().map(Running::Job);
                let Some(next) = next.or_else(|| windows.next().map(|(text, place)| Running::Window(text, place)))
                else {
                    break;
                };
                if engine.is_none() {
                    let mut new = codec.engine(model, self.options(model.config(), wanted))?;
                    if load.is_some() {
                        new.count_load()?;
                    }
                    engine = Some(new);
                }
                let Some(engine) = &mut engine else { break };
                let (added, number) = match next {
                    Running::Job(place) => {
                        let job = &self.jobs[places[place]];
                        (job.add(engine), job.numbers().next())
                    }
                    Running::Window(text, place) => {
                        let (windows, number) = &self.texts[text];
                        (engine.add_scoring(windows.get(place).request()), Some(*number))
                    }
                };
                match (added, number) {
                    (Ok(id), _) => drop(running.insert(id, next)),
                    (Err(error), Some(number)) => answered(number, Err(error))?,
                    (Err(error), None) => return Err(error),
                }
            }
            let Some(engine) = engine.as_mut().filter(|_| !running.is_empty()) else {
                if let (Some(sum), Some(load)) = (load, engine.as_ref().and_then(Engine::load)) {
                    sum.add(load);
                }
                return Ok(true);
            };
            for event in engine.step()? {
                let (id, outcome) = match event {
                    Event::Token { .. } => continue,
                    Event::Failed { id, error } => (id, Err(error)),
                    Event::Scored { id, scores } => (id, Ok(scores.into_iter().map(Answer::Scores).collect())),
                    Event::Finished { id, generated, .. } => (id, Ok(vec![Answer::Text(generated.text)])),
                };
                let Some(of) = running.remove(&id) else { continue };
                let mut given = |number: usize, answer: Result<Answer>| match wanted(number) {
                    true => answered(number, answer),
                    false => answer.map(drop),
                };
                match of {
                    Running::Job(place) => {
                        order.done(place);
                        self.jobs[places[place]].give(outcome, &mut given)?;
                    }
                    Running::Window(text, place) => {
                        let (windows, number) = &self.texts[text];
                        let missing = windows.len();
                        let sum = sums.entry(text).or_insert_with(|| Sums { logs: vec![0.0; missing], missing });
                        match outcome {
                            Err(error) => given(*number, Err(error))?,
                            Ok(answers) => match answers.first() {
                                Some(Answer::Scores(scores)) => sum.logs[place] = scores.sum(),
                                _ => return Err(unexpected()),
                            },
                        }
                        sum.missing -= 1;
                        if sum.missing == 0 {
                            let total = sum.logs.iter().sum();
                            sums.remove(&text);
                            given(*number, Ok(Answer::Total(total)))?;
                        }
                    }
                }
            }
        }
    }
}

/// Which text is computed next.
#[derive(Debug)]
struct Order {
    /// Texts that wait for nothing, by depth and length.
    ready: BinaryHeap<(usize, usize, std::cmp::Reverse<usize>)>,
    /// Texts that wait for a text.
    waiting: HashMap<usize, Vec<usize>>,
    depths: Vec<usize>,
    lengths: Vec<usize>,
}

impl Order {
    fn new(texts: &[&[u32]]) -> Self {
        let mut sorted: Vec<usize> = (0..texts.len()).collect();
        sorted.sort_by(|&a, &b| texts[a].cmp(texts[b]).then(a.cmp(&b)));
        let lengths = texts.iter().map(|text| text.len()).collect();
        let mut order =
            Self { ready: BinaryHeap::new(), waiting: HashMap::new(), depths: vec![0; texts.len()], lengths };
        // The text that each one waits for, and how many pages they share.
        let mut parents: HashMap<usize, (usize, usize)> = HashMap::new();
        for pair in sorted.windows(2) {
            let shared = shared_pages(texts[pair[0]], texts[pair[1]]);
            if shared == 0 {
                continue;
            }
            let mut parent = pair[0];
            while let Some(&(above, pages)) = parents.get(&parent)
                && pages >= shared
            {
                parent = above;
            }
            parents.insert(pair[1], (parent, shared));
            order.depths[pair[1]] = order.depths[parent] + 1;
            order.waiting.entry(parent).or_default().push(pair[1]);
        }
        for place in sorted.into_iter().filter(|place| !parents.contains_key(place)) {
            order.push(place);
        }
        order
    }

    fn push(&mut self, place: usize) {
        self.ready.push((self.depths[place], self.lengths[place], std::cmp::Reverse(place)));
    }

    fn next(&mut self) -> Option<usize> {
        self.ready.pop().map(|(_, _, place)| place.0)
    }

    fn done(&mut self, place: usize) {
        for next in self.waiting.remove(&place).unwrap_or_default() {
            self.push(next);
        }
    }
}

fn shared_pages(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count() / PAGE
}

/// An answer that is not of the kind that was asked for.
pub fn unexpected() -> Error {
    Error::Run("the engine gave an answer of another kind than it was asked for".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_wait_for_the_one_whose_beginning_they_share() {
        let text = |pages: &[u32]| pages.iter().flat_map(|&page| [page; PAGE]).collect::<Vec<u32>>();
        let texts =
            [text(&[1, 2, 3]), text(&[1, 2, 4]), text(&[1, 5]), text(&[6]), text(&[1, 5, 7]), text(&[1, 2, 4, 8])];
        let mut order = Order::new(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (mut computed, mut known): (usize, Vec<Vec<u32>>) = (0, Vec::new());
        let mut running = Vec::new();
        let mut seen = 0;
        loop {
            // Two at a time.
            while running.len() < 2
                && let Some(next) = order.next()
            {
                running.push(next);
            }
            if running.is_empty() {
                break;
            }
            let found = |text: &Vec<u32>| known.iter().map(|other| shared_pages(text, other)).max().unwrap_or(0);
            computed += running.iter().map(|&i| texts[i].len() / PAGE - found(&texts[i])).sum::<usize>();
            known.extend(running.iter().map(|&i| texts[i].clone()));
            seen += running.len();
            running.drain(..).for_each(|done| order.done(done));
        }
        assert_eq!((seen, computed), (6, 8), "every page once: 1 2 3 4 8 5 7 6");
    }

    #[test]
    fn equal_texts_are_computed_once() {
        let mut requests = Requests::default();
        for (number, last) in [7, 8, 7].into_iter().enumerate() {
            requests.score(&Scored { tokens: vec![1, 2, last], count: 1, cut: 0 }, number);
        }
        requests.score(&Scored { tokens: vec![1, 2, 7], count: 2, cut: 0 }, 3);
        assert_eq!(requests.len(), 2);
        let Work::Score(endings) = &requests.jobs[0].work else { panic!() };
        assert_eq!(*endings, [(vec![7], vec![0, 2]), (vec![8], vec![1])]);
    }
}
