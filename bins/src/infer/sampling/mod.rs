//! Sampling parameters, and the samplers that turn logits into a distribution over tokens.
//!
//! The order is that of transformers and vLLM: logit bias, penalties (repetition, then presence and frequency),
//! temperature, top-k, top-p, min-p. Definitions are transformers' logits processors; presence and frequency penalties
//! are vLLM's.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use fathom_core::sampling::Rule;

use super::distribution::{Distribution, most_probable};
use super::stop;

/// The order of the samplers, for help texts.
pub const ORDER: &str = "logit bias, penalties, temperature, top-k, top-p, min-p";

/// Log-probabilities reported for a token, at most.
pub const MAX_LOGPROBS: usize = 1024;

/// Sampling parameters of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Maximum new tokens.
    pub max_new_tokens: usize,
    /// New tokens before which no token is taken that would end the text: neither the model's own, unless they are
    /// ignored, nor one of `stop_tokens`. Stop strings end it all the same.
    pub min_new_tokens: usize,
    /// Softmax temperature; 0 = greedy, which ignores top-k, top-p and min-p.
    pub temperature: f64,
    /// Keep the tokens with the k largest logits, ties included; 0 keeps all.
    pub top_k: usize,
    /// Nucleus sampling: keep the smallest set of most probable tokens whose probabilities reach p; 1 keeps all.
    pub top_p: f64,
    /// Keep the tokens whose probability is at least min-p times the largest one; 0 keeps all.
    pub min_p: f64,
    /// Repetition penalty: the logit of a token of the prompt or the output is divided by it, or multiplied where the
    /// logit is negative; 1 = off.
    pub repetition_penalty: f64,
    /// Presence penalty: subtracted from the logit of each token of the output; 0 = off.
    pub presence_penalty: f64,
    /// Frequency penalty: subtracted from the logit of each token of the output, once for each time it occurs; 0 = off.
    pub frequency_penalty: f64,
    /// Token ids with a number that is added to their logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Token ids that end the text, beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// Go on after the model's end-of-text tokens.
    pub ignore_eos: bool,
    /// Report the log-probability of each token, and of this number of most probable tokens beside it; `None` = none.
    pub logprobs: Option<usize>,
    /// Random seed: the same seed gives the same text.
    pub seed: u64,
    /// Number of the request under its seed: requests with the same seed and other numbers draw other tokens.
    pub request: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            min_new_tokens: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            seed: 0,
            request: 0,
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSampling {
    /// The parameter, as the field of [`Sampling`] is called.
    pub name: &'static str,
    /// Its value, and what it must be.
    pub problem: String,
}

impl InvalidSampling {
    /// The message with the parameter's name as an option of a program: `--top-p 2: …`.
    pub fn as_option(&self) -> String {
        format!("--{} {}", self.name.replace('_', "-"), self.problem)
    }
}

impl fmt::Display for InvalidSampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.problem)
    }
}

impl std::error::Error for InvalidSampling {}

impl From<InvalidSampling> for crate::error::Error {
    fn from(invalid: InvalidSampling) -> Self {
        Self::Usage(invalid.as_option())
    }
}

