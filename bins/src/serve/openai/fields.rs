//! The fields of a request's JSON object, taken one by one, so that an error names its field.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::serve::error::ApiError;

/// The fields of an object that are not read yet. Fields that nobody reads are passed over: clients send many that
/// mean nothing here.
#[derive(Debug)]
pub struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    /// Reads an object.
    ///
    /// # Errors
    /// A body that is not JSON, or no object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let wrong = |e: serde_json::Error| ApiError::request(format!("the body must be a JSON object: {e}"));
        serde_json::from_slice(body).map(Self).map_err(wrong)
    }

    /// Takes a field; `None` if it is absent or null.
    ///
    /// # Errors
    /// A value of another type; it is named.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.0.remove(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|e| ApiError::field(name, plain(&e)))
    }

    /// Takes a field of several possible types; `must` says which in an error.
    ///
    /// # Errors
    /// A value of another type; it is named.
    pub fn take_one_of<T: DeserializeOwned>(&mut self, name: &str, must: &str) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.0.remove(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|_| ApiError::field(name, format!("must be {must}")))
    }

    /// Refuses a field that is present, and neither null, false, zero nor empty: to pass over it would deceive.
    ///
    /// # Errors
    /// Names the field and says `why`.
    pub fn refuse(&mut self, name: &str, why: &str) -> Result<(), ApiError> {
        match self.0.remove(name) {
            Some(raw) if !matches!(raw.get(), "null" | "false" | "0" | "[]" | "{}" | "\"\"") => {
                Err(ApiError::field(name, why))
            }
            _ => Ok(()),
        }
    }
}

/// The error without its place: a place inside the field would be taken for one in the body.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(text, _)| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field() {
        let body = br#"{"a": 1, "b": "x", "c": null, "d": 1e999, "e": [1], "a": 2, "f": false}"#;
        let mut fields = Fields::parse(body).unwrap();
        assert_eq!(fields.take::<u32>("a").unwrap(), Some(2), "the last of equal names counts");
        assert_eq!((fields.take::<u32>("a").unwrap(), fields.take::<u32>("c").unwrap()), (None, None));
        let error = fields.take::<f64>("b").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("b"));
        assert!(error.message.starts_with("b: invalid type: string \"x\""), "{error:?}");
        assert!(!error.message.contains("line"), "{error:?}");
        assert!(fields.take::<f64>("d").is_err());
        assert!(fields.refuse("f", "no").is_ok() && fields.refuse("g", "no").is_ok());
        assert_eq!(fields.refuse("e", "is not known").unwrap_err().message, "e: is not known");
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused() {
        for body in [&b""[..], b"[]", b"{", b"1", b"\"x\"", b"{\"a\": \xff}", b"\0", b"{\"a\" 1}"] {
            assert!(Fields::parse(body).unwrap_err().message.contains("JSON object"));
        }
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let deep = Fields::parse(deep.as_bytes()).and_then(|mut fields| fields.take::<serde_json::Value>("a"));
        assert!(deep.unwrap_err().message.contains("recursion"));
    }
}
