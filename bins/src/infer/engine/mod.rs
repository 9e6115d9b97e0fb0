//! The inference engine: requests join at any time, and each step computes some tokens of many of them.
//!
//! It is the one way to a model's output: [`scheduler`](super::scheduler) decides what a step computes,
//! [`Model::extend`] computes it with a paged latent cache, samplers choose the tokens. An output does not depend on
//! the other requests, bit for bit.

mod choose;
mod live;
mod load;
mod scoring;
mod stats;

use std::collections::{BTreeMap, VecDeque};

use fathom_core::cache::{Cache, CacheFormat, CacheOptions, bytes_per_token};
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::layer::Phase;
use fathom_core::model::{Chunk, Draft, Extended, Model};
use fathom_core::tensor::{Tensor, View};
use fathom_dataprep::Tokenizer;

use super::distribution::Logprobs;
use super::request::{EndToken, Generated, Request, ScoreRequest, Scores, Stop};
use super::sampling::MAX_LOGPROBS;
use super::scheduler::{Limits, Scheduler, Work};
use crate::error::{Error, Result};
use choose::{Chooser, Row};
use live::Live;
use load::Counting;
use scoring::Scoring;

pub use load::Load;
pub use stats::{Occupancy, Stats};

/// How an engine keeps its cache and divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Format of the cache.
    pub format: CacheFormat,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Tokens that the cache holds, over all sequences; rounded up to whole pages.
    pub cache_tokens: usize,
    /// Tokens of a step, over all sequences: long prompts are cut into chunks of at most this number.
    pub step_tokens: usize,
    /// Sequences that are computed at the same time.
    pub sequences: usize,
    /// Tokens drafted in a round by the model's MTP module; 0 for plain decoding.
    pub drafts: usize,
    /// Whether requests that begin alike share pages.
    pub share_prefixes: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            format: CacheFormat::F32,
            page_tokens: 64,
            cache_tokens: 4096,
            step_tokens: 512,
            sequences: 64,
            drafts: 0,
            share_prefixes: true,
        }
    }
}

/// Bytes that a step's logits of prompts take, at most; one row always fits.
const LOGIT_BYTES: usize = 64 << 20;
/// Bytes that a cache takes where its size is not given, at most; one sequence always fits.
const CACHE_BYTES: usize = 1 << 30;

impl EngineOptions {
    /// The options with a cache for all requests of the given numbers of prompt tokens and new tokens, up to a GiB; at
    /// least one of them fits.
    #[must_use]
    pub fn sized(self, config: &ModelConfig, lengths: impl IntoIterator<Item = (usize, usize)>) -> Self {
        self.sized_within(config, lengths, CACHE_BYTES)
    }

    /// As [`sized`](Self::sized), with a cache of at most `bytes` where one of the requests needs less.
    #[must_use]
    pub fn sized_within(
        self,
        config: &ModelConfig,
        lengths: impl IntoIterator<Item = (usize, usize)>,
        bytes: usize,
    ) -> Self {
        let context = config.max_position_embeddings;
        let page = self.page_tokens.max(1);
        // Drafts reach past the last token.
        let whole = |(prompt, new): (usize, usize)| {
            let tokens = prompt.saturating_add(new).saturating_add(2 * self.drafts).min(context);
            tokens.max(1).div_ceil(page).saturating_mul(page)
        };
        let (mut longest, mut all) = (page, 0usize);
        for length in lengths {
            longest = longest.max(whole(length));
            all = all.saturating_add(whole(length));
        }
        let row = bytes_per_token(config, self.format, usize::from(self.drafts > 0)).max(1);
        Self { cache_tokens: all.min(bytes / row).max(longest), ..self }
    }
}

/// Number of a request in its engine, in order of arrival.
pub type Id = u64;

