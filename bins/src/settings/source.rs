//! Settings as written, each with its place: a TOML file, then every `--set` over it.

use super::error::{Place, SettingsError};
use super::keys::{self, Kind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Value;
use toml::de::{DeTable, DeValue};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Its place.
    pub place: Place,
}

/// All settings as written, by dotted key; every key is known.
#[derive(Clone, Debug, Default)]
pub struct Source {
    entries: BTreeMap<String, Entry>,
}

impl Source {
    /// Reads `file`, if any, then applies `sets`, each `key=value`; the last one of a key counts.
    ///
    /// # Errors
    /// A file that cannot be read or parsed; a key that is not known, whichever program it would belong to.
    pub fn read(file: Option<&Path>, sets: &[String]) -> Result<Self, SettingsError> {
        let mut source = Source::default();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| SettingsError::Read { path: path.into(), source: error })?;
            source.add_file(path, &text)?;
        }
        for text in sets {
            source.add_set(text)?;
        }
        Ok(source)
    }

    /// Adds the text of a configuration file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn add_file(&mut self, path: &Path, text: &str) -> Result<(), SettingsError> {
        let line = |at: usize| 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count();
        let place = |at: usize| Place::File { path: PathBuf::from(path), line: line(at) };
        let syntax = |error: toml::de::Error| SettingsError::Syntax {
            place: place(error.span().map_or(0, |span| span.start)),
            message: error.message().to_string(),
        };
        let places = DeTable::parse(text).map_err(syntax)?;
        let values: toml::Table = toml::from_str(text).map_err(syntax)?;
        self.flatten("", &values, Some(places.get_ref()), &place)
    }

    /// Adds one `key=value`. The value is TOML; what is not TOML is a text, so quotes can be left out.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn add_set(&mut self, text: &str) -> Result<(), SettingsError> {
        let form = || SettingsError::SetForm { text: text.into() };
        let (key, value) = text.split_once('=').ok_or_else(form)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(form());
        }
        let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"));
        let place = Place::Set(text.into());
        self.insert(key, parsed.unwrap_or_else(|| Value::String(value.into())), place)
    }

    /// Adds a value that a program itself decides, as if by `--set`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<(), SettingsError> {
        let value = value.into();
        let place = Place::Set(format!("{key}={value}"));
        self.insert(key, value, place)
    }

    /// The entry of `key`, if it was written.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Every key that was written, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Place where `key` was written.
    pub fn place(&self, key: &str) -> Place {
        self.get(key).map_or(Place::Default, |entry| entry.place.clone())
    }

    /// The model's fields that were written, without `model.`.
    pub fn model_fields(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let fields = self.entries.iter().filter_map(|(key, entry)| Some((key.strip_prefix("model.")?, entry)));
        fields.filter(|(field, _)| *field != "preset")
    }

    fn flatten(
        &mut self,
        prefix: &str,
        values: &toml::Table,
        places: Option<&DeTable<'_>>,
        place: &impl Fn(usize) -> Place,
    ) -> Result<(), SettingsError> {
        for (name, value) in values {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let spanned = places.and_then(|table| table.get_key_value(name.as_str()));
            let here = place(spanned.map_or(0, |(key, _)| key.span().start));
            match value {
                Value::Table(inner) if is_section(&key) || !(is_key(&key) || inner.is_empty()) => {
                    let inner_places = match spanned.map(|(_, value)| value.get_ref()) {
                        Some(DeValue::Table(table)) => Some(table),
                        _ => None,
                    };
                    self.flatten(&key, inner, inner_places, place)?;
                }
                _ => self.insert(&key, value.clone(), here)?,
            }
        }
        Ok(())
    }

    /// Of two keys that exclude each other, a `--set` takes the place of what the file says. Two in one place stay, to
    /// be refused when they are read.
    fn displace(&mut self, key: &str, place: &Place) {
        let others = EXCLUSIVE.iter().filter(|pair| pair.contains(&key)).flatten().filter(|other| **other != key);
        for other in others {
            if matches!((place, self.place(other)), (Place::Set(_), Place::File { .. })) {
                self.entries.remove(*other);
            }
        }
    }

    /// Stores a value under a known key, or inside the table of a model field (`model.rope_scaling.factor`).
    fn insert(&mut self, key: &str, value: Value, place: Place) -> Result<(), SettingsError> {
        if let Some(found) = keys::find(key) {
            let value = in_words(found.kind, value);
            check_type(key, found.kind, &value, &place)?;
            self.displace(key, &place);
            self.entries.insert(key.into(), Entry { value, place });
            return Ok(());
        }
        let unknown =
            || SettingsError::UnknownKey { key: key.into(), place: place.clone(), nearest: keys::nearest(key) };
        let field = key.strip_prefix("model.").ok_or_else(unknown)?;
        let (field, inner) = field.split_once('.').map_or((field, None), |(field, inner)| (field, Some(inner)));
        if !fathom_core::config::FIELDS.contains(&field) {
            return Err(unknown());
        }
        let key = format!("model.{field}");
        let value = match inner {
            None => value,
            Some(inner) => {
                let mut table = match self.entries.remove(&key).map(|entry| entry.value) {
                    Some(Value::Table(table)) => table,
                    _ => toml::Table::new(),
                };
                table.insert(inner.into(), value);
                Value::Table(table)
            }
        };
        self.entries.insert(key, Entry { value, place });
        Ok(())
    }
}

/// Keys that say the same thing in two ways.
const EXCLUSIVE: [[&str; 2]; 2] = [["train.steps", "train.tokens"], ["tokenizer.path", "tokenizer.vocab_size"]];

/// Whether `key` holds other keys: `train`, `model`.
fn is_section(key: &str) -> bool {
    keys::names().any(|name| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether `key` holds a value, which may be a table: `model.rope_scaling`.
fn is_key(key: &str) -> bool {
    keys::names().any(|name| name == key)
}

/// The word that `true` or `false` stands for in a [`Kind::Switch`]; every other value as it is.
fn in_words(kind: Kind, value: Value) -> Value {
    match (kind, &value) {
        (Kind::Switch([off, .., on]), Value::Boolean(set)) => Value::String((if *set { on } else { off }).to_string()),
        _ => value,
    }
}

fn check_type(key: &str, kind: Kind, value: &Value, place: &Place) -> Result<(), SettingsError> {
    let fits = match (kind, value) {
        (Kind::Flag, Value::Boolean(_)) | (Kind::Text | Kind::Path, Value::String(_)) => true,
        (Kind::Count, Value::Integer(n)) => *n >= 0,
        (Kind::Number, Value::Integer(n)) => *n >= 0,
        (Kind::Number, Value::Float(x)) => x.is_finite() && *x >= 0.0,
        (Kind::Choice(words) | Kind::Switch(words), Value::String(text)) => words.contains(&text.as_str()),
        (Kind::Limit | Kind::CountLimit, Value::Boolean(on)) => !on,
        (Kind::Limit, Value::Float(x)) => x.is_finite() && *x >= 0.0,
        (Kind::Limit | Kind::CountLimit, Value::Integer(n)) => *n >= 0,
        (Kind::List, Value::String(_)) => true,
        (Kind::List, Value::Array(items)) => items.iter().all(Value::is_str),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(SettingsError::Type {
        key: key.into(),
        place: place.clone(),
        expected: kind.describe(),
        found: describe(value),
    })
}

/// A value as an error shows it.
fn describe(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        other => {
            let text: String = other.to_string().chars().take(60).collect();
            format!("{text} ({})", other.type_str())
        }
    }
}
