//! The JSON of answers, whole and in pieces.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::choices::{Delta, Token, Usage, Vocabulary};
use super::params::random;
use crate::serve::error::json;

/// The kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A completion.
    Completion,
    /// A chat.
    Chat,
}

/// What every piece of an answer repeats.
#[derive(Clone, Debug)]
pub struct Head {
    /// The kind.
    pub kind: Kind,
    id: String,
    created: u64,
    model: String,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[derive(Serialize)]
struct Answer<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageJson>>,
}

#[derive(Serialize)]
struct UsageJson {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
    prompt_cache_hit_tokens: usize,
    prompt_cache_miss_tokens: usize,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: usize,
}

impl From<Usage> for UsageJson {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            total_tokens: usage.prompt + usage.completion,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached },
            completion_tokens_details: CompletionDetails { reasoning_tokens: usage.reasoning },
            prompt_cache_hit_tokens: usage.cached,
            prompt_cache_miss_tokens: usage.prompt - usage.cached,
        }
    }
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: usize,
    text: &'a str,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Names>>,
    text_offset: Vec<usize>,
}

/// Names of tokens with numbers, as an object in this order.
struct Names(Vec<(String, f32)>);

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, number) in &self.0 {
            map.serialize_entry(name, number)?;
        }
        map.end()
    }
}

impl CompletionLogprobs {
    fn new(tokens: &[Token], vocabulary: &Vocabulary) -> Self {
        let top = |token: &Token| {
            let chosen = token.logprob.map(|logprob| (token.id, logprob))?;
            let mut names: Vec<(String, f32)> = Vec::new();
            // Several tokens may have one name; the most probable of them stays.
            for &(id, logprob) in token.top.iter().chain([&chosen]) {
                let name = vocabulary.name(id);
                if !names.iter().any(|(other, _)| *other == name) {
                    names.push((name, logprob));
                }
            }
            Some(Names(names))
        };
        Self {
            tokens: tokens.iter().map(|token| vocabulary.name(token.id)).collect(),
            token_logprobs: tokens.iter().map(|token| token.logprob).collect(),
            top_logprobs: tokens.iter().map(top).collect(),
            text_offset: tokens.iter().map(|token| token.offset).collect(),
        }
    }
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Message<'a>>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct ChatLogprobs {
    content: Vec<ChatToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<Vec<ChatToken>>,
}

#[derive(Serialize)]
struct ChatToken {
    token: String,
    logprob: Option<f32>,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<ChatToken>>,
}

impl ChatToken {
    fn named(id: u32, logprob: Option<f32>, vocabulary: &Vocabulary) -> Self {
        Self { token: vocabulary.name(id), logprob, bytes: vocabulary.bytes(id), top_logprobs: None }
    }
}

impl ChatLogprobs {
    fn new(tokens: &[Token], vocabulary: &Vocabulary) -> Self {
        let named = |reasoning: bool| {
            let of = tokens.iter().filter(move |token| token.reasoning == reasoning);
            of.map(|token| {
                let top = token.top.iter().map(|&(id, logprob)| ChatToken::named(id, Some(logprob), vocabulary));
                let top_logprobs = Some(top.collect());
                ChatToken { top_logprobs, ..ChatToken::named(token.id, token.logprob, vocabulary) }
            })
            .collect::<Vec<_>>()
        };
        Self { content: named(false), reasoning_content: Some(named(true)).filter(|tokens| !tokens.is_empty()) }
    }
}

/// Which answers have which shape.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    /// What every piece repeats.
    pub head: &'a Head,
    /// Names of tokens.
    pub vocabulary: &'a Vocabulary,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    /// Whether usage was asked for at the end of a stream.
    pub usage: bool,
}

impl Head {
    /// The head of a new answer.
    pub fn new(kind: Kind, model: &str) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self { kind, id: format!("{prefix}-{:016x}", random()), created: now(), model: model.into() }
    }

    fn answer<C: Serialize>(&self, piece: bool, choices: Vec<C>, usage: Option<Option<UsageJson>>) -> String {
        let object = match (self.kind, piece) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        };
        json(&Answer { id: &self.id, object, created: self.created, model: &self.model, choices, usage })
    }
}