/// News of a request.
#[derive(Debug)]
pub enum Event {
    /// A token was generated, and completed some text (often none).
    Token {
        /// The request.
        id: Id,
        /// The token.
        token: u32,
        /// Text that can be shown now.
        text: String,
        /// Log-probabilities of the token, if they were asked for.
        logprobs: Option<Logprobs>,
    },
    /// The output is complete.
    Finished {
        /// The request.
        id: Id,
        /// Text that was held back until now, the end of the output's text.
        text: String,
        /// The whole output.
        generated: Generated,
        /// The token that ended it, where one did; it is not part of the output.
        end: Option<EndToken>,
        /// Positions of the prompt that were found in the cache instead of being computed.
        reused: usize,
    },
    /// The endings of a text are scored.
    Scored {
        /// The request.
        id: Id,
        /// The scores of each ending.
        scores: Vec<Scores>,
    },
    /// The request ended with an error. The others go on.
    Failed {
        /// The request.
        id: Id,
        /// The reason.
        error: Error,
    },
}

/// A model with a cache, and requests in all stages.
pub struct Engine<'a, D: Kernels> {
    model: &'a Model<D>,
    tokenizer: Option<&'a Tokenizer>,
    ends: Vec<u32>,
    cache: Cache<D>,
    scheduler: Scheduler,
    live: BTreeMap<Id, Live>,
    scoring: BTreeMap<Id, Scoring>,
    ready: VecDeque<Event>,
    next: Id,
    stats: Stats,
    chooser: Chooser,
    /// Expert load, if it is counted.
    load: Option<Counting<D>>,
}

impl<'a, D: Kernels> Engine<'a, D> {
    /// An engine without requests. The tokenizer gives the outputs text; `ends` are the tokens that end a text.
    ///
    /// # Errors
    /// Drafts where the model has no MTP module, or more of them than a step has tokens; a cache that the device cannot
    /// hold.
    pub fn new(
        model: &'a Model<D>,
        tokenizer: Option<&'a Tokenizer>,
        ends: &[u32],
        options: EngineOptions,
    ) -> Result<Self> {
        let config = model.config();
        if options.drafts > 0 && config.num_nextn_predict_layers == 0 {
            return Err(Error::Usage("--speculate: the model has no MTP module that could draft; leave it out".into()));
        }
        let page_tokens = options.page_tokens.max(1);
        let pages = options.cache_tokens.div_ceil(page_tokens).max(1);
        let mtp = usize::from(options.drafts > 0);
        let cache_options = CacheOptions { format: options.format, page_tokens, pages, mtp };
        let cache = Cache::new(model.device(), config, cache_options).map_err(Error::device(format!(
            "allocating a cache for {} tokens (fewer requests at a time or shorter ones need less)",
            options.cache_tokens
        )))?;
        let scheduler = Scheduler::new(Limits {
            page_tokens,
            pages,
            step_tokens: options.step_tokens,
            sequences: options.sequences,
            context: config.max_position_embeddings,
            drafts: options.drafts,
            share_prefixes: options.share_prefixes,
            prompt_logits: LOGIT_BYTES / (size_of::<f32>() * config.vocab_size.max(1)),
        });
        let (live, scoring, ready) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        let (ends, stats) = (ends.to_vec(), Stats::default());
        let (next, chooser, load) = (0, Chooser::default(), None);
        Ok(Self { model, tokenizer, ends, cache, scheduler, live, scoring, ready, next, stats, chooser, load })
    }

    /// Counts from here on how many tokens go to each expert of the main model. The outputs keep their bits.
    ///
    /// # Errors
    /// Those of the device.
    pub fn count_load(&mut self) -> Result<()> {
        let pass = self.model.load_count().map_err(Error::device("counting the load of experts"))?;
        self.load = Some(Counting { pass, sum: Load::default() });
        Ok(())
    }

    /// The load of experts since it is [counted](Self::count_load). A position that is computed again, because its
    /// request had to give its pages back, counts again.
    pub fn load(&self) -> Option<&Load> {
        self.load.as_ref().map(|load| &load.sum)
    }

