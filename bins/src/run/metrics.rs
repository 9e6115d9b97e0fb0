//! `metrics.jsonl`: one JSON object per step, in the order of steps, without gaps or repeats even across resumes.
//!
//! [`Metrics`] writes the file during a run. [`read`] and [`Rows`] read it, also while a run writes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use fathom_core::train::ExpertLoad;
use fathom_dataprep::durable::{self, DISK, DurableFile, Files};
use serde::{Deserialize, Serialize};

use super::spike::Spike;
use crate::error::{Error, Result};

/// The file's name in the output folder of a run.
pub const FILE: &str = "metrics.jsonl";

/// The longest line that is read, in bytes: far above a line with the load of every expert of the largest models.
const MAX_LINE: u64 = 64 << 20;

/// The numbers of one training step: one line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps taken, this one included.
    pub step: u64,
    /// Tokens trained on, this step included.
    pub tokens: u64,
    /// Mean cross entropy of the next token, nats; `null` where it is not finite.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Mean cross entropy over the sequences of each source that the step drew from, nats, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub loss_by_source: BTreeMap<String, f64>,
    /// Mean cross entropy of the MTP modules, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtp_loss: Option<f64>,
    /// The sequence-wise balance loss, α included.
    #[serde(deserialize_with = "number")]
    pub balance_loss: f64,
    /// L2 norm of the gradients before clipping; `null` where it is not finite.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Load of the busiest expert over the mean, minus one, in the worst layer.
    #[serde(deserialize_with = "number")]
    pub max_violation: f32,
    /// Number of experts that received no token of the step.
    pub dead_experts: usize,
    /// Dropped tokens: always 0, since experts have no capacity limit.
    pub dropped: u64,
    /// Seconds the step took.
    pub seconds: f64,
    /// Seconds of them that rank 0 spent in calls to other ranks, where there are some: moving data, and waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm_seconds: Option<f64>,
    /// Bytes that rank 0 sent to other ranks in the step, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm_bytes: Option<u64>,
    /// Spikes since the step before: this step's, whose update was left out, or those that the run returned to a
    /// checkpoint for before it came to this step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spikes: Vec<Spike>,
    /// Validation loss, if it was measured after this step, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Tokens of the step that were routed to each expert, one list per MoE layer; every `train.expert_load_every`
    /// steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expert_load: Vec<Vec<f32>>,
    /// Text that the model wrote after this step, prompt included; every `train.sample_every` steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// Scores of the benchmark tasks, if they were measured after this step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: TaskScores,
}

/// A number, or `null` for one that is not finite, which JSON has no other word for.
fn number<'de, D: serde::Deserializer<'de>, F: Deserialize<'de> + From<f32>>(reader: D) -> Result<F, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_else(|| F::from(f32::NAN)))
}

/// Scores of benchmark tasks and groups by name. The keys of a task's are those of lm-evaluation-harness:
/// `METRIC,FILTER`, and `METRIC_stderr,FILTER` for the standard error; numbers that are not finite are left out.
pub type TaskScores = BTreeMap<String, BTreeMap<String, f64>>;

/// A score of a benchmark task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskScore<'a> {
    /// The task or group.
    pub task: &'a str,
    /// The metric, and the filter of answers where it has one.
    pub metric: &'a str,
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// Whether the task belongs to a group that has scores too.
    pub inner: bool,
}

/// The scores in `tasks`, each with its standard error.
pub fn task_scores(tasks: &TaskScores) -> impl Iterator<Item = TaskScore<'_>> {
    let inside = |task: &str, other: &str| task.strip_prefix(other).is_some_and(|rest| rest.starts_with('_'));
    tasks.iter().flat_map(move |(task, scores)| {
        let inner = tasks.keys().any(|other| inside(task, other));
        scores.iter().filter_map(move |(key, &value)| {
            let (metric, filter) = key.split_once(',')?;
            if metric.ends_with("_stderr") {
                return None;
            }
            let stderr = scores.get(&format!("{metric}_stderr,{filter}")).copied();
            let metric = if filter == "none" { metric } else { key };
            Some(TaskScore { task, metric, value, stderr, inner })
        })
    })
}

