//! Ends of processes: the watch sleeps until a rank on its host ends, its bell rings, or time is over.
//!
//! Some launchers end all ranks within hundredths of a second after one was killed. Linux tells at once that a process
//! has ended; elsewhere, and where it does not, ends are found when the records are looked at.

use std::path::PathBuf;
use std::time::Duration;

use super::process::{Process, process};
use super::record::{self, Record, State};
pub(super) use system::{Handle, bell, ring};

/// The other ranks on this host, watched for their end.
pub(super) struct Ends {
    folder: PathBuf,
    run: String,
    place: String,
    /// Ranks of which no record of this start was seen yet.
    unknown: Vec<usize>,
    watched: Vec<(usize, Handle)>,
    ended: Vec<usize>,
}

impl Ends {
    /// For rank `me` of `world` in the start `run`, at `place`.
    pub fn new(folder: PathBuf, me: usize, world: usize, run: String, place: String) -> Self {
        let unknown = if place.is_empty() { Vec::new() } else { (0..world).filter(|rank| *rank != me).collect() };
        Self { folder, run, place, unknown, watched: Vec::new(), ended: Vec::new() }
    }

    fn read(&self, rank: usize) -> Option<Record> {
        let found = record::read(&record::path(&self.folder, rank))[0].take();
        found.filter(|record| record.run == self.run && record.rank == rank)
    }

    /// Looks for the records of ranks that are not known yet, and watches those that are on this host.
    pub fn learn(&mut self) {
        for rank in std::mem::take(&mut self.unknown) {
            let Some(record) = self.read(rank) else {
                self.unknown.push(rank);
                continue;
            };
            if record.place != self.place {
                continue;
            }
            // The number is looked at after the handle has it, so both are of the same process.
            let handle = system::open(record.pid);
            if process(record.pid, record.started) == Process::Gone {
                self.ended.push(rank);
            } else {
                self.watched.extend(handle.map(|handle| (rank, handle)));
            }
        }
    }

    /// Sleeps until one of the ranks ends, the bell rings, or `time` is over.
    pub fn wait(&mut self, bell: &Handle, time: Duration) {
        let ended = system::wait(bell, self.watched.iter().map(|(_, handle)| handle), time);
        let mut ended = ended.into_iter();
        let found = self.watched.extract_if(.., |_| ended.next() == Some(true));
        self.ended.extend(found.map(|(rank, _)| rank));
    }

    /// The ranks that have ended since the last time, and did not say before that they leave, by their last records.
    pub fn take(&mut self) -> Vec<Record> {
        let ended = std::mem::take(&mut self.ended);
        let records = ended.into_iter().filter_map(|rank| self.read(rank));
        records.filter(|record| record.state == State::Running).collect()
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    pub type Handle = OwnedFd;

    pub fn bell() -> Option<Handle> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()
    }

    pub fn ring(bell: &Handle) {
        // It fails where it has rung often already.
        let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
    }

    /// Handle of a process by its number. None also where the system has no such handles.
    pub fn open(pid: u32) -> Option<Handle> {
        pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
    }

    /// Which of the processes have ended.
    pub fn wait<'a>(bell: &'a Handle, handles: impl Iterator<Item = &'a Handle>, time: Duration) -> Vec<bool> {
        let mut all = vec![PollFd::new(bell, PollFlags::IN)];
        all.extend(handles.map(|handle| PollFd::new(handle, PollFlags::IN)));
        let limit = time.try_into().ok();
        match poll(&mut all, limit.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Vec::new(),
            Err(_) => {
                std::thread::sleep(time);
                return Vec::new();
            }
        }
        if !all[0].revents().is_empty() {
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
        all[1..].iter().map(|one| !one.revents().is_empty()).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::time::Duration;

    /// There are none.
    #[derive(Debug)]
    pub enum Handle {}

    pub fn bell() -> Option<Handle> {
        None
    }

    pub fn ring(bell: &Handle) {
        match *bell {}
    }

    pub fn open(_: u32) -> Option<Handle> {
        None
    }

    pub fn wait<'a>(bell: &'a Handle, _: impl Iterator<Item = &'a Handle>, _: Duration) -> Vec<bool> {
        match *bell {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::run::watch::process;
    use std::process::{Child, Command};
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn a_process_that_ends_and_the_bell_wake_the_watch() {
        let (_, place) = process::own().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let new = || Ends::new(folder.path().into(), 0, 4, "a".into(), place.clone());
        let mut children = [sleeper(), sleeper()];
        let write = |rank: usize, child: &Child, state: State| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
            let (pid, place, run) = (child.id(), place.clone(), "a".into());
            let record = Record { rank, pid, started, place, run, state, ..Record::default() };
            record::write(&record::path(folder.path(), rank), &record).unwrap();
        };
        let mut ends = new();
        let bell = bell().unwrap();
        write(1, &children[0], State::Running);
        ends.learn();
        // It has its record later.
        write(2, &children[1], State::Running);
        ends.learn();
        assert_eq!((&*ends.unknown, ends.watched.len()), (&[3][..], 2));

        let start = Instant::now();
        ends.wait(&bell, Duration::from_millis(10));
        assert_eq!(ends.take(), []);
        ring(&bell);
        ends.wait(&bell, LONG);
        assert_eq!(ends.take(), []);
        children[1].kill().unwrap();
        ends.wait(&bell, LONG);
        assert_eq!(ends.take().iter().map(|record| record.rank).collect::<Vec<_>>(), [2]);
        // One that said that it leaves.
        write(1, &children[0], State::Left);
        children[0].kill().unwrap();
        ends.wait(&bell, LONG);
        assert_eq!(ends.take(), []);
        assert!(ends.watched.is_empty());
        assert!(start.elapsed() < LONG);

        // One that looks only now.
        assert!(children.iter_mut().all(|child| child.wait().is_ok()));
        let mut ends = new();
        ends.learn();
        assert_eq!(ends.take().iter().map(|record| record.rank).collect::<Vec<_>>(), [2]);
    }
}
