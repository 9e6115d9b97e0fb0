//! The rank that ended an earlier start, from the records that it left.

use std::cmp::Reverse;
use std::path::Path;

use super::diagnosis::{last_seen, name};
use super::record::{self, Record, State};

/// Seconds that a rank may be behind the last one without being the one that ended first: records are written once a
/// second, and a launcher takes a moment to end all ranks.
const SLACK: f64 = 3.0;
/// File beside the records with the name of the start whose end was told last.
const TOLD: &str = "told";

/// What the records in `output` say about the start before, where it did not end well: which rank ended first, if that
/// can be told. It is told once: where the next start ends before it has records, the one after it has nothing to say.
///
/// For rank 0, before it starts its own [`Watch`](super::Watch); other ranks may have started theirs.
pub fn previous(output: &Path) -> Option<String> {
    let folder = record::folder(output);
    let [Some(zero), _] = record::read(&record::path(&folder, 0)) else { return None };
    if std::fs::read_to_string(folder.join(TOLD)).is_ok_and(|told| told == zero.run) {
        return None;
    }
    let mut records = vec![zero.clone()];
    for entry in std::fs::read_dir(&folder).ok()?.flatten() {
        let rank = entry.file_name().to_str().and_then(|name| name.parse::<usize>().ok());
        if rank.is_some_and(|rank| rank > 0 && rank < zero.world) {
            let found = record::read(&entry.path()).into_iter().flatten();
            records.extend(found.filter(|r| r.run == zero.run && Some(r.rank) == rank));
        }
    }
    records.sort_by_key(|record| record.rank);
    let complete = records.len() == zero.world;
    records.retain(|record| record.state != State::Left);
    let finding = judge(&records, complete)?;
    // Where this fails, it is told again.
    let _ = std::fs::write(folder.join(TOLD), &zero.run);
    Some(format!("the run before did not end well: {finding}"))
}

/// The finding on the ranks that did not end well; `complete` if the others did.
fn judge(records: &[Record], complete: bool) -> Option<String> {
    let last = records.iter().max_by_key(|record| record.step)?;
    let furthest = |state: State| records.iter().filter(move |r| r.state == state).min_by_key(|r| r.position());
    if let Some(failed) = furthest(State::Failed) {
        return Some(format!("{} failed at step {}: {}", name(failed), failed.step, failed.doing));
    }
    if let Some(told) = told(records) {
        return Some(told.doing.clone());
    }
    let found = match records {
        _ if !complete => None,
        [only] => Some((only, 0)),
        _ => by_time(records).or_else(|| by_number(records)),
    };
    Some(match found {
        Some((record, more)) => {
            let more = match more {
                0 => String::new(),
                more => format!("; {more} more with it"),
            };
            format!("{} stopped beating: {}{more}", name(record), last_seen(record))
        }
        None => {
            let count = records.len();
            format!("{count} ranks ended at step {}, and their records do not tell which was first", last.step)
        }
    })
}

/// The rank that gave up and knew best because of which one. Where ranks saw others end at different times, they
/// disagree.
fn told(records: &[Record]) -> Option<&Record> {
    // One that learned that it was given up says nothing about others.
    let blames =
        |record: &&Record| record.state == State::Lost && record.blames.is_some_and(|rank| rank != record.rank);
    let witnesses = || records.iter().filter(blames);
    witnesses().max_by_key(|told| {
        let same = || witnesses().filter(|other| other.blames == told.blames);
        // A rank that still blamed another one did not end first.
        let later = witnesses().any(|other| Some(other.rank) == told.blames);
        (!later, same().filter(|other| other.more == 0).count(), same().count(), told.more == 0, Reverse(told.rank))
    })
}

/// The rank whose record ends earliest, counted from the end of the first collective, and those that ended with it.
fn by_time(records: &[Record]) -> Option<(&Record, usize)> {
    let first = records.iter().min_by(|a, b| a.together.total_cmp(&b.together))?;
    let last = records.iter().map(|record| record.together).fold(0.0, f64::max);
    let with = records.iter().filter(|record| record.together <= first.together + SLACK / 2.0).count();
    let clear = first.together > 0.0 && last > first.together + SLACK && 2 * with <= records.len();
    clear.then_some((first, with - 1))
}

