//! TensorBoard event files: `events.out.tfevents.*` in the folder of a run.
//!
//! A file is a sequence of TFRecords (length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes); each
//! holds one `Event` message of `tensorflow/core/util/event.proto`, written here by hand: it takes a dozen fields.
//!
//! The readers of TensorBoard do not agree about steps that occur twice, so no step is ever written twice: a resumed
//! run makes one new file from `metrics.jsonl`, which is cut to the checkpoint, and removes the old ones.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fathom_dataprep::durable::{DISK, Files};

use crate::error::{Error, Result};
use crate::run::metrics::{FILE, Rows, StepMetrics, task_scores};

/// Beginning of the name of every event file.
const PREFIX: &str = "events.out.tfevents.";

/// An open event file.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts the event file of the run in `folder`, with the steps of its `metrics.jsonl`; `seconds` is the time they
    /// took.
    ///
    /// # Errors
    /// [`Error::Io`] where files cannot be read, written or replaced.
    pub fn open(folder: &Path, seconds: f64) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let path = folder.join(format!("{PREFIX}{:010}.{}", now as u64, "fathom"));
        let fresh = folder.join("events.tmp");
        let mut out = File::create(&fresh).map(BufWriter::new).map_err(Error::io("create", &fresh))?;
        let mut write = |event: &[u8]| out.write_all(&record(event)).map_err(Error::io("write", &fresh));
        let mut time = now - seconds;
        write(&version(time))?;
        if folder.join(FILE).is_file() {
            for row in Rows::open(&folder.join(FILE))? {
                let row = row?;
                time += row.seconds;
                write(&step(time, &row))?;
            }
        }
        out.flush().map_err(Error::io("write", &fresh))?;
        drop(out);
        for old in old(folder)? {
            DISK.remove_file(&old).map_err(Error::io("remove", &old))?;
        }
        DISK.rename(&fresh, &path).map_err(Error::io("rename", &fresh))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { path, file })
    }

    /// Appends a step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        self.file.write_all(&record(&step(now, metrics))).map_err(Error::io("write", &self.path))
    }
}

/// Event files that this module wrote into `folder` before.
fn old(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let ours = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".fathom"))
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(ours).collect())
}

/// The first event of a file.
fn version(time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, time);
    event.bytes(3, b"brain.Event:2");
    event.0
}

/// The event of a step: its scalars, and its sample as a text.
fn step(time: f64, m: &StepMetrics) -> Vec<u8> {
    let mut summary = Message::default();
    let mut scalar = |tag: &str, value: f64| {
        let mut message = Message::default();
        message.bytes(1, tag.as_bytes());
        message.float(2, value as f32);
        summary.bytes(1, &message.0);
    };
    scalar("loss/train", m.loss);
    m.validation_loss.into_iter().for_each(|loss| scalar("loss/validation", loss));
    m.mtp_loss.into_iter().for_each(|loss| scalar("loss/mtp", loss));
    for (name, loss) in &m.loss_by_source {
        scalar(&format!("loss_by_source/{name}"), *loss);
    }
    scalar("lr", m.lr);
    scalar("grad_norm", m.grad_norm);
    scalar("tokens_per_second", m.tokens_per_second);
    scalar("tokens", m.tokens as f64);
    scalar("experts/balance_loss", m.balance_loss);
    scalar("experts/max_violation", f64::from(m.max_violation));
    scalar("experts/dead", m.dead_experts as f64);
    for score in task_scores(&m.tasks) {
        scalar(&format!("tasks/{}/{}", score.task, score.metric.replace(',', "/")), score.value);
    }
    if let Some(sample) = &m.sample {
        summary.bytes(1, &text("sample", sample));
    }
    let mut event = Message::default();
    event.double(1, time);
    event.integer(2, m.step);
    event.bytes(5, &summary.0);
    event.0
}

/// A `Summary.Value` for TensorBoard's text page, which shows Markdown: the text is a code block.
fn text(tag: &str, text: &str) -> Vec<u8> {
    /// `DT_STRING` of `types.proto`.
    const STRING: u64 = 7;
    let block: String = text.lines().map(|line| format!("    {line}\n")).collect();
    let mut plugin = Message::default();
    plugin.bytes(1, b"text");
    let mut metadata = Message::default();
    metadata.bytes(1, &plugin.0);
    let (mut size, mut shape) = (Message::default(), Message::default());
    size.integer(1, 1);
    shape.bytes(2, &size.0);
    let mut tensor = Message::default();
    tensor.integer(1, STRING);
    tensor.bytes(2, &shape.0);
    tensor.bytes(8, block.as_bytes());
    let mut value = Message::default();
    value.bytes(1, tag.as_bytes());
    value.bytes(8, &tensor.0);
    value.bytes(9, &metadata.0);
    value.0
}

