//! Agreement of the ranks beside the numbers of a step: that they do the same, and how it went.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fathom_core::comm::Comm;
use fathom_core::device::Device;
use fathom_core::train::schedule::Schedule;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::watch::{Meter, Progress};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// How a rank is watched and measured. The default is for one that is neither.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Where the rank notes what it does.
    pub progress: Progress,
    /// Counts what it sends, and how long it waits, where there are several ranks.
    pub meter: Option<Meter>,
}

/// What all ranks must have alike when they begin.
pub(super) struct Same {
    /// Settings, by key.
    pub settings: BTreeMap<String, Value>,
    /// What tells the training data from other data.
    pub training: String,
    /// The same of the validation data; empty without.
    pub validation: String,
    /// The same of the weights that training begins with; empty where it does not begin with some.
    pub init: String,
    /// Step of the checkpoint to go on from.
    pub step: Option<u64>,
}

/// Checks that all ranks begin the same run: the same version, settings, data, weights and checkpoint, as far as can be
/// told without reading them whole.
///
/// # Errors
/// The first rank that differs from rank 0, and in what.
pub(super) fn agree<D: Device, C: Comm<D>>(comm: &C, same: &Same) -> Result<()> {
    let settings = &same.settings;
    let all = hash(&serde_json::to_string(settings).unwrap_or_default());
    let words = [
        hash(env!("CARGO_PKG_VERSION")),
        all,
        settings.len() as u64,
        hash(&same.training),
        hash(&same.validation),
        hash(&same.init),
        same.step.unwrap_or(u64::MAX),
    ];
    let told = comm.tell(&words).map_err(Error::device("comparing the ranks"))?;
    let what = [
        "version of the program",
        "",
        "",
        "training data",
        "validation data",
        "train.init",
        "checkpoint to go on from",
    ];
    let first: Vec<u64> = told.iter().take(words.len()).copied().collect();
    for (rank, words) in told.chunks_exact(words.len()).enumerate() {
        for (number, name) in what.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            if words[number] != first[number] {
                return Err(other(rank, &format!("another {name}")));
            }
        }
        if words[2] != first[2] {
            return Err(other(rank, "other settings: some that the other does not have"));
        }
    }
    if told.chunks_exact(words.len()).all(|words| words[1] == first[1]) {
        return Ok(());
    }
    let keys: Vec<u64> = settings.iter().map(|(key, value)| hash(&format!("{key} = {value}"))).collect();
    let told = comm.tell(&keys).map_err(Error::device("comparing the ranks"))?;
    let differs = |rank: &[u64]| rank.iter().zip(&told).position(|(mine, first)| mine != first);
    let found = told.chunks_exact(keys.len().max(1)).enumerate().find_map(|(rank, keys)| Some((rank, differs(keys)?)));
    match found.and_then(|(rank, key)| Some((rank, settings.iter().nth(key)?))) {
        None => Ok(()),
        Some((rank, (key, value))) => Err(other(rank, &format!("another `{key}` (here it is {value})"))),
    }
}

/// Checks that all ranks see rank 0's output folder, by a mark that it writes into its `lock`.
///
/// # Errors
/// The first rank that does not see it; where the mark cannot be read, what the disk said.
pub(super) fn share_folder<D: Device, C: Comm<D>>(comm: &C, output: &Path, lock: Option<&File>) -> Result<()> {
    let path = super::folder::lock_path(output);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let mark = now ^ u64::from(std::process::id()) << 32;
    let write = |mut lock: &File| {
        lock.set_len(0)
            .and_then(|()| lock.write_all(format!("{mark:016x}\n").as_bytes()))
            .and_then(|()| lock.sync_all())
    };
    let written = lock.map_or(Ok(()), write).map_err(Error::io("write", &path));
    let told = comm.tell(&[mark, u64::from(written.is_err())]).map_err(Error::device("sharing the output folder"))?;
    written?;
    if told[1] != 0 {
        return Err(failed(0, "writing into the output folder"));
    }
    let read = std::fs::read_to_string(&path);
    let seen = read.as_ref().is_ok_and(|text| text.trim() == format!("{:016x}", told[0]));
    let told = comm.tell(&[u64::from(seen)]).map_err(Error::device("sharing the output folder"))?;
    // A file that cannot be read is a fault of the disk, not another folder.
    if let Err(error) = read
        && error.kind() != ErrorKind::NotFound
    {
        return Err(Error::io("read", &path)(error));
    }
    match told.iter().position(|&seen| seen == 0) {
        None => Ok(()),
        Some(rank) => Err(Error::Run(format!(
            "rank {rank} does not see the output folder of rank 0 as {}: all ranks must write into one shared folder, \
             under the same path",
            output.display()
        ))),
    }
}

fn other(rank: usize, what: &str) -> Error {
    Error::Run(format!("rank {rank} has {what} than rank 0: start all ranks with the same program, command and data"))
}

