//! `model.*`: a preset, or the model of the checkpoint that training starts from, and any field over it.

use super::{Place, SettingsError, Source};
use fathom_core::config::ModelConfig;
use serde_json::{Map, Value as Json};
use std::path::Path;
use toml::Value;

/// The preset where nothing else says what model to build.
const DEFAULT_PRESET: &str = "tiny";

/// The model that `source` describes.
pub(super) fn resolve(source: &Source) -> Result<ModelConfig, SettingsError> {
    let written = |key: &str| source.get(key).and_then(|entry| entry.value.as_str());
    let base = match (written("model.preset"), written("train.init")) {
        (None, Some(folder)) => from_checkpoint(source, Path::new(folder))?,
        (preset, _) => from_preset(source, preset.unwrap_or(DEFAULT_PRESET))?,
    };
    with_fields(source, &base)
}

fn from_preset(source: &Source, name: &str) -> Result<ModelConfig, SettingsError> {
    let presets = fathom_core::config::PRESETS.iter().map(|(name, _)| *name);
    ModelConfig::preset(name).ok_or_else(|| SettingsError::Value {
        key: "model.preset".into(),
        place: source.place("model.preset"),
        problem: format!("is `{name}`, which is no preset; use one of {}", presets.collect::<Vec<_>>().join(", ")),
    })
}

fn from_checkpoint(source: &Source, folder: &Path) -> Result<ModelConfig, SettingsError> {
    let config = crate::checkpoint::locate(folder).and_then(|located| Ok(crate::hf::read_config(&located.folder)?));
    // How a file was stored is not what the model is.
    config.map(|config| ModelConfig { quantization_config: None, ..config }).map_err(|error| SettingsError::Value {
        key: "train.init".into(),
        place: source.place("train.init"),
        problem: format!("cannot be used: {error}"),
    })
}

/// Puts every written field over `base` and reads the whole back, so that one set of rules judges all models.
fn with_fields(source: &Source, base: &ModelConfig) -> Result<ModelConfig, SettingsError> {
    let mut written = source.model_fields().peekable();
    if written.peek().is_none() {
        return Ok(*base);
    }
    let mut fields = json_fields(base);
    for (field, entry) in written {
        let value = to_json(&entry.value);
        match (fields.get_mut(field), value) {
            // Part of a table: the rest of it stays as it is.
            (Some(Json::Object(old)), Json::Object(new)) => old.extend(new),
            (_, Json::String(text)) if text == "none" && field == "rope_scaling" => drop(fields.remove(field)),
            (_, value) => drop(fields.insert(field.into(), value)),
        }
    }
    // Heads without key-value groups are one number with two names; who writes one means both.
    let heads = fields.get("num_attention_heads").cloned();
    if let (Some(heads), None) = (heads, source.get("model.num_key_value_heads")) {
        fields.insert("num_key_value_heads".into(), heads);
    }
    serde_json::from_value(Json::Object(fields)).map_err(|error| SettingsError::Model {
        place: place_of(source, &error.to_string()),
        message: error.to_string(),
    })
}

/// The place of the written field that `message` is about, or else speaks of; failing both, of the first one.
fn place_of(source: &Source, message: &str) -> Place {
    let word = |field: &str| message.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == field);
    let about = source.model_fields().find(|(field, _)| message.split([' ', ':', '.']).next() == Some(field));
    let found = about.or_else(|| source.model_fields().find(|(field, _)| word(field)));
    let place = found.or_else(|| source.model_fields().next()).map(|(_, entry)| entry.place.clone());
    place.unwrap_or_else(|| source.place("model.preset"))
}

fn json_fields(model: &ModelConfig) -> Map<String, Json> {
    match serde_json::to_value(model) {
        Ok(Json::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// The model's fields as a section of the configuration.
pub(super) fn fields(model: &ModelConfig) -> toml::Table {
    toml::Table::try_from(model).unwrap_or_default()
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Table(table) => Json::Object(table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()),
        Value::Array(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Integer(n) => Json::from(*n),
        Value::Float(x) => Json::from(*x),
        Value::Boolean(flag) => Json::from(*flag),
        Value::String(text) => Json::from(text.as_str()),
        Value::Datetime(date) => Json::from(date.to_string()),
    }
}
