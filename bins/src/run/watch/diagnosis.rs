//! The diagnosis of a wait that does not end: from the records of all ranks to the one that is to blame.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::process::Process;
use super::record::{Record, State};

/// One rank as another one sees it.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Its newest record of this start, if it has one.
    pub record: Option<Record>,
    /// How long its beat has been the same, or the record missing, from look to look of the observer. For the observer
    /// itself: time since it last could write its own record.
    pub age: Duration,
    /// Its process, where the observer is on the same host.
    pub process: Process,
}

/// How much a diagnosis may conclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Time is left: only what is certain.
    Certain,
    /// The wait is a patient one: a rank is dead whose beat has been the same for a time, and slow ones are fine.
    Patient {
        /// That time for a process on this host that is stopped, which no disk holds up.
        stopped: Duration,
        /// That time for others.
        dead: Duration,
    },
    /// Time is out: a beat that has been the same for this time is a dead rank, and otherwise the last one is named.
    Late(Duration),
}

/// Why a wait does not end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The process of a rank on the same host has ended.
    Killed,
    /// The process of a rank on the same host is stopped.
    Stopped,
    /// A rank on the same host hangs in the kernel.
    Blocked,
    /// A rank gives no sign of life.
    Silent,
    /// A rank failed by itself.
    Failed,
    /// A rank ended as if all was done.
    Left,
    /// A rank does something else.
    NotEntered,
    /// A rank is in an earlier collective.
    StillIn,
    /// A rank has no record of this start.
    NoRecord,
    /// This rank is in another operation under the same number.
    Disagree {
        /// A rank of those that are in the operation of most.
        other: usize,
        /// That operation.
        op: String,
    },
    /// A rank gave up and knows no reason but that another is lost.
    Lost,
    /// A rank gave up earlier and knew the reason.
    Told {
        /// The rank that gave up.
        by: usize,
    },
    /// Another rank gave up because of this one.
    GivenUp {
        /// The rank that gave up.
        by: usize,
    },
    /// A rank on the same host lives, but its record does not change.
    Mute,
    /// Every rank waits in the same collective.
    Network {
        /// Whether some ranks have left it already.
        left: bool,
    },
    /// The records do not tell.
    Unknown,
}

/// How a finding ends that is of another rank, up to the rank.
const SO_SAYS: &str = " (so says rank ";

/// The rank that others wait for, and why. Displayed as one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Why the wait does not end.
    pub cause: Cause,
    /// The rank that is to blame, where it can be told.
    pub rank: Option<usize>,
    /// The record that the verdict rests on: of that rank, or of the one that gave up.
    pub record: Option<Record>,
    /// Further ranks of which the same can be said.
    pub more: usize,
    /// The record of the rank that waits.
    pub waits: Record,
}

impl Verdict {
    /// The rank and what is wrong with it, without who waits for it.
    pub fn finding(&self) -> String {
        let empty = Record::default();
        let record = self.record.as_ref().unwrap_or(&empty);
        let (name, waits) = (name(record), &self.waits);
        let wanted = format!("{} {} (step {})", waits.op, waits.number, waits.step);
        let mut text = match &self.cause {
            Cause::Killed => format!("{name} was killed or ended: {}", last_seen(record)),
            Cause::Stopped => format!("{name} is stopped (SIGSTOP): {}", last_seen(record)),
            Cause::Blocked => {
                format!("{name} hangs in the kernel, on a disk or a network (state D): {}", last_seen(record))
            }
            Cause::Silent => format!("{name} is stopped or dead: {}", last_seen(record)),
            Cause::Failed => format!("{name} failed at step {}: {}", record.step, record.doing),
            Cause::Left => format!("{name} has left the run at step {}, after {}", record.step, call(record)),
            Cause::NotEntered => {
                format!("{name} has not entered {wanted}: {} for {:.0} s", record.doing, record.seconds)
            }
            Cause::StillIn => {
                format!("{name} is still in {} (step {}), for {:.0} s", call(record), record.step, record.seconds)
            }
            Cause::NoRecord => format!(
                "rank {} has no record of this start: it did not start, or cannot write into the folder of the run",
                self.rank.unwrap_or_default()
            ),
            Cause::Disagree { other, op } => {
                format!("ranks disagree: {name} is in {}, rank {other} in {op} (step {})", call(record), record.step)
            }
            Cause::Lost => format!("{name} gave up at step {}: {}", record.step, record.doing),
            // Who said it first counts.
            Cause::Told { .. } if record.doing.contains(SO_SAYS) => record.doing.clone(),
            Cause::Told { by } => format!("{}{SO_SAYS}{by}, which gave up)", record.doing),
            Cause::GivenUp { by } => format!(
                "the others gave up on this rank, which did not answer for {:.0} s; rank {by} found: {}",
                record.seconds, record.doing
            ),
            Cause::Mute => {
                format!(
                    "{name} runs, but its record does not change, so it is unknown what it does; {}",
                    last_seen(record)
                )
            }
            Cause::Network { left: false } => format!("the network: all {} ranks wait in {wanted}", waits.world),
            Cause::Network { left: true } => {
                format!("the network: rank {} waits in {wanted}, which other ranks have left", waits.rank)
            }
            Cause::Unknown => "no rank can be named: the records of the ranks are not up to date".into(),
        };
        match self.more {
            0 => {}
            1 => text += "; 1 more rank likewise",
            more => text += &format!("; {more} more ranks likewise"),
        }
        text
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { rank, step, seconds, .. } = &self.waits;
        let call = call(&self.waits);
        write!(f, "{}; rank {rank} has waited in {call}, step {step}, for {seconds:.0} s", self.finding())
    }
}

