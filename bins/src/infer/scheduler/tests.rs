//! The scheduler beside a plain model of it: random joins, leaves and pre-emptions, with a cache of made-up numbers.

use super::*;
use fathom_core::rng;
use std::collections::HashMap;

const VOCABULARY: u64 = 3;

/// Random numbers of one schedule.
struct Random {
    seed: u64,
    index: u64,
}

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.index += 1;
        rng::bits(self.seed, rng::stream("schedules"), self.index) % n.max(1)
    }
}

fn mix(values: [u64; 3]) -> u64 {
    rng::bits(values[0], values[1], values[2])
}

/// The token that the made-up model gives after `tokens`.
fn after(tokens: &[u32]) -> u32 {
    (tokens.iter().fold(7, |h, &t| mix([h, 1, u64::from(t)])) % VOCABULARY) as u32
}

/// What the cache of the main model holds at each position: it follows from all tokens up to there, and from the phase.
fn entries(tokens: &[u32], prompt: usize) -> Vec<u64> {
    let step = |h: &mut u64, (i, &t): (usize, &u32)| {
        *h = mix([*h, u64::from(i >= prompt), u64::from(t)]);
        Some(*h)
    };
    tokens.iter().enumerate().scan(11, step).collect()
}

struct Request {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    max_new: usize,
    /// The last positions of the prompt that are scored; then nothing is generated.
    scored: Option<usize>,
    /// Positions that were scored.
    rows: std::collections::BTreeSet<usize>,
}

impl Request {
    fn done(&self, longest: usize) -> bool {
        self.tokens.len() >= self.prompt.len() + self.max_new || self.tokens.len() >= longest
    }

    /// Its output when nothing else runs.
    fn alone(&self, longest: usize) -> Vec<u32> {
        let mut tokens = self.prompt.clone();
        while tokens.len() < self.prompt.len() + self.max_new && tokens.len() < longest {
            tokens.push(after(&tokens));
        }
        tokens
    }
}

#[derive(Default)]
struct Seen {
    preempted: usize,
    reused: usize,
    copies: usize,
    mixed: usize,
    finished: usize,
    cancelled: usize,
    accepted: usize,
    scored: usize,
}

