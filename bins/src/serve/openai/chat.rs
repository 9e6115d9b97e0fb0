//! Requests for chats: messages, tools and variables of the model's chat template.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::Fields;
use super::params::{Bounds, Params};
use crate::infer::Json;
use crate::serve::error::ApiError;

/// Most probable tokens that a chat reports, at most.
pub const MAX_LOGPROBS: usize = 20;

/// The beginning of the assistant's answer, which the model continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The beginning of its reasoning, or all of it where there is content.
    pub reasoning: Option<String>,
    /// The beginning of the answer.
    pub content: String,
}

/// A request for chats.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The messages, as templates see them, without the prefix.
    pub messages: Json,
    /// The beginning of the answer.
    pub prefix: Option<Prefix>,
    /// Descriptions of tools.
    pub tools: Option<Json>,
    /// Further variables of the template.
    pub variables: Vec<(String, Json)>,
    /// Whether the prompt ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Everything else. Its sampling says how many log-probabilities are reported.
    pub params: Params,
}

/// An object with its keys in order; templates may write it out.
struct Object(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<serde_json::Map<String, serde_json::Value>>),
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(super) enum ToolChoice {
    Word(String),
    Tool(serde::de::IgnoredAny),
}

impl ToolChoice {
    pub(super) const MUST: &'static str = "\"auto\" or \"none\"";
}

#[derive(serde::Deserialize)]
struct Switch {
    r#type: String,
}

/// A message, read.
struct Message {
    role: String,
    content: Option<String>,
    reasoning: Option<String>,
    prefix: bool,
    rest: Vec<(String, Json)>,
}

impl Message {
    fn parse(object: Object, place: &str) -> Result<Self, ApiError> {
        let wrong = |key: &str, problem: &str| ApiError::field(&format!("{place}.{key}"), problem);
        let (mut role, mut content, mut reasoning, mut prefix, mut rest) = (None, None, None, false, Vec::new());
        for (key, raw) in object.0 {
            let text =
                || serde_json::from_str::<Option<String>>(raw.get()).map_err(|_| wrong(&key, "must be a string"));
            match key.as_str() {
                "role" => role = text()?,
                "content" => content = content_text(&raw, place)?,
                "reasoning_content" => reasoning = text()?,
                "reasoning" => reasoning = reasoning.or(text()?),
                "prefix" => {
                    let value = serde_json::from_str::<Option<bool>>(raw.get());
                    prefix = value.map_err(|_| wrong(&key, "must be true or false"))?.unwrap_or(false);
                }
                _ => {
                    let value = serde_json::from_str(raw.get()).map_err(|e| wrong(&key, &e.to_string()))?;
                    rest.push((key, value));
                }
            }
        }
        let role = match role.ok_or_else(|| wrong("role", "is missing"))?.as_str() {
            // Templates do not know the role, and would pass over the message.
            "developer" => "system".to_owned(),
            role @ ("system" | "user" | "assistant" | "tool") => role.to_owned(),
            other => return Err(wrong("role", &format!("{other:?}: must be system, user, assistant or tool"))),
        };
        if content.is_none() && role != "assistant" {
            return Err(wrong("content", "is missing: must be a string, or a list of text parts"));
        }
        Ok(Self { role, content, reasoning, prefix, rest })
    }

    fn json(self) -> Json {
        let text = |text: &str| Json::text(text);
        let content = self.content.as_deref().map_or_else(Json::null, text);
        let mut entries = vec![("role".to_owned(), text(&self.role)), ("content".to_owned(), content)];
        entries.extend(self.reasoning.as_deref().map(|reasoning| ("reasoning_content".to_owned(), text(reasoning))));
        entries.extend(self.rest);
        Json::object(entries)
    }
}

fn content_text(raw: &RawValue, place: &str) -> Result<Option<String>, ApiError> {
    let name = format!("{place}.content");
    let must = "must be a string, null, or a list of parts such as {\"type\": \"text\", \"text\": \"...\"}";
    let content: Option<Content> = serde_json::from_str(raw.get()).map_err(|_| ApiError::field(&name, must))?;
    let parts = match content {
        None => return Ok(None),
        Some(Content::Text(text)) => return Ok(Some(text)),
        Some(Content::Parts(parts)) => parts,
    };
    let mut text = String::new();
    for part in parts {
        let string = |key: &str| part.get(key).and_then(serde_json::Value::as_str);
        match (string("type"), string("text")) {
            (Some("text"), Some(part)) => text.push_str(part),
            (Some("text") | None, _) => return Err(ApiError::field(&name, must)),
            (Some(kind), _) => {
                let problem = format!("parts of type {kind:?} are not supported: the model reads text");
                return Err(ApiError::field(&name, problem));
            }
        }
    }
    Ok(Some(text))
}

