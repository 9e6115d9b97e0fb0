//! Where this rank is, as its training thread notes it and its watch reads it.

use std::borrow::Cow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::diagnosis::{Cause, Verdict};
use super::ends::{self, Ends};
use super::record::{Record, State};
use super::slow::Steps;

/// Handle by which a rank notes what it does. Clones note in the same place; without a watch nobody reads it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    now: Mutex<Now>,
    steps: Mutex<Steps>,
    /// Rung where the watch should look at once.
    bell: Condvar,
    /// The same for a watch that waits for processes too.
    wake: OnceLock<ends::Handle>,
}

/// What a rank noted last.
#[derive(Clone, Debug, Default)]
pub(super) struct Now {
    pub step: u64,
    /// Whether the step is under way: not between two of them, when a run may validate, measure or save.
    pub stepping: bool,
    /// Median time of the last steps, once there are enough.
    pub median: Option<Duration>,
    /// Loss of the last step.
    pub loss: Option<f64>,
    pub number: u64,
    pub op: &'static str,
    pub inside: bool,
    pub patient: bool,
    pub doing: Cow<'static, str>,
    pub state: State,
    pub blames: Option<usize>,
    /// The rank on this host that was the first to end without a word.
    pub first: Option<Arc<First>>,
    /// Counts what begins a new wait or phase.
    pub changes: u64,
    /// Guards of patience that live.
    pub guards: usize,
    /// The watch is to end.
    pub end: bool,
    /// Why the record could not be written the last time.
    pub problem: Option<String>,
}

/// A rank that was seen to end before any other, without a word.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct First {
    /// Its last record.
    pub record: Record,
    /// Ranks that were seen to end at the same time.
    pub more: usize,
}

impl First {
    /// The verdict on it, of the rank that `waits`.
    pub fn verdict(&self, waits: Record) -> Verdict {
        let (rank, record) = (Some(self.record.rank), Some(self.record.clone()));
        Verdict { cause: Cause::Killed, rank, record, more: self.more, waits }
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that step `step` begins.
    pub fn step(&self, step: u64) {
        let mut now = self.lock();
        (now.step, now.stepping) = (step, true);
    }

    /// Notes that the step is over: how long it took, and its loss.
    pub fn stepped(&self, time: Duration, loss: f64) {
        let median = self.0.steps.lock().unwrap_or_else(PoisonError::into_inner).add(time);
        let mut now = self.lock();
        (now.stepping, now.median, now.loss) = (false, median, Some(loss));
    }

    /// Notes that the step that has begun is not taken.
    pub fn not_stepped(&self) {
        self.lock().stepping = false;
    }

    /// Notes what this rank does from now on: "reading data", "writing a checkpoint".
    pub fn phase(&self, text: impl Into<Cow<'static, str>>) {
        let text = text.into();
        let mut now = self.lock();
        if now.state == State::Running {
            (now.doing, now.changes) = (text, now.changes + 1);
        }
    }

    /// Notes that the next collective is under way. In a `patient` one only dead ranks count, not the time.
    pub fn enter(&self, op: &'static str, patient: bool) {
        let mut now = self.lock();
        now.number += 1;
        now.changes += 1;
        (now.op, now.inside, now.patient) = (op, true, patient || now.guards > 0);
    }

    /// Notes that the collective is over.
    pub fn leave(&self) {
        let mut now = self.lock();
        now.changes += 1;
        (now.inside, now.patient) = (false, false);
    }

    /// Makes collectives patient that are entered while the guard lives: those in which ranks wait until one of them
    /// has written or measured something.
    pub fn patient(&self) -> Patience {
        self.lock().guards += 1;
        Patience(self.clone())
    }

    /// Notes at once that this rank failed by itself, and why. Its watch then ends without "left well".
    pub fn failed(&self, reason: impl Into<String>) {
        self.give_up(State::Failed, reason.into(), None);
    }

    /// Notes at once that this rank gives up because another one is lost; `blames` is that one, if it is known.
    pub fn lost(&self, reason: impl Into<String>, blames: Option<usize>) {
        self.give_up(State::Lost, reason.into(), blames);
    }

    fn give_up(&self, state: State, reason: String, blames: Option<usize>) {
        let mut now = self.lock();
        if now.state == State::Running {
            (now.state, now.doing, now.blames) = (state, reason.into(), blames);
            self.ring();
        }
    }

    fn ring(&self) {
        self.0.bell.notify_all();
        if let Some(wake) = self.0.wake.get() {
            ends::ring(wake);
        }
    }

    /// Lets [`wait`](Self::wait) wait for processes too.
    pub(super) fn prepare(&self) {
        if let Some(wake) = ends::bell() {
            self.0.wake.get_or_init(|| wake);
        }
    }

    /// Notes the ranks that have ended without a word, unless others had before them. The one that is furthest behind
    /// counts.
    pub(super) fn note_ended(&self, ended: Vec<Record>) -> bool {
        let more = ended.len().saturating_sub(1);
        let first = ended.into_iter().min_by_key(|record| (record.position(), record.rank));
        let mut now = self.lock();
        let new = now.first.is_none() && first.is_some();
        if new {
            now.first = first.map(|record| Arc::new(First { record, more }));
        }
        new
    }

    pub(super) fn now(&self) -> Now {
        self.lock().clone()
    }

    pub(super) fn note_problem(&self, problem: Option<String>) {
        self.lock().problem = problem;
    }

    /// Ends the watch. A rank that still runs has left well, unless it panics.
    pub(super) fn end(&self) {
        let mut now = self.lock();
        now.end = true;
        if now.state == State::Running && std::thread::panicking() {
            (now.state, now.doing) = (State::Failed, "its thread panicked".into());
        } else if now.state == State::Running {
            now.state = State::Left;
        }
        self.ring();
    }

    /// Waits until `time` is over or something is to be written at once: another state than `known`, the end, or that a
    /// rank has ended.
    pub(super) fn wait(&self, time: Duration, known: State, ends: &mut Ends) -> Now {
        let calm = |now: &mut Now| now.state == known && !now.end;
        if let Some(wake) = self.0.wake.get() {
            if calm(&mut self.lock()) {
                ends.wait(wake, time);
            }
            return self.now();
        }
        let woken = self.0.bell.wait_timeout_while(self.lock(), time, calm);
        woken.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// Guard of [`Progress::patient`].
#[derive(Debug)]
#[must_use = "collectives are patient while this lives"]
pub struct Patience(Progress);

impl Drop for Patience {
    fn drop(&mut self) {
        self.0.lock().guards -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectives_are_counted_and_patient_while_a_guard_lives() {
        let progress = Progress::default();
        let state = || {
            let now = progress.now();
            (now.number, now.op, now.inside, now.patient)
        };
        progress.enter("tell", false);
        assert_eq!(state(), (1, "tell", true, false));
        progress.leave();
        let guard = progress.patient();
        drop(progress.patient());
        progress.enter("all_gather", false);
        assert_eq!(state(), (2, "all_gather", true, true));
        progress.leave();
        drop(guard);
        progress.enter("tell", true);
        assert_eq!(state(), (3, "tell", true, true));
        progress.leave();
        progress.enter("tell", false);
        assert_eq!(state(), (4, "tell", true, false));
    }

    #[test]
    fn the_first_reason_stands() {
        let progress = Progress::default();
        progress.failed("disk full");
        progress.lost("a peer", Some(3));
        progress.phase("leaving");
        progress.end();
        let now = progress.now();
        assert_eq!((now.state, &*now.doing, now.blames), (State::Failed, "disk full", None));
    }
}
