//! Reads typed settings from checked values, with defaults.

use super::keys;
use super::{SettingsError, Source};
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Value;

/// Takes values out of a source, fills in defaults, and notes what every key resolved to.
///
/// Types were checked when the source was read, so a value of another type cannot be met here.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    pub(super) resolved: BTreeMap<String, Value>,
}

impl Reader<'_> {
    pub(super) fn value(&mut self, key: &'static str, default: Option<Value>) -> Option<Value> {
        debug_assert!(keys::find(key).is_some(), "{key} is not in the table of keys");
        let value = self.source.get(key).map(|entry| entry.value.clone()).or(default)?;
        self.resolved.insert(key.into(), value.clone());
        Some(value)
    }

    /// The default in the table of keys.
    fn stated(key: &str) -> Option<Value> {
        keys::find(key).and_then(keys::Key::stated)
    }

    /// A count, with the default in the table.
    pub(super) fn count(&mut self, key: &'static str) -> u64 {
        let value = self.value(key, Self::stated(key)).and_then(|value| value.as_integer());
        value.and_then(|n| u64::try_from(n).ok()).unwrap_or_default()
    }

    pub(super) fn count_or(&mut self, key: &'static str, default: u64) -> u64 {
        let default = i64::try_from(default).unwrap_or(i64::MAX);
        let value = self.value(key, Some(Value::Integer(default))).and_then(|value| value.as_integer());
        value.and_then(|n| u64::try_from(n).ok()).unwrap_or_default()
    }

    pub(super) fn optional_count(&mut self, key: &'static str) -> Option<u64> {
        self.value(key, None)?.as_integer().and_then(|n| u64::try_from(n).ok())
    }

    /// A count that must be at least 1 and at most `limit`, with the default in the table.
    pub(super) fn size(&mut self, key: &'static str, limit: usize) -> Result<usize, SettingsError> {
        let value = self.count(key);
        self.within(key, value, limit)
    }

    pub(super) fn size_or(&mut self, key: &'static str, default: usize, limit: usize) -> Result<usize, SettingsError> {
        let value = self.count_or(key, default as u64);
        self.within(key, value, limit)
    }

    fn within(&self, key: &'static str, value: u64, limit: usize) -> Result<usize, SettingsError> {
        match usize::try_from(value) {
            Ok(size) if (1..=limit).contains(&size) => Ok(size),
            _ => Err(self.reject(key, format!("is {value}: it must be between 1 and {limit}"))),
        }
    }

    /// A number, with the default in the table.
    pub(super) fn number(&mut self, key: &'static str) -> f64 {
        let default = Self::stated(key).and_then(|value| value.as_float()).unwrap_or_default();
        self.number_or(key, default)
    }

    pub(super) fn number_or(&mut self, key: &'static str, default: f64) -> f64 {
        match self.value(key, Some(Value::Float(default))) {
            Some(Value::Integer(n)) => n as f64,
            Some(Value::Float(x)) => x,
            _ => default,
        }
    }

    pub(super) fn optional_number(&mut self, key: &'static str) -> Option<f64> {
        let value = self.value(key, None)?;
        value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
    }

    /// A flag, with the default in the table.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.value(key, Self::stated(key)).and_then(|value| value.as_bool()).unwrap_or_default()
    }

    pub(super) fn flag_or(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key, Some(Value::Boolean(default))).and_then(|value| value.as_bool()).unwrap_or(default)
    }

    /// A word, with the default in the table.
    pub(super) fn word(&mut self, key: &'static str) -> String {
        let default = Self::stated(key).and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default();
        self.text_or(key, &default)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.value(key, None).and_then(|value| value.as_str().map(str::to_string))
    }

    pub(super) fn text_or(&mut self, key: &'static str, default: &str) -> String {
        self.value(key, Some(Value::String(default.into())))
            .and_then(|v| v.as_str().map(str::to_string))
            .unwrap_or_default()
    }

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub(super) fn list(&mut self, key: &'static str) -> Vec<String> {
        match self.value(key, None) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(items)) => items.iter().filter_map(|item| item.as_str().map(str::to_string)).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn reject(&self, key: &str, problem: String) -> SettingsError {
        SettingsError::Value { key: key.into(), place: self.source.place(key), problem }
    }
}

/// More sequences or tokens than any step could hold: a slip of the keyboard, and small enough that products of two
/// fit.
pub(super) const SANE: usize = 1 << 28;