/// The rank that is behind in a collective, where another had waited there for longer than records take.
fn by_number(records: &[Record]) -> Option<(&Record, usize)> {
    let waited = |record: &&Record| record.inside && !record.patient && record.seconds > SLACK / 2.0;
    let number = records.iter().filter(waited).map(|record| record.number).max()?;
    let behind = || records.iter().filter(|record| record.number < number);
    let first = behind().min_by_key(|record| record.position())?;
    Some((first, behind().count() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(rank: usize, number: u64, inside: bool) -> Record {
        Record {
            rank,
            world: 4,
            host: format!("n{rank}"),
            pid: 4240 + rank as u32,
            run: "b".into(),
            step: 812,
            number,
            op: "all_to_all".into(),
            inside,
            seconds: 0.3,
            together: 100.0,
            doing: "computing".into(),
            ..Record::default()
        }
    }

    fn said(records: &[Record]) -> Option<String> {
        let output = tempfile::tempdir().unwrap();
        let folder = record::folder(output.path());
        std::fs::create_dir_all(&folder).unwrap();
        for record in records {
            record::write(&record::path(&folder, record.rank), record).unwrap();
        }
        previous(output.path())
    }

    fn all(change: impl Fn(&mut Record)) -> Vec<Record> {
        let mut records: Vec<Record> = (0..4).map(|r| rank(r, 48_211, true)).collect();
        records.iter_mut().for_each(change);
        records
    }

    #[test]
    fn a_start_that_ended_well_and_no_start_say_nothing() {
        assert_eq!(said(&[]), None);
        assert_eq!(said(&all(|r| r.state = State::Left)), None);
    }

    #[test]
    fn a_rank_that_failed_and_one_that_a_rank_blamed_are_named_with_the_reason() {
        let records = all(|r| match r.rank {
            2 => (r.state, r.doing) = (State::Failed, "no space left on device".into()),
            _ => r.state = State::Lost,
        });
        let text = said(&records).unwrap();
        assert!(text.ends_with("rank 2 (n2, pid 4242) failed at step 812: no space left on device"), "{text}");
        let records = all(|r| {
            if r.rank == 1 {
                (r.state, r.doing, r.blames) = (State::Lost, "rank 3 (n3, pid 4243) was killed".into(), Some(3));
            }
        });
        assert!(said(&records).unwrap().ends_with("rank 3 (n3, pid 4243) was killed"));
    }

    #[test]
    fn of_those_that_were_seen_to_end_the_first_is_named() {
        let saw = |r: &mut Record, other: usize, more: usize| {
            (r.state, r.doing, r.blames, r.more) = (State::Lost, format!("rank {other} ended"), Some(other), more);
        };
        // Rank 2 ended first. The others saw it, or were late.
        let seen = |blames: [(usize, usize); 3]| {
            let mut records = all(|_| ());
            for (rank, (other, more)) in [0, 1, 3].into_iter().zip(blames) {
                if other < 4 {
                    saw(&mut records[rank], other, more);
                }
            }
            said(&records).unwrap()
        };
        for blames in [
            [(2, 0), (2, 0), (2, 0)],
            // Rank 3 saw nothing but the end of rank 0, which had seen that of rank 2.
            [(2, 0), (9, 0), (0, 0)],
            [(1, 0), (2, 0), (1, 0)],
            // Rank 0 was late, and saw both ranks that were not there to say more.
            [(3, 1), (2, 0), (9, 0)],
        ] {
            let text = seen(blames);
            assert!(text.ends_with("rank 2 ended"), "{blames:?}: {text}");
        }
        // A rank that was given up and went on.
        let mut records = all(|_| ());
        saw(&mut records[2], 2, 0);
        saw(&mut records[3], 2, 0);
        records[3].doing = "rank 2 is stopped".into();
        assert!(said(&records).unwrap().ends_with("rank 2 is stopped"));
    }

    #[test]
    fn the_rank_whose_record_ends_first_is_named() {
        let records = all(|r| r.together = if r.rank == 3 { 70.0 } else { 100.0 + r.rank as f64 });
        let text = said(&records).unwrap();
        let wanted = "rank 3 (n3, pid 4243) stopped beating: last seen in all_to_all 48211, step 812";
        assert!(text.ends_with(wanted), "{text}");
    }

    #[test]
    fn the_rank_that_was_behind_while_others_waited_is_named() {
        let records = all(|r| match r.rank {
            1 => (r.number, r.inside) = (48_210, false),
            _ => r.seconds = 1.9,
        });
        let text = said(&records).unwrap();
        assert!(text.contains("rank 1 (n1, pid 4241) stopped beating: last seen computing, after"), "{text}");
    }

    #[test]
    fn ranks_that_ended_at_once_are_not_told_apart() {
        for records in [
            all(|r| r.together += r.rank as f64 / 2.0),
            // Behind, but nobody had waited for longer than a record takes.
            all(|r| r.number += u64::from(r.rank == 0)),
            // A host of half the ranks and more: the others may as well be the ones to blame.
            all(|r| r.together = if r.rank > 0 { 70.0 } else { 100.0 }),
            all(|_| ())[..3].to_vec(),
        ] {
            let text = said(&records).unwrap();
            assert!(text.ends_with("their records do not tell which was first"), "{text}");
        }
    }

    #[test]
    fn torn_records_and_those_of_other_starts_do_not_count() {
        let output = tempfile::tempdir().unwrap();
        let folder = record::folder(output.path());
        std::fs::create_dir_all(&folder).unwrap();
        let write = |record: &Record| record::write(&record::path(&folder, record.rank), record).unwrap();
        let records = all(|r| r.together = if r.rank == 3 { 70.0 } else { 100.0 });
        records.iter().for_each(write);
        // A rank beyond the world of the last start, and one that is faster and has begun the next start.
        write(&Record { state: State::Failed, run: "a".into(), ..rank(9, 1, false) });
        record::keep_earlier(&record::path(&folder, 2), "c");
        write(&Record { run: "c".into(), ..rank(2, 0, false) });
        assert!(previous(output.path()).unwrap().contains("rank 3 (n3"));
        // The next start ended before it had records, or before rank 0 had one.
        assert_eq!(previous(output.path()), None, "it was told");
        write(&Record { run: "d".into(), ..rank(0, 0, false) });
        assert!(previous(output.path()).is_some());
        std::fs::write(record::path(&folder, 0), [b'{'; record::SIZE]).unwrap();
        assert_eq!(previous(output.path()), None);
    }
}
