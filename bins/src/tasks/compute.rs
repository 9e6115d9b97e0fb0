//! All requests of a task through the engine, in an order in which texts that begin alike find each other's pages.
//!
//! Equal texts are computed once, with all their endings. The others form trees: a text waits for the one whose
//! beginning it shares, so that shared beginnings (examples, the context of all choices) are computed once. Among
//! those that wait for nothing, the deepest and then the longest go first.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use fathom_core::device::Kernels;

use super::tokens::Scored;
use crate::error::{Error, Result};
use crate::infer::engine::Id;
use crate::infer::{Engine, EngineOptions, Event, Request, Sampling, ScoreRequest, Scores};
use crate::session::Session;

/// Tokens of a page: small, since only full pages are shared.
const PAGE: usize = 16;
/// Sequences at a time.
const SEQUENCES: usize = 64;
/// Tokens of a step.
const STEP: usize = 1024;

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Scores of an ending.
    Scores(Scores),
    /// Generated text.
    Text(String),
}

/// Requests, each of which is answered once by its number.
#[derive(Debug, Default)]
pub struct Requests {
    jobs: Vec<Job>,
    /// Jobs that score, by their text and the number of scored tokens.
    known: HashMap<(Vec<u32>, usize), usize>,
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

    /// Asks for the text after a prompt. The answer comes under `number`.
    pub fn generate(&mut self, prompt: Vec<u32>, sampling: Sampling, number: usize) {
        self.jobs.push(Job { tokens: prompt, work: Work::Generate(Box::new(sampling), number) });
    }

    /// Texts that are computed.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Computes all of them; gives each answer to `answered` as soon as it is known. Returns the positions that were
    /// asked for, and how many of them were found in the cache.
    ///
    /// # Errors
    /// Those of the engine, and of `answered`, which end the computation.
    pub fn run<D: Kernels>(
        self,
        session: &Session<D>,
        mut answered: impl FnMut(usize, Answer) -> Result<()>,
    ) -> Result<(usize, usize)> {
        if self.is_empty() {
            return Ok((0, 0));
        }
        let new = |job: &Job| if let Work::Generate(sampling, _) = &job.work { sampling.max_new_tokens } else { 0 };
        let mut lengths: Vec<(usize, usize)> = self.jobs.iter().map(|job| (job.tokens.len() + 1, new(job))).collect();
        // Twice the longest that run at a time: half for beginnings that are kept.
        lengths.sort_unstable_by_key(|&(prompt, new)| std::cmp::Reverse(prompt + new));
        lengths.truncate(2 * SEQUENCES);
        let options =
            EngineOptions { page_tokens: PAGE, step_tokens: STEP, sequences: SEQUENCES, ..Default::default() };
        let mut engine = session.engine(options.sized(session.model().config(), lengths))?;
        let mut order = Order::new(&self.jobs.iter().map(|job| &job.tokens[..]).collect::<Vec<_>>());
        let mut jobs: Vec<Option<Job>> = self.jobs.into_iter().map(Some).collect();
        let mut running: BTreeMap<Id, (usize, Vec<Vec<usize>>)> = BTreeMap::new();
        loop {
            while running.len() < SEQUENCES
                && let Some(place) = order.next()
            {
                let Some(job) = jobs[place].take() else { continue };
                let (id, numbers) = add(&mut engine, job)?;
                running.insert(id, (place, numbers));
            }
            if running.is_empty() {
                let stats = engine.stats();
                return Ok((stats.prompt_tokens, stats.reused));
            }
            for event in engine.step()? {
                let (id, answers) = match event {
                    Event::Token { .. } => continue,
                    Event::Failed { error, .. } => return Err(error),
                    Event::Scored { id, scores } => (id, scores.into_iter().map(Answer::Scores).collect()),
                    Event::Finished { id, generated, .. } => (id, vec![Answer::Text(generated.text)]),
                };
                let Some((place, numbers)) = running.remove(&id) else { continue };
                order.done(place);
                for (numbers, answer) in numbers.into_iter().zip::<Vec<_>>(answers) {
                    numbers.into_iter().try_for_each(|number| answered(number, answer.clone()))?;
                }
            }
        }
    }
}

/// Gives a job to the engine; returns the numbers that wait for each of its answers.
fn add<D: Kernels>(engine: &mut Engine<'_, D>, job: Job) -> Result<(Id, Vec<Vec<usize>>)> {
    let tokens = job.tokens;
    match job.work {
        Work::Score(endings) => {
            let (endings, numbers) = endings.into_iter().unzip();
            Ok((engine.add_scoring(ScoreRequest { tokens, endings })?, numbers))
        }
        Work::Generate(sampling, number) => {
            Ok((engine.add(Request { tokens, sampling: *sampling })?, vec![vec![number]]))
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