impl StepMetrics {
    /// Load of the busiest expert over the mean, minus one, for each MoE layer; empty where
    /// [`expert_load`](Self::expert_load) is.
    pub fn violation_by_layer(&self) -> Vec<f32> {
        let layer = |load: &Vec<f32>| ExpertLoad { layers: vec![load.clone()] }.max_violation();
        self.expert_load.iter().map(layer).collect()
    }
}

/// Reads the metrics of the run in `folder`, step by step.
///
/// A last line that is cut off, by a crash or because the run is writing it, is left out.
///
/// # Errors
/// [`Error::Io`] where there is no such file or it cannot be read; [`Error::Line`] names a line that is not a step's
/// metrics.
pub fn read(folder: &Path) -> Result<Vec<StepMetrics>> {
    Rows::open(&folder.join(FILE))?.collect()
}

/// An iterator over the steps of a `metrics.jsonl`; one line is in memory at a time.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    reader: BufReader<File>,
    /// The line of the last row, its end included.
    line: Vec<u8>,
    number: u64,
}

impl Rows {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        Ok(Self { path: path.into(), reader: BufReader::new(file), line: Vec::new(), number: 0 })
    }

    fn row(&mut self) -> Result<Option<StepMetrics>> {
        self.line.clear();
        let read = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line);
        self.number += 1;
        if read.map_err(Error::io("read", &self.path))? == 0 {
            return Ok(None);
        }
        let whole = self.line.last() == Some(&b'\n');
        if !whole && (self.line.len() as u64) < MAX_LINE {
            return Ok(None); // cut off
        }
        serde_json::from_slice(&self.line).map(Some).map_err(|e| Error::Line {
            path: self.path.clone(),
            line: self.number,
            problem: format!("is not a step's metrics ({e}); move the file away to go on without it"),
        })
    }
}

impl Iterator for Rows {
    type Item = Result<StepMetrics>;

    fn next(&mut self) -> Option<Self::Item> {
        self.row().transpose()
    }
}

/// The open file.
pub struct Metrics {
    files: &'static dyn Files,
    path: PathBuf,
    file: Box<dyn DurableFile>,
    /// Lines, or the end of one, that the disk has not taken yet.
    pending: Vec<u8>,
    /// Bytes of the file that will survive a power failure.
    synced: u64,
    /// Bytes that were written after them.
    written: Vec<u8>,
    /// A call failed such that what is in the file behind `synced` is not known, whatever later calls say.
    suspect: bool,
}

