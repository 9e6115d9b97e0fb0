//! From the body of a request to the tokens of its prompts.

use super::app::{Prepared, Served};
use super::error::ApiError;
use super::openai::answer::Kind;
use super::openai::chat::{ChatRequest, Prefix};
use super::openai::choices::Prompted;
use super::openai::completions::{CompletionRequest, Prompt};
use super::openai::think::{self, Place};
use crate::error::Error;
use crate::infer::Conversation;

/// DeepSeek's tokens around the text before a gap, after it, and at the end.
const FILL: [&str; 3] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];
/// Tokens of a prompt's end in which an open tag of reasoning is looked for.
const TAIL: usize = 16;

impl Served {
    /// A request for completions with its prompts as tokens.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn completion(&self, body: &[u8], logged: bool) -> Result<Prepared, ApiError> {
        let CompletionRequest { prompts, suffix, echo, params } = CompletionRequest::parse(body, &self.bounds)?;
        let logged = logged.then(|| format!("{prompts:?}"));
        let mut prompted = Vec::new();
        for prompt in prompts {
            let tokens = match &suffix {
                Some(suffix) => self.filling(&prompt, suffix)?,
                None => match &prompt {
                    Prompt::Text(text) => {
                        self.codec("prompt")?.encode(text).map_err(|e| ApiError::field("prompt", e))?
                    }
                    Prompt::Tokens(tokens) => tokens.clone(),
                },
            };
            let echo = echo.then(|| match prompt {
                Prompt::Text(text) => text,
                Prompt::Tokens(tokens) => self.tokenizer.as_ref().map(|t| t.decode(&tokens)).unwrap_or_default(),
            });
            prompted.push(Prompted { tokens, echo });
        }
        let (kind, constraint) = (Kind::Completion, None);
        Ok(Prepared { kind, params, prompts: prompted, place: None, constraint, field: "prompt", logged })
    }

    /// The tokens of a prompt that asks for the text between `prompt` and `suffix`.
    fn filling(&self, prompt: &Prompt, suffix: &str) -> Result<Vec<u32>, ApiError> {
        let codec = self.codec("suffix")?;
        let tokenizer = codec.tokenizer();
        let Some([begin, hole, end]) = fill_tokens(tokenizer) else {
            let problem = format!("the model cannot fill gaps, its tokenizer has no {}: leave suffix out", FILL[1]);
            return Err(ApiError::field("suffix", problem));
        };
        let refused = |name: &'static str| move |e: fathom_dataprep::Error| ApiError::field(name, e);
        let mut tokens = codec.encode_open("").map_err(|e| ApiError::field("prompt", e))?;
        tokens.push(begin);
        match prompt {
            Prompt::Text(text) => {
                tokens.extend(tokenizer.encode_ordinary(text.as_bytes()).map_err(refused("prompt"))?);
            }
            Prompt::Tokens(ids) => tokens.extend(ids),
        }
        tokens.push(hole);
        tokens.extend(tokenizer.encode_ordinary(suffix.as_bytes()).map_err(refused("suffix"))?);
        tokens.push(end);
        Ok(tokens)
    }

    /// A request for chats with its conversation as tokens.
    ///
    /// # Errors
    /// Names the field that is wrong; a model without a chat template.
    pub fn chat(&self, body: &[u8], logged: bool) -> Result<Prepared, ApiError> {
        let request = ChatRequest::parse(body, &self.bounds)?;
        let mut tokens = self.conversation(&request)?;
        let place = self.place(&mut tokens, request.prefix.as_ref())?;
        let text = || self.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&tokens)).unwrap_or_default();
        let logged = logged.then(text);
        let prompts = vec![Prompted { tokens, echo: None }];
        if let (Some(asked), true) = (&request.params.format, place == Place::Answer) {
            let problem = "cannot be combined with the beginning of an answer (\"prefix\"): leave one of them out";
            return Err(ApiError::field(&asked.field, problem));
        }
        let (kind, place, params) = (Kind::Chat, Some(place), request.params);
        Ok(Prepared { kind, params, prompts, place, constraint: None, field: "messages", logged })
    }

    /// The tokens of a conversation by the chat template, without the beginning of the answer.
    ///
    /// # Errors
    /// A model without a template, or a template that refuses the conversation.
    pub fn conversation(&self, request: &ChatRequest) -> Result<Vec<u32>, ApiError> {
        let Some(template) = &self.template else {
            let problem = "the model has no chat template: use /v1/completions, or put the chat_template.jinja that it \
                           was trained with into its folder";
            return Err(ApiError::field("messages", problem));
        };
        let conversation = Conversation {
            messages: &request.messages,
            tools: request.tools.as_ref(),
            variables: &request.variables,
            add_generation_prompt: request.add_generation_prompt,
        };
        let tokenizer = self.codec("messages")?.tokenizer();
        template.encode(tokenizer, &conversation).map_err(|e| ApiError::field("messages", e))
    }

    /// Appends the beginning of the answer to a prompt, and says where the text goes on from there: R1's template opens
    /// the reasoning itself.
    fn place(&self, tokens: &mut Vec<u32>, prefix: Option<&Prefix>) -> Result<Place, ApiError> {
        let tail = &tokens[tokens.len().saturating_sub(TAIL)..];
        let tail: Vec<u8> = tail.iter().flat_map(|&token| self.vocabulary.bytes(token)).collect();
        let open = tail.trim_ascii_end().ends_with(think::OPEN.as_bytes());
        let Some(Prefix { reasoning, content }) = prefix else {
            return Ok(if open { Place::Reasoning } else { Place::Start });
        };
        let (mut text, mut place) = (String::new(), Place::Answer);
        if let Some(reasoning) = reasoning {
            let tag = if open { "" } else { think::OPEN };
            text = format!("{tag}{reasoning}");
        }
        if open || reasoning.is_some() {
            if content.is_empty() && reasoning.is_some() {
                place = Place::Reasoning;
            } else {
                text.push_str(think::CLOSE);
            }
        }
        text.push_str(content);
        let refused = |e: Error| ApiError::field("messages", e);
        tokens.extend(self.codec("messages")?.encode_inside(&text).map_err(refused)?);
        Ok(place)
    }
}

/// The tokens with which a model fills gaps, if it has them.
fn fill_tokens(tokenizer: &fathom_dataprep::Tokenizer) -> Option<[u32; 3]> {
    let [begin, hole, end] = FILL.map(|name| tokenizer.added_token(name));
    Some([begin?, hole?, end?])
}