/// The fields of a protobuf message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}

/// `data` as a TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
    out
}

/// CRC-32C, rotated and offset as TFRecords have it.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli): reflected polynomial 0x82f63b78.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut value, mut bit) = (i as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[(crc as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
    }

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            tokens: step * 64,
            loss: 2.5,
            mtp_loss: None,
            balance_loss: 0.25,
            grad_norm: 1.5,
            lr: 0.001,
            tokens_per_second: 1000.0,
            max_violation: 0.5,
            dead_experts: 3,
            seconds: 0.5,
            validation_loss: Some(2.75),
            loss_by_source: BTreeMap::from([("web".into(), 2.0)]),
            sample: Some("ROMEO:\nhark".into()),
            ..StepMetrics::default()
        }
    }

    /// As bytes are written in a shell: printable ones as they are.
    fn shown(bytes: &[u8]) -> String {
        bytes.escape_ascii().to_string()
    }

    #[test]
    fn events_are_these_bytes() {
        // tensorboard 2.21 reads both records: tests/python/tensorboard_reads.py.
        assert_eq!(shown(&record(&version(1.5))), GOLDEN_VERSION);
        assert_eq!(shown(&record(&step(2.5, &metrics(300)))), GOLDEN_STEP);
    }

    /// By `tensorboard.compat.proto` and its `RecordWriter`.
    const GOLDEN_VERSION: &str = concat!(
        r#"\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7fK\"\t\x00\x00\x00\x00\x00\x00\xf8?\x1a\rbrain.Event:2*("#,
        r#"dl"#,
    );
    /// As [`GOLDEN_VERSION`].
    const GOLDEN_STEP: &str = concat!(
        r#"\x1f\x01\x00\x00\x00\x00\x00\x00W\x9b\xd4\xce\t\x00\x00\x00\x00\x00\x00\x04@\x10\xac\x02*"#,
        r#"\x90\x02\n\x11\n\nloss/train\x15\x00\x00 @\n\x16\n\x0floss/validation\x15\x00\x000@\n\x19\n"#,
        r#"\x12loss_by_source/web\x15\x00\x00\x00@\n\t\n\x02lr\x15o\x12\x83:\n\x10\n\tgrad_norm"#,
        r#"\x15\x00\x00\xc0?\n\x18\n\x11tokens_per_second\x15\x00\x00zD\n\r\n\x06tokens\x15\x00\x00\x96F\n"#,
        r#"\x1b\n\x14experts/balance_loss\x15\x00\x00\x80>\n\x1c\n\x15experts/max_violation"#,
        r#"\x15\x00\x00\x00?\n\x13\n\x0cexperts/dead\x15\x00\x00@@\n2\n\x06sampleB"#,
        r#"\x1e\x08\x07\x12\x04\x12\x02\x08\x01B\x14    ROMEO:\n    hark\nJ\x08\n\x06\n\x04textF\x9aJ\x8d"#,
    );

    /// The messages of a file, with every checksum checked.
    fn messages(path: &Path) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).unwrap();
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(data).to_le_bytes());
            found.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        found
    }

    #[test]
    fn a_resumed_run_has_one_file_without_repeats() {
        let folder = tempfile::tempdir().unwrap();
        let line = |s: u64| serde_json::to_string(&metrics(s)).unwrap() + "\n";
        std::fs::write(folder.path().join("events.out.tfevents.1.somebody"), "theirs").unwrap();
        let mut events = Events::open(folder.path(), 0.0).unwrap();
        (1..=7).for_each(|s| events.write(&metrics(s)).unwrap());
        drop(events);
        std::fs::write(folder.path().join(FILE), (1..=4).map(line).collect::<String>()).unwrap();
        let mut events = Events::open(folder.path(), 2.0).unwrap();
        (5..=6).for_each(|s| events.write(&metrics(s)).unwrap());
        let files = old(folder.path()).unwrap();
        assert_eq!(files.len(), 1, "{files:?}");
        let found = messages(&files[0]);
        // Field 2 of an event is its step.
        let steps: Vec<u8> = found[1..].iter().map(|event| event[10]).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
        assert!(shown(&found[0]).contains("brain.Event:2"));
        assert!(folder.path().join("events.out.tfevents.1.somebody").is_file(), "files of others stay");
        assert!(!folder.path().join("events.tmp").exists());
    }
}
