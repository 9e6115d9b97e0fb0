//! Continuous batching: which tokens of which sequences the next step computes, and in which pages of the cache.
//!
//! The scheduler knows no model and no device. A step is a list of chunks, one a sequence: first the sequences that
//! decode, then prompts, in order of arrival, under a budget of tokens. Sequences join when pages are free, and leave
//! when they end. A sequence may only want the logits of its prompt's last positions, or be continued. Where pages run
//! out, the youngest sequence gives its pages back and is computed again later, so that the oldest always goes on;
//! nothing of it is lost. What a sequence computes never depends on its neighbors: prompt positions are prefill and
//! generated positions are decode, also when they are computed again.

mod prefixes;

use std::collections::BTreeMap;
use std::ops::Range;

use fathom_core::cache::PagePool;
use fathom_core::layer::Phase;

use prefixes::{Key, Prefixes};

/// Sizes that a scheduler keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Tokens of a step, over all sequences.
    pub step_tokens: usize,
    /// Sequences that have pages at the same time.
    pub sequences: usize,
    /// The longest sequence, prompt and output.
    pub context: usize,
    /// Tokens that are drafted for a sequence in a round; 0 without speculative decoding.
    pub drafts: usize,
    /// Whether full pages are shared by sequences that begin alike.
    pub share_prefixes: bool,
    /// Positions of prompts whose logits a step gives, over all sequences: each takes a row as long as the vocabulary.
    pub prompt_logits: usize,
}

impl Limits {
    /// The longest sequence that both the model's context and the cache hold.
    pub fn longest(&self) -> usize {
        self.context.min(self.pages.saturating_mul(self.page_tokens))
    }
}

/// One sequence's share of a step: its tokens at positions `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The sequence.
    pub id: u64,
    /// First position.
    pub start: usize,
    /// Position after the last.
    pub end: usize,
    /// Prefill for positions of the prompt, decode for others.
    pub phase: Phase,
    /// How many of the last rows need logits.
    pub logits: usize,
}

/// The next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pages to copy, from and to, in this order and before anything is computed.
    pub copies: Vec<(u32, u32)>,
    /// What to compute.
    pub work: Vec<Work>,
    /// Sequences that gave their pages back.
    pub preempted: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Sequence {
    /// Prompt, output and drafts.
    tokens: Vec<u32>,
    prompt: usize,
    /// The last positions of the prompt whose logits are wanted, at least one.
    scored: usize,
    /// Length of prompt and output.
    known: usize,
    /// Positions that the cache holds.
    cached: usize,
    pages: Vec<u32>,
    /// Pages that were offered to the index of prefixes, and the entry of the last one.
    indexed: usize,
    entry: u64,
    /// Positions that were found in the cache when it first ran.
    reused: Option<usize>,
}

/// Sequences, their pages, and the order in which they are computed.
#[derive(Clone, Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: PagePool,
    prefixes: Prefixes,
    running: BTreeMap<u64, Sequence>,
    waiting: BTreeMap<u64, Sequence>,
    reused: usize,
}

