//! Ranks that are processes: killed, stopped, slow, suspended, and failing.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::run::watch::{EXIT_CODE, Identity, Limits, Process, Record, State, Watch, previous, process, record};

/// The variable that makes this program a rank: folder, rank, world, time-out in seconds, and role.
const RANK: &str = "FATHOM_TEST_WATCH_RANK";
/// Bound of what should take seconds, for a machine that does other things too.
const ENOUGH: Duration = Duration::from_secs(60);

/// A rank, where this program was started as one; nothing otherwise.
#[test]
fn rank() {
    let Ok(call) = std::env::var(RANK) else { return };
    let [output, rank, world, seconds, role] = call.split('|').collect::<Vec<_>>()[..] else { panic!("{call}") };
    let output = Path::new(output).to_owned();
    let number: usize = rank.parse().unwrap();
    let timeout = Duration::from_secs_f64(seconds.parse().unwrap());
    let limits = Limits { timeout, patient: 2 * timeout };
    let verdict = output.join(format!("verdict-{rank}"));
    let run = if role == "again" { "second" } else { "first" };
    let watch = Watch::start(&output, Identity::new(number, world.parse().unwrap(), run), limits, move |found| {
        // Written at once or not at all.
        let draft = verdict.with_extension("draft");
        std::fs::write(&draft, found.to_string()).unwrap();
        std::fs::rename(&draft, &verdict).unwrap();
        std::process::exit(EXIT_CODE.into());
    });
    let progress = watch.progress();
    progress.step(811);
    progress.enter("tell", false);
    progress.leave();
    progress.step(812);
    match role {
        "reads" => progress.phase("reading data"),
        "saves" => progress.phase("writing a checkpoint"),
        "patient" => progress.enter("all_to_all", true),
        "disagrees" => progress.enter("all_gather", false),
        "fails" => {
            progress.failed("No space left on device");
            drop(watch);
            std::process::exit(1);
        }
        _ => progress.enter("all_to_all", false),
    }
    let until = Instant::now() + 2 * ENOUGH;
    while !output.join("go").exists() {
        if Instant::now() > until {
            std::process::exit(3);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    progress.leave();
    drop(watch);
    std::process::exit(0);
}

/// The ranks of a run. They end with it.
struct Run {
    output: tempfile::TempDir,
    ranks: Vec<Child>,
}

impl Run {
    /// One rank for each role, all of which have done what the role says.
    fn start(timeout: f64, roles: &[&str]) -> Self {
        let mut run = Self { output: tempfile::tempdir().unwrap(), ranks: Vec::new() };
        run.add(timeout, roles);
        run
    }

    fn add(&mut self, timeout: f64, roles: &[&str]) {
        let (_, module) = module_path!().split_once("::").unwrap();
        for (rank, role) in roles.iter().enumerate() {
            let output = self.output.path().display();
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", &format!("{module}::rank"), "--nocapture", "--test-threads=1"]);
            command.env(RANK, format!("{output}|{rank}|{}|{timeout}|{role}", roles.len()));
            self.ranks.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        }
        let start = self.ranks.len() - roles.len();
        for (rank, role) in roles.iter().enumerate() {
            let there = |record: &Record| match *role {
                "reads" | "saves" => record.number == 1 && record.doing != "starting",
                "fails" => record.state == State::Failed,
                _ => record.number == 2 && record.inside,
            };
            let pid = self.ranks[start + rank].id();
            self.until(&format!("rank {rank} does what it should"), |run| {
                run.record(rank).is_some_and(|record| record.pid == pid && there(&record))
            });
        }
    }

    fn record(&self, rank: usize) -> Option<Record> {
        record::read(&record::path(&record::folder(self.output.path()), rank))[0].take()
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < ENOUGH, "{what}: not in {ENOUGH:?}; {:?}", self.records());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn records(&self) -> Vec<Option<Record>> {
        (0..self.ranks.len()).map(|rank| self.record(rank)).collect()
    }

    /// Sends a signal to ranks. This crate has no unsafe code and so no system calls.
    fn signal(&self, name: &str, ranks: &[usize]) {
        let pids = ranks.iter().map(|&rank| self.ranks[rank].id().to_string()).collect::<Vec<_>>().join(" ");
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pids}")]).status().unwrap();
        assert!(sent.success());
    }

    #[track_caller]
    fn end(&mut self, rank: usize) -> ExitStatus {
        let mut status = None;
        self.until(&format!("rank {rank} ends"), |run| {
            status = run.ranks[rank].try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// The verdict of a rank that gave up.
    #[track_caller]
    fn verdict(&mut self, rank: usize) -> String {
        let status = self.end(rank);
        assert_eq!(status.code(), Some(EXIT_CODE.into()), "rank {rank}: {:?}", self.records());
        std::fs::read_to_string(self.output.path().join(format!("verdict-{rank}"))).unwrap()
    }

    #[track_caller]
    fn every_verdict_begins(&mut self, ranks: &[usize], wanted: &str) {
        for &rank in ranks {
            let text = self.verdict(rank);
            assert!(text.starts_with(wanted), "rank {rank}: {text}\nnot {wanted}");
            assert!(text.contains(&format!("rank {rank} has waited in all_to_all 2, step 812, for ")), "{text}");
            let record = self.record(rank).unwrap();
            assert_eq!(record.state, State::Lost);
        }
    }

    fn name(&self, rank: usize) -> String {
        let record = self.record(rank).unwrap();
        assert_eq!(record.pid, self.ranks[rank].id());
        format!("rank {rank} ({}, pid {})", record.host, record.pid)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

#[test]
fn a_rank_that_is_killed_is_named_long_before_the_time_out() {
    let mut run = Run::start(300.0, &["waits", "waits", "waits"]);
    let start = Instant::now();
    run.ranks[1].kill().unwrap();
    // It is not waited for: a zombie.
    let wanted = format!("{} was killed or ended: last seen in all_to_all 2, step 812", run.name(1));
    run.every_verdict_begins(&[0, 2], &wanted);
    assert!(start.elapsed() < ENOUGH);
    let text = previous(run.output.path()).unwrap();
    assert!(text.starts_with(&format!("the run before did not end well: {wanted}")), "{text}");
}

#[test]
fn a_killed_rank_of_which_no_process_is_left_is_named() {
    let mut run = Run::start(300.0, &["waits", "reads"]);
    run.ranks[1].kill().unwrap();
    run.ranks[1].wait().unwrap();
    let wanted = format!("{} was killed or ended: last seen reading data, after tell 1, step 812", run.name(1));
    run.every_verdict_begins(&[0], &wanted);
}

#[test]
fn a_rank_that_does_not_wait_notes_which_one_was_killed_and_goes_on() {
    let mut run = Run::start(300.0, &["reads", "waits", "reads"]);
    let wanted = format!("{} was killed or ended: last seen in all_to_all 2, step 812", run.name(1));
    run.ranks[1].kill().unwrap();
    for rank in [0, 2] {
        run.until("it is noted", |run| run.record(rank).is_some_and(|r| r.state == State::Lost && r.blames == Some(1)));
        assert_eq!(run.record(rank).unwrap().doing, wanted);
    }
    std::fs::write(run.output.path().join("go"), "").unwrap();
    for rank in [0, 2] {
        assert_eq!(run.end(rank).code(), Some(0));
        assert_eq!(run.record(rank).unwrap().state, State::Left);
    }
}

#[test]
fn a_rank_that_is_stopped_is_named_at_the_time_out() {
    let mut run = Run::start(3.0, &["waits", "waits", "waits"]);
    run.signal("STOP", &[2]);
    let wanted = format!("{} is stopped (SIGSTOP): last seen in all_to_all 2, step 812", run.name(2));
    run.every_verdict_begins(&[0, 1], &wanted);
}

#[test]
fn a_rank_that_goes_on_after_the_others_gave_up_on_it_says_so() {
    let mut run = Run::start(3.0, &["waits", "waits", "waits"]);
    run.signal("STOP", &[1]);
    let wanted = format!("{} is stopped (SIGSTOP): last seen in all_to_all 2, step 812", run.name(1));
    run.every_verdict_begins(&[0, 2], &wanted);
    run.signal("CONT", &[1]);
    run.every_verdict_begins(&[1], "the others gave up on this rank, which did not answer for ");
    let text = previous(run.output.path()).unwrap();
    assert!(text.starts_with(&format!("the run before did not end well: {wanted}")), "{text}");
}

#[test]
fn a_rank_that_is_stopped_while_others_are_patient_is_named_at_the_time_out() {
    let mut run = Run::start(20.0, &["saves", "patient"]);
    run.signal("STOP", &[0]);
    let start = Instant::now();
    let wanted = format!("{} is stopped (SIGSTOP): last seen writing a checkpoint", run.name(0));
    run.every_verdict_begins(&[1], &wanted);
    assert!(start.elapsed() < Duration::from_secs(35), "{:?}", start.elapsed());
}

#[test]
fn where_all_ranks_are_killed_a_moment_later_the_next_start_is_told_which_was_first() {
    let mut told = Vec::new();
    let victims = [0, 1, 2, 3, 1];
    for victim in victims {
        let mut run = Run::start(300.0, &["waits", "reads", "waits", "patient"]);
        // Each of them knows the others by then.
        std::thread::sleep(Duration::from_secs(1));
        let wanted = format!("the run before did not end well: {} was killed or ended", run.name(victim));
        run.ranks[victim].kill().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        run.ranks.iter_mut().for_each(|rank| rank.kill().unwrap());
        let ended = run.ranks.iter_mut().all(|rank| rank.wait().is_ok());
        assert!(ended);
        let text = previous(run.output.path()).unwrap_or_default();
        told.push((text.starts_with(&wanted), text));
    }
    // A machine that does other things too may be late now and then.
    let right = told.iter().filter(|(right, _)| *right).count();
    assert!(right >= 3, "{right} of {}: {told:#?}", victims.len());
}

#[test]
fn a_rank_that_is_slow_or_elsewhere_is_named_at_the_time_out() {
    let mut run = Run::start(3.0, &["waits", "reads", "waits"]);
    let wanted = format!("{} has not entered all_to_all 2 (step 812): reading data for ", run.name(1));
    run.every_verdict_begins(&[0, 2], &wanted);
    let mut run = Run::start(3.0, &["waits", "waits", "disagrees"]);
    let wanted = format!("ranks disagree: {} is in all_gather 2, rank 0 in all_to_all (step 812)", run.name(2));
    run.every_verdict_begins(&[0, 1], &wanted);
}

#[test]
fn a_rank_that_failed_is_named_with_its_reason() {
    let mut run = Run::start(300.0, &["waits", "fails"]);
    let wanted = format!("{} failed at step 812: No space left on device", run.name(1));
    run.every_verdict_begins(&[0], &wanted);
    assert!(previous(run.output.path()).unwrap().ends_with(&wanted));
}

#[test]
fn ranks_wait_patiently_as_long_as_the_other_lives() {
    let mut run = Run::start(2.0, &["saves", "patient", "patient"]);
    std::thread::sleep(Duration::from_secs(5));
    assert!(run.ranks.iter_mut().all(|rank| rank.try_wait().unwrap().is_none()));
    run.ranks[0].kill().unwrap();
    let wanted = format!("{} was killed or ended: last seen writing a checkpoint", run.name(0));
    run.every_verdict_begins(&[1, 2], &wanted);
}

#[test]
fn ranks_that_were_suspended_together_go_on_and_leave_well() {
    let mut run = Run::start(8.0, &["waits", "waits"]);
    run.signal("STOP", &[0, 1]);
    std::thread::sleep(Duration::from_secs(9));
    run.signal("CONT", &[0, 1]);
    std::thread::sleep(Duration::from_secs(1));
    std::fs::write(run.output.path().join("go"), "").unwrap();
    for rank in 0..2 {
        assert_eq!(run.end(rank).code(), Some(0));
        assert_eq!(run.record(rank).unwrap().state, State::Left);
    }
    assert_eq!(previous(run.output.path()), None);
}

#[test]
fn after_all_were_killed_the_next_start_is_told_who_was_behind() {
    let mut run = Run::start(300.0, &["waits", "reads", "waits"]);
    run.until("the others wait", |run| [0, 2].iter().all(|&rank| run.record(rank).unwrap().seconds > 3.0));
    // Stopped, none of them sees another one end.
    run.signal("STOP", &[0, 1, 2]);
    run.until("all are stopped", |run| {
        let state = |record: Option<Record>| record.map(|record| process::process(record.pid, record.started));
        run.records().into_iter().all(|record| state(record) == Some(Process::Stopped))
    });
    run.signal("KILL", &[0, 1, 2]);
    let wanted = format!("{} stopped beating: last seen reading data, after tell 1, step 812", run.name(1));
    // Ranks of the next start do not hide it: rank 0 looks before it begins.
    let told = previous(run.output.path()).unwrap();
    assert!(told.ends_with(&wanted), "{told}");
    assert_eq!(previous(run.output.path()), None, "once");
    run.add(300.0, &["again", "again", "again"]);
    let zero = record::path(&record::folder(run.output.path()), 0);
    let [_, before] = record::read(&zero);
    assert_eq!(before.unwrap().run, "first");
}

#[test]
fn a_watch_that_cannot_write_says_so_and_goes_on() {
    let output = tempfile::tempdir().unwrap();
    std::fs::write(record::folder(output.path()), "in the way").unwrap();
    let limits = Limits { timeout: Duration::from_secs(1), patient: Duration::from_secs(1) };
    let (send, verdicts) = std::sync::mpsc::channel();
    let watch = Watch::start(output.path(), Identity::new(0, 2, "first"), limits, move |verdict| {
        send.send(verdict.to_string()).unwrap();
    });
    assert!(watch.problem().unwrap().contains("cannot write"), "{:?}", watch.problem());
    watch.progress().enter("tell", false);
    let text = verdicts.recv_timeout(ENOUGH).unwrap();
    assert!(text.starts_with("no rank can be named"), "{text}");
    // Once only.
    assert!(verdicts.recv_timeout(Duration::from_secs(3)).is_err());
    drop(watch);
    assert_eq!(previous(output.path()), None);
}

#[test]
fn a_lost_peer_is_explained_at_once_where_it_was_killed() {
    let mut run = Run::start(300.0, &["waits", "waits"]);
    let limits = Limits { timeout: Duration::from_secs(300), patient: Duration::from_secs(300) };
    run.ranks[1].kill().unwrap();
    let wanted = run.name(1);
    // This test is rank 0 from now on.
    run.ranks[0].kill().unwrap();
    run.ranks[0].wait().unwrap();
    let watch = Watch::start(run.output.path(), Identity::new(0, 2, "first"), limits, |_| ());
    watch.progress().enter("all_to_all", false);
    watch.progress().leave();
    let verdict = watch.explain(ENOUGH).unwrap();
    assert!(verdict.to_string().starts_with(&format!("{wanted} was killed or ended")), "{verdict}");
    watch.progress().lost(verdict.finding(), verdict.rank);
    drop(watch);
    assert_eq!(run.record(0).unwrap().state, State::Lost);
}