impl Sampling {
    /// Checks every parameter; `vocabulary` is the number of the model's tokens.
    ///
    /// # Errors
    /// Names the first parameter that is outside its range.
    pub fn validate(&self, vocabulary: usize) -> Result<(), InvalidSampling> {
        let check = |ok: bool, name, value: f64, must: &str| {
            let problem = format!("{value}: must be {must}");
            if ok { Ok(()) } else { Err(InvalidSampling { name, problem }) }
        };
        if self.min_new_tokens > self.max_new_tokens {
            let problem = format!("{}: must be at most max_new_tokens, {}", self.min_new_tokens, self.max_new_tokens);
            return Err(InvalidSampling { name: "min_new_tokens", problem });
        }
        let t = self.temperature;
        check(t.is_finite() && t >= 0.0, "temperature", t, "0 (greedy) or above")?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "from 0 to 1")?;
        let r = self.repetition_penalty;
        // Logits are divided by it in f32.
        check((1e-6..=1e6).contains(&r), "repetition_penalty", r, "above 0 (1 = off), from 1e-6 to 1e6")?;
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            check((-2.0..=2.0).contains(&value), name, value, "from -2 to 2 (0 = off)")?;
        }
        if let Some(&(token, bias)) = self.logit_bias.iter().find(|(t, b)| *t as usize >= vocabulary || !b.is_finite())
        {
            let problem = format!("{token}={bias}: must be a token id below {vocabulary} and a finite number");
            return Err(InvalidSampling { name: "logit_bias", problem });
        }
        if let Some(n) = self.logprobs.filter(|&n| n > MAX_LOGPROBS) {
            return Err(InvalidSampling { name: "logprobs", problem: format!("{n}: must be at most {MAX_LOGPROBS}") });
        }
        match stop::problem(&self.stop) {
            Some(problem) => Err(InvalidSampling { name: "stop", problem }),
            None => Ok(()),
        }
    }

    /// Whether the most probable token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Applies logit bias and penalties to `logits`, given the tokens so far; logits of tokens that would end the text
    /// too early become −∞.
    pub fn penalize(&self, history: &History, logits: &mut [f32]) {
        self.bias(history, logits);
        if history.generated >= self.min_new_tokens || history.ends.is_empty() {
            return;
        }
        // Where nothing else is left, the text ends.
        let others = |(token, logit): (u32, &f32)| *logit > f32::NEG_INFINITY && !history.ends.contains(&token);
        if (0..).zip(logits.iter()).any(others) {
            for &token in &history.ends {
                logits.get_mut(token as usize).into_iter().for_each(|logit| *logit = f32::NEG_INFINITY);
            }
        }
    }

    fn bias(&self, history: &History, logits: &mut [f32]) {
        for &(token, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        let (repetition, presence) = (self.repetition_penalty as f32, self.presence_penalty as f32);
        let frequency = self.frequency_penalty as f32;
        if repetition == 1.0 && presence == 0.0 && frequency == 0.0 {
            return;
        }
        for (&token, seen) in &history.seen {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit < 0.0 { *logit * repetition } else { *logit / repetition };
            if seen.generated > 0 {
                *logit -= frequency * seen.generated as f32 + presence;
            }
        }
    }

    /// The token that greedy sampling takes: the most probable one after logit bias and penalties, the lowest id among
    /// equals. Changes `logits`.
    pub fn greedy(&self, history: &History, logits: &mut [f32]) -> u32 {
        self.penalize(history, logits);
        most_probable(logits)
    }

    /// The distribution that a token is drawn from, given finite logits and the tokens so far; for greedy sampling all
    /// of it lies on one token. Changes `logits`.
    pub fn distribution(&self, history: &History, logits: &mut [f32]) -> Distribution {
        if self.is_greedy() {
            return Distribution::one_hot(self.greedy(history, logits));
        }
        self.penalize(history, logits);
        self.rule_for(0.0).distribution(logits)
    }

    /// The rule by which a device chooses the token for place `position` of the output, as [`choose`](Self::choose)
    /// does; none where logits must be changed before.
    pub fn rule(&self, position: usize) -> Option<Rule> {
        let plain = self.repetition_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0
            && self.logit_bias.is_empty()
            && position >= self.min_new_tokens;
        plain.then(|| self.rule_for(self.uniform(Draw::Token, position)))
    }

    fn rule_for(&self, uniform: f64) -> Rule {
        Rule::new(self.temperature, self.top_k, self.top_p, self.min_p, uniform)
    }

    /// The token for place `position` of the output (0 is the first), given finite logits and the tokens so far.
    /// Changes `logits`.
    pub fn choose(&self, history: &History, logits: &mut [f32], position: usize) -> u32 {
        if self.is_greedy() {
            return self.greedy(history, logits);
        }
        self.distribution(history, logits).draw(self.uniform(Draw::Token, position))
    }

    /// The random number in [0, 1) for place `position` of the output.
    pub fn uniform(&self, draw: Draw, position: usize) -> f64 {
        use fathom_core::rng;
        // Numbers of different requests under one seed lie in different streams.
        let stream = rng::bits(self.request, rng::stream("sampling"), draw as u64);
        rng::uniform(self.seed, stream, position as u64)
    }
}

/// The uses of random numbers at one place of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The token itself.
    Token,
    /// A draft of the token.
    Draft,
    /// Whether the draft is accepted.
    Accept,
    /// The token in place of a rejected draft.
    Residual,
}

/// The tokens so far, as penalties count them, and those that would end the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    seen: HashMap<u32, Seen>,
    /// Tokens of the output.
    generated: usize,
    ends: BTreeSet<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    prompt: bool,
    generated: u32,
}

impl History {
    /// The history of a prompt without output.
    pub fn new(prompt: &[u32]) -> Self {
        let seen = prompt.iter().map(|&token| (token, Seen { prompt: true, generated: 0 })).collect();
        Self { seen, ..Self::default() }
    }

    /// The history with the tokens that end the text, for [`Sampling::min_new_tokens`].
    #[must_use]
    pub fn ended_by(self, ends: impl IntoIterator<Item = u32>) -> Self {
        Self { ends: ends.into_iter().collect(), ..self }
    }

    /// Appends a token of the output.
    pub fn push(&mut self, token: u32) {
        let seen = self.seen.entry(token).or_default();
        seen.generated = seen.generated.saturating_add(1);
        self.generated += 1;
    }

    /// Takes a token of the output back.
    pub fn pop(&mut self, token: u32) {
        let Some(seen) = self.seen.get_mut(&token) else { return };
        self.generated = self.generated.saturating_sub(1);
        seen.generated = seen.generated.saturating_sub(1);
        if seen.generated == 0 && !seen.prompt {
            self.seen.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests;
