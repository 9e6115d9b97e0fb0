//! Diagnoses of every way in which a wait can go wrong.

use std::time::Duration;

use crate::run::watch::observer::Observer;
use crate::run::watch::{
    Cause, Clock, Identity, Keeper, Limit, Limits, Observation, Process, Progress, Record, State, Verdict, diagnose,
    process, record,
};

const STALE: Duration = Duration::from_secs(15);
const LATE: Limit = Limit::Late(STALE);
const PATIENT: Limit = Limit::Patient { stopped: Duration::from_secs(30), dead: Duration::from_secs(300) };

/// Eight ranks on two hosts that all wait in the same collective, as rank 0 sees them.
struct Ranks(Vec<Observation>);

impl Ranks {
    fn new() -> Self {
        let seen = |rank: usize| Observation {
            record: Some(Record {
                rank,
                world: 8,
                host: format!("n{}", rank / 4),
                pid: 4237 + rank as u32,
                run: "a".into(),
                beat: 100,
                step: 812,
                number: 48_211,
                op: "all_to_all".into(),
                inside: true,
                seconds: 31.2,
                together: 900.0,
                doing: "computing".into(),
                ..Record::default()
            }),
            age: Duration::from_secs(1),
            process: if rank < 4 { Process::Alive } else { Process::Unknown },
        };
        Self((0..8).map(seen).collect())
    }

    fn record(mut self, rank: usize, change: impl FnOnce(&mut Record)) -> Self {
        change(self.0[rank].record.as_mut().unwrap());
        self
    }

    fn behind(self, rank: usize, number: u64) -> Self {
        self.record(rank, |r| {
            (r.number, r.inside, r.seconds, r.doing) = (number, false, 33.0, "reading data".into());
        })
    }

    fn old(mut self, rank: usize) -> Self {
        self.0[rank].age = STALE;
        self
    }

    fn process(mut self, rank: usize, process: Process) -> Self {
        self.0[rank].process = process;
        self
    }

    fn missing(mut self, rank: usize) -> Self {
        self.0[rank].record = None;
        self
    }

    fn verdict(&self, limit: Limit) -> Option<Verdict> {
        diagnose(0, &self.0, limit)
    }

    #[track_caller]
    fn late(&self, cause: Cause, rank: Option<usize>) -> String {
        let verdict = self.verdict(LATE).expect("a verdict");
        assert_eq!((&verdict.cause, verdict.rank), (&cause, rank), "{verdict}");
        let line = verdict.to_string();
        assert!(!line.contains('\n'), "{line}");
        assert!(line.ends_with("; rank 0 has waited in all_to_all 48211, step 812, for 31 s"), "{line}");
        verdict.finding()
    }
}

#[test]
fn a_rank_that_gives_no_sign_of_life_is_named_with_what_it_did() {
    let ranks = Ranks::new().old(5);
    let text = ranks.late(Cause::Silent, Some(5));
    assert_eq!(text, "rank 5 (n1, pid 4242) is stopped or dead: last seen in all_to_all 48211, step 812");
    let text = ranks.behind(5, 48_210).late(Cause::Silent, Some(5));
    assert_eq!(
        text,
        "rank 5 (n1, pid 4242) is stopped or dead: last seen reading data, after all_to_all 48210, step 812"
    );
}

#[test]
fn on_the_same_host_the_state_of_the_process_is_told() {
    let text = Ranks::new().process(2, Process::Gone).late(Cause::Killed, Some(2));
    assert_eq!(text, "rank 2 (n0, pid 4239) was killed or ended: last seen in all_to_all 48211, step 812");
    let text = Ranks::new().old(2).process(2, Process::Stopped).late(Cause::Stopped, Some(2));
    assert!(text.starts_with("rank 2 (n0, pid 4239) is stopped (SIGSTOP): last seen in"), "{text}");
    let text = Ranks::new().old(2).process(2, Process::Blocked).late(Cause::Blocked, Some(2));
    assert!(text.contains("hangs in the kernel"), "{text}");
    // A rank whose watch alone is stuck is not dead, and it is unknown what it does.
    let text = Ranks::new().behind(2, 7).old(2).late(Cause::Mute, Some(2));
    assert!(text.contains("runs, but its record does not change"), "{text}");
}

