//! Text, identifier and address of a JSON record, found by name while the record is parsed once.
//!
//! Nothing else of the record is kept, so a record of many small values takes no more memory than its bytes.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Names of a record's fields for text, identifier and URL: columns, or paths of JSON keys with dots between
/// (`meta.url` is the key `url` of the object at `meta`, or the key `meta.url` itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNames {
    /// The text. A record without it is bad.
    pub text: String,
    /// The identifier, a string or a number. Records may lack it.
    pub id: Option<String>,
    /// The address the text came from. Records may lack it.
    pub url: Option<String>,
}

impl Default for FieldNames {
    fn default() -> Self {
        Self { text: "text".into(), id: Some("id".into()), url: Some("url".into()) }
    }
}

/// What a record holds of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) text: String,
    pub(crate) id: Option<String>,
    pub(crate) url: Option<String>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    String(String),
    Number(String),
    Other(&'static str),
}

/// Finds the fields in one JSON object, or says what is wrong with it. The last of equal keys counts. NaN and Infinity
/// are numbers, as Python writes and reads them.
pub(crate) fn of_json(record: &[u8], names: &FieldNames) -> Result<Fields, String> {
    of_strict_json(record, names).or_else(|why| match finite(record) {
        Some(record) => of_strict_json(&record, names),
        None => Err(why),
    })
}

/// JSON with a 0 of the same length in place of each NaN, Infinity and -Infinity outside strings; nothing where there
/// is none.
pub(super) fn finite(json: &[u8]) -> Option<Vec<u8>> {
    if !json.contains(&b'N') && !json.contains(&b'I') {
        return None;
    }
    let (mut quoted, mut at, mut out) = (false, 0, None::<Vec<u8>>);
    while let Some(&byte) = json.get(at) {
        let rest = json.get(at..).unwrap_or_default();
        let word: &[u8] = if rest.starts_with(b"NaN") { b"NaN" } else { b"Infinity" };
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'N' | b'I' if !quoted && rest.starts_with(word) => {
                let zero = out.get_or_insert_with(|| json.to_vec()).get_mut(at..at + word.len())?;
                zero.fill(b' ');
                *zero.first_mut()? = b'0';
                at += word.len() - 1;
            }
            _ => {}
        }
        at += 1;
    }
    out
}

fn of_strict_json(record: &[u8], names: &FieldNames) -> Result<Fields, String> {
    let mut found = [None, None, None];
    let wanted = Wanted([Some(&names.text), names.id.as_deref(), names.url.as_deref()]);
    let mut deserializer = serde_json::Deserializer::from_slice(record);
    deserializer
        .deserialize_map(Value { wanted, found: &mut found })
        .and_then(|()| deserializer.end())
        .map_err(|e| format!("not a JSON object: {e}"))?;
    let [text, id, url] = found;
    let text = match text {
        Some(Scalar::String(text)) => text,
        Some(Scalar::Number(_)) => return Err(format!("field {:?} is a number, not a string", names.text)),
        Some(Scalar::Other(what)) => return Err(format!("field {:?} is {what}, not a string", names.text)),
        None => return Err(format!("no field {:?}", names.text)),
    };
    let id = match id {
        Some(Scalar::String(id) | Scalar::Number(id)) => Some(id),
        _ => None,
    };
    let url = match url {
        Some(Scalar::String(url)) => Some(url),
        _ => None,
    };
    Ok(Fields { text, id, url })
}

/// What remains of each path at some place in the record; `""` where the path ends.
#[derive(Clone, Copy)]
struct Wanted<'n>([Option<&'n str>; 3]);

impl<'n> Wanted<'n> {
    /// The paths that go on under `key`.
    fn under(self, key: &str) -> Self {
        Self(self.0.map(|path| {
            let rest = path.filter(|path| !path.is_empty())?.strip_prefix(key)?;
            if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.').filter(|rest| !rest.is_empty()) }
        }))
    }

    fn any(self) -> bool {
        self.0.iter().any(Option::is_some)
    }
}

/// A value that may hold, or be, something wanted.
struct Value<'n, 'f> {
    wanted: Wanted<'n>,
    found: &'f mut [Option<Scalar>; 3],
}

