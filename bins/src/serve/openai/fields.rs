//! The fields of a request's JSON object, taken one by one, so that an error names its field.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;

use crate::serve::error::ApiError;

/// Characters of a wrong value that an error repeats, at most.
const SHOWN: usize = 40;

/// A type of a field, in the words of those who write requests.
pub trait Typed: Sized {
    /// What a value must be.
    const MUST: &'static str;

    /// Reads JSON.
    ///
    /// # Errors
    /// A value of another type.
    fn read(raw: &str) -> serde_json::Result<Self>;
}

macro_rules! typed {
    ($($kind:ty: $must:literal, $read:expr;)*) => {$(
        impl Typed for $kind {
            const MUST: &'static str = $must;

            fn read(raw: &str) -> serde_json::Result<Self> {
                serde_json::from_str(raw).map($read)
            }
        }
    )*};
}

typed! {
    bool: "true or false", |is| is;
    usize: "a whole number, 0 or above", |Whole(n)| n;
    i64: "a whole number from -9223372036854775808 to 9223372036854775807", |Whole(n)| n;
    f64: "a number", |x| x;
    String: "a string", |text| text;
    Vec<u32>: "a list of token ids", |ids: Vec<Whole<u32>>| ids.into_iter().map(|Whole(id)| id).collect();
    BTreeMap<u32, f32>: "an object with token ids as keys and numbers as values", |map| map;
    IgnoredAny: "JSON", |any| any;
}

/// A whole number; JSON knows one kind of numbers, so 2.0 is one.
#[derive(Clone, Copy, Debug)]
pub struct Whole<T>(pub T);

impl<'de, T: TryFrom<i128>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<T>(PhantomData<T>);
        impl<T: TryFrom<i128>> Number<T> {
            fn whole<E: serde::de::Error>(n: i128) -> Result<Whole<T>, E> {
                T::try_from(n).map(Whole).map_err(|_| E::custom("out of range"))
            }
        }
        impl<T: TryFrom<i128>> Visitor<'_> for Number<T> {
            type Value = Whole<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Whole<T>, E> {
                Self::whole(n.into())
            }

            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Whole<T>, E> {
                Self::whole(n.into())
            }

            fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Whole<T>, E> {
                // Beyond 2^53 not every whole number is there.
                let exact = n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0;
                if exact { Self::whole(n as i128) } else { Err(E::custom("not whole")) }
            }
        }
        deserializer.deserialize_any(Number(PhantomData))
    }
}

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
        let wrong = |e: serde_json::Error| match e.is_data() {
            true => ApiError::request("the body must be a JSON object, as in {\"prompt\": \"a\"}"),
            false => ApiError::request(format!("the body must be a JSON object: {e}")),
        };
        serde_json::from_slice(body).map(Self).map_err(wrong)
    }

    /// Takes a field; `None` if it is absent or null.
    ///
    /// # Errors
    /// A value of another type; it is named.
    pub fn take<T: Typed>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        self.read(name, T::MUST, T::read)
    }

    /// Takes a field of several possible types; `must` says which in an error.
    ///
    /// # Errors
    /// A value of another type; it is named.
    pub fn take_one_of<T: DeserializeOwned>(&mut self, name: &str, must: &str) -> Result<Option<T>, ApiError> {
        self.read(name, must, |raw| serde_json::from_str(raw))
    }

    /// Takes an object; `must` says more of it in an error.
    ///
    /// # Errors
    /// A value of another type; it is named.
    pub fn take_object<T: DeserializeOwned>(&mut self, name: &str, must: &str) -> Result<Option<T>, ApiError> {
        // Into a type with names serde reads a list, too.
        self.read(name, must, |raw| if raw.starts_with('{') { serde_json::from_str(raw) } else { Err(no_object()) })
    }

    fn read<T>(
        &mut self,
        name: &str,
        must: &str,
        read: impl FnOnce(&str) -> serde_json::Result<T>,
    ) -> Result<Option<T>, ApiError> {
        note(name);
        let Some(raw) = self.0.remove(name).filter(|raw| raw.get() != "null") else { return Ok(None) };
        read(raw.get()).map(Some).map_err(|e| ApiError::field(name, problem(raw.get(), must, &e)))
    }

    /// Refuses a field that is present, and neither null, false, zero nor empty: to pass over it would deceive.
    ///
    /// # Errors
    /// Names the field and says `why`.
    pub fn refuse(&mut self, name: &str, why: &str) -> Result<(), ApiError> {
        note(name);
        match self.0.remove(name) {
            Some(raw) if !matches!(raw.get(), "null" | "false" | "0" | "[]" | "{}" | "\"\"") => {
                Err(ApiError::field(name, why))
            }
            _ => Ok(()),
        }
    }
}