impl Scheduler {
    /// A scheduler without sequences. Sizes of zero count as one, and a step has room for one round of drafts.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits {
            page_tokens: limits.page_tokens.max(1),
            pages: limits.pages.max(1),
            step_tokens: limits.step_tokens.max(limits.drafts + 1),
            sequences: limits.sequences.max(1),
            prompt_logits: limits.prompt_logits.max(1),
            ..limits
        };
        let pool = PagePool::new(limits.pages);
        let (prefixes, running, waiting) = (Prefixes::default(), BTreeMap::new(), BTreeMap::new());
        Self { limits, pool, prefixes, running, waiting, reused: 0 }
    }

    /// The sizes.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether no sequence is left.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences that have pages.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for pages.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Pages that are free or can be freed at once.
    pub fn free_pages(&self) -> usize {
        self.pool.free() + self.prefixes.unused(&self.pool)
    }

    /// Positions that were found in the cache instead of being computed, so far.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// Positions of a sequence that were found in the cache when it first ran.
    pub fn reused_by(&self, id: u64) -> usize {
        let sequence = self.running.get(&id).or_else(|| self.waiting.get(&id));
        sequence.and_then(|sequence| sequence.reused).unwrap_or(0)
    }

    /// Adds a sequence that is continued after its prompt. Ids rise in the order of arrival.
    pub fn add(&mut self, id: u64, prompt: Vec<u32>) {
        self.add_scored(id, prompt, 1);
    }

    /// Adds a sequence with logits for the last `scored` positions of its prompt.
    pub fn add_scored(&mut self, id: u64, prompt: Vec<u32>, scored: usize) {
        let length = prompt.len();
        let sequence = Sequence {
            tokens: prompt,
            prompt: length,
            scored: scored.clamp(1, length.max(1)),
            known: length,
            cached: 0,
            pages: Vec::new(),
            indexed: 0,
            entry: 0,
            reused: None,
        };
        self.waiting.insert(id, sequence);
    }

    /// Takes a sequence out, at its end or before, and frees its pages. False if it is not there.
    pub fn remove(&mut self, id: u64) -> bool {
        if let Some(mut sequence) = self.running.remove(&id) {
            self.release(&mut sequence);
            return true;
        }
        self.waiting.remove(&id).is_some()
    }

    /// Tokens of a sequence at the positions of its work, drafts included.
    pub fn tokens(&self, work: &Work) -> &[u32] {
        self.running.get(&work.id).and_then(|s| s.tokens.get(work.start..work.end)).unwrap_or_default()
    }

    /// The page table of a running sequence.
    pub fn pages(&self, id: u64) -> &[u32] {
        self.running.get(&id).map_or(&[], |s| &s.pages)
    }

    /// Says that the cache holds a sequence's positions up to `cached`.
    pub fn computed(&mut self, id: u64, cached: usize) {
        if let Some(sequence) = self.running.get_mut(&id) {
            sequence.cached = cached;
            index(sequence, &self.limits, &mut self.prefixes, &mut self.pool);
        }
    }

    /// Says that the cache holds a sequence's positions up to `cached`, appends tokens to its output, and sets the
    /// drafts of the next round.
    pub fn append(&mut self, id: u64, cached: usize, tokens: &[u32], drafts: &[u32]) {
        if let Some(sequence) = self.running.get_mut(&id) {
            sequence.tokens.truncate(sequence.known);
            sequence.tokens.extend_from_slice(tokens);
            sequence.known = sequence.tokens.len();
            sequence.tokens.extend_from_slice(drafts);
        }
        self.computed(id, cached);
    }

    /// Decides the next step. Empty only if no sequence is left.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut budget = Budget { tokens: self.limits.step_tokens, logits: self.limits.prompt_logits };
        let (decodes, prompts): (Vec<u64>, Vec<u64>) =
            self.running.keys().partition(|id| self.running.get(id).is_some_and(|s| s.cached >= s.prompt));
        for id in decodes.into_iter().chain(prompts) {
            self.take_part(id, &mut plan, &mut budget);
        }
        if plan.preempted.is_empty() {
            while budget.tokens > 0 && self.running.len() < self.limits.sequences {
                let Some(id) = self.admit(&mut plan) else { break };
                self.take_part(id, &mut plan, &mut budget);
            }
        }
        plan
    }

    /// Gives a running sequence its part of the step, unless the budget is used up or its pages are taken.
    fn take_part(&mut self, id: u64, plan: &mut Plan, budget: &mut Budget) {
        let Some(work) = self.running.get(&id).and_then(|s| s.next(id, *budget)) else { return };
        // Drafts of the next round are computed in the same step, after this work.
        let reach = (work.end + 2 * self.limits.drafts).min(self.limits.longest()).max(work.end);
        let wanted = reach.div_ceil(self.limits.page_tokens);
        while self.running.get(&id).is_some_and(|s| s.pages.len() < wanted) {
            if let Some(page) = self.take_page() {
                self.running.get_mut(&id).into_iter().for_each(|s| s.pages.push(page));
                continue;
            }
            let Some(&youngest) = self.running.keys().next_back() else { return };
            if let Some(place) = plan.work.iter().position(|w| w.id == youngest) {
                let lost = plan.work.remove(place);
                budget.give_back(&lost);
            }
            self.preempt(youngest);
            plan.preempted.push(youngest);
        }
        if self.running.contains_key(&id) {
            budget.take(&work);
            plan.work.push(work);
        }
    }

    fn take_page(&mut self) -> Option<u32> {
        self.pool.take().or_else(|| if self.prefixes.evict(&mut self.pool) { self.pool.take() } else { None })
    }

    /// Sends a running sequence back to the queue; it is computed again from its tokens.
    fn preempt(&mut self, id: u64) {
        if let Some(sequence) = self.running.remove(&id) {
            self.queue(id, sequence);
        }
    }

    fn queue(&mut self, id: u64, mut sequence: Sequence) {
        self.release(&mut sequence);
        (sequence.cached, sequence.indexed, sequence.entry) = (0, 0, 0);
        self.waiting.insert(id, sequence);
    }

    fn release(&mut self, sequence: &mut Sequence) {
        for page in sequence.pages.drain(..) {
            let released = self.pool.release(page);
            debug_assert!(released.is_ok(), "a page of a sequence is in use");
        }
    }

    /// Lets the sequence that waits longest run, if there are pages for all its tokens; it begins with the pages that
    /// the cache has of it.
    fn admit(&mut self, plan: &mut Plan) -> Option<u64> {
        let (id, mut sequence) = self.waiting.pop_first()?;
        let found = self.find_pages(&mut sequence);
        let reach = (sequence.tokens.len() + 2 * self.limits.drafts).min(self.limits.longest());
        let wanted = reach.max(sequence.tokens.len()).div_ceil(self.limits.page_tokens);
        if wanted.saturating_sub(sequence.pages.len()) > self.free_pages() {
            self.queue(id, sequence);
            return None;
        }
        if let Some(page) = found
            && self.pool.share(page).is_ok()
        {
            // Its last tokens are computed again, for logits, in a page that it may change. The page that is copied is
            // kept until the copy has one.
            if let Some(copy) = self.take_page() {
                plan.copies.push((page, copy));
                sequence.pages.push(copy);
                sequence.cached = sequence.needed();
            }
            let _ = self.pool.release(page);
        }
        self.reused += sequence.cached;
        sequence.reused.get_or_insert(sequence.cached);
        self.running.insert(id, sequence);
        Some(id)
    }

    /// Gives a sequence the full pages of it that the cache has, all before the first position whose logits are wanted;
    /// returns the page with this position, if the cache has it and positions before are in it.
    fn find_pages(&mut self, sequence: &mut Sequence) -> Option<u32> {
        if !self.limits.share_prefixes {
            return None;
        }
        let (size, needed) = (self.limits.page_tokens, sequence.needed());
        while sequence.pages.len() * size < needed {
            let place = sequence.pages.len();
            let key = key(sequence, place, &self.limits, sequence.entry)?;
            let (entry, page) = self.prefixes.find(&key)?;
            if (place + 1) * size > needed {
                return Some(page);
            }
            self.pool.share(page).ok()?;
            sequence.pages.push(page);
            (sequence.entry, sequence.indexed, sequence.cached) = (entry, place + 1, (place + 1) * size);
        }
        None
    }
}