impl Value<'_, '_> {
    fn set(&mut self, scalar: &Scalar) {
        for (path, found) in self.wanted.0.iter().zip(self.found.iter_mut()) {
            if *path == Some("") {
                *found = Some(scalar.clone());
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.set(&Scalar::Other("an object"));
        while let Some(wanted) = map.next_key_seed(Key(self.wanted))? {
            if wanted.any() {
                map.next_value_seed(Value { wanted, found: self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<(), A::Error> {
        self.set(&Scalar::Other("an array"));
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.set(&Scalar::String(text.to_owned()));
        Ok(())
    }

    fn visit_bool<E>(mut self, _: bool) -> Result<(), E> {
        self.set(&Scalar::Other("a truth value"));
        Ok(())
    }

    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.set(&Scalar::Other("null"));
        Ok(())
    }

    fn visit_u64<E>(mut self, number: u64) -> Result<(), E> {
        self.set(&Scalar::Number(number.to_string()));
        Ok(())
    }

    fn visit_i64<E>(mut self, number: i64) -> Result<(), E> {
        self.set(&Scalar::Number(number.to_string()));
        Ok(())
    }

    fn visit_f64<E>(mut self, number: f64) -> Result<(), E> {
        self.set(&Scalar::Number(number.to_string()));
        Ok(())
    }
}

/// A key of an object, turned into what is wanted under it.
struct Key<'n>(Wanted<'n>);

impl<'de, 'n> DeserializeSeed<'de> for Key<'n> {
    type Value = Wanted<'n>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for Key<'n> {
    type Value = Wanted<'n>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.under(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str, id: &str, url: &str) -> FieldNames {
        FieldNames { text: text.into(), id: Some(id.into()), url: Some(url.into()) }
    }

    #[test]
    fn fields_are_found_by_path() {
        let record = br#"{"id": 7, "a": {"b": {"c": "deep"}, "u.v": "dotted"}, "x": [{"a": 1}], "text": "t\u00e9"}"#;
        let found = of_json(record, &names("text", "id", "a.u.v")).unwrap();
        assert_eq!(found, Fields { text: "té".into(), id: Some("7".into()), url: Some("dotted".into()) });
        let found = of_json(record, &names("a.b.c", "none", "x")).unwrap();
        assert_eq!(found, Fields { text: "deep".into(), id: None, url: None });
        let same = of_json(br#"{"text": "only", "text": "last"}"#, &names("text", "text", "text")).unwrap();
        assert_eq!(same, Fields { text: "last".into(), id: Some("last".into()), url: Some("last".into()) });
    }

    #[test]
    fn numbers_that_are_not_finite_are_read_as_python_writes_them() {
        let record = br#"{"a": NaN, "text": "NaN, \"Infinity\"", "b": [-Infinity, Infinity], "id": NaN}"#;
        let found = of_json(record, &FieldNames::default()).unwrap();
        assert_eq!((found.text.as_str(), found.id.as_deref()), ("NaN, \"Infinity\"", Some("0")));
        let why = |record: &[u8]| of_json(record, &FieldNames::default()).unwrap_err();
        assert_eq!(why(b"{\"text\": NaN}"), "field \"text\" is a number, not a string");
        for record in [&b"{\"text\": \"a\", \"b\": Nan}"[..], b"{\"text\": \"a\", NaN: 1}", b"NaN", b"{\"NaN"] {
            assert!(why(record).contains("not a JSON object"), "{}", why(record));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let why = |record: &[u8]| of_json(record, &names("a.b", "id", "url")).unwrap_err();
        assert!(why(b"[1]").contains("not a JSON object"), "{}", why(b"[1]"));
        assert!(why(b"{\"a\": {\"b\": \"x\"}} x").contains("trailing"));
        assert!(why(b"{\"a\": {\"b\": \"x\"").contains("EOF"));
        assert_eq!(why(b"{\"a\": \"b\"}"), "no field \"a.b\"");
        assert_eq!(why(b"{\"a\": {\"b\": null}}"), "field \"a.b\" is null, not a string");
        assert_eq!(why(b"{\"a\": {\"b\": {\"c\": 1}}}"), "field \"a.b\" is an object, not a string");
        assert!(why(b"{\"a\": {\"b\": \"\\ud800\"}}").contains("not a JSON object"));
        assert!(why(b"{\"a\": {\"b\": \"\xff\"}}").contains("not a JSON object"));
        let deep = [b"{\"x\":".repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat();
        assert_eq!(why(&deep), "no field \"a.b\"");
        let deep = ["{\"a\":{\"b\":".repeat(50_000), "1".into(), "}}".repeat(50_000)].concat();
        assert!(why(deep.as_bytes()).contains("an object, not a string"));
    }

    proptest! {
        #[test]
        fn the_same_as_a_parsed_tree(record in r#"\{("(a|b|a\.b)":("x"|1|null|true|\[1,\{\}\]|\{"(b|c)":("y"|-2|\{"c":"z"\})\}),){0,4}"b":"q"\}"#) {
            let tree: serde_json::Value = serde_json::from_str(&record).unwrap();
            for path in ["a", "b", "c"] {
                let want = tree.get(path).and_then(|value| value.as_str());
                let found = of_json(record.as_bytes(), &names(path, "?", "?")).ok();
                prop_assert_eq!(found.as_ref().map(|found| found.text.as_str()), want);
            }
        }

        #[test]
        fn no_bytes_panic(record in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = of_json(&record, &names("a.b", "id", "url"));
        }
    }
}
