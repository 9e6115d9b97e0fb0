//! Requests to a model, and results.

use std::sync::Arc;

use super::constraint::Constraint;
use super::distribution::Logprobs;
use super::sampling::Sampling;

/// A prompt, and how to continue it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids of the prompt, at least one.
    pub tokens: Vec<u32>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// The language that the output must belong to, if it may not be any text.
    pub constraint: Option<Arc<dyn Constraint>>,
}

impl Request {
    /// A request for any text.
    pub fn new(tokens: Vec<u32>, sampling: Sampling) -> Self {
        Self { tokens, sampling, constraint: None }
    }
}

/// A text whose last tokens are scored, for one or several endings that are equal but for their last token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreRequest {
    /// Token ids that the model reads: the text without its last token.
    pub tokens: Vec<u32>,
    /// Endings of equal length: the tokens after each of the last positions of `tokens`. Except for its last token an
    /// ending is the end of `tokens`.
    pub endings: Vec<Vec<u32>>,
}

/// How probable an ending is to the model, token by token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Natural logarithm of the probability of each token.
    pub logprobs: Vec<f32>,
    /// Whether each token was the most probable one.
    pub greedy: Vec<bool>,
    /// The most probable tokens at each place with their log-probabilities, the most probable first; none where they
    /// were not asked for.
    pub top: Vec<Vec<(u32, f32)>>,
}

impl Scores {
    /// The logarithm of the probability of all tokens together.
    pub fn sum(&self) -> f64 {
        self.logprobs.iter().map(|&x| f64::from(x)).sum()
    }
}

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its text, or its constraint allows no further token.
    EndOfText,
    /// A stop string or a stop token.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The model's context, or the cache, is full.
    Context,
    /// The caller ended it.
    Cancelled,
}

impl Stop {
    /// The word for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndOfText => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A token that ended a text and is not part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct EndToken {
    /// The token.
    pub token: u32,
    /// Its log-probabilities, if they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// Generated tokens and their text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens, without the one that ended the text. Those of a stop string are among them.
    pub tokens: Vec<u32>,
    /// Their text up to the stop string; empty without a tokenizer.
    pub text: String,
    /// Log-probabilities of each token, if they were asked for.
    pub logprobs: Vec<Logprobs>,
    /// Why it stopped.
    pub stop: Stop,
}
