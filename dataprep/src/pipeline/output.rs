//! The output folder: recognising what it already holds, and replacing it as a whole.

use super::clean::BAD_RECORD;
use super::config::PrepConfig;
use super::identity::Identity;
use super::inputs::Inputs;
use super::stage::shards::SUFFIXES;
use super::watch::ManifestWatch;
use crate::durable::{Files, create_dirs, remove_tree, replace};
use crate::error::{Error, Result};
use crate::shard::{MANIFEST, Manifest, ShardSet, Split};
use crate::tokenizer::{TOKENIZER, Tokenizer};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Folder of intermediate results below the output folder.
const WORK: &str = "work";
/// A file that is written and removed, to learn whether the output folder can be written to.
const PROBE: &str = "probe.tmp";
/// The list of input files.
pub(crate) const SOURCES: &str = "sources.jsonl";

/// The list of files and folders that were found and not read.
pub(crate) const PASSED_OVER: &str = "passed_over.jsonl";

/// Folder of dropped documents.
pub(crate) const DROPPED: &str = "dropped";

/// Summary of a preparation.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The folder.
    pub dir: PathBuf,
    /// Manifest of the folder.
    pub manifest: Manifest,
    /// The tokenizer, as it was saved there.
    pub tokenizer: Tokenizer,
    /// True when the folder already held exactly this and was left as it was.
    pub reused: bool,
}

/// Where intermediate results of a preparation with this key lie.
pub(super) fn work_folder(config: &PrepConfig, key: &str) -> PathBuf {
    config.output.dir.join(WORK).join(&key[..key.len().min(16)])
}

/// What is already there, if it is complete and was made from the same inputs in the same way.
pub(super) fn reuse(identity: &Identity<'_>, inputs: &Inputs, pool: &rayon::ThreadPool) -> Result<Option<Summary>> {
    let config = identity.config;
    let dir = &config.output.dir;
    let exists = |what: String| match config.output.overwrite {
        true => Ok(None),
        false => Err(Error::OutputExists { path: dir.clone(), what }),
    };
    let manifest = match Manifest::read(dir) {
        Ok(manifest) => manifest,
        Err(Error::ManifestMissing { .. }) => return Ok(None),
        Err(e @ Error::Io { .. }) => return Err(e),
        Err(e) => return exists(format!("cannot be reused ({e})")),
    };
    if !is_same(identity, inputs, pool, &manifest)? {
        return exists(format!("holds shards made from other text or settings ({})", difference(config, &manifest)));
    }
    check_bad(config, &manifest)?;
    let verified = whole(config, manifest).and_then(|summary| {
        if config.rank.is_first() {
            // The inputs were read to be sure; what was made of them is too.
            ShardSet::open(dir, Split::Train)?.verify()?;
        }
        Ok(summary)
    });
    match verified {
        Ok(summary) => Ok(Some(summary)),
        Err(e) => exists(format!("is damaged ({e})")),
    }
}

/// Holds what was read for what is there to the present limit on bad records.
fn check_bad(config: &PrepConfig, manifest: &Manifest) -> Result<()> {
    let Some(read) = manifest.stages.first() else {
        return Ok(());
    };
    let count = read.dropped.get(BAD_RECORD).copied().unwrap_or(0);
    let records = read.kept.saturating_add(read.dropped.values().sum());
    match config.input.exceeded(count, records) {
        Some((what, limit)) => {
            let places = vec![format!("not noted in {}", config.output.dir.join(MANIFEST).display())];
            Err(Error::BadRecords { what, limit, places })
        }
        None => Ok(()),
    }
}

/// Whether what is there is what this preparation would make. The first process reads all inputs to be sure; the others
/// go by what costs nothing.
fn is_same(identity: &Identity<'_>, inputs: &Inputs, pool: &rayon::ThreadPool, manifest: &Manifest) -> Result<bool> {
    let config = identity.config;
    if !same_recipe(config, manifest) {
        return Ok(false);
    }
    if !config.rank.is_first() {
        let now = inputs.entry(&[]);
        return Ok((now.files, now.bytes) == (manifest.inputs.files, manifest.inputs.bytes));
    }
    let entry = pool.install(|| inputs.read_entry(manifest.inputs.parts))?;
    Ok(entry.is_some_and(|entry| identity.fingerprint(&entry) == manifest.fingerprint))
}

