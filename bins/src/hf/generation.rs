//! `generation_config.json` of a model folder: the tokens that end a text, and what its makers sample with.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::HfError;
use super::folder::read_optional;
use super::names::{CONFIG, GENERATION_CONFIG};

/// What the makers of a model sample with, as far as they say. `do_sample` is passed over, as in vLLM: greedy decoding
/// is temperature 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// New tokens, at most.
    pub max_new_tokens: Option<usize>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Number of tokens with the largest logits that are kept; 0 for all.
    pub top_k: Option<usize>,
    /// Probability that the kept tokens have together.
    pub top_p: Option<f64>,
    /// Least probability of a kept token, as a share of the largest.
    pub min_p: Option<f64>,
    /// Divides the logits of tokens that occurred.
    pub repetition_penalty: Option<f64>,
}

impl GenerationConfig {
    /// Reads the file of the model in `folder`; nothing is said where there is none. Ranges are the sampler's to check.
    ///
    /// # Errors
    /// [`HfError::Io`]; [`HfError::Json`], which names the key whose value has the wrong type.
    pub fn read(folder: &Path) -> Result<Self, HfError> {
        let (path, mut json) = open(folder, GENERATION_CONFIG)?;
        let mut read = || {
            Ok(Self {
                max_new_tokens: take(&mut json, "max_new_tokens", "a number of tokens")?,
                temperature: take(&mut json, "temperature", "a number")?,
                // -1 is how some files say all of them.
                top_k: match json.get("top_k").and_then(Value::as_i64) {
                    Some(-1) => Some(0),
                    _ => take(&mut json, "top_k", "a number of tokens, or -1 for all")?,
                },
                top_p: take(&mut json, "top_p", "a number")?,
                min_p: take(&mut json, "min_p", "a number")?,
                repetition_penalty: take(&mut json, "repetition_penalty", "a number")?,
            })
        };
        read().map_err(|problem| HfError::Json { path, problem })
    }
}

/// The tokens that end a text: `eos_token_id` of `generation_config.json`, one or a list, or else of `config.json`.
///
/// # Errors
/// [`HfError::Io`]; [`HfError::Json`] for what is no token id.
pub fn read_end_tokens(folder: &Path) -> Result<Vec<u32>, HfError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(i64),
        Several(Vec<i64>),
    }
    for name in [GENERATION_CONFIG, CONFIG] {
        let (path, mut json) = open(folder, name)?;
        let ids = take(&mut json, "eos_token_id", "a token id or a list of them");
        let bad = |problem: String| HfError::Json { path: path.clone(), problem };
        let ids = match ids.map_err(bad)? {
            None => continue,
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Several(ids)) => ids,
        };
        let mut ends = Vec::new();
        for id in ids {
            match u32::try_from(id) {
                Ok(id) => ends.push(id),
                // How some files say that there is none.
                Err(_) if id == -1 => {}
                Err(_) => {
                    return Err(bad(format!("eos_token_id: {id} is no token id; use -1 for none")));
                }
            }
        }
        return Ok(ends);
    }
    Ok(Vec::new())
}

/// The object of a JSON file, empty where there is no file, and its path.
fn open(folder: &Path, name: &str) -> Result<(std::path::PathBuf, Map<String, Value>), HfError> {
    let path = folder.join(name);
    let json = read_optional(&path)?.unwrap_or_default();
    Ok((path, json))
}

/// The value of a key, if it is there and not null, or what it must be.
fn take<T: DeserializeOwned>(json: &mut Map<String, Value>, key: &str, must: &str) -> Result<Option<T>, String> {
    let Some(value) = json.remove(key).filter(|value| !value.is_null()) else { return Ok(None) };
    let wrong = format!("{key}: {value}: must be {must}");
    serde_json::from_value(value).map(Some).map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<GenerationConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(GENERATION_CONFIG), text).unwrap();
        GenerationConfig::read(folder.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn values_are_read_and_wrong_ones_named() {
        let r1 = r#"{"_from_model_config": true, "do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": null}"#;
        let want = GenerationConfig { temperature: Some(0.6), top_p: Some(0.95), ..GenerationConfig::default() };
        assert_eq!(of(r1), Ok(want));
        assert_eq!(of(r#"{"temperature": 1, "top_k": -1}"#).unwrap().top_k, Some(0));
        assert_eq!(of(r#"{"max_new_tokens": 2048, "top_k": 50}"#).unwrap().max_new_tokens, Some(2048));
        for (text, key) in [
            (r#"{"temperature": "hot"}"#, "temperature: \"hot\": must be"),
            (r#"{"top_k": -2}"#, "top_k: -2: must be"),
            (r#"{"top_k": 1.5}"#, "top_k: 1.5: must be"),
            (r#"{"max_new_tokens": [1]}"#, "max_new_tokens: [1]: must be"),
            ("[]", "invalid type"),
            ("{", "EOF"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains("generation_config.json: ") && error.contains(key), "{error}");
        }
    }

    #[test]
    fn ends_of_text_are_token_ids_and_others_are_named() {
        let of = |name: &str, text: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(name), text).unwrap();
            read_end_tokens(folder.path()).map_err(|e| e.to_string())
        };
        for name in [GENERATION_CONFIG, CONFIG] {
            for (text, ids) in [
                ("{}", &[][..]),
                (r#"{"eos_token_id": null}"#, &[]),
                (r#"{"eos_token_id": -1}"#, &[]),
                (r#"{"eos_token_id": []}"#, &[]),
                (r#"{"eos_token_id": 0}"#, &[0]),
                (r#"{"eos_token_id": [7, -1, 4294967295]}"#, &[7, u32::MAX]),
            ] {
                assert_eq!(of(name, text).as_deref(), Ok(ids), "{text}");
            }
            for (bad, named) in [("-2", "-2"), ("[5, 4294967296]", "4294967296"), ("\"</s>\"", "</s>"), ("1.5", "1.5")]
            {
                let error = of(name, &format!("{{\"eos_token_id\": {bad}}}")).unwrap_err();
                assert!(error.contains(name) && error.contains("eos_token_id") && error.contains(named), "{error}");
            }
        }
    }

    #[test]
    fn a_folder_without_the_file_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(GenerationConfig::read(folder.path()).unwrap(), GenerationConfig::default());
        assert_eq!(read_end_tokens(folder.path()).unwrap(), [0_u32; 0]);
    }
}