#[test]
fn before_time_is_out_only_an_ended_process_a_failure_and_the_word_of_another_rank_count() {
    let certain = |ranks: Ranks| ranks.verdict(Limit::Certain).map(|verdict| (verdict.cause, verdict.rank));
    assert_eq!(certain(Ranks::new().process(2, Process::Gone)), Some((Cause::Killed, Some(2))));
    assert_eq!(certain(Ranks::new().record(6, |r| r.state = State::Failed)), Some((Cause::Failed, Some(6))));
    let told = Ranks::new().record(6, |r| (r.state, r.blames) = (State::Lost, Some(3)));
    assert_eq!(certain(told), Some((Cause::Told { by: 6 }, Some(3))));
    for ranks in [
        Ranks::new(),
        Ranks::new().old(5),
        Ranks::new().old(2).process(2, Process::Stopped),
        Ranks::new().behind(5, 3),
        Ranks::new().missing(5).old(5),
        Ranks::new().record(5, |r| r.op = "tell".into()),
        Ranks::new().record(5, |r| (r.state, r.number) = (State::Left, 3)),
        Ranks::new().record(5, |r| r.state = State::Lost),
        // It has left well, or given up: its process may be gone.
        Ranks::new().record(2, |r| r.state = State::Left).process(2, Process::Gone),
        Ranks::new().record(2, |r| r.state = State::Lost).process(2, Process::Gone),
    ] {
        assert_eq!(certain(ranks), None);
    }
}

#[test]
fn a_rank_that_failed_is_named_with_its_reason_before_those_that_died_of_it() {
    let fail = |r: &mut Record| (r.state, r.doing) = (State::Failed, "No space left on device".into());
    let ranks = Ranks::new().record(5, fail).process(2, Process::Gone).record(3, |r| r.state = State::Lost);
    let text = ranks.late(Cause::Failed, Some(5));
    assert_eq!(text, "rank 5 (n1, pid 4242) failed at step 812: No space left on device");
}

#[test]
fn a_rank_that_does_something_else_is_named_with_it() {
    let text = Ranks::new().behind(5, 48_210).late(Cause::NotEntered, Some(5));
    assert_eq!(text, "rank 5 (n1, pid 4242) has not entered all_to_all 48211 (step 812): reading data for 33 s");
    let earlier = |r: &mut Record| (r.number, r.op) = (48_200, "all_gather".into());
    let text = Ranks::new().record(5, earlier).late(Cause::StillIn, Some(5));
    assert_eq!(text, "rank 5 (n1, pid 4242) is still in all_gather 48200 (step 812), for 31 s");
    let left = |r: &mut Record| (r.number, r.inside, r.state) = (48_210, false, State::Left);
    let text = Ranks::new().record(5, left).late(Cause::Left, Some(5));
    assert_eq!(text, "rank 5 (n1, pid 4242) has left the run at step 812, after all_to_all 48210");
}

#[test]
fn of_several_the_dead_come_first_and_then_the_one_that_is_furthest_behind() {
    let slow = Ranks::new().behind(1, 48_200).behind(6, 48_100).behind(7, 48_100);
    let text = slow.late(Cause::NotEntered, Some(6));
    assert!(text.ends_with("; 2 more ranks likewise"), "{text}");
    let dead = slow.old(7).old(5);
    let text = dead.late(Cause::Silent, Some(7));
    assert!(text.ends_with("; 1 more rank likewise"), "{text}");
    // Left the collective, and left it not: the second is behind.
    let ranks = Ranks::new().behind(1, 48_200).behind(3, 48_200).record(3, |r| r.inside = true);
    ranks.late(Cause::StillIn, Some(3));
    // One that is slow is named before one that perhaps only cannot write.
    Ranks::new().behind(1, 48_200).missing(2).old(2).late(Cause::NotEntered, Some(1));
}