/// Whether a folder was prepared by these settings. Where the inputs lay does not matter: what is in them is compared.
fn same_recipe(config: &PrepConfig, manifest: &Manifest) -> bool {
    let (mut now, mut then) = (config.recipe(), manifest.pipeline.clone());
    for recipe in [&mut now, &mut then] {
        if let Some(input) = recipe.get_mut("input").and_then(serde_json::Value::as_object_mut) {
            input.remove("paths");
        }
    }
    now == then
}

/// The folder as it is, with everything that its manifest names.
pub(super) fn whole(config: &PrepConfig, manifest: Manifest) -> Result<Summary> {
    let dir = &config.output.dir;
    ShardSet::open(dir, Split::Train)?;
    if manifest.validation.is_some() {
        ShardSet::open(dir, Split::Validation)?;
    }
    let tokenizer = Tokenizer::load_with_eos(&dir.join(TOKENIZER), config.tokenizer.eos.as_deref())?;
    if tokenizer.fingerprint() != manifest.tokenizer.fingerprint {
        let what = "not the tokenizer of manifest.json; run prep again".to_owned();
        return Err(Error::Tokenizer { path: dir.join(TOKENIZER), what });
    }
    Ok(Summary { dir: dir.clone(), manifest, tokenizer, reused: true })
}

/// The first setting that differs, for the message.
fn difference(config: &PrepConfig, manifest: &Manifest) -> String {
    let recipe = config.recipe();
    for section in
        ["input", "extract", "filter", "dedup", "decontaminate", "tokenizer", "fim", "output", "seed", "split_bytes"]
    {
        let (now, then) = (&recipe[section], &manifest.pipeline[section]);
        let Some(fields) = now.as_object() else {
            if now != then {
                return format!("{section} was {then} and is {now}");
            }
            continue;
        };
        let differs = |(key, value): &(&String, &serde_json::Value)| {
            !(section == "input" && *key == "paths") && then.get(key.as_str()) != Some(*value)
        };
        if let Some((key, value)) = fields.iter().find(differs) {
            return format!("{section}.{key} was {} and is {value}", then[key]);
        }
    }
    "the inputs changed".into()
}

/// Makes the folder, checks that it can be written to, and clears what an interrupted run of an older version left.
pub(super) fn prepare(files: &dyn Files, config: &PrepConfig) -> Result<()> {
    let output = &config.output;
    let dir = &output.dir;
    create_dirs(files, dir).map_err(Error::io("create folder", dir))?;
    let probe = dir.join(PROBE);
    files.create(&probe).map(drop).map_err(Error::io("write to", &probe))?;
    remove(files, &probe)?;
    let (unfinished, shards) = shard_files(dir)?;
    let ours = [MANIFEST, TOKENIZER, WORK].iter().any(|name| dir.join(name).exists());
    if let Some(shard) = shards.first()
        && !ours
        && !output.overwrite
    {
        let what = format!("holds shards that prep did not write ({})", shard.display());
        return Err(Error::OutputExists { path: dir.clone(), what });
    }
    if config.rank.is_first() {
        unfinished.iter().try_for_each(|path| remove(files, path))?;
    }
    Ok(())
}

/// Files to be given their names in the output folder: where they are, and the name.
pub(super) type Moves = Vec<(PathBuf, String)>;

