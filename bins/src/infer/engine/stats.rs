//! Counts and times of an engine.

/// Counts and times since an engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Requests that were added.
    pub requests: usize,
    /// Tokens of their prompts.
    pub prompt_tokens: usize,
    /// Generated tokens, those that ended a text included.
    pub generated: usize,
    /// Steps.
    pub steps: usize,
    /// Drafts that were verified.
    pub drafted: usize,
    /// Drafts that were accepted.
    pub accepted: usize,
    /// Positions that were found in the cache instead of being computed.
    pub reused: usize,
    /// How often a request gave its pages back.
    pub preempted: usize,
    /// Rows of a sequence whose logits were asked for: rounds of decoding, the first of each request included.
    pub rounds: usize,
    /// Seconds of the steps that computed nothing but prompts.
    pub prefill_seconds: f64,
    /// Seconds of all other steps.
    pub decode_seconds: f64,
}

/// Requests and pages of an engine at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Requests that have pages.
    pub running: usize,
    /// Requests that wait for pages.
    pub waiting: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Pages that requests hold. Others may keep beginnings of past requests, and can be freed at once.
    pub used_pages: usize,
}

impl Stats {
    /// Share of the drafts that were accepted; 0 without drafts.
    pub fn acceptance(&self) -> f64 {
        self.accepted as f64 / self.drafted.max(1) as f64
    }

    /// Generated tokens of a round: 1 without drafts.
    pub fn tokens_per_round(&self) -> f64 {
        self.generated as f64 / self.rounds.max(1) as f64
    }

    /// Generated tokens a second, over the steps that decode.
    pub fn decode_rate(&self) -> f64 {
        // The first token of a request comes with its prompt.
        let tokens = self.generated.saturating_sub(self.requests);
        tokens as f64 / self.decode_seconds.max(1e-9)
    }

    /// Tokens of prompts a second, over the steps that compute prompts alone.
    pub fn prefill_rate(&self) -> f64 {
        self.prompt_tokens.saturating_sub(self.reused) as f64 / self.prefill_seconds.max(1e-9)
    }
}
