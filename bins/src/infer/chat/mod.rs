//! Chat templates: from messages to the text and the tokens of a prompt.
//!
//! A template is Jinja, rendered with the settings of transformers' `apply_chat_template`: `trim_blocks` and
//! `lstrip_blocks`, loop controls, Python's string and dictionary methods, `tojson` as Python writes JSON,
//! `raise_exception`, `strftime_now`, and `{% generation %}` blocks, which render as if their tags were not there.

mod json;
mod load;
mod python;

use std::collections::BTreeMap;

use fathom_dataprep::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior, Value};
use serde::Deserialize;

use crate::error::{Error, Result};

pub(crate) use python::method as python_method;

/// Work that a template may do, in minijinja's unit (an instruction, or 64 bytes that it makes): a fraction of a
/// second, and 256 MB.
pub(crate) const FUEL: u64 = 4_000_000;
/// Bytes that a unit of fuel pays for.
const BYTES_PER_FUEL: usize = 64;
/// Bytes of a template file, at most.
const MAX_TEMPLATE: u64 = 4 << 20;

/// Any JSON value with its keys in order, as templates see them: messages, tools and variables.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Json(Value);

impl Json {
    /// Reads JSON text.
    ///
    /// # Errors
    /// Text that is not JSON.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::Run(format!("not JSON: {e}")))
    }

    /// A string.
    pub fn text(text: &str) -> Self {
        Self(Value::from(text))
    }

    /// Null, Python's `None`.
    pub fn null() -> Self {
        Self(Value::from(()))
    }

    /// A truth value.
    pub fn bool(value: bool) -> Self {
        Self(Value::from(value))
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self(items.into_iter().map(|item| item.0).collect())
    }

    /// An object with its keys in order.
    pub fn object(entries: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self(Value::from_pairs(entries.into_iter().map(|(key, value)| (Value::from(key), value.0))))
    }

    /// A conversation of messages, each a role and its content.
    pub fn conversation<'a>(messages: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let message = |(role, content): (&str, &str)| {
            Value::from_pairs([("role", Value::from(role)), ("content", Value::from(content))])
        };
        Self(messages.into_iter().map(message).collect())
    }
}

/// Everything that a template can read beside its special tokens.
#[derive(Clone, Debug)]
pub struct Conversation<'a> {
    /// A list of messages, each with `role` and `content`.
    pub messages: &'a Json,
    /// Descriptions of tools, a list.
    pub tools: Option<&'a Json>,
    /// Further variables, such as `thinking`.
    pub variables: &'a [(String, Json)],
    /// Whether the prompt ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
}

impl<'a> Conversation<'a> {
    /// Messages without tools or variables; the assistant is next.
    pub fn new(messages: &'a Json) -> Self {
        Self { messages, tools: None, variables: &[], add_generation_prompt: true }
    }
}

/// A chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    /// Where it comes from, for errors.
    origin: String,
    /// `bos_token`, `eos_token` and the like.
    special: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// A template from its text. `special` holds the texts of `bos_token`, `eos_token` and the like; `origin` is named
    /// in errors.
    ///
    /// # Errors
    /// A template that is not Jinja.
    pub fn new(source: &str, origin: &str, special: BTreeMap<String, String>) -> Result<Self> {
        // As jinja2 does with the source, so that a file with the line ends of another system gives the same prompt.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let template = Self { source: without_generation_tags(&source), origin: origin.into(), special };
        template.environment()?;
        Ok(template)
    }

    fn environment(&self) -> Result<Environment<'_>> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| self.failed(&e))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(python::method);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", to_json);
        environment.add_filter("default", python::default);
        environment.add_filter("d", python::default);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| python::strftime(format, python::now()));
        environment.add_template("chat", &self.source).map_err(|e| self.failed(&e))?;
        Ok(environment)
    }

    fn failed(&self, error: &minijinja::Error) -> Error {
        let remedy = match error.kind() {
            ErrorKind::OutOfFuel => "it does not come to an end, or the conversation is too long for it",
            ErrorKind::SyntaxError => "repair the file, or give another template",
            _ => "give it the messages and variables that it expects, or another template",
        };
        let (detail, line) = (error.detail().unwrap_or_default(), error.line());
        let place = line.map_or_else(String::new, |line| format!(", line {line}"));
        let between = if detail.is_empty() { "" } else { ": " };
        let kind = error.kind();
        Error::Run(format!("the chat template of {}{place} failed: {kind}{between}{detail}; {remedy}", self.origin))
    }

    /// Renders a conversation to the text of a prompt.
    ///
    /// # Errors
    /// A template that fails, raises an exception, or does not come to an end.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String> {
        let mut context: BTreeMap<&str, Value> =
            self.special.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect();
        context.extend(conversation.variables.iter().map(|(name, value)| (name.as_str(), value.0.clone())));
        if conversation.messages.0.kind() != ValueKind::Seq {
            return Err(Error::Run("messages must be a list of objects with role and content".into()));
        }
        context.insert("messages", conversation.messages.0.clone());
        context.insert("tools", conversation.tools.map_or(Value::from(()), |tools| tools.0.clone()));
        context.insert("documents", Value::from(()));
        context.insert("add_generation_prompt", conversation.add_generation_prompt.into());
        let environment = self.environment()?;
        let template = environment.get_template("chat").map_err(|e| self.failed(&e))?;
        template.render(Value::from_pairs(context)).map_err(|e| self.failed(&e))
    }

    /// Renders a conversation to the token ids of a prompt. Added tokens such as `<｜User｜>` that are written out in a
    /// message stay text, the assistant's messages aside; those of the template become their ids. Nothing is put around
    /// the prompt.
    ///
    /// # Errors
    /// Those of [`render`](Self::render); a tokenizer that refuses the text.
    pub fn encode(&self, tokenizer: &Tokenizer, conversation: &Conversation<'_>) -> Result<Vec<u32>> {
        let mut added: Vec<(&str, u32)> =
            tokenizer.added_tokens().filter(|(token, _)| token.chars().nth(1).is_some()).collect();
        // The longest first, as tokenizers match.
        added.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.cmp(b)));
        let whole = conversation.messages.0.to_string();
        if !added.iter().any(|(token, _)| whole.contains(token)) {
            return Ok(tokenizer.encode(&self.render(conversation)?)?);
        }
        // Characters that stand for nothing: one of them breaks the tokens in the messages until they are encoded.
        let mark = ('\u{fdd0}'..='\u{fdef}').find(|mark| !whole.contains(*mark));
        let mark = mark.ok_or_else(|| Error::Run("a message holds every noncharacter of Unicode".into()))?;
        let messages = conversation.messages.0.try_iter().map_err(|e| self.failed(&e))?;
        let messages = Json(messages.map(|message| marked_message(&message, &added, mark)).collect());
        let text = self.render(&Conversation { messages: &messages, ..conversation.clone() })?;
        encode_marked(tokenizer, &text, &added, mark)
    }
}