/// Replaces what the folder holds by new files. From the first removal to the last write there is no manifest, so
/// a reader that looks meanwhile, or after a crash, sees that the folder is incomplete. A commit that was cut short is
/// taken up where it ended: a file that is no longer where it was made has its name already.
pub(super) fn commit(
    files: &dyn Files,
    config: &PrepConfig,
    tokenizer: &Tokenizer,
    manifest: &Manifest,
    [sources, passed_over]: &[String; 2],
    moves: &Moves,
) -> Result<()> {
    let dir = &config.output.dir;
    let sync = |folder: &Path| files.sync_dir(folder).map_err(Error::io("sync", folder));
    remove(files, &dir.join(MANIFEST))?;
    sync(dir)?;
    // Of a process that was killed while another went on.
    remove(files, &dir.join(PROBE))?;
    tokenizer.save_on(files, dir)?;
    for path in shard_files(dir)?.1 {
        if !moves.iter().any(|(_, name)| path.file_name().is_some_and(|found| found == name.as_str())) {
            remove(files, &path)?;
        }
    }
    let dropped = dir.join(DROPPED);
    for path in entries(&dropped)? {
        let name = format!("{DROPPED}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if !moves.iter().any(|(_, kept)| *kept == name) {
            remove(files, &path)?;
        }
    }
    if moves.iter().any(|(_, name)| name.starts_with(DROPPED)) {
        create_dirs(files, &dropped).map_err(Error::io("create folder", &dropped))?;
    } else {
        // Not empty, it is not ours alone.
        let _ = files.remove_dir(&dropped);
    }
    for (from, name) in moves {
        let to = dir.join(name);
        match files.rename(from, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && to.exists() => {}
            other => other.map_err(Error::io("rename a finished file to", &to))?,
        }
    }
    let listing = |name: &str, text: &str| {
        let path = dir.join(name);
        replace(files, &path, text.as_bytes()).map_err(Error::io("write", &path))
    };
    listing(SOURCES, sources)?;
    match passed_over.as_str() {
        "" => remove(files, &dir.join(PASSED_OVER))?,
        some => listing(PASSED_OVER, some)?,
    }
    // Every name that the manifest speaks of must be there for good before its own is, and before the work folder goes.
    if dropped.is_dir() {
        sync(&dropped)?;
    }
    sync(dir)?;
    manifest.write_on(files, dir)?;
    clear_work(files, dir)
}

/// Waits until the first process has written the manifest with this fingerprint.
pub(super) fn await_manifest(config: &PrepConfig, fingerprint: &str) -> Result<()> {
    let since = Instant::now();
    loop {
        if Manifest::read(&config.output.dir).is_ok_and(|manifest| manifest.fingerprint == fingerprint) {
            return Ok(());
        }
        let seconds = since.elapsed().as_secs();
        if seconds > config.wait_seconds {
            return Err(Error::Stalled { stage: "publish", missing: 1, tasks: 1, seconds, next: 0, rank: 0 });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What another process has made since `before`, if it is what `config` describes.
pub(super) fn made_meanwhile(config: &PrepConfig, before: &ManifestWatch) -> Result<Option<Summary>> {
    if !before.is_past() {
        return Ok(None);
    }
    match Manifest::read(&config.output.dir) {
        Ok(manifest) if same_recipe(config, &manifest) => whole(config, manifest).map(Some),
        Ok(_) | Err(Error::ManifestMissing { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes all intermediate results. A process that is late may be making folders meanwhile; what it leaves it removes
/// itself.
pub(super) fn clear_work(files: &dyn Files, dir: &Path) -> Result<()> {
    let work = dir.join(WORK);
    match remove_tree(files, &work) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        other => other.map_err(Error::io("remove", &work)),
    }
}

/// Removes what a late process has made in a work folder after the preparation was ended.
pub(super) fn clear_late_work(files: &dyn Files, config: &PrepConfig, folder: &Path) {
    // Others that are late do the same, and the first one does it for all.
    let _ = remove_tree(files, folder);
    let _ = files.remove_dir(&config.output.dir.join(WORK));
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
        let stem = SUFFIXES.iter().find_map(|suffix| base.strip_suffix(suffix)?.strip_suffix('.')).unwrap_or_default();
        let number = stem.strip_prefix("train-").or(stem.strip_prefix("validation-")).unwrap_or_default();
        if number.len() >= 5 && number.bytes().all(|b| b.is_ascii_digit()) {
            list.push(path);
        }
    }
    finished.sort();
    Ok((unfinished, finished))
}

/// What is in a folder, if there is one.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let entries = other.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
            entries.map_err(Error::io("list", folder))
        }
    }
}

fn remove(files: &dyn Files, path: &Path) -> Result<()> {
    match files.remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io("remove", path)),
    }
}
