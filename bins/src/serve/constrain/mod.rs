//! Answers that must be JSON, of a schema, or matched by an expression: the `llguidance` crate says which tokens may
//! come next.
//!
//! A client can send any schema, so what it costs is bounded: its size, the time and memory of its grammar, the work
//! of each token, and the depth of the stack, on which the crate follows references.

mod after;
mod schema;

use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use super::openai::choices::Vocabulary;
use super::openai::format::{Asked, Format};
use super::openai::think;
use crate::error::{Error, Result};
use crate::infer::{Constraint, Follower};
use after::{After, Mark};
use schema::MAX_EXPRESSION;

/// White space between the parts of a JSON text: a space, or the end of a line and the next line's beginning. A model
/// that may write any amount of it may write nothing else.
const SPACE: &str = "[ ]|\n[ ]{0,20}";
/// Stack of the thread that reads a schema, of which only what is used takes memory.
const STACK: usize = 256 << 20;
/// States of a lexer, at most, each of 1 to 2 kB.
const MAX_STATES: usize = 20_000;
/// Requests whose form is read or waits for that, at most.
const MAX_WAITING: usize = 64;
/// Longer tokens are never chosen: the crate's stack of bytes has an end.
const MAX_TOKEN: usize = 255;

/// Makes constraints for one model. What all of them share is made with the first.
pub(super) struct Languages {
    vocabulary: Arc<Vocabulary>,
    /// Tokens of the model.
    size: usize,
    /// Tokens that end a text.
    ends: Vec<u32>,
    factory: OnceLock<Result<ParserFactory, String>>,
    /// The end of a model's reasoning.
    mark: OnceLock<Arc<Mark>>,
    /// Room for requests that wait for their turn.
    waiting: Arc<Semaphore>,
    /// One form is read at a time, so that others' answers keep a processor and the threads that encode texts.
    reading: Arc<Semaphore>,
}

/// A request's turn to have its form read.
pub(super) struct Turn {
    _waiting: OwnedSemaphorePermit,
    _reading: OwnedSemaphorePermit,
}

impl Languages {
    /// Languages for a model of `size` tokens, of which `ends` end a text.
    pub fn new(vocabulary: Arc<Vocabulary>, size: usize, ends: Vec<u32>) -> Self {
        let (waiting, reading) = (Arc::new(Semaphore::new(MAX_WAITING)), Arc::new(Semaphore::new(1)));
        Self { vocabulary, size, ends, factory: OnceLock::new(), mark: OnceLock::new(), waiting, reading }
    }

    /// Waits for the turn to call [`constraint`](Self::constraint).
    ///
    /// # Errors
    /// Too many requests that wait.
    pub async fn turn(&self) -> Result<Turn, ApiError> {
        let busy = |_| ApiError::unavailable("overloaded", "too many forms of answers at a time: try again", Some(1));
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(busy)?;
        // It is never closed.
        let reading = Arc::clone(&self.reading).acquire_owned().await;
        let reading = reading.map_err(|_| ApiError::server("forms of answers are not read any more"))?;
        Ok(Turn { _waiting: waiting, _reading: reading })
    }

