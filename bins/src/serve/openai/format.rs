//! Forms of answers: OpenAI's `response_format`, and the fields by which vLLM and llama.cpp ask for the same.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::Fields;
use crate::serve::error::ApiError;

/// Bytes of a schema or an expression, at most.
const MAX_BYTES: usize = 256 << 10;
/// Texts of a choice, at most.
const MAX_TEXTS: usize = 4096;

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// A JSON object.
    Object,
    /// A JSON text of this schema.
    Schema(Value),
    /// A text that a regular expression describes from its beginning to its end.
    Expression(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// A format, and the field that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The field, for errors.
    pub field: String,
    /// The format.
    pub format: Format,
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
    json_schema: Option<NamedSchema>,
    /// llama.cpp's place for it.
    schema: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct NamedSchema {
    schema: Option<Box<RawValue>>,
}

/// vLLM's form.
#[derive(Default, Deserialize)]
struct StructuredOutputs {
    json: Option<Box<RawValue>>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    json_object: Option<bool>,
    grammar: Option<String>,
    structural_tag: Option<Box<RawValue>>,
}

impl Asked {
    /// Reads the fields that say what an answer must be; `None` where it may be any text.
    ///
    /// # Errors
    /// Names the field that is wrong, or that asks for a second format.
    pub fn take(fields: &mut Fields) -> Result<Option<Self>, ApiError> {
        let mut found: Vec<Self> = Vec::new();
        let mut add = |field: &str, format| found.push(Self { field: field.to_owned(), format });
        if let Some(format) = fields.take_object::<ResponseFormat>("response_format", "an object with type")? {
            let named = format.json_schema.and_then(|named| named.schema);
            match (format.r#type.as_str(), named.or(format.schema)) {
                ("text", _) => {}
                ("json_object", None) => add("response_format", Format::Object),
                ("json_object", Some(raw)) => add("response_format", schema("response_format.schema", &raw)?),
                ("json_schema", Some(raw)) => {
                    let field = "response_format.json_schema.schema";
                    add(field, schema(field, &raw)?);
                }
                ("json_schema", None) => {
                    return Err(ApiError::field("response_format.json_schema.schema", "is missing"));
                }
                (other, _) => {
                    let problem = format!("{other:?}: must be \"text\", \"json_object\" or \"json_schema\"");
                    return Err(ApiError::field("response_format.type", problem));
                }
            }
        }
        for field in ["json_schema", "guided_json"] {
            if let Some(raw) = fields.take_one_of::<Box<RawValue>>(field, "a JSON schema")? {
                add(field, schema(field, &raw)?);
            }
        }
        if let Some(expression) = fields.take::<String>("guided_regex")? {
            add("guided_regex", regex("guided_regex", expression)?);
        }
        if let Some(texts) = fields.take_one_of::<Vec<String>>("guided_choice", "a list of texts")? {
            add("guided_choice", choice("guided_choice", texts)?);
        }
        let outputs = fields
            .take_object::<StructuredOutputs>(
                "structured_outputs",
                "an object with json, regex, choice or json_object",
            )?
            .unwrap_or_default();
        if outputs.grammar.is_some() || outputs.structural_tag.is_some() {
            let problem = "grammars and structural tags are not supported: use json, regex or choice";
            return Err(ApiError::field("structured_outputs", problem));
        }
        if let Some(raw) = outputs.json {
            add("structured_outputs.json", schema("structured_outputs.json", &raw)?);
        }
        if let Some(expression) = outputs.regex {
            add("structured_outputs.regex", regex("structured_outputs.regex", expression)?);
        }
        if let Some(texts) = outputs.choice {
            add("structured_outputs.choice", choice("structured_outputs.choice", texts)?);
        }
        if outputs.json_object == Some(true) {
            add("structured_outputs.json_object", Format::Object);
        }
        match &found[..] {
            [_, second, ..] => {
                let problem = format!("{} says already what the answer must be: leave one of them out", found[0].field);
                Err(ApiError::field(&second.field.clone(), problem))
            }
            _ => Ok(found.pop()),
        }
    }
}

/// A schema, which vLLM also takes as a string of JSON.
fn schema(field: &str, raw: &RawValue) -> Result<Format, ApiError> {
    check_size(field, raw.get().len())?;
    let wrong = |e: serde_json::Error| ApiError::field(field, format!("is no JSON schema: {e}"));
    let value = match serde_json::from_str(raw.get()).map_err(wrong)? {
        Value::String(text) => serde_json::from_str(&text).map_err(wrong)?,
        value => value,
    };
    match value {
        value @ Value::Object(_) => Ok(Format::Schema(value)),
        Value::Bool(true) => Ok(Format::Schema(Value::Object(serde_json::Map::new()))),
        _ => Err(ApiError::field(field, "must be a JSON schema, an object")),
    }
}

fn regex(field: &str, expression: String) -> Result<Format, ApiError> {
    check_size(field, expression.len())?;
    Ok(Format::Expression(expression))
}

fn choice(field: &str, texts: Vec<String>) -> Result<Format, ApiError> {
    check_size(field, texts.iter().map(String::len).sum())?;
    if texts.is_empty() || texts.len() > MAX_TEXTS || texts.iter().any(String::is_empty) {
        return Err(ApiError::field(field, format!("must be a list of 1 to {MAX_TEXTS} texts, none of them empty")));
    }
    Ok(Format::Choice(texts))
}

fn check_size(field: &str, bytes: usize) -> Result<(), ApiError> {
    if bytes > MAX_BYTES {
        return Err(ApiError::field(field, format!("has {bytes} bytes: must be at most {MAX_BYTES}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(fields: &str) -> Result<Option<Asked>, ApiError> {
        Asked::take(&mut Fields::parse(fields.as_bytes()).unwrap())
    }

    #[test]
    fn every_way_to_ask_gives_the_same_format() {
        let schema = r#"{"type": "object", "properties": {"b": {}, "a": {}}}"#;
        let quoted = serde_json::to_string(schema).unwrap();
        for body in [
            format!(
                "{{\"response_format\": {{\"type\": \"json_schema\", \"json_schema\": {{\"name\": \"x\", \"schema\": {schema}}}}}}}"
            ),
            format!("{{\"response_format\": {{\"type\": \"json_schema\", \"schema\": {schema}}}}}"),
            format!("{{\"response_format\": {{\"type\": \"json_object\", \"schema\": {schema}}}}}"),
            format!("{{\"response_format\": {{\"type\": \"text\"}}, \"guided_json\": {quoted}}}"),
            format!("{{\"json_schema\": {schema}}}"),
            format!("{{\"structured_outputs\": {{\"json\": {schema}}}, \"guided_regex\": null}}"),
        ] {
            let Format::Schema(found) = take(&body).unwrap().unwrap().format else { panic!("{body}") };
            assert_eq!(found, serde_json::from_str::<Value>(schema).unwrap());
            let keys: Vec<&String> = found["properties"].as_object().unwrap().keys().collect();
            assert_eq!(keys, ["b", "a"], "properties keep their order");
        }
        let object = take(r#"{"response_format": {"type": "json_object"}}"#).unwrap().unwrap();
        assert_eq!(object, Asked { field: "response_format".into(), format: Format::Object });
        let choice = take(r#"{"guided_choice": ["a", "b"]}"#).unwrap().unwrap().format;
        assert_eq!(choice, Format::Choice(vec!["a".into(), "b".into()]));
        let any = take(r#"{"guided_json": true}"#).unwrap().unwrap().format;
        assert_eq!(any, Format::Schema(json!({})));
        assert_eq!(take(r#"{"response_format": {"type": "text"}, "structured_outputs": {}}"#).unwrap(), None);
    }

    #[test]
    fn errors_name_the_field() {
        for (body, param, words) in [
            (r#"{"response_format": {"type": "xml"}}"#, "response_format.type", "xml"),
            (r#"{"response_format": {"type": "json_schema"}}"#, "response_format.json_schema.schema", "missing"),
            (r#"{"guided_json": [1]}"#, "guided_json", "an object"),
            (r#"{"guided_json": "{"}"#, "guided_json", "no JSON schema"),
            (r#"{"guided_choice": []}"#, "guided_choice", "list"),
            (r#"{"guided_regex": "a", "guided_json": {}}"#, "guided_regex", "guided_json says already"),
            (r#"{"structured_outputs": {"grammar": "root ::= x"}}"#, "structured_outputs", "not supported"),
        ] {
            let error = take(body).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{body}: {error:?}");
            assert!(error.message.contains(words), "{body}: {error:?}");
        }
        let long = format!("{{\"guided_regex\": \"{}\"}}", "a".repeat(MAX_BYTES + 1));
        assert!(take(&long).unwrap_err().message.contains("at most"));
    }
}
