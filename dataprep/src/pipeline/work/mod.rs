//! Stages and their tasks: what makes a preparation the same for any number of threads and processes, and lets it be
//! killed at any moment.
//!
//! A stage is a fixed list of tasks. A task reads inputs and what the tasks of earlier stages published, and publishes
//! its own files in `WORK/STAGE/`: written under a temporary name, synced, renamed, and last a receipt
//! (`00012.receipt`) with the size and XXH3 of each and what the task has to report. A task with a receipt is never
//! done again; one without is as if it had never begun. Which process does a task follows from its number, how many of
//! them run at once from the threads; what is in its files follows from neither.
//!
//! Between stages every process waits until the receipts of all tasks are there. Nothing else passes between processes,
//! so any storage with atomic renames will do.

use super::config::PrepConfig;
use super::progress::Progress;
use super::rank::Rank;
use super::watch::ManifestWatch;
use crate::durable::{DurableFile, Files, Target, create_dirs};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// A list of tasks.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// Name of its folder.
    pub name: &'static str,
    /// What it does, for progress.
    pub title: &'static str,
    /// Bytes that each task reads: the unit of progress.
    pub sizes: Vec<u64>,
}

/// A file that a task has published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Published {
    /// What follows the task's number in the file's name.
    pub suffix: String,
    /// Its length.
    pub bytes: u64,
    /// XXH3-64 of its content, in hexadecimal.
    pub xxh3: String,
}

/// What a task that is done leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Receipt<R> {
    /// The task's number.
    pub task: usize,
    /// Its files.
    pub files: Vec<Published>,
    /// What it found.
    pub report: R,
}

/// The work folder, thread pool and rank of one preparation.
pub(super) struct Work<'a> {
    files: &'a dyn Files,
    folder: PathBuf,
    /// Tells whether another process has ended the preparation.
    before: ManifestWatch,
    rank: Rank,
    threads: usize,
    patience: Duration,
    pool: rayon::ThreadPool,
    progress: Mutex<&'a mut dyn Progress>,
    done: AtomicU64,
    documents: AtomicU64,
    /// Part of the names of this process's temporary files. A task may be running twice where a process was thought
    /// dead and is not: neither must write into the other's files.
    mark: String,
}

impl<'a> Work<'a> {
    /// Will work in `folder` with the threads and the rank of `config`. `before` is of a moment before it was seen that
    /// the preparation is still to be made.
    pub fn new(
        files: &'a dyn Files,
        folder: PathBuf,
        config: &PrepConfig,
        before: ManifestWatch,
        pool: rayon::ThreadPool,
        progress: &'a mut dyn Progress,
    ) -> Self {
        Self {
            files,
            folder,
            before,
            rank: config.rank,
            threads: pool.current_num_threads(),
            patience: Duration::from_secs(config.wait_seconds),
            pool,
            progress: Mutex::new(progress),
            done: AtomicU64::new(0),
            documents: AtomicU64::new(0),
            mark: mark(),
        }
    }

