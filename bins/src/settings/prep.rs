//! The settings of a preparation: `input.*`, `extract.*`, `filter.*`, `dedup.*`, `decontaminate.*`, `tokenizer.*`,
//! `fim.*`, `output.*`, `prep.*`.

use super::SettingsError;
use super::keys::{KEYS, Kind};
use super::reader::Reader;
use fathom_dataprep::dedup::DedupConfig;
use fathom_dataprep::extract::ExtractConfig;
use fathom_dataprep::filter::FilterConfig;
use fathom_dataprep::pipeline::{InputConfig, OutputConfig, PrepConfig, TokenizerConfig};
use fathom_dataprep::read::Format;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use toml::Value;

/// Takes the settings of a preparation; the folder to write to is no setting but an argument.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<PrepConfig, SettingsError> {
    let known = PrepConfig::default();
    let vocab_size = reader.optional_count("tokenizer.vocab_size");
    let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
    let config = PrepConfig {
        input: InputConfig {
            paths: reader.list("input.paths").into_iter().map(PathBuf::from).collect(),
            format: format(reader)?,
            text_field: reader.text_or("input.text_field", &known.input.text_field),
            id_field: reader.text_or("input.id_field", &known.input.id_field),
            url_field: reader.text_or("input.url_field", &known.input.url_field),
            max_bad_fraction: reader.optional_number("input.max_bad_fraction"),
            max_bad_records: reader.optional_count("input.max_bad_records"),
            max_document_bytes: reader.count_or("input.max_document_bytes", known.input.max_document_bytes),
            max_growth: reader.count_or("input.max_growth", known.input.max_growth),
            max_bytes: reader.optional_count("input.max_bytes"),
        },
        extract: extract(reader)?,
        filter: filter(reader)?,
        dedup: overlay(reader, "dedup", &DedupConfig::off())?,
        decontaminate: overlay(reader, "decontaminate", &known.decontaminate)?,
        tokenizer: TokenizerConfig {
            path: reader.path("tokenizer.path"),
            vocab_size: vocab_size.map(narrow),
            eos: reader.text("tokenizer.eos"),
            parse_added: reader.flag_or("tokenizer.parse_added", known.tokenizer.parse_added),
            max_words: reader.size_or("tokenizer.max_words", known.tokenizer.max_words, usize::MAX)?,
            train_bytes: reader.count_or("tokenizer.train_bytes", known.tokenizer.train_bytes),
        },
        fim: overlay(reader, "fim", &known.fim)?,
        output: OutputConfig {
            dir: PathBuf::new(),
            validation_fraction: reader.number_or("output.validation_fraction", known.output.validation_fraction),
            validation_tail: reader.optional_number("output.validation_tail"),
            shard_bytes: reader.count_or("output.shard_bytes", known.output.shard_bytes),
            dropped: reader.flag_or("output.dropped", known.output.dropped),
            overwrite: reader.flag_or("output.overwrite", known.output.overwrite),
        },
        threads: usize::try_from(reader.count("prep.threads")).unwrap_or(usize::MAX),
        seed: reader.count_or("prep.seed", known.seed),
        split_bytes: reader.size_or("prep.split_bytes", known.split_bytes as usize, usize::MAX)? as u64,
        wait_seconds: reader.count_or("prep.wait_seconds", known.wait_seconds),
        rank: known.rank,
    };
    if config.input.max_bad_fraction.is_some_and(|share| share > 1.0) {
        return Err(reader.reject("input.max_bad_fraction", "is above 1: it is a share of the records".into()));
    }
    if config.input.max_growth == 0 {
        return Err(reader.reject("input.max_growth", "is 0: it must be at least 1".into()));
    }
    for (key, share) in [
        ("output.validation_fraction", config.output.validation_fraction),
        ("output.validation_tail", config.output.validation_tail.unwrap_or_default()),
    ] {
        if share >= 1.0 {
            return Err(reader.reject(key, format!("is {share}: it must be below 1")));
        }
    }
    if config.tokenizer.path.is_some() && vocab_size.is_some() {
        let problem = "and tokenizer.path are both given; a tokenizer is either loaded or trained: leave one out";
        return Err(reader.reject("tokenizer.vocab_size", problem.into()));
    }
    Ok(config)
}

fn format(reader: &mut Reader<'_>) -> Result<Option<Format>, SettingsError> {
    let name = reader.word("input.format");
    if name == "suffix" {
        return Ok(None);
    }
    let format = serde_json::from_value(serde_json::Value::from(name));
    format.map(Some).map_err(|e| reader.reject("input.format", format!("does not fit: {e}")))
}

fn extract(reader: &mut Reader<'_>) -> Result<Option<ExtractConfig>, SettingsError> {
    let enabled = reader.flag("extract.enabled");
    let config = overlay(reader, "extract", &ExtractConfig::default())?;
    Ok(enabled.then_some(config))
}