impl Metrics {
    /// Opens the metrics of the run in `folder`, which continues after step `step`: removes lines of later steps, which
    /// a crash lost, and a line that was cut off.
    ///
    /// # Errors
    /// Where the file cannot be read or rewritten, or holds something else.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        Self::open_on(&DISK, folder, step)
    }

    /// As [`open`](Self::open), through the given file operations.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(files: &'static dyn Files, folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join(FILE);
        let kept = if path.exists() { keep(&path, step)? } else { Vec::new() };
        // Also a file that is new must have its name for good before a checkpoint relies on its lines.
        durable::replace(files, &path, &kept).map_err(Error::io("write", &path))?;
        Self::opened(files, path, kept.len() as u64)
    }

    fn opened(files: &'static dyn Files, path: PathBuf, synced: u64) -> Result<Self> {
        let file = files.append(&path).map_err(Error::io("open", &path))?;
        Ok(Self { files, path, file, pending: Vec::new(), synced, written: Vec::new(), suspect: false })
    }

    /// Appends a step as one line. What a full disk does not take is kept and tried again with the next step, so that a
    /// disk that is full for a while leaves no gap; [`sync`](Self::sync) says when it still is.
    ///
    /// # Errors
    /// Where the numbers cannot be written as JSON.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.pending.extend(line(metrics)?);
        if !self.suspect {
            let _ = self.drain();
        }
        Ok(())
    }

    /// The line of the newest step; `None` where there is none.
    ///
    /// # Errors
    /// As [`read`].
    pub fn newest(&self) -> Result<Option<StepMetrics>> {
        Rows::open(&self.path)?.last().transpose()
    }

    /// Replaces the line of the newest step. A file with the new line takes the place of the old file at once.
    ///
    /// # Errors
    /// Where the file cannot be read or rewritten.
    pub fn replace_newest(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.sync()?;
        let mut kept = keep(&self.path, metrics.step.saturating_sub(1))?;
        kept.extend(line(metrics)?);
        durable::replace(self.files, &self.path, &kept).map_err(Error::io("write", &self.path))?;
        *self = Self::opened(self.files, self.path.clone(), kept.len() as u64)?;
        Ok(())
    }

    /// Brings what was written to the disk. A checkpoint is written only after this succeeded, so its steps have their
    /// lines.
    ///
    /// # Errors
    /// Where the system cannot. What it may have lost is kept, and written again by the next call.
    pub fn sync(&mut self) -> Result<()> {
        let done = if self.suspect { self.write_again() } else { self.drain().and_then(|()| self.sync_file()) };
        done.map_err(Error::io("write", &self.path))
    }

    fn sync_file(&mut self) -> io::Result<()> {
        let done = self.file.sync();
        self.suspect = done.is_err();
        done?;
        self.synced += std::mem::take(&mut self.written).len() as u64;
        Ok(())
    }

    /// A new file of what is known to be on the disk and what is not. After a failed sync a system drops what it could
    /// not write and may report success the next time.
    fn write_again(&mut self) -> io::Result<()> {
        let mut old = File::open(&self.path)?.take(self.synced);
        let rest = [self.written.as_slice(), &self.pending].concat();
        durable::replace_with(self.files, &self.path, |file| {
            if io::copy(&mut old, file)? < self.synced {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.write_all(&rest)
        })?;
        self.file = self.files.append(&self.path)?;
        self.synced += rest.len() as u64;
        (self.pending, self.written, self.suspect) = (Vec::new(), Vec::new(), false);
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        let done = drain(&mut self.file, &mut self.pending, &mut self.written);
        if done.is_err() {
            // A full disk takes nothing. What else fails may have taken something all the same.
            let length = std::fs::metadata(&self.path).map_or(u64::MAX, |found| found.len());
            self.suspect = length != self.synced + self.written.len() as u64;
        }
        done
    }
}

fn line(metrics: &StepMetrics) -> Result<Vec<u8>> {
    let line = serde_json::to_vec(metrics).map_err(|e| Error::Run(format!("metrics of a step: {e}")));
    line.map(|mut line| {
        line.push(b'\n');
        line
    })
}

