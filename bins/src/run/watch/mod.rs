//! The watch of a run: what each rank does, and of several the one that died, hangs, or does something else.
//!
//! Each rank, also one alone, keeps a small [record](Record) in `OUTPUT/ranks/` and rewrites it every second. A rank
//! that waits in a collective for too long reads the records of all ranks, and [`diagnose`] says for whom it waits. No
//! clocks of two hosts are compared: a record is old where its beat stays the same for a time by the observer's own
//! clock. Ranks on one host also look at each other's process, and note at once which one ends first: a launcher may
//! leave them no time for more. The records carry no messages of the run: where they are lost, so is the diagnosis, and
//! nothing else. Rank 0 says on stderr when a step takes far longer than those before it.

mod diagnosis;
mod ends;
mod observer;
mod previous;
mod process;
mod progress;
mod record;
mod slow;
#[cfg(test)]
mod tests;
mod watched;

pub use diagnosis::{Cause, Limit, Observation, Verdict, diagnose};
pub use previous::previous;
pub use process::Process;
pub use progress::{Patience, Progress};
pub use record::{Record, State};
pub use watched::{Meter, Traffic, Watched};

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ends::Ends;
use observer::Observer;
use progress::Now;
use slow::Slow;

/// Exit code of a rank that gives up because another one is lost: `EX_TEMPFAIL`, so that a launcher may start again.
pub const EXIT_CODE: u8 = 75;
/// Longest name of a host or a start, in bytes.
const NAME: usize = 64;

/// Who a rank is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    rank: usize,
    world: usize,
    host: String,
    run: String,
}

impl Identity {
    /// Rank `rank` of `world` on this host. `run` is the name of this start: the same on all ranks, and another at the
    /// next start. Of `run`, 64 letters, digits and marks count.
    pub fn new(rank: usize, world: usize, run: &str) -> Self {
        let short = |text: &str| text.chars().filter(char::is_ascii_graphic).take(NAME).collect();
        Self { rank, world, host: short(&process::host()), run: short(run) }
    }
}

/// How long a rank waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest time inside a collective.
    pub timeout: Duration,
    /// In a patient collective: longest time that another rank gives no sign of life. A disk that is written to may
    /// hold up its records too.
    pub patient: Duration,
}