/// A message with a mark inside each added token that is written out in it; the assistant's own words are as they are.
fn marked_message(message: &Value, added: &[(&str, u32)], mark: char) -> Value {
    let role = message.get_attr("role").unwrap_or_default();
    if role.as_str() == Some("assistant") { message.clone() } else { marked(message, added, mark) }
}

fn marked(value: &Value, added: &[(&str, u32)], mark: char) -> Value {
    match value.kind() {
        ValueKind::String => {
            let mut text = value.as_str().unwrap_or_default().to_owned();
            for (token, _) in added {
                let first = token.chars().next().map_or(0, char::len_utf8);
                text = text.replace(token, &format!("{}{mark}{}", &token[..first], &token[first..]));
            }
            Ok(Value::from(text))
        }
        ValueKind::Seq => value.try_iter().map(|items| items.map(|x| marked(&x, added, mark)).collect()),
        ValueKind::Map => value.try_iter().map(|keys| {
            let entry = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                (key, marked(&item, added, mark))
            };
            Value::from_pairs(keys.map(entry))
        }),
        _ => Ok(value.clone()),
    }
    .unwrap_or_else(|_: minijinja::Error| value.clone())
}

/// Encodes a text in which `mark` breaks the added tokens that stay text.
fn encode_marked(tokenizer: &Tokenizer, text: &str, added: &[(&str, u32)], mark: char) -> Result<Vec<u32>> {
    let (mut tokens, mut at) = (Vec::new(), 0);
    // Where each token comes next: each is looked for once in the whole text, however many others are found.
    let mut next: Vec<Option<usize>> = added.iter().map(|(token, _)| text.find(token)).collect();
    while at < text.len() {
        for ((token, _), place) in added.iter().zip(&mut next) {
            if place.is_some_and(|place| place < at) {
                *place = text[at..].find(token).map(|found| at + found);
            }
        }
        let places =
            added.iter().zip(&next).filter_map(|((token, id), place)| Some(((*place)?, token.len(), Some(*id))));
        let first = places.min_by_key(|&(start, length, _)| (start, usize::MAX - length));
        let (start, length, id) = first.unwrap_or((text.len(), 0, None));
        let ordinary = text[at..start].replace(mark, "");
        if !ordinary.is_empty() {
            tokens.extend(tokenizer.encode_ordinary(ordinary.as_bytes())?);
        }
        tokens.extend(id);
        at = start + length;
    }
    Ok(tokens)
}

/// `tojson` as Python's `json.dumps` writes it, by its options.
fn to_json(state: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let layout = json::Layout {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: options.get("indent")?,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: match separators.as_deref() {
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "separators must be a pair")),
            None => None,
        },
    };
    options.assert_all_used()?;
    json::write(value, &layout, &|fuel| state.consume_fuel(fuel))
}

fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// The template with blocks that always render in place of `{% generation %}` blocks, which minijinja does not know.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        let inner = tag.trim_start_matches(['-', '+']).trim_start();
        let found = [("generation", "if true"), ("endgeneration", "endif")].into_iter().find(|(name, _)| {
            let after = inner.strip_prefix(name).map(|after| after.trim_start().trim_start_matches(['-', '+']));
            after.is_some_and(|after| after.starts_with("%}"))
        });
        rest = match found {
            Some((name, instead)) => {
                out.push_str(&tag[..tag.len() - inner.len()]);
                out.push_str(instead);
                &inner[name.len()..]
            }
            None => tag,
        };
    }
    out + rest
}

#[cfg(test)]
mod tests;