fn no_object() -> serde_json::Error {
    serde::de::Error::custom("no object")
}

#[cfg(not(test))]
fn note(_: &str) {}

#[cfg(test)]
thread_local! {
    static NAMES: std::cell::RefCell<std::collections::BTreeSet<String>> = Default::default();
}

/// Notes the name of a field that is read, for a test of what is documented.
#[cfg(test)]
fn note(name: &str) {
    NAMES.with_borrow_mut(|names| names.insert(name.to_owned()));
}

/// The names of the fields that `work` reads.
#[cfg(test)]
pub fn taken<T>(work: impl FnOnce() -> T) -> std::collections::BTreeSet<String> {
    NAMES.take();
    work();
    NAMES.take()
}

/// What is wrong with a value: what it must be, and what it is if that is short.
fn problem(raw: &str, must: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Without the place: one inside the field would be taken for one in the body.
    let text = text.rsplit_once(" at line ").map_or(&text[..], |(text, _)| text);
    if !error.is_data() && ["recursion limit", "number out of range"].iter().any(|known| text.starts_with(known)) {
        return text.to_owned();
    }
    let brief = raw.chars().nth(SHOWN).is_none() && !raw.contains(['\n', '\r']);
    if brief { format!("{raw}: must be {must}") } else { format!("must be {must}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field() {
        let body = br#"{"a": 1, "b": "x", "c": null, "d": 1e999, "e": [1], "a": 2, "f": false, "h": -1, "i": 4.0,
            "j": [1.5], "k": [1]}"#;
        let mut fields = Fields::parse(body).unwrap();
        assert_eq!(fields.take::<usize>("a").unwrap(), Some(2), "the last of equal names counts");
        assert_eq!((fields.take::<usize>("a").unwrap(), fields.take::<usize>("c").unwrap()), (None, None));
        assert_eq!(fields.take::<usize>("i").unwrap(), Some(4), "as JSON's numbers go");
        assert_eq!(fields.take::<Vec<u32>>("j").unwrap_err().message, "j: [1.5]: must be a list of token ids");
        let object = fields.take_object::<BTreeMap<String, u32>>("e", "an object").unwrap_err();
        assert_eq!(object.message, "e: [1]: must be an object");
        assert_eq!(fields.take::<usize>("h").unwrap_err().message, "h: -1: must be a whole number, 0 or above");
        let error = fields.take::<f64>("b").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("b"));
        assert!(error.message == "b: \"x\": must be a number", "{error:?}");
        assert!(fields.take::<f64>("d").is_err());
        assert!(fields.refuse("f", "no").is_ok() && fields.refuse("g", "no").is_ok());
        assert_eq!(fields.refuse("k", "is not known").unwrap_err().message, "k: is not known");
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused() {
        for body in [&b""[..], b"[]", b"{", b"1", b"\"x\"", b"{\"a\": \xff}", b"\0", b"{\"a\" 1}"] {
            assert!(Fields::parse(body).unwrap_err().message.contains("JSON object"));
        }
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let deep = Fields::parse(deep.as_bytes())
            .and_then(|mut fields| fields.take_one_of::<Vec<serde_json::Value>>("a", "x"));
        assert!(deep.unwrap_err().message.contains("recursion"));
    }
}
