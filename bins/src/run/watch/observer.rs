//! The eyes of the watch: reads the records of all ranks and remembers since when each has been the same.

use std::path::PathBuf;
use std::time::Duration;

use super::diagnosis::Observation;
use super::process::{Process, process};
use super::record::{self, Record};

/// Sees the other ranks of a start.
pub(super) struct Observer {
    folder: PathBuf,
    me: usize,
    run: String,
    place: String,
    /// The most that the time between two looks counts.
    longest: Duration,
    /// When the last look was, and the time of all looks: what the ages are counted in.
    last: Option<Duration>,
    looked: Duration,
    /// How the state of a process is found.
    probe: fn(u32, u64) -> Process,
    seen: Vec<Seen>,
}

#[derive(Clone, Default)]
struct Seen {
    record: Option<Record>,
    process: Process,
    /// When the record was first looked for, or first had its beat, in the time of all looks.
    since: Option<Duration>,
    /// When it last was the same or missing. One look at which it cannot be read says nothing: it may be torn.
    until: Duration,
    /// Whether it could not be read at the last look, though it was there before.
    torn: bool,
}

impl Observer {
    /// Rank `me` of `world` in the start `run`, at `place`. Between two looks `longest` counts at most: after a longer
    /// time in which nobody looked, a beat that is the same says little.
    pub fn new(folder: PathBuf, me: usize, world: usize, run: String, place: String, longest: Duration) -> Self {
        let seen = vec![Seen::default(); world];
        Self { folder, me, run, place, longest, last: None, looked: Duration::ZERO, probe: process, seen }
    }

    /// With another way to find the state of a process.
    #[cfg(test)]
    pub fn probe(&mut self, probe: fn(u32, u64) -> Process) {
        self.probe = probe;
    }

    /// Time of all looks.
    pub fn looked(&self) -> Duration {
        self.looked
    }

    /// Whether a rank on this host has ended that had not when its record was read.
    pub fn peek(&mut self) -> bool {
        let mut gone = false;
        for seen in self.seen.iter_mut().filter(|seen| seen.process != Process::Gone) {
            seen.process = state(seen.record.as_ref(), &self.place, self.probe);
            gone |= seen.process == Process::Gone;
        }
        gone
    }

    /// Reads all records, at `time` of the observer's clock.
    pub fn look(&mut self, time: Duration) {
        let gap = time.saturating_sub(self.last.unwrap_or(time));
        self.last = Some(time);
        self.looked += gap.min(self.longest);
        let time = self.looked;
        for (rank, seen) in self.seen.iter_mut().enumerate().filter(|(rank, _)| *rank != self.me) {
            let path = record::path(&self.folder, rank);
            let ours = |record: &Record| record.run == self.run && record.rank == rank;
            let read = || record::read(&path)[0].take().filter(ours);
            let mut found = read();
            seen.process = state(found.as_ref().or(seen.record.as_ref()), &self.place, self.probe);
            if seen.process == Process::Gone {
                // Its last word may have come between the two looks.
                found = read();
            }
            seen.since.get_or_insert(time);
            let torn = found.is_none() && seen.record.is_some();
            if !torn || seen.torn {
                seen.until = time;
            }
            seen.torn = torn;
            // A record that is torn is seen at the next look.
            if let Some(record) = found {
                if seen.record.as_ref().is_none_or(|last| (last.beat, last.pid) != (record.beat, record.pid)) {
                    seen.since = Some(time);
                }
                seen.record = Some(record);
            }
        }
    }

    /// What was seen, with this rank's own record, `age` old, in its place.
    pub fn observations(&self, own: &Record, age: Duration) -> Vec<Observation> {
        let observe = |(rank, seen): (usize, &Seen)| match rank == self.me {
            true => Observation { record: Some(own.clone()), age, process: Process::Alive },
            false => Observation {
                record: seen.record.clone(),
                age: seen.since.map_or(Duration::ZERO, |since| seen.until.saturating_sub(since)),
                process: seen.process,
            },
        };
        self.seen.iter().enumerate().map(observe).collect()
    }
}

fn state(record: Option<&Record>, place: &str, probe: fn(u32, u64) -> Process) -> Process {
    match record {
        Some(record) if !place.is_empty() && record.place == place => probe(record.pid, record.started),
        _ => Process::Unknown,
    }
}