/// What is left of a step.
#[derive(Clone, Copy, Debug)]
struct Budget {
    tokens: usize,
    /// Logits of prompts.
    logits: usize,
}

impl Budget {
    /// Logits of a prompt's positions; those of decoding are few, and have no limit.
    fn logits(work: &Work) -> usize {
        if work.phase == Phase::Prefill { work.logits } else { 0 }
    }

    fn take(&mut self, work: &Work) {
        self.tokens -= work.end - work.start;
        self.logits -= Self::logits(work);
    }

    fn give_back(&mut self, work: &Work) {
        self.tokens += work.end - work.start;
        self.logits += Self::logits(work);
    }
}

impl Sequence {
    /// The first position whose logits are wanted.
    fn needed(&self) -> usize {
        if self.known == self.prompt { self.prompt.saturating_sub(self.scored) } else { self.known - 1 }
    }

    /// Its work under the budget of a step.
    fn next(&self, id: u64, budget: Budget) -> Option<Work> {
        let (start, Budget { tokens: budget, logits: most }) = (self.cached, budget);
        let work = |end: usize, phase, logits| (end > start).then_some(Work { id, start, end, phase, logits });
        if start < self.prompt {
            // A prompt that is computed again after output came needs no logits.
            let first = if self.known == self.prompt { self.needed().max(start) } else { self.prompt };
            let end = self.prompt.min(start.saturating_add(budget)).min(first.saturating_add(most));
            return work(end, Phase::Prefill, end.saturating_sub(first));
        }
        // The last token and the drafts are one round; tokens before them are computed again and need no logits.
        let end = self.tokens.len();
        if end - start <= budget {
            return work(end, Phase::Decode, end + 1 - self.known);
        }
        work((self.known - 1).min(start + budget), Phase::Decode, 0)
    }
}

/// The key of a sequence's page; `None` if its tokens do not fill the page and the lookahead.
fn key(sequence: &Sequence, place: usize, limits: &Limits, parent: u64) -> Option<Key> {
    // An MTP module's entry for a position is made of the token after it.
    let (size, ahead) = (limits.page_tokens, usize::from(limits.drafts > 0));
    let Range { start, end } = place * size..(place + 1) * size;
    let tokens = sequence.tokens[..sequence.known].get(start..end + ahead)?;
    Some(Key { parent, tokens: tokens.into(), prompt: sequence.prompt.clamp(start, end) - start })
}

/// Offers the pages that a sequence has filled to the index of prefixes.
fn index(sequence: &mut Sequence, limits: &Limits, prefixes: &mut Prefixes, pool: &mut PagePool) {
    if !limits.share_prefixes {
        return;
    }
    while (sequence.indexed + 1) * limits.page_tokens <= sequence.cached && prefixes.holds(sequence.entry) {
        let place = sequence.indexed;
        let Some(key) = key(sequence, place, limits, sequence.entry) else { return };
        let Some(entry) = prefixes.add(key, sequence.pages[place], place, pool) else { return };
        (sequence.indexed, sequence.entry) = (place + 1, entry);
    }
}

#[cfg(test)]
mod tests;