/// "rank 5 (n1, pid 4242)".
pub fn name(record: &Record) -> String {
    format!("rank {} ({}, pid {})", record.rank, record.host, record.pid)
}

/// "all_to_all 48211".
fn call(record: &Record) -> String {
    match record.number {
        0 => "no collective yet".into(),
        number => format!("{} {number}", record.op),
    }
}

/// "last seen in all_to_all 48211, step 812".
pub fn last_seen(record: &Record) -> String {
    let (step, doing) = (record.step, &record.doing);
    match record.inside {
        true => format!("last seen in {}, step {step}", call(record)),
        false => format!("last seen {doing}, after {}, step {step}", call(record)),
    }
}

/// Why rank `me`, which is inside a collective, waits; `all[r]` is rank `r`.
///
/// A rank that waits like this one is never named. Where several are to blame it is the one that is furthest behind:
/// one that failed before one that is dead, and that before one that is slow. None while that is open.
pub fn diagnose(me: usize, all: &[Observation], limit: Limit) -> Option<Verdict> {
    let waits = all.get(me)?.record.as_ref().filter(|own| own.inside)?;
    let others = || all.iter().enumerate().filter(|(rank, _)| *rank != me);
    let of = |state: State| move |record: &&Record| record.state == state;
    let records = || others().filter_map(|(_, seen)| seen.record.as_ref());
    let verdict = |cause: Cause, rank: Option<usize>, record: Option<&Record>, more: usize| Verdict {
        cause,
        rank,
        record: record.cloned(),
        more,
        waits: waits.clone(),
    };
    // The furthest behind of some ranks, with its cause.
    let furthest = |found: Vec<(Cause, &Record)>| {
        let (cause, record) = found.iter().min_by_key(|(_, record)| (record.position(), record.rank))?;
        Some(verdict(cause.clone(), Some(record.rank), Some(record), found.len() - 1))
    };
    let told = || {
        // One that learned that it was given up says nothing about others.
        let blames = |record: &&Record| record.blames.is_some_and(|rank| rank != record.rank);
        let by = records().filter(of(State::Lost)).find(blames)?;
        let cause = match by.blames == Some(me) {
            true => Cause::GivenUp { by: by.rank },
            false => Cause::Told { by: by.rank },
        };
        Some(verdict(cause, by.blames, Some(by), 0))
    };

    let failed = furthest(records().filter(of(State::Failed)).map(|record| (Cause::Failed, record)).collect());
    if failed.is_some() {
        return failed;
    }
    // Ages say nothing where this rank's own record is not written either.
    let blind = |stale: Duration| all[me].age >= stale;
    let (stopped, stale) = match limit {
        Limit::Certain => (None, None),
        Limit::Patient { stopped, dead } => (Some(stopped), Some(dead)),
        Limit::Late(stale) => (Some(stale), Some(stale)),
    };
    let since = |seen: &Observation, stale: Option<Duration>| stale.is_some_and(|s| !blind(s) && seen.age >= s);
    let old = |seen: &Observation| since(seen, stale);
    let dead = |seen: &Observation| match seen.process {
        Process::Gone => Some(Cause::Killed),
        Process::Stopped if since(seen, stopped) => Some(Cause::Stopped),
        Process::Blocked if old(seen) => Some(Cause::Blocked),
        Process::Unknown if old(seen) => Some(Cause::Silent),
        _ => None,
    };
    let running = || {
        others().filter_map(|(_, seen)| {
            let record = seen.record.as_ref().filter(of(State::Running))?;
            Some((seen, record))
        })
    };
    let found = furthest(running().filter_map(|(seen, record)| Some((dead(seen)?, record))).collect());
    if found.is_some() {
        return found;
    }
    let missing = || {
        let missing = others().filter(|(_, seen)| seen.record.is_none() && old(seen)).map(|(rank, _)| rank);
        let missing: Vec<usize> = missing.collect();
        Some(verdict(Cause::NoRecord, Some(*missing.first()?), None, missing.len() - 1))
    };
    let left = || {
        let behind = |record: &&Record| record.number < waits.number;
        furthest(records().filter(of(State::Left)).filter(behind).map(|record| (Cause::Left, record)).collect())
    };
    match limit {
        Limit::Certain => return told(),
        Limit::Patient { .. } => return told().or_else(missing),
        Limit::Late(stale) if blind(stale) => {
            return left().or_else(told).or_else(|| Some(verdict(Cause::Unknown, None, None, 0)));
        }
        Limit::Late(_) => {}
    }

    // Time is out. Ranks run with a fresh beat, have ended, or have no record. One that gave up inside its collective
    // waited there in vain like this one, and is a witness of where it was.
    let fresh = || running().filter(|(seen, _)| !old(seen)).map(|(_, record)| record);
    let witnesses = || records().filter(of(State::Lost)).filter(|record| record.inside);
    let lost = || records().filter(of(State::Lost)).filter(|record| !record.inside);
    let gave_up = || furthest(lost().map(|record| (Cause::Lost, record)).collect());
    let behind = || {
        let cause = |record: &Record| if record.inside { Cause::StillIn } else { Cause::NotEntered };
        furthest(fresh().filter(|record| record.number < waits.number).map(|r| (cause(r), r)).collect())
    };
    let mute = || furthest(running().filter(|(seen, _)| old(seen)).map(|(_, r)| (Cause::Mute, r)).collect());
    let network = || {
        let known = running().count() + witnesses().count() + 1 == all.len();
        let left = fresh().any(|record| record.position() > waits.position());
        known.then(|| verdict(Cause::Network { left }, None, None, 0))
    };
    left()
        .or_else(|| {
            let (cause, record) = disagreement(waits, fresh().chain(witnesses()))?;
            Some(verdict(cause, Some(record.rank), Some(record), 0))
        })
        .or_else(behind)
        .or_else(told)
        .or_else(missing)
        .or_else(gave_up)
        .or_else(mute)
        .or_else(network)
        .or_else(|| Some(verdict(Cause::Unknown, None, None, 0)))
}

/// Ranks in different operations under the number of `own`: the first of the fewest, and the first of the most.
fn disagreement<'a>(own: &'a Record, others: impl Iterator<Item = &'a Record>) -> Option<(Cause, &'a Record)> {
    let mut by_op: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in others.chain([own]).filter(|record| record.number == own.number) {
        by_op.entry(&record.op).or_default().push(record);
    }
    let first = |group: &[&'a Record]| group.iter().copied().min_by_key(|record| record.rank);
    let mut groups: Vec<(usize, &Record)> =
        by_op.values().filter_map(|group| Some((group.len(), first(group)?))).collect();
    // Where as many are on each side, rank 0 is right, so that all ranks say the same.
    groups.sort_by_key(|(size, record)| (*size, Reverse(record.rank)));
    let [(_, few), .., (_, most)] = groups[..] else { return None };
    Some((Cause::Disagree { other: most.rank, op: most.op.clone() }, few))
}