impl ChatRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let limits = ["max_completion_tokens", "max_tokens"];
        let mut params = Params::take(&mut fields, bounds, &limits, 1, usize::MAX)?;
        params.sampling.max_new_tokens = params.sampling.max_new_tokens.min(bounds.context);
        fields.refuse("echo", "is for completions: an answer does not repeat the conversation")?;
        fields.refuse("audio", "is not supported: the model writes text")?;
        let logprobs = fields.take::<bool>("logprobs")?.unwrap_or(false);
        let top = fields.take::<usize>("top_logprobs")?;
        match top {
            Some(top) if top > MAX_LOGPROBS => {
                return Err(ApiError::field("top_logprobs", format!("{top}: must be at most {MAX_LOGPROBS}")));
            }
            Some(top) if top > 0 && !logprobs => {
                return Err(ApiError::field("top_logprobs", "belongs to \"logprobs\": true"));
            }
            _ => {}
        }
        params.sampling.logprobs = logprobs.then(|| top.unwrap_or(0));

        let must = "a list of objects with role and content";
        let objects = fields.take_one_of::<Vec<Object>>("messages", must)?.unwrap_or_default();
        if objects.is_empty() {
            return Err(ApiError::field("messages", format!("must be {must}, at least one")));
        }
        let parse = |(i, object)| Message::parse(object, &format!("messages[{i}]"));
        let mut messages = objects.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        let continues = fields.take::<bool>("continue_final_message")?.unwrap_or(false);
        let last = messages.len() - 1;
        if let Some(i) = messages.iter().position(|message| message.prefix).filter(|&i| i != last) {
            let name = format!("messages[{i}].prefix");
            return Err(ApiError::field(&name, "only the last message can begin the answer"));
        }
        let prefix = messages.pop_if(|message| message.prefix || continues);
        if prefix.as_ref().is_some_and(|message| message.role != "assistant") {
            let name = format!("messages[{last}].role");
            return Err(ApiError::field(&name, "the beginning of the answer must be the assistant's"));
        }
        let prefix = prefix.map(|message| {
            let reasoning = message.reasoning.filter(|reasoning| !reasoning.is_empty());
            Prefix { reasoning, content: message.content.unwrap_or_default() }
        });
        let messages = Json::list(messages.into_iter().map(Message::json));

        let mut tools = tools(&mut fields)?;
        match fields.take_one_of::<ToolChoice>("tool_choice", ToolChoice::MUST)? {
            None => {}
            Some(ToolChoice::Word(word)) if word == "auto" => {}
            Some(ToolChoice::Word(word)) if word == "none" => tools = None,
            Some(ToolChoice::Word(_) | ToolChoice::Tool(_)) => {
                let problem =
                    "must be \"auto\" or \"none\": calls are text, and how they are written is the template's matter";
                return Err(ApiError::field("tool_choice", problem));
            }
        }
        let mut variables = Vec::new();
        // DeepSeek's switch between its two ways to answer.
        if let Some(Switch { r#type: switch }) = fields.take_object("thinking", "an object with type")? {
            let on = match switch.as_str() {
                "enabled" => true,
                "disabled" => false,
                other => {
                    return Err(ApiError::field("thinking", format!("type {other:?}: must be enabled or disabled")));
                }
            };
            variables.extend(["thinking", "enable_thinking"].map(|name| (name.to_owned(), Json::bool(on))));
        }
        if let Some(Object(entries)) = fields.take_one_of("chat_template_kwargs", "an object")? {
            for (name, raw) in entries {
                let field = || format!("chat_template_kwargs.{name}");
                let value = serde_json::from_str(raw.get()).map_err(|e| ApiError::field(&field(), e))?;
                variables.push((name, value));
            }
        }
        let add_generation_prompt = fields.take("add_generation_prompt")?.unwrap_or(true) || prefix.is_some();
        Ok(Self { messages, prefix, tools, variables, add_generation_prompt, params })
    }
}

