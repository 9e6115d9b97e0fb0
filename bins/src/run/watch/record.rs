//! The record of a rank: where it is, in a file of fixed size that is rewritten in place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes of a record. A file has one of the present start, and after it the last one of the start before.
pub const SIZE: usize = 1024;
/// Longest text in a record, in bytes, before it is shortened further to fit.
const TEXT: usize = 480;
/// What stands between the fields and their checksum.
const CHECK: &str = ",\"check\":\"";

/// How a rank is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It trains.
    #[default]
    Running,
    /// It ended as it should.
    Left,
    /// It failed by itself.
    Failed,
    /// It gave up because another rank was lost.
    Lost,
}

/// Where a rank is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The rank, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// Name of its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When the process began, in the system's ticks; 0 where unknown. A later process with its number has another.
    pub started: u64,
    /// Boot and process namespace, as a hash: where these are equal, process numbers mean the same. Empty: unknown.
    pub place: String,
    /// Name of this start, the same on all ranks.
    pub run: String,
    /// Counts up with every record that is written.
    pub beat: u64,
    /// The training step under way.
    pub step: u64,
    /// When the record was written, in seconds since 1970 by this host's clock: for people and outside monitors.
    #[serde(default)]
    pub time: u64,
    /// Loss of the last step, once there is one.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Median seconds of the last steps, once there are enough.
    #[serde(default)]
    pub step_seconds: Option<f64>,
    /// Number of the collective under way, or else of the last one, from 1; 0 before the first.
    pub number: u64,
    /// Name of that collective.
    pub op: String,
    /// Whether it is under way.
    pub inside: bool,
    /// Whether others may take their time while this rank is inside.
    pub patient: bool,
    /// Seconds since it entered or left the collective, or took up what it does now.
    pub seconds: f64,
    /// Seconds since the first collective was left, which all ranks leave together; 0 before.
    pub together: f64,
    /// Phase of the run; once the rank failed or gave up, the reason.
    pub doing: String,
    /// How the rank is doing.
    pub state: State,
    /// The rank that is to blame where this one gave up, if it knows.
    pub blames: Option<usize>,
    /// Further ranks that it may as well blame, because they ended at the same time.
    #[serde(default)]
    pub more: usize,
}

impl Record {
    /// How far the rank is: the number of its collective, and whether it has left it.
    pub fn position(&self) -> (u64, bool) {
        (self.number, !self.inside)
    }

    /// The line of JSON in the file, with a checksum, and spaces up to the fixed size. Long texts are shortened.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut short = self.clone();
        let mut longest = TEXT;
        loop {
            for text in [&mut short.doing, &mut short.op, &mut short.host, &mut short.run, &mut short.place] {
                let end = (0..=longest.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
                text.truncate(end.unwrap_or(0));
            }
            let mut line = serde_json::to_string(&short).unwrap_or_default();
            line.pop();
            let check = checksum(line.as_bytes());
            line += &format!("{CHECK}{check:016x}\"}}");
            if line.len() < SIZE || longest == 0 {
                let mut bytes = [b' '; SIZE];
                let length = line.len().min(SIZE - 1);
                bytes[..length].copy_from_slice(&line.as_bytes()[..length]);
                bytes[SIZE - 1] = b'\n';
                return bytes;
            }
            longest /= 2;
        }
    }

    /// The record in `bytes`. None where it is missing, or torn: half of it older than the rest.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_end();
        let (fields, check) = text.rsplit_once(CHECK)?;
        let check = u64::from_str_radix(check.strip_suffix("\"}")?, 16).ok()?;
        if check != checksum(fields.as_bytes()) {
            return None;
        }
        serde_json::from_str(&format!("{fields}}}")).ok()
    }
}

/// FNV-1a.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Folder of the records of a run that writes into `output`.
pub fn folder(output: &Path) -> PathBuf {
    output.join("ranks")
}

/// File of a rank in the folder of records.
pub fn path(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("{rank:05}"))
}

/// The records in a file: of the present start, and of the one before.
pub fn read(path: &Path) -> [Option<Record>; 2] {
    let mut bytes = Vec::with_capacity(2 * SIZE);
    // A network file system shows what others wrote to those who open the file.
    let read = File::open(path).and_then(|file| file.take(2 * SIZE as u64).read_to_end(&mut bytes));
    if read.is_err() {
        return [None, None];
    }
    let (now, before) = bytes.split_at(SIZE.min(bytes.len()));
    [Record::decode(now), Record::decode(before)]
}

/// Writes the present record by one write. The file is closed after it, which sends it off on a network file system.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, record: &Record) -> io::Result<()> {
    write_at(path, 0, record)
}

/// Keeps what an earlier start left in the file as the record of the start before.
pub fn keep_earlier(path: &Path, run: &str) {
    if let [Some(earlier), _] = read(path)
        && earlier.run != run
    {
        // Without it only the name of the rank that ended an earlier start is lost.
        let _ = write_at(path, SIZE as u64, &earlier);
    }
}

fn write_at(path: &Path, offset: u64, record: &Record) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    match file.write(&record.encode())? {
        SIZE => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::WriteZero, "the record was written in part")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            rank: 5,
            world: 8,
            host: "n1".into(),
            beat: 7,
            doing: "reading \"data\"\n".into(),
            ..Record::default()
        }
    }

    #[test]
    fn a_record_is_read_back_and_is_one_line_of_json() {
        let bytes = record().encode();
        assert_eq!(Record::decode(&bytes), Some(record()));
        let text = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(text.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(json["state"], "running");
    }

    #[test]
    fn a_torn_record_is_no_record() {
        let old = record().encode();
        let new = Record { beat: 8, step: 3, ..record() }.encode();
        assert!(Record::decode(&new).is_some());
        let mut torn = 0;
        for cut in 1..SIZE {
            let mixed = [&new[..cut], &old[cut..]].concat();
            if mixed != new && mixed != old {
                assert_eq!(Record::decode(&mixed), None, "cut at {cut}");
                torn += 1;
            }
        }
        assert!(torn > 50, "{torn}");
        for cut in 0..200 {
            assert_eq!(Record::decode(&new[..cut]), None);
        }
        assert_eq!(Record::decode(&[0xff; SIZE]), None);
        assert_eq!(Record::decode(&[0; SIZE]), None);
    }

    #[test]
    fn long_texts_are_shortened_to_fit() {
        for letter in ["a", "ü", "\u{1}", "\""] {
            let long = letter.repeat(5000);
            let record = Record { host: long.clone(), run: long.clone(), op: long.clone(), doing: long, ..record() };
            let back = Record::decode(&record.encode()).unwrap();
            assert!(record.doing.starts_with(&back.doing));
            assert_eq!((back.rank, back.beat), (5, 7));
        }
    }

    #[test]
    fn an_earlier_start_is_kept_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), 5);
        assert_eq!(read(&path), [None, None]);
        let [a, b] = ["a", "b"].map(|run| Record { run: run.into(), ..record() });
        write(&path, &a).unwrap();
        keep_earlier(&path, "a");
        assert_eq!(read(&path), [Some(a.clone()), None]);
        keep_earlier(&path, "b");
        write(&path, &b).unwrap();
        assert_eq!(read(&path), [Some(b), Some(a)]);
        assert_eq!(path.file_name().unwrap(), "00005");
    }
}