fn filter(reader: &mut Reader<'_>) -> Result<FilterConfig, SettingsError> {
    let base = match reader.word("filter.preset").as_str() {
        "fineweb" => FilterConfig::default(),
        _ => FilterConfig::off(),
    };
    overlay(reader, "filter", &base)
}

/// `base` with the keys of `section` that were written. A key's name is the path of a field in `T`.
fn overlay<T: Serialize + DeserializeOwned>(
    reader: &mut Reader<'_>,
    section: &str,
    base: &T,
) -> Result<T, SettingsError> {
    let invalid =
        |reader: &Reader<'_>, key: &str, error: serde_json::Error| reader.reject(key, format!("does not fit: {error}"));
    let mut fields = serde_json::to_value(base).map_err(|e| invalid(reader, section, e))?;
    for key in KEYS {
        let Some(name) = key.name.strip_prefix(section).and_then(|name| name.strip_prefix('.')) else { continue };
        let Some(field) = fields.pointer_mut(&format!("/{}", name.replace('.', "/"))) else { continue };
        // JSON can say everything that these keys can, and null only where there is no default.
        let default = Value::try_from(&*field).ok();
        if let Some(value) = reader.value(key.name, default) {
            let value = match (key.kind, value) {
                (Kind::List, Value::String(one)) => Value::Array(vec![Value::String(one)]),
                (_, value) => value,
            };
            *field = serde_json::to_value(value).map_err(|e| invalid(reader, key.name, e))?;
        }
    }
    serde_json::from_value(fields).map_err(|e| invalid(reader, section, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, Source};
    use serde_json::json;

    fn settings(sets: &[&str]) -> Result<PrepConfig, SettingsError> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Ok(Settings::new(Source::read(None, &sets)?)?.prep)
    }

    /// Names of all fields below a value that are no tables.
    fn leaves(prefix: &str, value: &serde_json::Value, out: &mut Vec<(String, serde_json::Value)>) {
        match value.as_object() {
            Some(fields) => fields.iter().for_each(|(name, value)| leaves(&format!("{prefix}.{name}"), value, out)),
            None => out.push((prefix.to_owned(), value.clone())),
        }
    }

    #[test]
    fn every_setting_has_a_key_that_states_its_default() {
        let mut fields = Vec::new();
        leaves("extract", &json!(ExtractConfig::default()), &mut fields);
        leaves("filter", &json!(FilterConfig::default()), &mut fields);
        leaves("dedup", &json!(DedupConfig::off()), &mut fields);
        leaves("decontaminate", &json!(PrepConfig::default().decontaminate), &mut fields);
        for (name, value) in &fields {
            let key = crate::settings::keys::find(name).unwrap_or_else(|| panic!("{name} has no key"));
            if matches!(key.kind, Kind::List) || key.derived {
                continue;
            }
            let stated = serde_json::from_str(key.default).unwrap_or_else(|_| json!(key.default));
            assert_eq!(stated.as_f64(), value.as_f64(), "{name}");
            assert!(value.is_number() || stated == *value, "{name}: {stated}, is {value}");
        }
        for section in ["extract.", "filter.", "dedup.", "decontaminate."] {
            let extra = ["extract.enabled", "filter.preset"];
            let keys = KEYS.iter().filter(|key| key.name.starts_with(section) && !extra.contains(&key.name));
            keys.for_each(|key| assert!(fields.iter().any(|(name, _)| name == key.name), "{} sets nothing", key.name));
        }
    }

    #[test]
    fn rules_are_turned_on_and_off() {
        assert_eq!(settings(&[]).unwrap(), PrepConfig::default());
        let config = settings(&[
            "filter.preset=fineweb",
            "filter.c4.enabled=false",
            "filter.gopher_quality.min_words=30",
            "filter.gopher_quality.max_words=false",
            "filter.language.keep=deu",
            "dedup.near=true",
            "dedup.keep=longest",
            "decontaminate.files=[\"a.jsonl\", \"b.csv\"]",
        ])
        .unwrap();
        let filter = json!(config.filter);
        assert_eq!(filter["gopher_quality"]["min_words"], 30);
        assert_eq!(filter["gopher_quality"]["max_words"], false);
        assert_eq!(filter["gopher_quality"]["max_hash_ratio"], 0.1);
        assert_eq!((&filter["c4"]["enabled"], &filter["fineweb"]["enabled"]), (&json!(false), &json!(true)));
        assert_eq!(filter["language"]["keep"], json!(["deu"]));
        assert!(config.dedup.near && !config.dedup.exact && json!(config.dedup)["keep"] == "longest");
        assert_eq!(config.decontaminate.files.len(), 2);
        for (set, word) in [
            ("filter.gopher_quality.max_words=true", "false to turn"),
            ("filter.gopher_quality.max_words=1.5", "whole"),
            ("filter.gopher_qualty.max_words=3", "filter.gopher_quality.max_words"),
            ("dedup.keep=last", "first, longest"),
        ] {
            let error = settings(&[set]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