/// Writes `pending` and moves to `written` what was, even where the rest fails.
fn drain(file: &mut impl Write, pending: &mut Vec<u8>, written: &mut Vec<u8>) -> io::Result<()> {
    while !pending.is_empty() {
        match file.write(pending) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => written.extend(pending.drain(..taken)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The lines of steps up to `step`. What follows them is not looked at: it was written after the checkpoint that a run
/// goes on from, and a power failure may have left anything there.
fn keep(path: &Path, step: u64) -> Result<Vec<u8>> {
    let mut rows = Rows::open(path)?;
    let mut kept = Vec::new();
    if step == 0 {
        // Nothing is kept, so a file that is something else must not be taken for metrics.
        let mut first = [0];
        let read = rows.reader.read(&mut first).map_err(Error::io("read", path))?;
        return match first[0] {
            b'{' | 0 => Ok(kept),
            _ if read == 0 => Ok(kept),
            _ => Err(Error::Line {
                path: path.into(),
                line: 1,
                problem: "is not a step's metrics; move the file \
                 away to go on without it"
                    .into(),
            }),
        };
    }
    while let Some(metrics) = rows.row()? {
        if metrics.step <= step {
            kept.extend_from_slice(&rows.line);
        }
        if metrics.step >= step {
            break;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn step(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            tokens: step * 10,
            loss: 1.5,
            grad_norm: 0.1,
            lr: 1e-3,
            tokens_per_second: 5.0,
            max_violation: 0.25,
            seconds: 2.0,
            ..StepMetrics::default()
        }
    }

    fn steps(folder: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        text.lines().map(|l| serde_json::from_str::<StepMetrics>(l).unwrap().step).collect()
    }

    #[test]
    fn a_resumed_run_has_neither_gaps_nor_repeats() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        for s in 1..=7 {
            metrics.write(&step(s)).unwrap();
        }
        drop(metrics);
        // A crash cut the last line off.
        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 9);
        std::fs::write(&path, bytes).unwrap();

        let mut metrics = Metrics::open(folder.path(), 4).unwrap();
        for s in 5..=6 {
            metrics.write(&step(s)).unwrap();
        }
        assert_eq!(steps(folder.path()), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_newest_line_is_replaced_and_lines_follow_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        assert_eq!(metrics.newest().unwrap(), None);
        (1..=3).for_each(|s| metrics.write(&step(s)).unwrap());
        let mut newest = metrics.newest().unwrap().unwrap();
        assert_eq!(newest, step(3));
        newest.tasks = BTreeMap::from([("t".into(), BTreeMap::from([("acc,none".into(), 0.1 + 0.2)]))]);
        metrics.replace_newest(&newest).unwrap();
        metrics.write(&step(4)).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [step(1), step(2), newest, step(4)]);
    }

    #[test]
    fn scores_of_tasks_have_their_errors_beside_them() {
        let scores = |pairs: &[(&str, f64)]| pairs.iter().map(|&(key, value)| (key.to_owned(), value)).collect();
        let tasks: TaskScores = BTreeMap::from([
            ("mmlu".into(), scores(&[("acc,none", 0.25), ("acc_stderr,none", 0.01), ("acc_macro,none", 0.3)])),
            ("mmlu_law".into(), scores(&[("acc,none", 0.5)])),
            ("gsm8k".into(), scores(&[("exact_match,strict-match", 0.125)])),
        ]);
        let told: Vec<_> = task_scores(&tasks).map(|s| (s.task, s.metric, s.value, s.stderr, s.inner)).collect();
        let want = [
            ("gsm8k", "exact_match,strict-match", 0.125, None, false),
            ("mmlu", "acc", 0.25, Some(0.01), false),
            ("mmlu", "acc_macro", 0.3, None, false),
            ("mmlu_law", "acc", 0.5, None, true),
        ];
        assert_eq!(told, want);
    }

    #[test]
    fn a_disk_that_is_full_for_a_while_leaves_no_gap() {
        struct Nearly(Vec<u8>, usize);
        impl Write for Nearly {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let taken = bytes.len().min(self.1 - self.0.len());
                self.0.extend(&bytes[..taken]);
                if taken == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (mut disk, mut pending) = (Nearly(Vec::new(), 5), b"one\ntwo\n".to_vec());
        let mut written = Vec::new();
        assert_eq!(drain(&mut disk, &mut pending, &mut written).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        pending.extend(b"three\n");
        disk.1 = 100;
        drain(&mut disk, &mut pending, &mut written).unwrap();
        assert_eq!((disk.0.as_slice(), pending.as_slice()), (&b"one\ntwo\nthree\n"[..], &b""[..]));
        assert_eq!(written, disk.0);
    }

    #[test]
    fn what_a_power_failure_left_behind_the_checkpoint_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let whole: String = (1..=4).map(|s| String::from_utf8(line(&step(s)).unwrap()).unwrap()).collect();
        for rest in ["\0\0\0\0\0:1}\n{\"step\":6", "\n\n", "rubbish\n", "{}\n", "\u{ff}\n"] {
            std::fs::write(&path, format!("{whole}{rest}")).unwrap();
            drop(Metrics::open(folder.path(), 4).unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        }
        for lost in ["\0\0\0\n", "{\"ste\0\0\n", ""] {
            std::fs::write(&path, lost).unwrap();
            drop(Metrics::open(folder.path(), 0).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), b"", "a run that begins has no lines yet");
        }
        std::fs::write(&path, "hello\n").unwrap();
        assert!(Metrics::open(folder.path(), 0).is_err(), "this is something else");
    }

    #[test]
    fn lines_whose_write_or_sync_failed_are_written_again() {
        /// The real file, of which a write takes half of its bytes and fails, or a sync loses what it should bring.
        struct Failing(Box<dyn DurableFile>, Arc<AtomicBool>, Arc<AtomicBool>, PathBuf);
        impl Write for Failing {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if !self.1.swap(false, Ordering::Relaxed) {
                    return self.0.write(bytes);
                }
                self.0.write_all(&bytes[..bytes.len() / 2])?;
                Err(io::ErrorKind::Other.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                self.0.flush()
            }
        }
        impl io::Seek for Failing {
            fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
                self.0.seek(to)
            }
        }
        impl DurableFile for Failing {
            fn sync(&mut self) -> io::Result<()> {
                if !self.2.swap(false, Ordering::Relaxed) {
                    return self.0.sync();
                }
                let file = OpenOptions::new().write(true).open(&self.3)?;
                file.set_len(file.metadata()?.len() / 2)?;
                Err(io::ErrorKind::Other.into())
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        let (write, sync) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let path = metrics.path.clone();
        metrics.file = Box::new(Failing(DISK.append(&path).unwrap(), write.clone(), sync.clone(), path));
        metrics.write(&step(1)).unwrap();
        metrics.sync().unwrap();
        metrics.write(&step(2)).unwrap();
        sync.store(true, Ordering::Relaxed);
        assert!(metrics.sync().is_err());
        metrics.write(&step(3)).unwrap();
        // A system says so, though it has lost the line.
        metrics.sync().unwrap();
        assert_eq!(steps(folder.path()), [1, 2, 3]);

        let path = metrics.path.clone();
        metrics.file = Box::new(Failing(DISK.append(&path).unwrap(), write.clone(), sync.clone(), path));
        write.store(true, Ordering::Relaxed);
        (4..=5).for_each(|s| metrics.write(&step(s)).unwrap());
        metrics.sync().unwrap();
        metrics.write(&step(6)).unwrap();
        metrics.sync().unwrap();
        assert_eq!(steps(folder.path()), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_was_written_is_read_to_the_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("metrics.jsonl"));
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        let odd = StepMetrics {
            // Numbers whose shortest decimal form a careless reader turns into a neighbour.
            loss: 0.1 + 0.2,
            grad_norm: 5e-324,
            lr: 1.0 / 3.0,
            validation_loss: Some(f64::MAX),
            expert_load: vec![vec![2.0, 2.0], vec![0.0, 3.0]],
            sample: Some("ROMEO:\n\"¿\u{1b}".into()),
            ..step(1)
        };
        metrics.write(&odd).unwrap();
        metrics.write(&step(2)).unwrap();
        drop(metrics);
        assert_eq!(odd.violation_by_layer(), [0.0, 1.0]);
        assert_eq!(read(folder.path()).unwrap(), [odd, step(2)]);

        let path = folder.path().join(FILE);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"step\":3,\"tok").unwrap();
        let steps: Vec<u64> = read(folder.path()).unwrap().iter().map(|row| row.step).collect();
        assert_eq!(steps, [1, 2], "a line that is being written is not there yet");
        file.write_all(b"\n{}\n").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl:3:"), "{error}");
    }

    #[test]
    fn every_number_is_read_back_as_it_was() {
        // Bit patterns from everywhere, written as JSON and read again.
        let mut bits = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(0xd129_0d3a_9b1f_5c2d).rotate_left(23) ^ 0x5bf0_3635;
            let number = f64::from_bits(bits);
            if !number.is_finite() {
                continue;
            }
            let row = StepMetrics { loss: number, ..step(1) };
            let text = serde_json::to_string(&row).unwrap();
            let again: StepMetrics = serde_json::from_str(&text).unwrap();
            assert_eq!(again.loss.to_bits(), number.to_bits(), "{text}");
            assert_eq!(serde_json::to_string(&again).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_is_something_else_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "hello\n").unwrap();
        let error = Metrics::open(folder.path(), 3).err().unwrap().to_string();
        assert!(error.contains("metrics.jsonl:1:"), "{error}");
    }
}