/// The scheduler, and everything that a correct one must agree with.
struct Model {
    scheduler: Scheduler,
    random: Random,
    requests: HashMap<u64, Request>,
    /// `[page][offset]`: entries of the main model, and of an MTP module.
    cache: Vec<Vec<[u64; 2]>>,
    next: u64,
    seen: Seen,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random { seed, index: 0 };
        let limits = Limits {
            page_tokens: 1 + random.below(5) as usize,
            pages: 4 + random.below(16) as usize,
            step_tokens: 1 + random.below(12) as usize,
            sequences: 1 + random.below(6) as usize,
            context: 5 + random.below(40) as usize,
            drafts: random.below(4).saturating_sub(1) as usize,
            share_prefixes: random.below(4) > 0,
            prompt_logits: random.below(10) as usize,
        };
        let scheduler = Scheduler::new(limits);
        let limits = *scheduler.limits();
        let cache = vec![vec![[0; 2]; limits.page_tokens]; limits.pages];
        Self { scheduler, random, requests: HashMap::new(), cache, next: 0, seen: Seen::default() }
    }

    fn longest(&self) -> usize {
        self.scheduler.limits().longest()
    }

    fn join(&mut self) {
        let most = self.longest() as u64 - 1;
        let length = 1 + self.random.below(most);
        // Few different tokens, so that prompts often begin alike.
        let prompt: Vec<u32> = (0..length).map(|_| (self.random.below(8) == 0) as u32).collect();
        let max_new = 1 + self.random.below(14) as usize;
        let scored = (self.scheduler.limits().drafts == 0 && self.random.below(3) == 0)
            .then(|| 1 + self.random.below(length) as usize);
        match scored {
            Some(scored) => self.scheduler.add_scored(self.next, prompt.clone(), scored),
            None => self.scheduler.add(self.next, prompt.clone()),
        }
        let rows = Default::default();
        self.requests.insert(self.next, Request { tokens: prompt.clone(), prompt, max_new, scored, rows });
        self.next += 1;
    }

    fn leave(&mut self) {
        let mut ids: Vec<u64> = self.requests.keys().copied().collect();
        ids.sort_unstable();
        if !ids.is_empty() {
            let id = ids[self.random.below(ids.len() as u64) as usize];
            self.requests.remove(&id);
            assert!(self.scheduler.remove(id));
            self.seen.cancelled += 1;
        }
    }

    fn step(&mut self) {
        let limits = *self.scheduler.limits();
        let plan = self.scheduler.plan();
        assert!(!plan.work.is_empty(), "a step computes something as long as sequences are left");
        assert!(plan.work.iter().map(|w| w.end - w.start).sum::<usize>() <= limits.step_tokens);
        assert!(self.scheduler.running() <= limits.sequences);
        let logits = plan.work.iter().filter(|w| w.phase == Phase::Prefill).map(|w| w.logits);
        assert!(logits.sum::<usize>() <= limits.prompt_logits);
        let phases = |phase| plan.work.iter().any(|w| w.phase == phase);
        self.seen.mixed += usize::from(phases(Phase::Prefill) && phases(Phase::Decode));
        self.seen.preempted += plan.preempted.len();
        self.seen.copies += plan.copies.len();
        for &(from, to) in &plan.copies {
            self.cache[to as usize] = self.cache[from as usize].clone();
        }
        let mut written = Vec::new();
        for work in &plan.work {
            self.check_written_pages(work, &mut written);
            self.compute(work);
        }
        self.check_references();
    }

    /// A page that is written belongs to one sequence alone.
    fn check_written_pages(&self, work: &Work, written: &mut Vec<u32>) {
        let (size, pages) = (self.scheduler.limits().page_tokens, self.scheduler.pages(work.id));
        for &page in &pages[work.start / size..work.end.div_ceil(size)] {
            assert_eq!(self.scheduler.pool.references(page), 1, "a shared page is not written");
            assert!(!written.contains(&page), "two sequences write one page");
            written.push(page);
        }
    }

    fn entry(&mut self, id: u64, position: usize) -> &mut [u64; 2] {
        let size = self.scheduler.limits().page_tokens;
        let page = self.scheduler.pages(id)[position / size];
        &mut self.cache[page as usize][position % size]
    }

    fn compute(&mut self, work: &Work) {
        let (id, drafts) = (work.id, self.scheduler.limits().drafts);
        let request = &self.requests[&id];
        let (known, prompt, scored) = (request.tokens.clone(), request.prompt.len(), request.scored);
        let chunk = self.scheduler.tokens(work).to_vec();
        assert_eq!(chunk.len(), work.end - work.start);
        let tokens = [&known[..work.start], &chunk].concat();
        assert!(tokens.starts_with(&known[..known.len().min(work.end)]));
        let phase = if work.start < prompt { Phase::Prefill } else { Phase::Decode };
        assert_eq!(work.phase, phase);
        assert!(work.phase == Phase::Decode || work.end <= prompt, "a chunk lies in one phase");

        let main = entries(&tokens, prompt);
        for position in 0..work.start {
            let [a, b] = *self.entry(id, position);
            assert_eq!(a, main[position], "position {position} of {work:?}");
            if drafts > 0 {
                assert_eq!(b, mix([main[position], 5, u64::from(known[position + 1])]), "MTP, position {position}");
            }
        }
        for (position, &value) in main.iter().enumerate().take(work.end).skip(work.start) {
            self.entry(id, position)[0] = value;
        }
        let mut cached = work.end;
        if let Some(scored) = scored {
            return self.score(work, scored);
        }
        if work.logits > 0 {
            assert_eq!(work.logits, work.end + 1 - known.len());
            cached = self.accept(id, &tokens, known.len());
        } else {
            assert!(work.end < known.len());
        }
        let known = self.requests.get(&id).map_or(known, |request| request.tokens.clone());
        if drafts > 0 {
            for position in work.start..cached.min(known.len() - 1) {
                self.entry(id, position)[1] = mix([main[position], 5, u64::from(known[position + 1])]);
            }
        }
        let longest = self.longest();
        let request = &self.requests[&id];
        if request.done(longest) && work.logits > 0 {
            assert_eq!(request.tokens, request.alone(longest), "the output is that of the request alone");
            self.requests.remove(&id);
            assert!(self.scheduler.remove(id));
            self.seen.finished += 1;
        } else if work.logits > 0 {
            let room = (request.max_new + prompt - known.len() - 1).min(longest - known.len());
            let mut guess = known.clone();
            for _ in 0..drafts.min(room) {
                let right = after(&guess);
                guess.push(if self.random.below(3) == 0 { right + 1 } else { right });
            }
            // The drafts' own entries are written before they are known to be right.
            for position in known.len() - 1..guess.len() - 1 {
                self.entry(id, position)[1] = 99;
            }
            let new = known[cached.min(known.len()) - (cached - (work.end + 1 - work.logits))..].to_vec();
            let drafted = guess[known.len()..].to_vec();
            self.scheduler.append(id, cached, &new, &drafted);
        } else {
            self.scheduler.computed(id, cached);
        }
    }

    /// A share of a sequence whose last positions are scored.
    fn score(&mut self, work: &Work, scored: usize) {
        let request = self.requests.get_mut(&work.id).unwrap();
        let first = request.prompt.len() - scored;
        assert_eq!(work.logits, work.end.saturating_sub(first.max(work.start)), "{work:?}");
        request.rows.extend(work.end - work.logits..work.end);
        self.scheduler.computed(work.id, work.end);
        if work.end == request.prompt.len() {
            assert!(request.rows.iter().copied().eq(first..work.end), "every position is scored");
            self.requests.remove(&work.id);
            assert!(self.scheduler.remove(work.id));
            self.seen.scored += 1;
        }
    }

    /// Accepts drafts that are right, and the token after them. Gives the positions that the cache then holds.
    fn accept(&mut self, id: u64, tokens: &[u32], known: usize) -> usize {
        let longest = self.longest();
        let mut length = known;
        loop {
            let next = after(&tokens[..length]);
            let request = self.requests.get_mut(&id).unwrap();
            request.tokens.push(next);
            if tokens.get(length) != Some(&next) || request.done(longest) {
                return length;
            }
            length += 1;
            self.seen.accepted += 1;
        }
    }

    fn check_references(&self) {
        let mut counts = vec![0; self.scheduler.limits().pages];
        for sequence in self.scheduler.running.values() {
            sequence.pages.iter().for_each(|&page| counts[page as usize] += 1);
        }
        self.scheduler.prefixes.pages().for_each(|page| counts[page as usize] += 1);
        for (page, &count) in counts.iter().enumerate() {
            assert_eq!(self.scheduler.pool.references(page as u32), count, "page {page}");
        }
        assert!(self.scheduler.waiting.values().all(|s| s.pages.is_empty() && s.cached == 0));
        assert_eq!(self.scheduler.running() + self.scheduler.waiting(), self.requests.len(), "nothing is lost");
    }
}