impl Shape<'_> {
    fn completion<'a>(&self, delta: &'a Delta) -> CompletionChoice<'a> {
        let logprobs = self.logprobs.then(|| CompletionLogprobs::new(&delta.tokens, self.vocabulary));
        CompletionChoice { index: delta.choice, text: &delta.text, logprobs, finish_reason: delta.finish }
    }

    fn chat<'a>(&self, choice: &'a Delta) -> ChatChoice<'a> {
        let reasoning_content = Some(choice.reasoning.as_str()).filter(|text| !text.is_empty());
        let message = Message { role: Some("assistant"), reasoning_content, content: Some(&choice.text) };
        ChatChoice {
            index: choice.choice,
            message: Some(message),
            delta: None,
            logprobs: self.chat_logprobs(&choice.tokens),
            finish_reason: choice.finish,
        }
    }

    fn chat_logprobs(&self, tokens: &[Token]) -> Option<ChatLogprobs> {
        self.logprobs.then(|| ChatLogprobs::new(tokens, self.vocabulary))
    }

    /// The whole answer; `choices` are complete.
    pub fn whole(&self, choices: &[Delta], usage: Usage) -> String {
        let usage = Some(Some(usage.into()));
        if self.head.kind == Kind::Completion {
            return self.head.answer(false, choices.iter().map(|choice| self.completion(choice)).collect(), usage);
        }
        self.head.answer(false, choices.iter().map(|choice| self.chat(choice)).collect(), usage)
    }

    /// The pieces before all others: in chats each choice's role, in order. OpenAI's Python library fails where a
    /// choice begins before one of a lower number.
    pub fn opening(&self, choices: usize) -> Vec<String> {
        if self.head.kind == Kind::Completion {
            return Vec::new();
        }
        let message = || Message { role: Some("assistant"), content: Some(""), ..Message::default() };
        (0..choices).map(|choice| self.chat_piece(choice, message(), &[], None)).collect()
    }

    fn chat_piece(
        &self,
        index: usize,
        message: Message<'_>,
        tokens: &[Token],
        finish_reason: Option<&'static str>,
    ) -> String {
        let logprobs = self.chat_logprobs(tokens).filter(|_| !tokens.is_empty());
        let choice = ChatChoice { index, message: None, delta: Some(message), logprobs, finish_reason };
        self.head.answer(true, vec![choice], self.usage.then_some(None))
    }

    /// The pieces of an answer that say what is new of a choice.
    pub fn pieces(&self, delta: &Delta) -> Vec<String> {
        if self.head.kind == Kind::Completion {
            let nothing = delta.text.is_empty() && delta.tokens.is_empty() && delta.finish.is_none();
            let piece = || self.head.answer(true, vec![self.completion(delta)], self.usage.then_some(None));
            return if nothing { Vec::new() } else { vec![piece()] };
        }
        let mut pieces = Vec::new();
        let mut add = |message: Message<'_>, tokens: &[Token], finish_reason| {
            pieces.push(self.chat_piece(delta.choice, message, tokens, finish_reason));
        };
        // Log-probabilities go with the first piece of text; a token that completes none goes without text.
        let mut tokens = &delta.tokens[..];
        if !delta.reasoning.is_empty() {
            let message = Message { reasoning_content: Some(&delta.reasoning), ..Message::default() };
            add(message, std::mem::take(&mut tokens), None);
        }
        if !delta.text.is_empty() || !tokens.is_empty() {
            add(Message { content: Some(&delta.text), ..Message::default() }, tokens, None);
        }
        if delta.finish.is_some() {
            add(Message::default(), &[], delta.finish);
        }
        pieces
    }

    /// The piece after all choices that says how many tokens were used.
    pub fn usage_piece(&self, usage: Usage) -> String {
        self.head.answer::<()>(true, Vec::new(), Some(Some(usage.into())))
    }
}