impl Limits {
    /// Time between two records.
    fn beat(&self) -> Duration {
        (self.timeout / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// Time after which a beat that stays the same is a dead rank, where the time-out has passed.
    fn stale(&self) -> Duration {
        (self.timeout / 2).max(4 * self.beat())
    }

    /// Time between two looks at the records: thousands of ranks do not read thousands of records every second.
    fn every(&self, world: usize) -> Duration {
        self.beat() * (world as u32 / 128).max(1)
    }
}

/// Keeps the record of this rank and watches over its collectives. Dropped, it notes that the rank left well.
pub struct Watch {
    folder: PathBuf,
    identity: Identity,
    limits: Limits,
    progress: Progress,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the watch of a run that writes into `output`.
    ///
    /// `on_verdict` is called once at most, on the watch's own thread, where this rank waits in vain: it should print
    /// the verdict and end the process with [`EXIT_CODE`]. Where records cannot be written, or no thread be started,
    /// the run has no diagnosis; see [`problem`](Self::problem).
    pub fn start(
        output: &Path,
        identity: Identity,
        limits: Limits,
        on_verdict: impl Fn(&Verdict) + Send + 'static,
    ) -> Self {
        let (folder, progress) = (record::folder(output), Progress::default());
        progress.phase("starting");
        progress.prepare();
        let mut keeper = Keeper::new(folder.clone(), identity.clone(), limits, progress.clone());
        // The record is there before anything else is done together.
        keeper.begin();
        let named = std::thread::Builder::new().name("watch".into());
        let thread = named.spawn(move || keeper.keep(&on_verdict));
        let thread = thread.map_err(|error| progress.note_problem(Some(format!("no thread: {error}")))).ok();
        Self { folder, identity, limits, progress, thread }
    }

    /// The handle by which this rank notes what it does.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Why the record of this rank could not be written the last time, if so.
    pub fn problem(&self) -> Option<String> {
        self.progress.now().problem
    }

    /// Looks for the rank to blame after a collective failed with
    /// [`PeerLost`](fathom_core::error::ErrorKind::PeerLost), for `time` at most. None where none can be named.
    ///
    /// One that died on this host, or said why it gave up, is found at once, others after about `time`.
    pub fn explain(&self, time: Duration) -> Option<Verdict> {
        let mut keeper = Keeper::new(self.folder.clone(), self.identity.clone(), self.limits, self.progress.clone());
        let stale = (time / 2).max(4 * self.limits.beat());
        loop {
            let now = Now { inside: true, state: State::Running, ..self.progress.now() };
            if now.problem.is_none() {
                keeper.written = keeper.clock.now();
            }
            keeper.observer.look(keeper.clock.now());
            let late = keeper.clock.now() >= time;
            let verdict = keeper.diagnose(&now, if late { Limit::Late(stale) } else { Limit::Certain });
            if verdict.is_some() || late {
                return verdict.filter(|verdict| verdict.rank.is_some());
            }
            std::thread::sleep(self.limits.beat());
            keeper.clock.tick();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.progress.end();
        // The callback may own the watch.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A callback that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The time in which this process ran. A job that is suspended and goes on has not waited meanwhile.
struct Clock {
    last: Instant,
    now: Duration,
    longest: Duration,
}

impl Clock {
    /// A clock that is read more often than every `longest`.
    fn new(longest: Duration) -> Self {
        Self { last: Instant::now(), now: Duration::ZERO, longest }
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn tick(&mut self) {
        self.advance(self.last.elapsed());
        self.last = Instant::now();
    }

    fn advance(&mut self, time: Duration) {
        self.now += time.min(self.longest);
    }
}

/// What the watch's thread works with. All times are of its clock.
struct Keeper {
    identity: Identity,
    limits: Limits,
    progress: Progress,
    path: PathBuf,
    folder: PathBuf,
    clock: Clock,
    observer: Observer,
    /// Begin of this process, and where its number has a meaning.
    started: u64,
    place: String,
    beat: u64,
    /// Changes that were seen, and when they were first seen.
    changes: u64,
    since: Duration,
    /// When the first collective was left.
    first: Option<Duration>,
    /// When the record was written, or tried, and when that worked.
    tried: Duration,
    written: Duration,
    state: State,
    /// When the records of all were read.
    looked: Option<Duration>,
    /// The observer's time at the first look in the wait that is under way.
    watched: Option<Duration>,
    ends: Ends,
    /// When ranks were last looked for whose end is not watched yet.
    learned: Option<Duration>,
    slow: Slow,
}

impl Keeper {
    fn new(folder: PathBuf, identity: Identity, limits: Limits, progress: Progress) -> Self {
        let (started, place) = process::own().unwrap_or_default();
        let Identity { rank, world, run, .. } = &identity;
        Self {
            path: record::path(&folder, *rank),
            observer: Observer::new(
                folder.clone(),
                *rank,
                *world,
                run.clone(),
                place.clone(),
                2 * limits.every(*world),
            ),
            ends: Ends::new(folder.clone(), *rank, *world, run.clone(), place.clone()),
            clock: Clock::new(2 * limits.beat()),
            identity,
            limits,
            progress,
            folder,
            started,
            place,
            beat: 0,
            changes: 0,
            since: Duration::ZERO,
            first: None,
            tried: Duration::ZERO,
            written: Duration::ZERO,
            state: State::Running,
            looked: None,
            watched: None,
            learned: None,
            slow: Slow::default(),
        }
    }

    /// Writes the first record, and keeps the one of the start before.
    fn begin(&mut self) {
        // Where this fails, so does writing, and that is told.
        let _ = std::fs::create_dir_all(&self.folder);
        record::keep_earlier(&self.path, &self.identity.run);
        self.write(&self.progress.now());
    }

    fn keep(mut self, on_verdict: &dyn Fn(&Verdict)) {
        let (beat, mut given) = (self.limits.beat(), false);
        loop {
            let mut now = self.progress.wait(beat / 4, self.state, &mut self.ends);
            // Before anything else: the launcher may be about to end this rank too.
            if self.progress.note_ended(self.ends.take()) {
                now = self.progress.now();
                self.write(&now);
            }
            self.clock.tick();
            let verdict = self.turn(&now);
            if now.end {
                return;
            }
            let Some(verdict) = verdict.filter(|_| !given) else { continue };
            // It may have gone on while the records were read.
            if self.progress.now().changes != now.changes {
                continue;
            }
            given = true;
            self.progress.lost(verdict.finding(), verdict.rank);
            // Others are to see that this rank has given up before its process is gone.
            let now = self.progress.now();
            self.write(&now);
            if now.state == State::Lost {
                on_verdict(&verdict);
            }
        }
    }

    /// All that is to be done a few times in a beat. Says whether a wait is in vain.
    fn turn(&mut self, now: &Now) -> Option<Verdict> {
        self.note(now);
        let time = self.clock.now();
        if time - self.tried >= self.limits.beat() || now.state != self.state || now.end {
            self.write(now);
        }
        if self.learned.is_none_or(|last| time - last >= self.limits.every(self.identity.world) / 4) {
            self.learned = Some(time);
            self.ends.learn();
        }
        let runs = now.state == State::Running && !now.end;
        if let Some(notice) = self.slow(now).filter(|_| runs) {
            // The progress bar is drawn again below it.
            let clear = if std::io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
            eprintln!("{clear}{notice}");
        }
        // One rank alone waits for nobody.
        if runs && now.inside && self.identity.world > 1 { self.watch(now) } else { None }
    }

    /// What rank 0 says where the step under way takes far longer than those before it.
    fn slow(&mut self, now: &Now) -> Option<String> {
        let step = (now.stepping && self.identity.rank == 0).then_some((now.step, now.median));
        let (took, times) = self.slow.look(self.clock.now(), step)?;
        let waits = match now.inside && self.identity.world > 1 {
            true => format!(", in {} {}{}", now.op, now.number, self.behind(now)),
            false => String::new(),
        };
        Some(format!(
            "step {}: {:.0} s so far, {times:.0}x the median; doing: {}{waits}",
            now.step,
            took.as_secs_f64(),
            now.doing
        ))
    }

    /// The rank that is furthest behind this one, if one is, and what it does.
    fn behind(&mut self, now: &Now) -> String {
        self.observer.look(self.clock.now());
        let (own, me) = (self.record(now), self.identity.rank);
        let seen = self.observer.observations(&own, Duration::ZERO);
        let others = seen.iter().filter_map(|seen| seen.record.as_ref()).filter(|record| record.rank != me);
        let behind = others.filter(|record| record.position() < own.position());
        behind.min_by_key(|record| (record.position(), record.rank)).map_or(String::new(), |record| {
            let Record { doing, seconds, .. } = record;
            format!("; waiting for {}: {doing} for {seconds:.0} s", diagnosis::name(record))
        })
    }

    /// Notes when what the rank does began.
    fn note(&mut self, now: &Now) {
        if now.changes != self.changes {
            (self.changes, self.since, self.watched) = (now.changes, self.clock.now(), None);
        }
        if now.number > 1 || (now.number == 1 && !now.inside) {
            self.first.get_or_insert(self.clock.now());
        }
    }

    fn record(&self, now: &Now) -> Record {
        let Identity { rank, world, host, run } = self.identity.clone();
        let tenths = |time: Duration| (time.as_secs_f64() * 10.0).round() / 10.0;
        let first = now.first.as_deref();
        // A rank that saw another one end has lost it, whatever it does until it waits for it.
        let (state, doing, blames) = match first.filter(|_| now.state == State::Running) {
            Some(first) => {
                let verdict = first.verdict(Record::default());
                (State::Lost, verdict.finding(), verdict.rank)
            }
            None => (now.state, now.doing.to_string(), now.blames),
        };
        Record {
            rank,
            world,
            host,
            pid: std::process::id(),
            started: self.started,
            place: self.place.clone(),
            run,
            beat: self.beat,
            step: now.step,
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            loss: now.loss.filter(|loss| loss.is_finite()),
            step_seconds: now.median.map(|median| median.as_secs_f64()),
            number: now.number,
            op: now.op.into(),
            inside: now.inside,
            patient: now.patient,
            seconds: tenths(self.clock.now() - self.since),
            together: self.first.map_or(0.0, |first| tenths(self.clock.now() - first)),
            doing,
            state,
            blames,
            more: first.filter(|first| blames == Some(first.record.rank)).map_or(0, |first| first.more),
        }
    }

    fn write(&mut self, now: &Now) {
        self.beat += 1;
        (self.tried, self.state) = (self.clock.now(), now.state);
        match record::write(&self.path, &self.record(now)) {
            Ok(()) => {
                self.written = self.tried;
                if now.problem.is_some() {
                    self.progress.note_problem(None);
                }
            }
            Err(error) => self.progress.note_problem(Some(format!("cannot write {}: {error}", self.path.display()))),
        }
    }

    /// Whether the wait that is under way is in vain. That is only judged right after a look: what was seen before this
    /// rank computed for an hour says nothing.
    fn watch(&mut self, now: &Now) -> Option<Verdict> {
        let (time, beat) = (self.clock.now(), self.limits.beat());
        let waited = time - self.since;
        let late = !now.patient && waited >= self.limits.timeout;
        // Launchers end all ranks about a second after one was killed: its name is to be on disk by then.
        if waited < beat / 4 && now.first.is_none() {
            return None;
        }
        let every = self.limits.every(self.identity.world);
        let due = self.looked.is_none_or(|last| waited >= beat && time - last >= every);
        if !(self.observer.peek() || late || due || now.first.is_some()) {
            return None;
        }
        self.observer.look(time);
        self.looked = Some(time);
        let looked = self.observer.looked();
        let watched = looked - *self.watched.get_or_insert(looked);
        let stale = self.limits.stale();
        let limit = match (late, now.patient) {
            // Before that, one that is dead cannot be told from one that lives.
            (true, _) if watched >= stale => Limit::Late(stale),
            (_, true) => {
                Limit::Patient { stopped: self.limits.timeout.max(stale), dead: self.limits.patient.max(stale) }
            }
            _ => Limit::Certain,
        };
        self.diagnose(now, limit)
    }

    fn diagnose(&self, now: &Now, limit: Limit) -> Option<Verdict> {
        let own = self.record(now);
        let seen = self.observer.observations(&own, self.clock.now() - self.written);
        let verdict = diagnose(self.identity.rank, &seen, limit)?;
        Some(match &now.first {
            // Of those that have ended by now, most did because of the first.
            Some(first) if verdict.cause == Cause::Killed => first.verdict(verdict.waits),
            _ => verdict,
        })
    }
}