#[test]
fn a_rank_that_merely_waits_for_the_dead_one_is_never_named() {
    for limit in [Limit::Certain, PATIENT, LATE] {
        for dead in 1..8 {
            for (number, inside) in [(48_209, false), (48_210, true), (48_210, false), (48_211, true), (48_211, false)]
            {
                // Others wait where the dead one was needed, one collective behind or ahead of each other.
                let mut ranks = Ranks::new().record(dead, |r| (r.number, r.inside) = (number, inside));
                for other in (1..8).filter(|other| *other != dead && other % 2 == 1) {
                    ranks = ranks.record(other, |r| r.number = 48_210);
                }
                let gone = if dead < 4 { Process::Gone } else { Process::Unknown };
                ranks.0[dead].age = Duration::from_secs(400);
                let found = ranks.process(dead, gone).verdict(limit).and_then(|verdict| verdict.rank);
                match limit {
                    Limit::Certain if dead >= 4 => assert_eq!(found, None),
                    _ => assert_eq!(found, Some(dead), "{limit:?} {number} {inside}"),
                }
            }
        }
    }
}

#[test]
fn ranks_in_different_operations_disagree_and_all_say_the_same() {
    let ranks = Ranks::new().record(3, |r| r.op = "all_gather".into());
    let text = ranks.late(Cause::Disagree { other: 0, op: "all_to_all".into() }, Some(3));
    let wanted = "ranks disagree: rank 3 (n0, pid 4240) is in all_gather 48211, rank 0 in all_to_all (step 812)";
    assert_eq!(text, wanted);
    for me in 0..8 {
        assert_eq!(diagnose(me, &ranks.0, LATE).unwrap().finding(), wanted);
    }
    // Also where the other one got through.
    ranks.record(3, |r| r.inside = false).late(Cause::Disagree { other: 0, op: "all_to_all".into() }, Some(3));
}

#[test]
fn where_all_wait_in_the_same_place_it_is_the_network() {
    let text = Ranks::new().late(Cause::Network { left: false }, None);
    assert_eq!(text, "the network: all 8 ranks wait in all_to_all 48211 (step 812)");
    let text = Ranks::new().record(5, |r| r.number += 1).late(Cause::Network { left: true }, None);
    assert_eq!(text, "the network: rank 0 waits in all_to_all 48211 (step 812), which other ranks have left");
}

#[test]
fn a_rank_without_a_record_did_not_start() {
    let text = Ranks::new().missing(5).old(5).missing(6).old(6).late(Cause::NoRecord, Some(5));
    assert!(text.starts_with("rank 5 has no record of this start: ") && text.contains("; 1 more"), "{text}");
    Ranks::new().missing(5).late(Cause::Unknown, None);
}

#[test]
fn what_a_rank_said_that_gave_up_is_handed_on() {
    let say = |r: &mut Record| {
        (r.state, r.doing, r.blames) = (State::Lost, "rank 5 (n1, pid 4242) was killed or ended".into(), Some(5));
    };
    let text = Ranks::new().record(6, say).late(Cause::Told { by: 6 }, Some(5));
    assert_eq!(text, "rank 5 (n1, pid 4242) was killed or ended (so says rank 6, which gave up)");
    // However often it is handed on, only the rank that said it first is named.
    let again = |r: &mut Record| (r.state, r.doing, r.blames) = (State::Lost, text.clone(), Some(5));
    assert_eq!(Ranks::new().record(3, again).late(Cause::Told { by: 3 }, Some(5)), text);
    let lost = |r: &mut Record| (r.state, r.inside, r.doing) = (State::Lost, false, "connection reset".into());
    let text = Ranks::new().record(6, lost).late(Cause::Lost, Some(6));
    assert_eq!(text, "rank 6 (n1, pid 4243) gave up at step 812: connection reset");
}