/// The descriptions of tools, in their own order.
fn tools(fields: &mut Fields) -> Result<Option<Json>, ApiError> {
    let must = "a list of objects, each a description of a tool";
    let wrong = || ApiError::field("tools", format!("must be {must}"));
    let Some(tools) = fields.take_one_of::<Vec<Box<RawValue>>>("tools", must)? else { return Ok(None) };
    let object = |raw: &RawValue| raw.get().starts_with('{');
    if !tools.iter().all(|tool| object(tool)) {
        return Err(wrong());
    }
    let read = |tool: Box<RawValue>| serde_json::from_str::<Json>(tool.get()).map_err(|_| wrong());
    let tools = tools.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok((!tools.is_empty()).then(|| Json::list(tools)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::infer::{ChatTemplate, Conversation};

    fn parse(body: &str) -> Result<ChatRequest, ApiError> {
        ChatRequest::parse(body.as_bytes(), &Bounds::tiny())
    }

    fn rendered(request: &ChatRequest) -> String {
        let source =
            "{% for m in messages %}[{{ m.role }}|{{ m | tojson }}]{% endfor %}{{ tools | tojson }}{{ thinking }}";
        let template = ChatTemplate::new(source, "x", BTreeMap::new()).unwrap();
        let (tools, variables) = (request.tools.as_ref(), &request.variables[..]);
        template
            .render(&Conversation { messages: &request.messages, tools, variables, add_generation_prompt: true })
            .unwrap()
    }

    #[test]
    fn templates_see_messages_and_tools_in_their_order() {
        let request = parse(
            r#"{"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"content": null, "role": "assistant", "tool_calls": [{"z": 1, "a": "2"}], "reasoning": "r"}],
                "tools": [{"type": "function", "function": {"name": "f", "a": 1}}], "tool_choice": "auto",
                "thinking": {"type": "enabled"}, "max_tokens": 7, "max_completion_tokens": 5}"#,
        )
        .unwrap();
        let want = concat!(
            r#"[system|{"role": "system", "content": "ab"}]"#,
            r#"[assistant|{"role": "assistant", "content": null, "reasoning_content": "r", "#,
            r#""tool_calls": [{"z": 1, "a": "2"}]}]"#,
            r#"[{"type": "function", "function": {"name": "f", "a": 1}}]True"#
        );
        assert_eq!(rendered(&request), want);
        assert_eq!(request.params.sampling.max_new_tokens, 5, "max_completion_tokens counts");
    }

    #[test]
    fn the_last_message_may_begin_the_answer() {
        let message = r#"{"role": "user", "content": "a"}"#;
        let request = parse(&format!(
            r#"{{"messages": [{message}, {{"role": "assistant", "content": "b", "prefix": true}}], "tool_choice": "none",
                "tools": [{{}}], "chat_template_kwargs": {{"thinking": false}}}}"#
        ))
        .unwrap();
        assert_eq!(request.prefix, Some(Prefix { reasoning: None, content: "b".into() }));
        assert_eq!(rendered(&request), r#"[user|{"role": "user", "content": "a"}]nullFalse"#);
        assert_eq!(request.params.sampling.max_new_tokens, 64, "up to the context");
    }

    #[test]
    fn wrong_messages_are_named() {
        let user = r#"{"role": "user", "content": "a"}"#;
        for (fields, param, words) in [
            ("\"messages\": []".to_owned(), "messages", "at least one"),
            ("\"x\": 1".into(), "messages", "at least one"),
            ("\"messages\": [1]".into(), "messages", "list of objects"),
            ("\"messages\": \"a\"".into(), "messages", "list of objects"),
            (format!("\"messages\": [{user}, {{\"content\": \"a\"}}]"), "messages[1].role", "missing"),
            ("\"messages\": [{\"role\": \"user\"}]".into(), "messages[0].content", "missing"),
            ("\"messages\": [{\"role\": \"x\", \"content\": \"\"}]".into(), "messages[0].role", "must be system"),
            ("\"messages\": [{\"role\": \"user\", \"content\": 3}]".into(), "messages[0].content", "must be a string"),
            (
                "\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]".into(),
                "messages[0].content",
                "image_url",
            ),
            (format!("\"messages\": [{user}], \"top_logprobs\": 2"), "top_logprobs", "logprobs"),
            (format!("\"messages\": [{user}], \"logprobs\": true, \"top_logprobs\": 21"), "top_logprobs", "at most 20"),
            (format!("\"messages\": [{user}], \"max_tokens\": 0"), "max_tokens", "at least 1"),
            (
                format!("\"messages\": [{user}], \"max_tokens\": 0, \"max_completion_tokens\": 5"),
                "max_tokens",
                "at least 1",
            ),
            (
                format!("\"messages\": [{user}], \"max_tokens\": 5, \"max_completion_tokens\": 0"),
                "max_completion_tokens",
                "at least 1",
            ),
            (format!("\"messages\": [{user}], \"tool_choice\": \"required\""), "tool_choice", "auto"),
            (format!("\"messages\": [{user}], \"tool_choice\": {{\"type\": \"function\"}}"), "tool_choice", "auto"),
            (format!("\"messages\": [{user}], \"tools\": [[]]"), "tools", "list of objects"),
            (format!("\"messages\": [{user}], \"thinking\": {{\"type\": \"x\"}}"), "thinking", "enabled"),
            (format!("\"messages\": [{user}], \"continue_final_message\": true"), "messages[0].role", "assistant"),
            (
                format!("\"messages\": [{{\"role\": \"assistant\", \"prefix\": true}}, {user}]"),
                "messages[0].prefix",
                "last message",
            ),
        ] {
            let error = parse(&format!("{{{fields}}}")).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{fields}");
            assert!(error.message.starts_with(param) && error.message.contains(words), "{fields}: {error:?}");
        }
    }
}
