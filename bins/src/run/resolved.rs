//! The file `config.resolved.toml`: all settings of a run, and which of them a resumed run must share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fathom_dataprep::durable::{self, Files};

use crate::error::{Error, Result};
use crate::prepare;
use crate::settings::Settings;

/// Keys that may differ when a run goes on: how long it is, what it shows, where it runs and what it keeps.
const MAY_CHANGE: &[&str] = &[
    "data.path",
    "data.validation_path",
    "data.mmap",
    "train.init",
    "train.steps",
    "train.tokens",
    "train.micro_batch_size",
    "train.ema_decay",
    "train.ema_memory",
    "train.spike",
    "train.spike_threshold",
    "train.spike_window",
    "train.spike_limit",
    "train.eval_every",
    "train.eval_tokens",
    "train.expert_load_every",
    "train.sample_every",
    "train.sample_prompt",
    "train.sample_tokens",
    "train.threads",
    "train.report_seconds",
    "train.max_hours",
    "train.tensorboard",
    "checkpoint.every_steps",
    "checkpoint.format",
    "checkpoint.keep",
    "checkpoint.keep_best",
    "checkpoint.keep_every",
    "checkpoint.shard_bytes",
    "checkpoint.async",
    "model.preset",
];

/// The file in the output folder of a run.
pub fn path(output: &Path) -> PathBuf {
    output.join("config.resolved.toml")
}

/// Writes the resolved settings of a run, paths made absolute, so that it can be resumed from any working directory.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(files: &dyn Files, output: &Path, settings: &Settings) -> Result<()> {
    let path = path(output);
    let mut settings = settings.clone();
    settings.make_paths_absolute();
    durable::replace(files, &path, settings.to_toml().as_bytes()).map_err(Error::io("write", &path))
}

/// Reads the resolved settings of the run in `output`, by key.
///
/// # Errors
/// Where the file cannot be read or is not TOML.
pub fn read(output: &Path) -> Result<BTreeMap<String, serde_json::Value>> {
    let path = path(output);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let table = toml::from_str(&text).map_err(|e| Error::Run(format!("{}: {}", path.display(), e.message())))?;
    Ok(flatten(table))
}

/// Settings that a run's numbers depend on, by key: saved with every checkpoint, and compared on a resume.
pub fn that_matter(settings: &Settings) -> BTreeMap<String, serde_json::Value> {
    let table: toml::Table = toml::from_str(&settings.to_toml()).unwrap_or_default();
    let prep = |key: &str| prepare::SECTIONS.iter().any(|section| key.split('.').next() == Some(section));
    // Data may move, as long as it is the same: the cursor knows its fingerprint.
    let place = |key: &str| key.starts_with("data.sources.") && key.ends_with(".path");
    // Measuring changes nothing, nor does how many ranks share the work.
    let aside = |key: &str| key.starts_with("eval.") || key.starts_with("parallel.");
    let matters = |key: &str| !prep(key) && !place(key) && !aside(key) && !MAY_CHANGE.contains(&key);
    flatten(table).into_iter().filter(|(key, _)| matters(key)).collect()
}

/// Settings that all ranks of a run must have alike, by key: all but where files are, and threads.
pub(super) fn that_ranks_share(settings: &Settings) -> BTreeMap<String, serde_json::Value> {
    let table: toml::Table = toml::from_str(&settings.to_toml()).unwrap_or_default();
    let local = |key: &str| {
        let place = key.starts_with("data.") && (key.ends_with(".path") || key.ends_with("_path"));
        place || ["train.init", "train.threads", "eval.task_data", "eval.fewshot_data"].contains(&key)
    };
    flatten(table).into_iter().filter(|(key, _)| !local(key)).collect()
}

fn flatten(table: toml::Table) -> BTreeMap<String, serde_json::Value> {
    let mut out = BTreeMap::new();
    let mut open = vec![(String::new(), table)];
    while let Some((prefix, table)) = open.pop() {
        for (key, value) in table {
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => open.push((name, inner)),
                value => {
                    out.insert(name, serde_json::to_value(value).unwrap_or_default());
                }
            }
        }
    }
    out
}