#[test]
fn a_rank_that_was_given_up_says_so_and_does_not_blame_itself() {
    let say = |rank: usize| {
        move |r: &mut Record| (r.state, r.doing, r.blames) = (State::Lost, "rank 0 is stopped".into(), Some(rank))
    };
    let text = Ranks::new().record(6, say(0)).late(Cause::GivenUp { by: 6 }, Some(0));
    assert_eq!(text, "the others gave up on this rank, which did not answer for 31 s; rank 6 found: rank 0 is stopped");
    // What such a rank says is not for others.
    assert_eq!(Ranks::new().record(6, say(6)).verdict(Limit::Certain), None);
    Ranks::new().record(3, say(3)).record(6, say(2)).late(Cause::Told { by: 6 }, Some(2));
}

#[test]
fn in_a_patient_collective_only_the_dead_count() {
    let patient = |ranks: Ranks| ranks.verdict(PATIENT).map(|verdict| (verdict.cause, verdict.rank));
    let saves = || Ranks::new().behind(1, 48_210).behind(6, 48_210);
    assert_eq!(patient(saves()), None);
    assert_eq!(patient(saves().old(6)), None, "a disk that is busy holds up records too");
    let mut long = saves();
    long.0[6].age = Duration::from_secs(300);
    assert_eq!(patient(long), Some((Cause::Silent, Some(6))));
    assert_eq!(patient(saves().process(1, Process::Gone)), Some((Cause::Killed, Some(1))));
    // No disk stops a process, but one that hangs in the kernel may be writing.
    let held_up = |process: Process| {
        let mut ranks = saves().process(1, process);
        ranks.0[1].age = Duration::from_secs(30);
        patient(ranks)
    };
    assert_eq!(held_up(Process::Stopped), Some((Cause::Stopped, Some(1))));
    assert_eq!(held_up(Process::Blocked), None);
    assert_eq!(patient(saves().old(1).process(1, Process::Stopped)), None, "it may go on");
    let mut missing = saves().missing(7);
    assert_eq!(patient(Ranks(missing.0.clone())), None);
    missing.0[7].age = Duration::from_secs(300);
    assert_eq!(patient(missing), Some((Cause::NoRecord, Some(7))));
}

#[test]
fn a_rank_whose_own_record_is_not_written_does_not_judge_by_those_of_others() {
    let text = Ranks::new().old(0).old(5).behind(6, 3).late(Cause::Unknown, None);
    assert!(text.starts_with("no rank can be named"), "{text}");
    Ranks::new().old(0).old(5).process(2, Process::Gone).late(Cause::Killed, Some(2));
    let mut all = Ranks::new();
    all.0.iter_mut().for_each(|seen| seen.age = Duration::from_secs(400));
    assert_eq!(all.verdict(PATIENT), None);
}

#[test]
fn a_rank_that_does_not_wait_has_no_verdict() {
    let ranks = Ranks::new().behind(0, 48_210).old(5).process(2, Process::Gone);
    assert_eq!(ranks.verdict(LATE), None);
    assert_eq!(diagnose(8, &ranks.0, LATE), None);
    assert_eq!(diagnose(0, &[], LATE), None);
    assert_eq!(diagnose(0, &Ranks::new().missing(0).0, LATE), None);
}

#[test]
fn a_rank_that_gave_up_while_it_waited_is_a_witness_and_never_named() {
    let waited = |r: &mut Record| (r.state, r.doing) = (State::Lost, "the network: all 8 ranks wait".into());
    let gave_up = |ranks: Ranks| ranks.record(1, waited).record(6, waited).process(1, Process::Gone);
    gave_up(Ranks::new()).late(Cause::Network { left: false }, None);
    gave_up(Ranks::new().behind(5, 48_210)).late(Cause::NotEntered, Some(5));
    gave_up(Ranks::new().old(5)).late(Cause::Silent, Some(5));
    // It was in the operation of most, and so tips the scale.
    let few = Ranks(Ranks::new().0[..3].to_vec()).record(2, |r| r.op = "tell".into()).record(0, waited);
    let verdict = diagnose(1, &few.0, LATE).unwrap();
    assert_eq!((verdict.rank, verdict.cause), (Some(2), Cause::Disagree { other: 0, op: "all_to_all".into() }));
    // A collective behind, because it waited for the same rank.
    gave_up(Ranks::new().old(5)).record(1, |r| r.number -= 1).late(Cause::Silent, Some(5));
    gave_up(Ranks::new()).record(1, |r| r.number -= 1).late(Cause::Network { left: false }, None);
}