fn run(seed: u64) -> Seen {
    let mut model = Model::new(seed);
    for _ in 0..4 + model.random.below(120) {
        match model.random.below(12) {
            0..=1 => model.join(),
            2 if model.random.below(3) == 0 => model.leave(),
            _ if model.scheduler.is_empty() => {}
            _ => model.step(),
        }
    }
    let mut steps = 0;
    while !model.scheduler.is_empty() {
        model.step();
        steps += 1;
        assert!(steps < 100_000, "seed {seed}: the work does not end");
    }
    assert!(model.requests.is_empty());
    assert_eq!(model.scheduler.free_pages(), model.scheduler.limits().pages, "all pages come back");
    model.seen.reused = model.scheduler.reused();
    model.seen
}

#[test]
fn it_agrees_with_a_plain_model_of_it() {
    let mut all = Seen::default();
    for seed in 0..4000 {
        let seen = run(seed);
        all.preempted += seen.preempted;
        all.reused += seen.reused;
        all.copies += seen.copies;
        all.mixed += seen.mixed;
        all.finished += seen.finished;
        all.cancelled += seen.cancelled;
        all.accepted += seen.accepted;
        all.scored += seen.scored;
    }
    let Seen { preempted, reused, copies, mixed, finished, cancelled, accepted, scored } = all;
    let enough = [preempted, reused, copies, mixed, finished, cancelled, accepted, scored];
    assert!(enough.iter().all(|&n| n > 500), "every case occurs: {enough:?}");
}

#[test]
fn the_oldest_sequence_goes_on_when_pages_run_out() {
    let limits = Limits {
        page_tokens: 2,
        pages: 4,
        step_tokens: 8,
        sequences: 4,
        context: 8,
        drafts: 0,
        share_prefixes: false,
        prompt_logits: 8,
    };
    let mut scheduler = Scheduler::new(limits);
    scheduler.add(0, vec![1, 2, 3, 4]);
    scheduler.add(1, vec![5, 6, 7]);
    let plan = scheduler.plan();
    assert_eq!(plan.work.iter().map(|w| (w.id, w.end, w.logits)).collect::<Vec<_>>(), [(0, 4, 1), (1, 3, 1)]);
    scheduler.append(0, 4, &[9], &[]);
    scheduler.append(1, 3, &[9], &[]);
    let plan = scheduler.plan();
    assert_eq!(plan.preempted, [1], "the youngest gives its pages back");
    assert_eq!(plan.work, [Work { id: 0, start: 4, end: 5, phase: Phase::Decode, logits: 1 }]);
    assert!(scheduler.remove(0));
    let plan = scheduler.plan();
    assert_eq!(plan.work, [Work { id: 1, start: 0, end: 3, phase: Phase::Prefill, logits: 0 }]);
    assert_eq!(scheduler.tokens(&plan.work[0]), [5, 6, 7], "it is computed again from its prompt");
    scheduler.computed(1, 3);
    let plan = scheduler.plan();
    assert_eq!(plan.work, [Work { id: 1, start: 3, end: 4, phase: Phase::Decode, logits: 1 }]);
}