/// Fails on every rank where `done` failed on one: with its own error there, elsewhere with the rank's number.
pub(super) fn all<D: Device, C: Comm<D>, T>(comm: &C, done: Result<T>, doing: &str) -> Result<T> {
    let told = comm.tell(&[u64::from(done.is_err())]).map_err(Error::device(doing))?;
    let done = done?;
    match told.iter().position(|&word| word != 0) {
        None => Ok(done),
        Some(rank) => Err(failed(rank, doing)),
    }
}

pub(super) fn failed(rank: usize, doing: &str) -> Error {
    Error::Run(format!("rank {rank} failed while {doing}: see its own message"))
}

/// Checks that `world` ranks can share every batch of the run evenly.
///
/// # Errors
/// Names the number of micro-batches and the nearest numbers of ranks that work.
pub(super) fn fit(settings: &Settings, schedule: &Schedule, steps: u64, world: usize) -> Result<()> {
    let micro = settings.train.micro_batch_size;
    let mut tokens = 0;
    let mut sizes = std::collections::BTreeSet::new();
    for _ in 0..steps {
        let size = schedule.at(tokens).batch_size;
        sizes.insert(size);
        tokens += schedule.step_tokens(tokens);
        // Once the batch has grown it stays.
        if size == settings.train.batch_size {
            break;
        }
    }
    let count = |size: usize| size / micro.min(size).max(1);
    let Some(&worst) = sizes.iter().find(|&&size| !count(size).is_multiple_of(world)) else { return Ok(()) };
    let works = |world: usize| world > 0 && sizes.iter().all(|&size| count(size).is_multiple_of(world));
    let below = (1..world).rev().find(|&world| works(world)).unwrap_or(1);
    let above = (world + 1..=count(worst)).find(|&world| works(world));
    let ranks = above.map_or(below.to_string(), |above| format!("{below} or {above}"));
    let smaller =
        (1..micro).rev().find(|&m| sizes.iter().all(|s| s.is_multiple_of(m) && (s / m).is_multiple_of(world)));
    let smaller = smaller.map_or(String::new(), |m| format!(", or set train.micro_batch_size={m}"));
    // A batch that grows passes sizes that one of a fixed size does not have.
    let ramp = match count(settings.train.batch_size).is_multiple_of(world) && sizes.len() > 1 {
        true => format!(", or set schedule.batch_multiple={}", world * micro),
        false => String::new(),
    };
    Err(Error::Run(format!(
        "a batch of {worst} sequences is {} micro-batches of {micro}, which {world} ranks cannot share evenly: run on \
         {ranks} ranks{smaller}{ramp}",
        count(worst)
    )))
}

fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use fathom_core::comm::Solo;
    use fathom_core::device::Host;

    use super::*;

    #[test]
    fn a_mark_that_cannot_be_read_is_no_other_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = crate::run::folder::lock_path(folder.path());
        let share = |lock| share_folder::<Host, _>(&Solo, folder.path(), lock).map_err(|error| error.to_string());
        let missing = share(None).unwrap_err();
        assert!(missing.contains("rank 0 does not see the output folder"), "{missing}");
        let lock = File::create(&path).unwrap();
        assert_eq!(share(Some(&lock)), Ok(()));
        // Reading a folder as a file fails as a bad disk does.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let unreadable = share(None).unwrap_err();
        assert!(unreadable.contains("cannot read") && unreadable.contains("run.lock"), "{unreadable}");
    }

    #[test]
    fn a_batch_that_no_such_world_divides_names_those_that_do() {
        let check = |sets: &[&str], world| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            let settings = Settings::load(None, &sets).unwrap();
            let (_, steps) = settings.budget().unwrap();
            fit(&settings, &settings.schedule().unwrap(), steps, world).map_err(|error| error.to_string())
        };
        let batch = ["train.batch_size=32", "train.micro_batch_size=4"];
        for world in [1, 2, 4, 8] {
            assert_eq!(check(&batch, world), Ok(()));
        }
        let error = check(&batch, 3).unwrap_err();
        assert!(error.contains("8 micro-batches of 4") && error.contains("run on 2 or 4 ranks"), "{error}");
        let error = check(&batch, 16).unwrap_err();
        assert!(error.contains("run on 8 ranks, or set train.micro_batch_size=2"), "{error}");
        let ramp = [batch.as_slice(), &["schedule.batch_ramp_tokens=100000", "schedule.batch_start=8"]].concat();
        let error = check(&ramp, 2).unwrap_err();
        assert!(error.contains("batch of 12") && error.contains("schedule.batch_multiple=8"), "{error}");
        assert_eq!(check(&[ramp.as_slice(), &["schedule.batch_multiple=8"]].concat(), 2), Ok(()));
    }
}