/// Writes records of ranks 1 to 3 and looks at them as rank 0.
struct Folder {
    folder: tempfile::TempDir,
    observer: Observer,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let observer = Observer::new(folder.path().into(), 0, 4, "a".into(), String::new(), Duration::MAX);
        Self { folder, observer }
    }

    fn write(&self, rank: usize, run: &str, beat: u64) {
        let record = Record { rank, beat, run: run.into(), ..Record::default() };
        record::write(&record::path(self.folder.path(), rank), &record).unwrap();
    }

    fn look(&mut self, second: u64) -> Vec<(Option<u64>, u64)> {
        let now = Duration::from_secs(second);
        self.observer.look(now);
        let seen = self.observer.observations(&Record::default(), Duration::ZERO);
        seen[1..].iter().map(|s| (s.record.as_ref().map(|r| r.beat), s.age.as_secs())).collect()
    }
}

#[test]
fn a_beat_ages_by_the_clock_of_the_observer_alone() {
    let mut folder = Folder::new();
    // Whatever the time is there: a file that is said to be an hour old is as good as any.
    folder.write(1, "a", 7);
    folder.write(2, "a", 9000);
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    let file = std::fs::File::options().write(true).open(record::path(folder.folder.path(), 2)).unwrap();
    file.set_modified(old).unwrap();
    assert_eq!(folder.look(100), [(Some(7), 0), (Some(9000), 0), (None, 0)]);
    folder.write(1, "a", 8);
    assert_eq!(folder.look(110), [(Some(8), 0), (Some(9000), 10), (None, 10)]);
    // A beat may also go back: the rank has started again.
    folder.write(2, "a", 1);
    assert_eq!(folder.look(130), [(Some(8), 20), (Some(1), 0), (None, 30)]);
}

#[test]
fn torn_records_wait_for_the_next_and_those_of_other_starts_are_no_records() {
    let mut folder = Folder::new();
    folder.write(1, "a", 7);
    folder.write(2, "before", 900);
    assert_eq!(folder.look(10), [(Some(7), 0), (None, 0), (None, 0)]);
    let path = record::path(folder.folder.path(), 1);
    let mut torn = std::fs::read(&path).unwrap();
    torn[20] ^= 1;
    std::fs::write(&path, &torn).unwrap();
    assert_eq!(folder.look(12), [(Some(7), 0), (None, 2), (None, 2)], "once says nothing");
    std::fs::write(&path, &torn[..100]).unwrap();
    assert_eq!(folder.look(14), [(Some(7), 4), (None, 4), (None, 4)]);
    folder.write(1, "a", 8);
    // A record in the file of another rank.
    std::fs::copy(&path, record::path(folder.folder.path(), 3)).unwrap();
    assert_eq!(folder.look(16), [(Some(8), 0), (None, 6), (None, 6)]);
}

#[test]
fn a_process_with_the_number_of_one_that_ended_is_not_taken_for_it() {
    let Some((started, place)) = process::own() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut observer = Observer::new(folder.path().into(), 0, 4, "a".into(), place.clone(), Duration::MAX);
    for (rank, started, place) in [(1, started, &*place), (2, started - 1, &place), (3, started - 1, "elsewhere")] {
        let (place, run) = (place.into(), "a".into());
        let record = Record { rank, pid: std::process::id(), started, place, run, ..Record::default() };
        record::write(&record::path(folder.path(), rank), &record).unwrap();
    }
    observer.look(Duration::ZERO);
    let seen = observer.observations(&Record::default(), Duration::ZERO);
    assert!(matches!(seen[1].process, Process::Alive | Process::Blocked));
    assert_eq!(seen[2].process, Process::Gone);
    assert_eq!(seen[3].process, Process::Unknown);
}

