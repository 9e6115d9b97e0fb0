//! Requests for completions: prompts as text or token ids, continued.

use serde::Deserialize;

use super::chat::ToolChoice;
use super::fields::{Fields, Whole};
use super::params::{Bounds, Params};
use crate::serve::error::ApiError;

/// Most probable tokens that a completion reports, at most.
pub const MAX_LOGPROBS: usize = 5;
/// New tokens where the request does not say.
const DEFAULT_TOKENS: usize = 16;

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// A request for completions.
#[derive(Clone, Debug)]
pub struct CompletionRequest {
    /// The prompts, at least one.
    pub prompts: Vec<Prompt>,
    /// The text after the gap that is to be filled.
    pub suffix: Option<String>,
    /// Whether the answer begins with the prompt.
    pub echo: bool,
    /// Everything else. Its sampling says how many log-probabilities are reported.
    pub params: Params,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Tokens(Vec<Whole<u32>>),
    Texts(Vec<String>),
    Several(Vec<Vec<Whole<u32>>>),
}

impl CompletionRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let mut params = Params::take(&mut fields, bounds, &["max_tokens"], 0, DEFAULT_TOKENS)?;
        let must = "a string, a list of strings, a list of token ids, or a list of lists of token ids";
        let ids = |tokens: Vec<Whole<u32>>| Prompt::Tokens(tokens.into_iter().map(|Whole(id)| id).collect());
        let prompts = match fields.take_one_of("prompt", must)? {
            None => return Err(ApiError::field("prompt", format!("is missing: must be {must}"))),
            Some(Prompts::Text(text)) => vec![Prompt::Text(text)],
            Some(Prompts::Tokens(tokens)) => vec![ids(tokens)],
            Some(Prompts::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
            Some(Prompts::Several(lists)) => lists.into_iter().map(ids).collect(),
        };
        for prompt in &prompts {
            match prompt {
                Prompt::Tokens(tokens) if tokens.is_empty() => {
                    return Err(ApiError::field("prompt", "has no tokens: give it at least one"));
                }
                Prompt::Tokens(tokens) => {
                    if let Some(token) = tokens.iter().find(|&&token| token as usize >= bounds.vocabulary) {
                        let problem = format!("token id {token} is not below {}", bounds.vocabulary);
                        return Err(ApiError::field("prompt", problem));
                    }
                }
                Prompt::Text(_) if !bounds.text => {
                    return Err(ApiError::field("prompt", "the model has no tokenizer: give token ids"));
                }
                Prompt::Text(_) => {}
            }
        }
        if let Some(logprobs) = fields.take::<usize>("logprobs")? {
            if logprobs > MAX_LOGPROBS {
                return Err(ApiError::field("logprobs", format!("{logprobs}: must be at most {MAX_LOGPROBS}")));
            }
            params.sampling.logprobs = Some(logprobs);
        }
        let echo = fields.take("echo")?.unwrap_or(false);
        // A completion has no tools, so none is called.
        fields.refuse("tools", "belongs to /v1/chat/completions")?;
        match fields.take_one_of::<ToolChoice>("tool_choice", ToolChoice::MUST)? {
            None => {}
            Some(ToolChoice::Word(word)) if word == "auto" || word == "none" => {}
            Some(_) => return Err(ApiError::field("tool_choice", "belongs to /v1/chat/completions: leave it out")),
        }
        let suffix = fields.take::<String>("suffix")?.filter(|suffix| !suffix.is_empty());
        if suffix.is_some() && echo {
            return Err(ApiError::field("suffix", "a gap is filled without echo: leave echo out"));
        }
        Ok(Self { prompts, suffix, echo, params })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<CompletionRequest, ApiError> {
        CompletionRequest::parse(body.as_bytes(), &Bounds::tiny())
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let prompts = |json: &str| parse(&format!("{{\"prompt\": {json}}}")).unwrap().prompts;
        assert_eq!(prompts("\"a\\u0000\""), [Prompt::Text("a\0".into())]);
        assert_eq!(prompts("[\"a\", \"\"]"), [Prompt::Text("a".into()), Prompt::Text(String::new())]);
        assert_eq!(prompts("[1, 2.0]"), [Prompt::Tokens(vec![1, 2])]);
        assert_eq!(prompts("[[1], [2, 3]]"), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    }

    #[test]
    fn defaults_are_openai_s() {
        let request =
            parse("{\"prompt\": \"a\", \"user\": \"u\", \"model\": \"m\", \"stop\": null, \"tool_choice\": \"auto\"}")
                .unwrap();
        let sampling = &request.params.sampling;
        assert_eq!((sampling.max_new_tokens, sampling.temperature, sampling.top_p), (16, 1.0, 1.0));
        assert_eq!((request.params.n, request.params.stream, request.echo, sampling.logprobs), (1, false, false, None));
        let other = parse("{\"prompt\": \"a\"}").unwrap();
        assert_ne!(sampling.seed, other.params.sampling.seed, "without a seed every request draws other tokens");
        let seeded = parse("{\"prompt\": \"a\", \"seed\": -1, \"top_k\": -1, \"max_tokens\": 18446744073709551615}");
        let seeded = seeded.unwrap().params.sampling;
        assert_eq!((seeded.seed, seeded.top_k, seeded.max_new_tokens), (u64::MAX, 0, 64));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (fields, param, words) in [
            ("\"prompt\": 1", "prompt", "list of token ids"),
            ("\"prompt\": [1, \"a\"]", "prompt", "list of token ids"),
            ("\"prompt\": [[]]", "prompt", "no tokens"),
            ("\"prompt\": [-1]", "prompt", "list of token ids"),
            ("\"prompt\": [300]", "prompt", "token id 300"),
            ("\"prompt\": null", "prompt", "is missing"),
            ("\"prompt\": \"a\", \"n\": 9", "n", "from 1 to 8"),
            ("\"prompt\": \"a\", \"n\": 0", "n", "from 1 to 8"),
            ("\"prompt\": \"a\", \"n\": -1", "n", "whole number, 0 or above"),
            ("\"prompt\": \"a\", \"temperature\": -1", "temperature", "0 (greedy) or above"),
            ("\"prompt\": \"a\", \"temperature\": 1e999", "temperature", "out of range"),
            ("\"prompt\": \"a\", \"top_p\": 0", "top_p", "above 0"),
            ("\"prompt\": \"a\", \"top_k\": -2", "top_k", "or above"),
            ("\"prompt\": \"a\", \"max_tokens\": -1", "max_tokens", "whole number, 0 or above"),
            ("\"prompt\": \"a\", \"max_tokens\": \"x\"", "max_tokens", "whole number"),
            ("\"prompt\": \"a\", \"logprobs\": 6", "logprobs", "at most 5"),
            ("\"prompt\": \"a\", \"stop\": [\"\"]", "stop", "empty"),
            ("\"prompt\": \"a\", \"stop\": 3", "stop", "list of strings"),
            ("\"prompt\": \"a\", \"logit_bias\": {\"999\": 1}", "logit_bias", "below 256"),
            ("\"prompt\": \"a\", \"logit_bias\": {\"x\": 1}", "logit_bias", "token ids as keys"),
            ("\"prompt\": \"a\", \"best_of\": 2", "best_of", "must be n"),
            ("\"prompt\": \"a\", \"stream_options\": {}", "stream_options", "stream"),
            ("\"prompt\": \"a\", \"tools\": [{}]", "tools", "chat/completions"),
            ("\"prompt\": \"a\", \"tool_choice\": \"required\"", "tool_choice", "chat/completions"),
            ("\"prompt\": \"a\", \"tool_choice\": {\"type\": \"function\"}", "tool_choice", "chat/completions"),
            ("\"prompt\": \"a\", \"min_tokens\": 17", "min_tokens", "at most max_tokens"),
            ("\"prompt\": \"a\", \"min_tokens\": -1", "min_tokens", "whole number, 0 or above"),
            ("\"prompt\": \"a\", \"suffix\": \"b\", \"echo\": true", "suffix", "echo"),
        ] {
            let error = parse(&format!("{{{fields}}}")).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{fields}");
            assert!(error.message.starts_with(param) && error.message.contains(words), "{fields}: {error:?}");
        }
        let error = parse("{\"prompt\": \"a\", \"model\": \"gpt\"}").unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (404, Some("model_not_found")));
    }
}
