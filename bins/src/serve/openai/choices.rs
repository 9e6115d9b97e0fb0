//! The choices of an answer while their tokens come.

use std::collections::HashMap;

use fathom_dataprep::{StreamDecoder, Tokenizer};

use super::think::{Parts, Place, Thinking};
use crate::infer::{Logprobs, ScoreRequest, Scores, Stop};
use crate::serve::error::ApiError;
use crate::serve::job::{Ended, News};

/// The tokens of the model as texts.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    tokenizer: Option<Tokenizer>,
    added: HashMap<u32, String>,
}

impl Vocabulary {
    /// The tokens of a tokenizer; without one they have no texts.
    pub fn new(tokenizer: Option<&Tokenizer>) -> Self {
        let added = tokenizer.into_iter().flat_map(Tokenizer::added_tokens);
        Self { tokenizer: tokenizer.cloned(), added: added.map(|(text, id)| (id, text.to_owned())).collect() }
    }

    /// The bytes of a token's name: those that it adds to a text, or the name of a special token.
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        match self.added.get(&token) {
            Some(name) => name.clone().into_bytes(),
            None => self.text_bytes(token),
        }
    }

    /// The name of a token that marks something in a text and is none of its words, such as `<think>`, if it is one.
    pub fn special(&self, token: u32) -> Option<&str> {
        let name = self.added.get(&token)?;
        (name.starts_with('<') || self.text_bytes(token).is_empty()).then_some(name)
    }

    /// The bytes that a token adds to a text.
    pub fn text_bytes(&self, token: u32) -> Vec<u8> {
        self.tokenizer.as_ref().map(|tokenizer| tokenizer.token_bytes(token)).unwrap_or_default()
    }

    /// Where each of `tokens` begins in their text, in characters. A special token counts where its name is written
    /// out.
    fn offsets(&self, tokens: &[u32], text: &str) -> Vec<usize> {
        let (mut offset, mut rest, mut decoder) = (0, text, self.tokenizer.as_ref().map(Tokenizer::stream_decoder));
        let begin = |&token: &u32| {
            let here = offset;
            let name = self.added.get(&token).filter(|name| rest.starts_with(name.as_str())).cloned();
            let piece = name.or_else(|| Some(decoder.as_mut()?.push(token))).unwrap_or_default();
            let count = piece.chars().count();
            offset += count;
            rest = rest.char_indices().nth(count).map_or("", |(at, _)| &rest[at..]);
            here
        };
        tokens.iter().map(begin).collect()
    }

    /// The name of a token; where its bytes are no text, the form `bytes:\xf0\x9f`.
    pub fn name(&self, token: u32) -> String {
        String::from_utf8(self.bytes(token)).unwrap_or_else(|error| {
            let hex = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", hex.collect::<String>())
        })
    }
}

/// A token with its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The token.
    pub id: u32,
    /// Its log-probability; none for the first token of a prompt.
    pub logprob: Option<f32>,
    /// The most probable tokens at its place.
    pub top: Vec<(u32, f32)>,
    /// Characters of the text before it.
    pub offset: usize,
    /// Whether it belongs to the reasoning.
    pub reasoning: bool,
}

/// What is new of a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// The choice.
    pub choice: usize,
    /// Text of the answer.
    pub text: String,
    /// Text of the reasoning.
    pub reasoning: String,
    /// Tokens with log-probabilities, if those were asked for.
    pub tokens: Vec<Token>,
    /// Why the choice ended, if it did.
    pub finish: Option<&'static str>,
}

/// Tokens that were read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt: usize,
    /// Those of them that were found in the cache.
    pub cached: usize,
    /// Tokens of all choices, with those that ended them.
    pub completion: usize,
    /// Those of them that are reasoning.
    pub reasoning: usize,
}

/// A prompt whose choices come.
#[derive(Clone, Debug)]
pub struct Prompted {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Its text, where the answer begins with it.
    pub echo: Option<String>,
}