#[test]
fn a_job_that_was_suspended_has_not_waited() {
    let mut clock = Clock::new(Duration::from_secs(2));
    clock.advance(Duration::from_millis(300));
    clock.advance(Duration::from_secs(3600));
    assert_eq!(clock.now(), Duration::from_millis(2300));
}

#[test]
fn a_rank_is_late_by_the_time_in_which_its_watch_ran() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { timeout: Duration::from_secs(30), patient: Duration::from_secs(300) };
    let progress = Progress::default();
    let mut keeper = Keeper::new(folder.path().into(), Identity::new(0, 1, "a"), limits, progress.clone());
    progress.enter("tell", false);
    let tick = |keeper: &mut Keeper, seconds: u64| {
        let now = progress.now();
        keeper.clock.advance(Duration::from_secs(seconds));
        keeper.note(&now);
        keeper.write(&now);
        keeper.watch(&now)
    };
    for _ in 0..30 {
        assert_eq!(tick(&mut keeper, 1), None);
        assert_eq!(tick(&mut keeper, 0), None);
    }
    let verdict = tick(&mut keeper, 3600).expect("a verdict");
    assert_eq!(verdict.cause, Cause::Network { left: false });
    assert!(verdict.waits.seconds < 33.0);
    // In a patient collective time does not count.
    progress.leave();
    progress.enter("tell", true);
    for _ in 0..100 {
        assert_eq!(tick(&mut keeper, 2), None);
    }
}

#[test]
fn rank_0_says_what_a_slow_step_waits_for() {
    let mut life = Life::new();
    let progress = life.progress.clone();
    for step in 1..=5 {
        progress.step(step);
        progress.stepped(Duration::from_millis(2500), 3.25);
    }
    let mut said = |life: &mut Life, seconds: u64| {
        let now = life.progress.now();
        life.keeper.clock.advance(Duration::from_secs(seconds));
        life.keeper.note(&now);
        life.keeper.slow(&now)
    };
    let minute = |said: &mut dyn FnMut(&mut Life, u64) -> Option<String>, life: &mut Life| {
        (0..40).find_map(|_| said(life, 2)).unwrap_or_default()
    };
    // Between two steps a run may save or measure for as long as it takes.
    assert_eq!(minute(&mut said, &mut life), "");
    progress.step(6);
    progress.phase("reading data from data/notes");
    let text = minute(&mut said, &mut life);
    assert_eq!(text, "step 6: 26 s so far, 10x the median; doing: reading data from data/notes");
    progress.phase("computing");
    progress.enter("tell", false);
    life.write(&[1, 2, 3], 0);
    let text = minute(&mut said, &mut life);
    assert!(text.starts_with("step 6: 86 s so far, 34x the median; doing: computing, in tell 1; waiting for rank 1 ("));
    assert_eq!(said(&mut life, 2), None, "one a minute");
    let record = life.keeper.record(&life.progress.now());
    assert_eq!((record.loss, record.step_seconds, record.step), (Some(3.25), Some(2.5), 6));
    assert!(record.time > 1_700_000_000);
}

/// Rank 0 of 4 by a made-up clock. Ranks 1 and 2 are on this host, and 2 hangs in the kernel wherever it is looked at.
struct Life {
    folder: tempfile::TempDir,
    progress: Progress,
    keeper: Keeper,
    beat: u64,
}

