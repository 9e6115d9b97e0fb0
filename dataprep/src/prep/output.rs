//! The output folder: recognising what it already holds, and replacing it as a whole.

use super::{OutputConfig, PrepConfig, Summary};
use crate::error::{Error, Result};
use crate::shard::{MANIFEST, Manifest, ShardSet, Split, WrittenShards, sync_folder};
use crate::tokenizer::{TOKENIZER, TOKENIZER_CONFIG, Tokenizer};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is already there, if it is complete and was made from the same inputs in the same way.
pub(super) fn reuse(config: &PrepConfig, fingerprint: &str) -> Result<Option<Summary>> {
    let dir = &config.output.dir;
    let exists = |what: String| Err(Error::OutputExists { path: dir.clone(), what });
    let manifest = match Manifest::read(dir) {
        Ok(manifest) => manifest,
        Err(Error::ManifestMissing { .. }) => return Ok(None),
        Err(_) if config.output.overwrite => return Ok(None),
        Err(e @ Error::Io { .. }) => return Err(e),
        Err(e) => return exists(format!("cannot be reused ({e})")),
    };
    if config.output.overwrite {
        return Ok(None);
    }
    if manifest.fingerprint != fingerprint {
        return exists(format!("holds shards made from other text or settings ({})", difference(config, &manifest)));
    }
    let whole = || {
        ShardSet::open(dir, Split::Train)?;
        if manifest.validation.is_some() {
            ShardSet::open(dir, Split::Validation)?;
        }
        let tokenizer = Tokenizer::load_with_eos(&dir.join(TOKENIZER), config.tokenizer.eos.as_deref())?;
        if tokenizer.fingerprint() != manifest.tokenizer.fingerprint {
            let what = "not the tokenizer of manifest.json; run prep again".to_owned();
            return Err(Error::Tokenizer { path: dir.join(TOKENIZER), what });
        }
        Ok(tokenizer)
    };
    match whole() {
        Ok(tokenizer) => Ok(Some(Summary { dir: dir.clone(), manifest, tokenizer, reused: true })),
        Err(e) => exists(format!("is damaged ({e})")),
    }
}

/// The first setting that differs, for the message.
fn difference(config: &PrepConfig, manifest: &Manifest) -> String {
    let recipe = config.recipe();
    for section in ["input", "tokenizer", "output", "seed"] {
        let (now, then) = (&recipe[section], &manifest.pipeline[section]);
        let Some(fields) = now.as_object() else {
            if now != then {
                return format!("{section} was {then} and is {now}");
            }
            continue;
        };
        if let Some((key, value)) = fields.iter().find(|(key, value)| then.get(key.as_str()) != Some(value)) {
            return format!("{section}.{key} was {} and is {value}", then[key]);
        }
    }
    "the inputs changed".into()
}

/// Makes the folder, checks that it can be written to, and clears what an interrupted run left.
pub(super) fn prepare(output: &OutputConfig) -> Result<()> {
    let dir = &output.dir;
    fs::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
    let probe = dir.join("manifest.json.tmp");
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(Error::io("write to", &probe))?;
    let (unfinished, shards) = shard_files(dir)?;
    let ours = dir.join(MANIFEST).exists() || dir.join(TOKENIZER).exists();
    if !shards.is_empty() && !ours && !output.overwrite {
        let what = format!("holds shards that prep did not write ({})", shards[0].display());
        return Err(Error::OutputExists { path: dir.clone(), what });
    }
    unfinished.iter().try_for_each(|path| remove(path))
}

/// Replaces the folder's shards by new ones. From the first removal to the last write there is no manifest, so whoever
/// looks meanwhile, or after a crash, sees that the folder is incomplete.
pub(super) fn commit(
    output: &OutputConfig,
    tokenizer: &Tokenizer,
    manifest: &Manifest,
    shards: [Option<WrittenShards>; 2],
) -> Result<()> {
    let dir = &output.dir;
    remove(&dir.join(MANIFEST))?;
    sync_folder(dir)?;
    for path in shard_files(dir)?.1.iter().chain(&[dir.join(TOKENIZER_CONFIG)]) {
        remove(path)?;
    }
    tokenizer.save(dir)?;
    for written in shards.into_iter().flatten() {
        written.commit()?;
    }
    manifest.write(dir)
}

/// Files named as this crate names shards: unfinished ones, and finished ones.
fn shard_files(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut unfinished, mut finished) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (base, list) = match name.strip_suffix(".tmp") {
            Some(base) => (base, &mut unfinished),
            None => (name.as_str(), &mut finished),
        };
        let stem = base.strip_suffix(".bin").or(base.strip_suffix(".idx")).unwrap_or_default();
        let number = stem.strip_prefix("train-").or(stem.strip_prefix("validation-")).unwrap_or_default();
        if number.len() >= 5 && number.bytes().all(|b| b.is_ascii_digit()) {
            list.push(path);
        }
    }
    finished.sort();
    Ok((unfinished, finished))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io("remove", path)),
    }
}
