//! Texts as token ids, and back.

use serde::Serialize;

use super::app::Served;
use super::error::{ApiError, json};
use super::openai::chat::ChatRequest;
use super::openai::fields::Fields;

/// What is to become tokens.
pub(super) struct Text {
    text: Option<String>,
    /// Whether tokens around a text are added.
    around: bool,
    /// Whether there are messages.
    conversation: bool,
}

impl Text {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let content = fields.take::<String>("content")?;
        let bare = content.is_some();
        let text = fields.take::<String>("prompt")?.or(content);
        // llama.cpp adds none unless asked, vLLM does unless told otherwise.
        let around = fields.take::<bool>("add_special_tokens")?.or(fields.take::<bool>("add_special")?);
        let conversation = fields.take::<serde::de::IgnoredAny>("messages")?.is_some();
        Ok(Self { text, around: around.unwrap_or(!bare), conversation })
    }
}

/// The tokens of a text (`prompt`, or llama.cpp's `content`) or of a conversation.
pub(super) fn tokenized(served: &Served, body: &[u8]) -> Result<String, ApiError> {
    #[derive(Serialize)]
    struct Tokens {
        count: usize,
        max_model_len: usize,
        tokens: Vec<u32>,
    }
    let Text { text, around, conversation } = Text::parse(body)?;
    let tokens = match text {
        Some(text) => {
            let codec = served.codec("prompt")?;
            let tokens = if around { codec.encode(&text) } else { codec.encode_inside(&text) };
            tokens.map_err(|e| ApiError::field("prompt", e))?
        }
        None if conversation => served.conversation(&ChatRequest::parse(body, &served.bounds)?)?,
        None => return Err(ApiError::field("prompt", "is missing: give prompt or messages")),
    };
    Ok(json(&Tokens { count: tokens.len(), max_model_len: served.bounds.context, tokens }))
}

pub(super) fn tokens_field(body: &[u8]) -> Result<Vec<u32>, ApiError> {
    let tokens = Fields::parse(body)?.take("tokens")?;
    tokens.ok_or_else(|| ApiError::field("tokens", "is missing: must be a list of token ids"))
}

/// The text of tokens, under vLLM's name and llama.cpp's.
pub(super) fn detokenized(served: &Served, body: &[u8]) -> Result<String, ApiError> {
    #[derive(Serialize)]
    struct Detokenized<'a> {
        prompt: &'a str,
        content: &'a str,
    }
    let tokens = tokens_field(body)?;
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= served.bounds.vocabulary) {
        let problem = format!("token id {token} is not below {}", served.bounds.vocabulary);
        return Err(ApiError::field("tokens", problem));
    }
    let text = served.codec("tokens")?.tokenizer().decode(&tokens);
    Ok(json(&Detokenized { prompt: &text, content: &text }))
}