    /// The constraint that a request asks for; `reasoning` says that an answer begins within the model's reasoning,
    /// which is free. It takes a processor for up to some seconds, so it is called with a [`Turn`] held.
    ///
    /// # Errors
    /// Names the field with a schema or an expression that is not supported, too large or too complex.
    pub fn constraint(&self, asked: &Asked, reasoning: bool) -> Result<Arc<dyn Constraint>, ApiError> {
        if self.ends.is_empty() {
            return Err(ApiError::field(&asked.field, "the model has no token that ends a text"));
        }
        let refused = |problem: String| ApiError::field(&asked.field, format!("is not supported: {problem}"));
        let grammar = grammar(&asked.format).map_err(refused)?;
        let read = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("fathom-schema".into()).stack_size(STACK);
            let started = thread.spawn_scoped(scope, || self.matcher(grammar));
            started.map(|thread| thread.join().unwrap_or_else(|_| Err("the schema's reader failed".into())))
        });
        let read = read.map_err(|e| ApiError::server(format!("cannot start a thread for the schema: {e}")))?;
        let language: Arc<dyn Constraint> = Arc::new(Language { matcher: read.map_err(refused)? });
        if !reasoning {
            return Ok(language);
        }
        let mark = self.mark.get_or_init(|| {
            let (vocabulary, ends) = (Arc::clone(&self.vocabulary), self.ends.clone());
            Arc::new(Mark::new(think::CLOSE, vocabulary, self.size, ends))
        });
        Ok(Arc::new(After::new(language, Arc::clone(mark))))
    }

    /// The state before the first token of a grammar.
    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let factory = self.factory.get_or_init(|| self.factory());
        let mut matcher = Matcher::new(factory.as_ref().map_err(Clone::clone)?.create_parser(grammar));
        // What is too complex at the first token is found before any work is done.
        let mask = matcher.compute_mask().map_err(|e| problem(&e.to_string()))?;
        let Some(first) = mask.first_bit_set() else { return Err("nothing can begin an answer of this form".into()) };
        let again = matcher.deep_clone().consume_token(first as u32);
        again.map_err(|e| problem(&e.to_string()))?;
        Ok(matcher)
    }

    /// What all grammars share: the vocabulary as a tree.
    fn factory(&self) -> Result<ParserFactory, String> {
        let marker = TokTrie::SPECIAL_TOKEN_MARKER;
        let word = |token: u32| {
            let bytes = match self.vocabulary.special(token) {
                // Never part of a text.
                Some(name) => [&[marker], name.as_bytes()].concat(),
                // No text has this byte.
                None => {
                    Some(self.vocabulary.text_bytes(token)).filter(|b| b.first() != Some(&marker)).unwrap_or_default()
                }
            };
            if bytes.len() > MAX_TOKEN { Vec::new() } else { bytes }
        };
        let words: Vec<Vec<u8>> = (0..self.size as u32).map(word).collect();
        let first = self.ends.first().copied().unwrap_or(0);
        let trie = TokTrie::from(&TokRxInfo::new(self.size as u32, first), &words);
        let trie = trie.with_eos_tokens(&self.ends);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices).map_err(|e| e.to_string())?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MAX_STATES;
        limits.verbose_errors = false;
        Ok(factory)
    }
}

/// The grammar of a format.
fn grammar(format: &Format) -> Result<TopLevelGrammar, String> {
    let schema = |mut schema: Value| {
        schema::prepare(&mut schema)?;
        let options = JsonCompileOptions {
            whitespace_pattern: Some(SPACE.to_owned()),
            // Models write unions with a tag, and few writers of schemas mean that two forms must not fit.
            coerce_one_of: true,
            // With \u a further property could have the name of one that the schema describes.
            json_allowed_escapes: Some("nrbtf\\\"".to_owned()),
            ..JsonCompileOptions::default()
        };
        // In place of options that the request may have put there.
        options.apply_to(&mut schema);
        Ok(TopLevelGrammar::from_json_schema(schema))
    };
    match format {
        Format::Object => schema(json!({ "type": "object" })),
        Format::Schema(asked) => schema(asked.clone()),
        Format::Expression(expression) if expression.len() > MAX_EXPRESSION => {
            Err(format!("it has {} bytes, and an expression may have {MAX_EXPRESSION}", expression.len()))
        }
        Format::Expression(expression) => Ok(TopLevelGrammar::from_regex(expression)),
        Format::Choice(texts) => {
            let texts: Vec<String> = texts.iter().map(|text| fancy_regex::escape(text).into_owned()).collect();
            Ok(TopLevelGrammar::from_regex(&texts.join("|")))
        }
    }
}

/// The crate's message in one line of bounded length.
fn problem(message: &str) -> String {
    const LONGEST: usize = 500;
    let message = message.split("<non-verbose/>").next().unwrap_or(message);
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A language, as the state before its first token.
struct Language {
    matcher: Matcher,
}

impl std::fmt::Debug for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Language").finish_non_exhaustive()
    }
}

impl Constraint for Language {
    fn begin(&self) -> Result<Box<dyn Follower>> {
        Ok(Box::new(Within(self.matcher.clone())))
    }
}

/// An output within its language.
struct Within(Matcher);

impl Follower for Within {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let mask = self.0.compute_mask_or_eos().map_err(failed)?;
        let mut left = 0;
        for (token, logit) in logits.iter_mut().enumerate() {
            // The mask may be shorter than the vocabulary.
            if token < mask.len() && mask.get(token) {
                left += 1;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        let nothing = || Error::Constraint("no token of the model continues the answer in the form asked for".into());
        if left > 0 { Ok(()) } else { Err(nothing()) }
    }

    fn push(&mut self, token: u32) -> Result<()> {
        self.0.consume_token(token).map_err(failed)
    }

    fn fork(&self) -> Box<dyn Follower> {
        Box::new(Self(self.0.clone()))
    }

    fn complete(&self) -> bool {
        self.0.is_stopped()
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    let problem = problem(&error.to_string());
    Error::Constraint(format!("the form that the answer must have is too complex: {problem}"))
}

#[cfg(test)]
mod tests;