impl Life {
    fn new() -> Self {
        let (folder, progress) = (tempfile::tempdir().unwrap(), Progress::default());
        let limits = Limits { timeout: Duration::from_secs(30), patient: Duration::from_secs(300) };
        let identity = Identity::new(0, 4, "a");
        let mut keeper = Keeper::new(folder.path().into(), identity, limits, progress.clone());
        keeper.observer.probe(|pid, started| match (started, u32::MAX - pid) {
            (1, _) => Process::Stopped,
            (2, _) => Process::Gone,
            (_, 2) => Process::Blocked,
            _ => Process::Alive,
        });
        Self { folder, progress, keeper, beat: 0 }
    }

    /// Records of some ranks. For rank 1 `state` is that of its process.
    fn write(&self, ranks: &[usize], state: u64) {
        for &rank in ranks {
            let place = if rank < 3 { self.keeper.place.clone() } else { "elsewhere".into() };
            let (pid, run, beat) = (u32::MAX - rank as u32, "a".into(), self.beat);
            let started = if rank == 1 { state } else { 0 };
            let record = Record { rank, world: 4, place, pid, started, run, beat, ..Record::default() };
            record::write(&record::path(self.folder.path(), rank), &record).unwrap();
        }
    }

    /// Some time passes, in which some ranks write their records.
    fn pass(&mut self, time: Duration, ranks: &[usize]) -> Option<Verdict> {
        self.beat += 1;
        self.write(ranks, 0);
        self.turn(time)
    }

    fn turn(&mut self, time: Duration) -> Option<Verdict> {
        self.keeper.clock.advance(time);
        self.keeper.turn(&self.progress.now())
    }

    /// A few minutes of a run in which all is well.
    fn go_on(&mut self) {
        let (quarter, all) = (Duration::from_millis(250), [1, 2, 3]);
        let calls: [(u64, bool, u64); 6] =
            [(2, false, 1), (40, false, 1), (100, false, 20), (8, true, 1), (400, true, 399), (1100, true, 1099)];
        for (quarters, patient, every) in calls {
            // Nobody looks for longer than anyone is waited for.
            for _ in 0..350 {
                assert_eq!(self.turn(Duration::from_secs(1)), None);
            }
            self.beat += 350;
            self.write(&all, 0);
            self.progress.enter("tell", patient);
            for quarter_of in 1..=quarters {
                let beating = if quarter_of % every == 0 { &all[..] } else { &[] };
                assert_eq!(self.pass(quarter, beating), None, "{quarter_of} of {quarters}, {patient}");
            }
            self.progress.leave();
        }
    }

    /// Seconds until there is a verdict, which is of `cause` and names `rank`.
    fn until(&mut self, patient: bool, beating: &[usize], cause: Cause, rank: usize) -> f64 {
        self.progress.enter("tell", patient);
        for quarters in 1..2000 {
            if let Some(verdict) = self.pass(Duration::from_millis(250), beating) {
                assert_eq!((&verdict.cause, verdict.rank), (&cause, Some(rank)), "{verdict}");
                self.progress.leave();
                return f64::from(quarters) / 4.0;
            }
        }
        panic!("no verdict");
    }
}

#[test]
fn a_long_life_in_which_all_is_well_has_no_verdict() {
    let mut life = Life::new();
    (0..10).for_each(|_| life.go_on());
}

#[test]
fn after_a_long_life_one_that_is_dead_is_found_in_time() {
    let mut life = Life::new();
    life.go_on();
    let seconds = life.until(false, &[1, 2], Cause::Silent, 3);
    assert!((30.0..=31.0).contains(&seconds), "{seconds}");
    life.go_on();
    let seconds = life.until(true, &[1, 2], Cause::Silent, 3);
    assert!((299.0..=302.0).contains(&seconds), "{seconds}");
    if life.keeper.place.is_empty() {
        return;
    }
    for patient in [false, true] {
        life.go_on();
        life.write(&[1], 1);
        let seconds = life.until(patient, &[2, 3], Cause::Stopped, 1);
        assert!((30.0..=32.0).contains(&seconds), "{seconds}");
        life.go_on();
        life.write(&[1], 2);
        let seconds = life.until(patient, &[2, 3], Cause::Killed, 1);
        assert!(seconds <= 2.0, "{seconds}");
    }
}