#[derive(Clone, Debug)]
struct State {
    thinking: Option<Thinking>,
    /// Characters of the text so far, and the text of the tokens behind them.
    offset: usize,
    decoder: Option<StreamDecoder>,
    finished: bool,
}

/// The choices of an answer.
#[derive(Clone, Debug)]
pub struct Choices {
    prompts: Vec<Prompted>,
    n: usize,
    logprobs: bool,
    /// Whether nothing comes after the prompts.
    nothing_new: bool,
    states: Vec<State>,
    usage: Usage,
}

impl Choices {
    /// The choices of `prompts`, `n` for each. `place` says where the text of a chat begins; completions are not
    /// divided.
    pub fn new(prompts: Vec<Prompted>, n: usize, place: Option<Place>, logprobs: bool, nothing_new: bool) -> Self {
        let state = State { thinking: place.map(Thinking::new), offset: 0, decoder: None, finished: false };
        let usage = Usage { prompt: prompts.iter().map(|prompt| prompt.tokens.len()).sum(), ..Usage::default() };
        Self { states: vec![state; prompts.len() * n], prompts, n, logprobs, nothing_new, usage }
    }

    /// Whether every choice is complete.
    pub fn finished(&self) -> bool {
        self.states.iter().all(|state| state.finished)
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// How many choices there are.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The tokens of the prompts.
    pub fn prompts(&self) -> impl Iterator<Item = &[u32]> {
        self.prompts.iter().map(|prompt| &prompt.tokens[..])
    }

    /// The prompts whose own tokens are to be scored, by number.
    pub fn to_score(&self) -> impl Iterator<Item = (usize, ScoreRequest)> {
        let scored = (0..self.prompts.len()).filter(|&prompt| self.scores(prompt));
        scored.map(|prompt| {
            let tokens = &self.prompts[prompt].tokens;
            let request =
                ScoreRequest { tokens: tokens[..tokens.len() - 1].to_vec(), endings: vec![tokens[1..].to_vec()] };
            (prompt, request)
        })
    }

    /// Whether the tokens of prompt `prompt` are scored, and come as news.
    pub fn scores(&self, prompt: usize) -> bool {
        let prompt = &self.prompts[prompt];
        self.logprobs && prompt.echo.is_some() && prompt.tokens.len() > 1
    }

    /// What is there before any news: prompts that are repeated without scores.
    pub fn begin(&mut self, vocabulary: &Vocabulary) -> Vec<Delta> {
        let plain = (0..self.prompts.len()).filter(|&prompt| !self.scores(prompt)).collect::<Vec<_>>();
        plain.into_iter().flat_map(|prompt| self.echo(prompt, &Scores::default(), vocabulary)).collect()
    }

    /// What news change.
    ///
    /// # Errors
    /// The reason for which the job ended.
    pub fn apply(&mut self, news: News, vocabulary: &Vocabulary) -> Result<Vec<Delta>, ApiError> {
        match news {
            News::Scored { prompt, scores } => Ok(self.echo(prompt, &scores, vocabulary)),
            News::Token { choice, token, text, logprobs } => {
                Ok(self.token(choice, token, &text, logprobs, vocabulary).into_iter().collect())
            }
            News::Finished { choice, text, end, stop, reused } => {
                let mut last = self.finish(choice, &text, stop, reused);
                if let (Some(end), Some(last)) = (end, last.as_mut()) {
                    self.usage.completion += 1;
                    let Some(state) = self.states.get_mut(choice) else { return Ok(Vec::new()) };
                    // Clients of completions count on a log-probability for every token that was computed.
                    if let (None, Some(Logprobs { chosen, top })) = (&state.thinking, end.logprobs) {
                        let held = state.decoder.as_mut().map(StreamDecoder::finish).unwrap_or_default();
                        let (offset, logprob) = (state.offset + held.chars().count(), Some(chosen));
                        last.tokens.push(Token { id: end.token, logprob, top, offset, reasoning: false });
                    }
                }
                Ok(last.into_iter().collect())
            }
            News::Ended(ended) => Err(match ended {
                Ended::Deadline => ApiError::unavailable("timeout", "the request took too long: ask for less", None),
                Ended::Stopping => ApiError::unavailable("stopping", "the server stops: try again", Some(1)),
                Ended::Constraint(message) => ApiError::request(message),
                Ended::Failed(message) => ApiError::server(message),
            }),
        }
    }

    /// The prompt at the beginning of each of its choices, if it is repeated.
    fn echo(&mut self, prompt: usize, scores: &Scores, vocabulary: &Vocabulary) -> Vec<Delta> {
        let Some(Prompted { tokens, echo }) = self.prompts.get(prompt) else { return Vec::new() };
        let finish = self.nothing_new.then_some("length");
        let mut scored = Vec::new();
        if let (true, Some(text)) = (self.logprobs, echo) {
            for (i, (&id, offset)) in tokens.iter().zip(vocabulary.offsets(tokens, text)).enumerate() {
                let place = i.wrapping_sub(1);
                let (logprob, top) = (scores.logprobs.get(place).copied(), scores.top.get(place));
                scored.push(Token { id, logprob, top: top.cloned().unwrap_or_default(), offset, reasoning: false });
            }
        }
        if echo.is_none() && finish.is_none() {
            return Vec::new();
        }
        let text = echo.clone().unwrap_or_default();
        let own = prompt * self.n..(prompt + 1) * self.n;
        let characters = text.chars().count();
        for state in &mut self.states[own.clone()] {
            (state.offset, state.finished) = (characters, finish.is_some());
        }
        let delta = |choice| Delta { choice, text: text.clone(), tokens: scored.clone(), finish, ..Delta::default() };
        own.map(delta).collect()
    }

    fn token(
        &mut self,
        choice: usize,
        token: u32,
        text: &str,
        logprobs: Option<Logprobs>,
        vocabulary: &Vocabulary,
    ) -> Option<Delta> {
        let state = self.states.get_mut(choice)?;
        let before = state.thinking.as_ref().map(Thinking::place);
        let Parts { reasoning, content } = state.push(text);
        let after = state.thinking.as_ref().map(Thinking::place);
        let thinks = [before, after].contains(&Some(Place::Reasoning));
        self.usage.completion += 1;
        self.usage.reasoning += usize::from(thinks);
        let tokens = logprobs.map(|Logprobs { chosen, top }| {
            let offset = state.offset;
            if state.decoder.is_none() {
                state.decoder = vocabulary.tokenizer.as_ref().map(Tokenizer::stream_decoder);
            }
            state.offset += state.decoder.as_mut().map_or(0, |decoder| decoder.push(token).chars().count());
            Token { id: token, logprob: Some(chosen), top, offset, reasoning: thinks }
        });
        Some(Delta { choice, text: content, reasoning, tokens: tokens.into_iter().collect(), finish: None })
    }

    fn finish(&mut self, choice: usize, text: &str, stop: Stop, reused: usize) -> Option<Delta> {
        // The choices of a prompt share it; the first says what was there before them. A prompt that was scored was
        // computed for that, and its choices find no more than this.
        if choice.is_multiple_of(self.n) && !self.scores(choice / self.n) {
            self.usage.cached += reused.min(self.prompts.get(choice / self.n)?.tokens.len());
        }
        let state = self.states.get_mut(choice)?;
        state.finished = true;
        let Parts { mut reasoning, mut content } = state.push(text);
        if let Some(thinking) = &mut state.thinking {
            let rest = thinking.finish();
            reasoning.push_str(&rest.reasoning);
            content.push_str(&rest.content);
        }
        let finish = match stop {
            Stop::EndOfText | Stop::Stop => "stop",
            Stop::Length | Stop::Context | Stop::Cancelled => "length",
        };
        Some(Delta { choice, text: content, reasoning, tokens: Vec::new(), finish: Some(finish) })
    }
}

impl State {
    fn push(&mut self, text: &str) -> Parts {
        match &mut self.thinking {
            Some(thinking) => thinking.push(text),
            None => Parts { content: text.to_owned(), reasoning: String::new() },
        }
    }
}