    /// The model.
    pub fn model(&self) -> &'a Model<D> {
        self.model
    }

    /// The cache.
    pub fn cache(&self) -> &Cache<D> {
        &self.cache
    }

    /// Counts and times so far.
    pub fn stats(&self) -> Stats {
        Stats { reused: self.scheduler.reused(), ..self.stats }
    }

    /// Requests and pages at this moment.
    pub fn occupancy(&self) -> Occupancy {
        let (scheduler, pages) = (&self.scheduler, self.scheduler.limits().pages);
        let (running, waiting) = (scheduler.running(), scheduler.waiting());
        Occupancy { running, waiting, pages, used_pages: pages.saturating_sub(scheduler.free_pages()) }
    }

    /// The longest sequence, prompt and output, that both the model's context and the cache hold.
    pub fn longest(&self) -> usize {
        self.scheduler.limits().longest()
    }

    /// Whether every request has ended and every event was given.
    pub fn is_idle(&self) -> bool {
        self.live.is_empty() && self.scoring.is_empty() && self.ready.is_empty()
    }

    /// Adds a request. It is computed in the steps that follow.
    ///
    /// # Errors
    /// Sampling parameters outside their range, a prompt without tokens or with one outside the vocabulary, a prompt
    /// that fills the model's context or the cache, or a constraint that cannot be followed.
    pub fn add(&mut self, request: Request) -> Result<Id> {
        let Request { tokens, sampling, constraint } = request;
        let config = self.model.config();
        sampling.validate(config.vocab_size)?;
        check_tokens(&tokens, config.vocab_size)?;
        check_room(tokens.len(), config.max_position_embeddings, self.scheduler.limits().longest())?;
        if constraint.is_some() && sampling.min_new_tokens > 0 {
            let problem = "min_new_tokens: a constraint may allow nothing but the end; leave one of them out";
            return Err(Error::Usage(problem.into()));
        }
        let constraint = constraint.map(|constraint| constraint.begin()).transpose()?;
        let id = self.next;
        self.next += 1;
        self.stats.requests += 1;
        let ends = self.ends.iter().copied().chain(self.tokenizer.map(Tokenizer::eos_id));
        let live = Live::new(&tokens, sampling, constraint, self.tokenizer, ends);
        if live.sampling.max_new_tokens == 0 {
            self.ready.push_back(live.finished(id, Stop::Length, 0));
            return Ok(id);
        }
        self.stats.prompt_tokens += tokens.len();
        self.scheduler.add(id, tokens);
        self.live.insert(id, live);
        Ok(id)
    }

    /// Adds a text to score. Its positions are computed as those of a prompt, and share pages with prompts that begin
    /// alike; [`Event::Scored`] gives the scores.
    ///
    /// # Errors
    /// An engine that drafts; no endings, or endings without tokens, of different lengths or longer than the text;
    /// tokens outside the vocabulary; a text longer than the model's context or the cache.
    pub fn add_scoring(&mut self, request: ScoreRequest) -> Result<Id> {
        self.add_scoring_with_top(request, 0)
    }

    /// As [`add_scoring`](Self::add_scoring), and reports the `top` most probable tokens at each place.
    ///
    /// # Errors
    /// Those of [`add_scoring`](Self::add_scoring); more than [`MAX_LOGPROBS`] tokens.
    pub fn add_scoring_with_top(&mut self, request: ScoreRequest, top: usize) -> Result<Id> {
        if top > MAX_LOGPROBS {
            return Err(Error::Usage(format!("{top} most probable tokens of a place: must be at most {MAX_LOGPROBS}")));
        }
        let config = self.model.config();
        if self.scheduler.limits().drafts > 0 {
            return Err(Error::Usage("texts are scored by an engine without drafts: leave out --speculate".into()));
        }
        let (scoring, tokens) = Scoring::new(request, top)?;
        scoring.endings().chain([&tokens[..]]).try_for_each(|tokens| check_tokens(tokens, config.vocab_size))?;
        // Nothing comes after the text, so it may fill the context.
        check_room(tokens.len() - 1, config.max_position_embeddings, self.scheduler.limits().longest())?;
        let id = self.next;
        self.next += 1;
        self.stats.requests += 1;
        self.stats.prompt_tokens += tokens.len();
        self.scheduler.add_scored(id, tokens, scoring.rows());
        self.scoring.insert(id, scoring);
        Ok(id)
    }

    /// Ends a request; what it generated so far comes as [`Event::Finished`], and of a text to score nothing. False if
    /// it has ended already.
    pub fn cancel(&mut self, id: Id) -> bool {
        if self.scoring.remove(&id).is_some() {
            return self.scheduler.remove(id);
        }
        let Some(live) = self.live.remove(&id) else { return false };
        let reused = self.scheduler.reused_by(id);
        self.scheduler.remove(id);
        self.ready.push_back(live.finished(id, Stop::Cancelled, reused));
        true
    }

    /// Computes one step, and gives its news in order of the requests. None are left if it gives none and
    /// [`is_idle`](Self::is_idle).
    ///
    /// # Errors
    /// A failure of the device; the engine is then of no more use.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let mut events: Vec<Event> = self.ready.drain(..).collect();
        let started = std::time::Instant::now();
        let plan = self.scheduler.plan();
        if plan.work.is_empty() {
            return Ok(events);
        }
        self.stats.steps += 1;
        self.stats.preempted += plan.preempted.len();
        for &(from, to) in &plan.copies {
            let copied = self.cache.copy_page(self.model.device(), from, to);
            copied.map_err(Error::device("copying a page of the cache"))?;
        }
        self.compute(&plan.work, &mut events)?;
        let prefill = plan.work.iter().all(|w| w.phase == Phase::Prefill);
        let seconds = if prefill { &mut self.stats.prefill_seconds } else { &mut self.stats.decode_seconds };
        *seconds += started.elapsed().as_secs_f64();
        Ok(events)
    }

    /// Computes chunks, and continues their requests.
    fn compute(&mut self, work: &[Work], events: &mut Vec<Event>) -> Result<()> {
        let extended = match (self.extend(work), work) {
            (Ok(extended), _) => extended,
            (Err(error), [one]) => {
                self.end(one.id);
                events.push(Event::Failed { id: one.id, error });
                return Ok(());
            }
            // One by one, those that fail end alone. Positions that are computed again are the same.
            (Err(_), _) => return work.chunks(1).try_for_each(|one| self.compute(one, events)),
        };
        let live = &self.live;
        let of = |work: &Work| {
            let live = live.get(&work.id);
            (0..work.logits).map(move |ahead| live.and_then(|live| live.rule(ahead)))
        };
        let rules: Vec<_> = work.iter().flat_map(of).collect();
        let mut chooser = std::mem::take(&mut self.chooser);
        let rows = chooser.rows(self.model.device(), &extended.logits, &rules);
        let mut rows = rows.map_err(Error::device("choosing the next tokens"))?.into_iter();
        let mut next = Vec::new();
        for work in work {
            let rows = rows.by_ref().take(work.logits).collect();
            next.push(self.continue_request(work, rows, events));
        }
        drop(rows);
        self.chooser = chooser;
        if self.scheduler.limits().drafts > 0 {
            self.draft(work, &extended.hidden, &next)?;
        }
        for (work, next) in work.iter().zip(next) {
            let Some(next) = next else { continue };
            match self.live.get(&work.id).filter(|_| work.logits > 0) {
                None => self.scheduler.computed(work.id, next.cached),
                Some(live) => {
                    let drafts: Vec<u32> = live.drafts.iter().map(|d| d.token).collect();
                    self.scheduler.append(work.id, next.cached, &next.tokens, &drafts);
                }
            }
        }
        Ok(())
    }

    /// Runs steps until every request has ended, and gives the news to `on_event`.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    pub fn run(&mut self, mut on_event: impl FnMut(&mut Self, Event)) -> Result<()> {
        while !self.is_idle() {
            for event in self.step()? {
                on_event(self, event);
            }
        }
        Ok(())
    }

    /// The main model's pass over chunks.
    fn extend(&mut self, work: &[Work]) -> Result<Extended<D>> {
        let chunk = |work: &Work| {
            let (tokens, pages) = (self.scheduler.tokens(work), self.scheduler.pages(work.id));
            Chunk { tokens, start: work.start, pages, phase: work.phase, logits: work.logits }
        };
        let chunks: Vec<Chunk<'_>> = work.iter().map(chunk).collect();
        let model = self.model;
        let mut compute = || {
            let Some(load) = &mut self.load else { return model.extend(&mut self.cache, &chunks) };
            load.pass.clear(model.device())?;
            let extended = model.extend_counting(&mut self.cache, &chunks, Some(&mut load.pass))?;
            load.add(model.device(), model.config(), chunks.iter().map(|chunk| chunk.tokens.len()).sum())?;
            Ok(extended)
        };
        compute().map_err(Error::device("computing the next tokens"))
    }

    /// Takes the tokens of one request from its rows. `None` if it has ended.
    fn continue_request(&mut self, work: &Work, rows: Vec<Row<'_>>, events: &mut Vec<Event>) -> Option<Next> {
        let id = work.id;
        if self.scoring.contains_key(&id) {
            return self.score(work, &rows, events);
        }
        let live = self.live.get_mut(&id)?;
        if rows.is_empty() {
            return Some(Next { cached: work.end, tokens: Vec::new() });
        }
        self.stats.rounds += 1;
        let known = live.length();
        let drafts = std::mem::take(&mut live.drafts);
        let mut accepted = 0;
        for (number, row) in rows.into_iter().enumerate() {
            if let Err(error) = check_finite(&row) {
                self.end(id);
                events.push(Event::Failed { id, error });
                return None;
            }
            let live = self.live.get_mut(&id)?;
            let (draft, before) = (drafts.get(number), live.generated.len());
            let (longest, ends) = (self.scheduler.limits().longest(), &self.ends);
            let eos = |token| ends.contains(&token) || self.tokenizer.is_some_and(|t| t.eos_id() == token);
            let chosen = live.choose(row, draft).and_then(|(token, right)| {
                let (text, stop) = live.push(token, eos(token), longest)?;
                Ok((token, right, text, stop))
            });
            let (token, right, text, stop) = match chosen {
                Ok(chosen) => chosen,
                Err(error) => {
                    self.end(id);
                    events.push(Event::Failed { id, error });
                    return None;
                }
            };
            self.stats.drafted += usize::from(draft.is_some());
            self.stats.accepted += usize::from(right);
            self.stats.generated += 1;
            if live.generated.len() > before {
                let logprobs = live.last_logprobs().cloned();
                events.push(Event::Token { id, token, text, logprobs });
            }
            if let Some(stop) = stop {
                let reused = self.scheduler.reused_by(id);
                // What is computed stays in the cache for requests that begin alike. An MTP module's entries of this
                // step are not there yet.
                if self.scheduler.limits().drafts == 0 {
                    self.scheduler.computed(id, work.end);
                }
                if let Some(live) = self.end(id) {
                    events.push(live.finished(id, stop, reused));
                }
                return None;
            }
            if !right {
                break;
            }
            accepted += 1;
        }
        let live = self.live.get(&id)?;
        Some(Next { cached: known + accepted, tokens: live.generated_since(known).to_vec() })
    }

    /// Scores endings of one text by the logits of its rows. `None` if it has ended.
    fn score(&mut self, work: &Work, rows: &[Row<'_>], events: &mut Vec<Event>) -> Option<Next> {
        let id = work.id;
        for (number, row) in rows.iter().enumerate() {
            if let Err(error) = check_finite(row) {
                self.end(id);
                events.push(Event::Failed { id, error });
                return None;
            }
            // Rows of a text to score have no rule, so their logits are there.
            let Row::Logits(logits) = row else { continue };
            self.scoring.get_mut(&id)?.row(work.end - work.logits + number, logits);
        }
        if self.scoring.get(&id)?.length() > work.end {
            return Some(Next { cached: work.end, tokens: Vec::new() });
        }
        // Its pages stay in the cache, for texts that begin alike.
        self.scheduler.computed(id, work.end);
        let scores = self.scoring.remove(&id)?.scores();
        self.end(id);
        events.push(Event::Scored { id, scores });
        None
    }

    fn end(&mut self, id: Id) -> Option<Live> {
        self.scheduler.remove(id);
        self.scoring.remove(&id);
        self.live.remove(&id)
    }

    /// The MTP module's passes of a step: over the positions that the main model computed, and further ones for the
    /// drafts after the first.
    fn draft(&mut self, work: &[Work], hidden: &Tensor<D>, next: &[Option<Next>]) -> Result<()> {
        let limits = *self.scheduler.limits();
        let mut jobs: Vec<Job> = Vec::new();
        let mut row = 0;
        for (work, next) in work.iter().zip(next) {
            let first = row;
            row += work.end - work.start;
            let (Some(next), Some(live)) = (next, self.live.get(&work.id)) else { continue };
            let left = live.sampling.max_new_tokens.saturating_sub(live.generated.len() + 1);
            let room = left.min(limits.longest().saturating_sub(live.length()));
            let drafts = if work.logits == 0 { 0 } else { room.min(limits.drafts) };
            let tokens = live.tokens_at(work.start + 1..next.cached + 1).to_vec();
            jobs.push(Job { id: work.id, first, tokens, start: work.start, phase: work.phase, drafts });
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let mut extended = self.draft_pass(hidden.view(), &jobs)?;
        loop {
            jobs = self.choose_drafts(&extended, &jobs)?;
            if jobs.is_empty() {
                return Ok(());
            }
            extended = self.draft_pass(extended.hidden.view(), &jobs)?;
        }
    }

    /// Takes a draft for each job that wants one, and gives the jobs of the next pass.
    fn choose_drafts(&mut self, extended: &Extended<D>, jobs: &[Job]) -> Result<Vec<Job>> {
        let drafting = jobs.iter().filter(|job| job.drafts > 0);
        let rules: Vec<_> = drafting.map(|job| self.live.get(&job.id).and_then(Live::draft_rule)).collect();
        let mut chooser = std::mem::take(&mut self.chooser);
        let rows = chooser.rows(self.model.device(), &extended.logits, &rules);
        let mut rows = rows.map_err(Error::device("choosing the drafts"))?.into_iter();
        let mut further = Vec::new();
        let mut last = 0;
        for job in jobs {
            last += job.tokens.len();
            if job.drafts == 0 {
                continue;
            }
            let (Some(row), Some(live)) = (rows.next(), self.live.get_mut(&job.id)) else { continue };
            // Without a usable draft the next token is chosen as without a module.
            if check_finite(&row).is_err() {
                continue;
            }
            let Some(token) = live.draft(row) else { continue };
            let tokens = vec![token];
            if job.drafts > 1 {
                let (start, drafts) = (job.start + job.tokens.len(), job.drafts - 1);
                further.push(Job { id: job.id, first: last - 1, tokens, start, phase: Phase::Decode, drafts });
            }
        }
        drop(rows);
        self.chooser = chooser;
        Ok(further)
    }

    fn draft_pass(&mut self, hidden: View<'_, D>, jobs: &[Job]) -> Result<Extended<D>> {
        let drafts: Vec<Draft<'_>> = jobs
            .iter()
            .map(|job| Draft {
                tokens: &job.tokens,
                first: job.first,
                start: job.start,
                pages: self.scheduler.pages(job.id),
                phase: job.phase,
                logits: usize::from(job.drafts > 0),
            })
            .collect();
        self.model.draft(&mut self.cache, 0, hidden, &drafts).map_err(Error::device("drafting the next tokens"))
    }
}

/// The outcome of a step for a request that goes on.
struct Next {
    /// Positions that the cache holds.
    cached: usize,
    /// New tokens.
    tokens: Vec<u32>,
}

/// Rows of the MTP module for one request.
struct Job {
    id: Id,
    /// Place of the first row among the hidden states.
    first: usize,
    /// The token after each position.
    tokens: Vec<u32>,
    start: usize,
    phase: Phase,
    /// Drafts that are still wanted.
    drafts: usize,
}

/// Refuses logits that are NaN or infinite; a row whose token the device chose has none.
fn check_finite(row: &Row<'_>) -> Result<()> {
    match row {
        Row::Token(_) => Ok(()),
        Row::Logits(logits) => super::check_finite(logits, "the logits"),
    }
}

/// Refuses tokens that the model cannot read.
fn check_tokens(tokens: &[u32], vocabulary: usize) -> Result<()> {
    if tokens.is_empty() {
        return Err(Error::Run("the prompt has no tokens: give it at least one".into()));
    }
    match tokens.iter().find(|&&t| t as usize >= vocabulary) {
        None => Ok(()),
        Some(token) => Err(Error::Run(format!(
            "token id {token} of the prompt is not below the vocabulary size {vocabulary}: use the model's tokenizer"
        ))),
    }
}

/// Refuses a prompt of `n` tokens after which there is no room for another.
fn check_room(n: usize, context: usize, longest: usize) -> Result<()> {
    if n >= context {
        return Err(Error::Run(format!(
            "the prompt has {n} tokens, but the model's context (max_position_embeddings) is {context}: shorten it"
        )));
    }
    if n >= longest {
        return Err(Error::Run(format!(
            "the prompt has {n} tokens, but the cache holds {longest}: shorten it, or give the cache more tokens"
        )));
    }
    Ok(())
}