    /// What files are written through.
    pub fn files(&self) -> &'a dyn Files {
        self.files
    }

    /// The folder with the stages' folders.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Threads that compute.
    pub fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    /// How many there are of them.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Tells the user something.
    pub fn message(&self, text: &str) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).message(text);
    }

    /// Counts what was read and how many documents that were.
    pub fn advance(&self, bytes: u64, documents: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let documents = self.documents.fetch_add(documents, Ordering::Relaxed) + documents;
        // The thread that holds the lock reports a count that is hardly older.
        if let Ok(mut progress) = self.progress.try_lock() {
            progress.advance(done, documents);
        }
    }

    /// Does every task of this process that has not been done, several at once, and waits for all others. `body` is
    /// given the task's number and where to put files.
    pub fn run<R, F>(&self, stage: &Stage, body: F) -> Result<Vec<Receipt<R>>>
    where
        R: Serialize + DeserializeOwned + Send,
        F: Fn(usize, &mut Draft<'_>) -> Result<R> + Sync,
    {
        let folder = self.open(stage)?;
        let mine = (0..stage.sizes.len()).filter(|&task| self.rank.owns(task) && !receipt_path(&folder, task).exists());
        let mine: Vec<usize> = mine.collect();
        self.begin(stage, mine.iter().map(|&task| stage.sizes[task]).sum());
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let work = || {
            while !stop.load(Ordering::Relaxed)
                && let Some(&task) = mine.get(next.fetch_add(1, Ordering::Relaxed))
            {
                if let Err(error) = self.perform(&folder, task, &body) {
                    stop.store(true, Ordering::Relaxed);
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    if failed.as_ref().is_none_or(|(first, _)| task < *first) {
                        *failed = Some((task, error));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (1..self.threads.min(mine.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        if let Some((_, error)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        self.await_all(stage, &folder)
    }

    /// As [`run`](Self::run), but one task after the other, each with the receipts of those before; ends before the
    /// first task of which `more` says, from those receipts, that it is not needed.
    pub fn run_in_order<R, M, F>(&self, stage: &Stage, more: M, body: F) -> Result<Vec<Receipt<R>>>
    where
        R: Serialize + DeserializeOwned,
        M: Fn(&[Receipt<R>]) -> bool,
        F: Fn(usize, &[Receipt<R>], &mut Draft<'_>) -> Result<R>,
    {
        let folder = self.open(stage)?;
        self.begin(stage, stage.sizes.iter().sum());
        let mut receipts = Vec::new();
        for task in 0..stage.sizes.len() {
            if !more(&receipts) {
                break;
            }
            if self.rank.owns(task) && !receipt_path(&folder, task).exists() {
                self.perform(&folder, task, &|task, draft: &mut Draft<'_>| body(task, &receipts, draft))?;
            }
            self.wait_for(stage, &folder, task, task + 1)?;
            receipts.push(read_receipt(&folder, task)?);
        }
        Ok(receipts)
    }

    fn open(&self, stage: &Stage) -> Result<PathBuf> {
        let folder = self.folder.join(stage.name);
        create_dirs(self.files, &folder).map_err(Error::io("create folder", &folder))?;
        Ok(folder)
    }

    fn begin(&self, stage: &Stage, bytes: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.documents.store(0, Ordering::Relaxed);
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).stage(stage.title, bytes);
    }

    fn perform<R: Serialize>(
        &self,
        folder: &Path,
        task: usize,
        body: &impl Fn(usize, &mut Draft<'_>) -> Result<R>,
    ) -> Result<()> {
        let (made, mark) = (Vec::new(), self.mark.clone());
        let mut draft = Draft { files: self.files, folder: folder.into(), task, made, mark };
        let report = body(task, &mut draft)?;
        write_receipt(self.files, folder, &Receipt { task, files: draft.made, report }, &self.mark)
    }

    fn await_all<R: DeserializeOwned>(&self, stage: &Stage, folder: &Path) -> Result<Vec<Receipt<R>>> {
        let tasks = stage.sizes.len();
        let receipt = |task| {
            self.wait_for(stage, folder, task, tasks)?;
            read_receipt(folder, task)
        };
        (0..tasks).map(receipt).collect()
    }

    /// Waits until `task` is done, as long as of the first `of` tasks some become done meanwhile.
    fn wait_for(&self, stage: &Stage, folder: &Path, task: usize, of: usize) -> Result<()> {
        let path = receipt_path(folder, task);
        let (mut pause, mut since, mut told) = (Duration::from_millis(10), Instant::now(), false);
        let mut before = None;
        while !path.exists() {
            // Gone, or gone and made again by a process that came too late: this one, maybe.
            if !folder.exists() || self.before.is_past() {
                return Err(Error::WorkGone { path: folder.into() });
            }
            // One listing, and not a question a task: there may be many, far away.
            let done = count_receipts(folder)?;
            if before != Some(done) {
                (before, since) = (Some(done), Instant::now());
            }
            let missing = of.saturating_sub(done).max(1);
            let (waited, rank) = (since.elapsed(), self.rank.owner(task));
            if waited > self.patience {
                let (tasks, seconds) = (stage.sizes.len(), waited.as_secs());
                return Err(Error::Stalled { stage: stage.title, missing, tasks, seconds, next: task, rank });
            }
            if !told && waited > Duration::from_secs(10) {
                told = true;
                self.message(&format!(
                    "{}: waiting for {missing} of {of} tasks, the next is rank {rank}'s",
                    stage.title
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Ok(())
    }
}

/// The files of one task while it runs.
pub(super) struct Draft<'a> {
    files: &'a dyn Files,
    folder: PathBuf,
    task: usize,
    made: Vec<Published>,
    mark: String,
}

impl<'a> Draft<'a> {
    /// Begins the file with this suffix.
    pub fn create(&self, suffix: &str) -> Result<DraftFile> {
        let path = file_path(&self.folder, self.task, suffix);
        let temporary = file_path(&self.folder, self.task, &format!("{suffix}.{}.tmp", self.mark));
        let file = self.files.create(&temporary).map_err(Error::io("create", &temporary))?;
        let suffix = suffix.to_owned();
        let inner = Hashing { inner: file, hasher: Xxh3::new(), bytes: 0 };
        Ok(DraftFile { suffix, path, temporary, inner: BufWriter::with_capacity(1 << 18, inner) })
    }

    /// The path of the file with this suffix, for what publishes itself and knows whether it is damaged.
    pub fn path(&self, suffix: &str) -> PathBuf {
        file_path(&self.folder, self.task, suffix)
    }

    /// Such a path, to be written to.
    pub fn target<'p>(&self, path: &'p Path) -> Target<'p>
    where
        'a: 'p,
    {
        Target { files: self.files, path }
    }

    /// A folder that no other task and no other process uses.
    pub fn scratch(&self) -> Result<PathBuf> {
        let path = file_path(&self.folder, self.task, &format!("{}.tmp", self.mark));
        fs::create_dir_all(&path).map_err(Error::io("create folder", &path))?;
        Ok(path)
    }

    /// Syncs a file and gives it its name.
    pub fn publish(&mut self, mut file: DraftFile) -> Result<()> {
        file.inner.flush().map_err(Error::io("write", &file.temporary))?;
        let Hashing { inner, hasher, bytes } = file.inner.get_mut();
        inner.sync().map_err(Error::io("sync", &file.temporary))?;
        let renamed = self.files.rename(&file.temporary, &file.path);
        renamed.map_err(Error::io("rename a finished file to", &file.path))?;
        self.made.push(Published { suffix: file.suffix, bytes: *bytes, xxh3: format!("{:016x}", hasher.digest()) });
        Ok(())
    }
}

/// A file that is being written.
pub(super) struct DraftFile {
    suffix: String,
    path: PathBuf,
    temporary: PathBuf,
    inner: BufWriter<Hashing<Box<dyn DurableFile>>>,
}

impl DraftFile {
    /// Where it is being written, for errors.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }
}

impl Write for DraftFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes what passes through, in either direction.
struct Hashing<T> {
    inner: T,
    hasher: Xxh3,
    bytes: u64,
}

impl<T> Hashing<T> {
    fn saw(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.saw(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A file that an earlier task published. Reading past its last byte compares its checksum.
pub(super) struct Input {
    path: PathBuf,
    expected: Published,
    inner: Hashing<BufReader<File>>,
}

impl<R> Receipt<R> {
    /// Opens the file with this suffix, if the task made one.
    pub fn open(&self, stage_folder: &Path, suffix: &str) -> Result<Option<Input>> {
        let Some(expected) = self.files.iter().find(|file| file.suffix == suffix) else {
            return Ok(None);
        };
        let path = file_path(stage_folder, self.task, suffix);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let inner = BufReader::with_capacity(1 << 18, file);
        let inner = Hashing { inner, hasher: Xxh3::new(), bytes: 0 };
        Ok(Some(Input { path, expected: expected.clone(), inner }))
    }
}

impl Input {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about its content.
    pub fn damaged(&self, what: impl std::fmt::Display) -> Error {
        damaged(&self.path, what)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.inner.read(buffer)?;
        self.inner.saw(&buffer[..n]);
        if n == 0 && !buffer.is_empty() {
            let (bytes, xxh3) = (self.inner.bytes, format!("{:016x}", self.inner.hasher.digest()));
            if (bytes, &xxh3) != (self.expected.bytes, &self.expected.xxh3) {
                let what = format!(
                    "{bytes} bytes with XXH3 {xxh3} where its receipt says {} with {}",
                    self.expected.bytes, self.expected.xxh3
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(n)
    }
}

/// A name that nobody else has: numbers of processes repeat from one container to the next, and several preparations
/// may run in one process.
fn mark() -> String {
    static MARKS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    format!("{:x}-{now:x}-{:x}", std::process::id(), MARKS.fetch_add(1, Ordering::Relaxed))
}

/// That an intermediate file is damaged, and which receipt to remove.
pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let task = name.split('.').next().unwrap_or_default();
    let remove = path.with_file_name(format!("{task}.receipt"));
    Error::Intermediate { path: path.into(), what: what.to_string(), remove }
}

/// Where the file of a task is.
pub(super) fn file_path(stage_folder: &Path, task: usize, suffix: &str) -> PathBuf {
    stage_folder.join(format!("{task:05}.{suffix}"))
}

fn receipt_path(stage_folder: &Path, task: usize) -> PathBuf {
    file_path(stage_folder, task, "receipt")
}

fn count_receipts(stage_folder: &Path) -> Result<usize> {
    let entries = fs::read_dir(stage_folder).map_err(Error::io("list", stage_folder))?;
    Ok(entries.flatten().filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "receipt")).count())
}

/// A receipt is a line of JSON and a line with its XXH3.
fn write_receipt<R: Serialize>(files: &dyn Files, folder: &Path, receipt: &Receipt<R>, mark: &str) -> Result<()> {
    let mut text = serde_json::to_string(receipt).expect("a report has string keys and finite numbers");
    let sum = xxh3_64(text.as_bytes());
    text += &format!("\n{sum:016x}\n");
    let path = receipt_path(folder, receipt.task);
    let temporary = file_path(folder, receipt.task, &format!("receipt.{mark}.tmp"));
    let write = || {
        let mut file = files.create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync()
    };
    write().map_err(Error::io("write", &temporary))?;
    // The files it speaks of must have their names before it has its own.
    files.sync_dir(folder).map_err(Error::io("sync", folder))?;
    files.rename(&temporary, &path).map_err(Error::io("rename a finished file to", &path))
}

fn read_receipt<R: DeserializeOwned>(folder: &Path, task: usize) -> Result<Receipt<R>> {
    let path = receipt_path(folder, task);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let (json, sum) = text.split_once('\n').ok_or_else(|| damaged(&path, "it has no second line"))?;
    let found = format!("{:016x}", xxh3_64(json.as_bytes()));
    if sum.trim_end() != found {
        return Err(damaged(&path, format!("its XXH3 is {found}, not what its second line says")));
    }
    let receipt: Receipt<R> = serde_json::from_str(json).map_err(|e| damaged(&path, e))?;
    if receipt.task != task {
        return Err(damaged(&path, format!("it is of task {}", receipt.task)));
    }
    Ok(receipt)
}

#[cfg(test)]
mod tests;
