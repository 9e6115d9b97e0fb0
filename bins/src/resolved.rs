//! `config.resolved.toml`: what the settings of a run resolved to, and whether a resumed run still agrees with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::settings::Settings;

/// Keys that may differ when a run goes on: how long it is, what it shows, where it runs and what it keeps.
const MAY_CHANGE: &[&str] = &[
    "data.path",
    "data.validation_path",
    "train.init",
    "train.steps",
    "train.tokens",
    "train.micro_batch_size",
    "train.eval_every",
    "train.eval_tokens",
    "train.threads",
    "train.report_seconds",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "checkpoint.shard_bytes",
    "model.preset",
];

/// The file in the output folder of a run.
pub fn path(output: &Path) -> PathBuf {
    output.join("config.resolved.toml")
}

/// Writes the resolved settings of a run.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(output: &Path, settings: &Settings) -> Result<()> {
    let path = path(output);
    let fresh = path.with_extension("toml.tmp");
    std::fs::write(&fresh, settings.to_toml()).map_err(Error::io("write", &fresh))?;
    std::fs::rename(&fresh, &path).map_err(Error::io("replace", &path))
}

/// Checks that `settings` would train as the run in `output` did so far.
///
/// # Errors
/// Names the first key that differs in what matters.
pub fn check(output: &Path, settings: &Settings) -> Result<()> {
    let path = path(output);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", &path)(e)),
    };
    let (before, now) = (flatten(&path, &text)?, flatten(&path, &settings.to_toml())?);
    let matters = |key: &&String| {
        let prep = ["input.", "tokenizer.", "output.", "prep."].iter().any(|section| key.starts_with(section));
        !prep && !MAY_CHANGE.contains(&key.as_str())
    };
    let keys = before.keys().chain(now.keys()).filter(matters);
    for key in keys {
        let (old, new) = (before.get(key), now.get(key));
        if old != new {
            let show = |v: Option<&toml::Value>| v.map_or("not set".into(), ToString::to_string);
            return Err(Error::Run(format!(
                "{key} is {} now, but the run in {} was trained with {}: set it back to resume, or choose another \
                 --output to start a new run",
                show(new),
                output.display(),
                show(old)
            )));
        }
    }
    Ok(())
}

fn flatten(path: &Path, text: &str) -> Result<BTreeMap<String, toml::Value>> {
    let table: toml::Table = toml::from_str(text).map_err(|e| {
        Error::Run(format!("{}: is not valid TOML: {e}; remove it to resume without the comparison", path.display()))
    })?;
    let mut out = BTreeMap::new();
    let mut open: Vec<(String, toml::Table)> = vec![(String::new(), table)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => open.push((name, inner)),
                value => {
                    out.insert(name, value);
                }
            }
        }
    }
    Ok(out)
}
