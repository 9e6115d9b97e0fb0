//! A rank that is killed or stopped is named by the others, or by the next start, and the run goes on from its last
//! checkpoint.

use crate::support::{Mpi, Place, alone, any, assert_same, checkpoints, metrics, signal};

const STEPS: usize = 14;
const SETS: [&str; 3] = ["parallel.timeout_seconds=5", "checkpoint.every_steps=2", "parallel.zero=2"];

/// The ranks that messages of a failed run blame.
fn blamed(said: &str) -> Vec<usize> {
    let find = |line: &str| {
        let (_, finding) = line.split_once(" gives up: ")?;
        finding.strip_prefix("rank ")?.split(' ').next()?.parse().ok()
    };
    said.lines().filter_map(find).collect()
}

fn fails(place: &Place, mpi: Mpi, name: &str, output: &str) {
    let arguments = [place.arguments(output, STEPS, &SETS), vec!["--resume".into()]].concat();
    let mut started = place.start(Some((mpi, 4)), output, &arguments);
    started.until(5 + any(3));
    let rank = any(4);
    let pid = started.pid(rank);
    signal(name, pid);
    let ended = started.end();
    let (what, said) = (format!("{mpi:?}: SIG{name} to rank {rank}"), &ended.said);
    assert!(ended.code.is_some_and(|code| code != 0), "{what}\n{said}");
    let named = blamed(said);
    assert!(named.iter().all(|&named| named == rank), "{what}, and named {named:?}\n{said}");
    if name == "STOP" {
        // The launcher ends nobody by itself, so the others can tell.
        assert!(!named.is_empty(), "{what}, and nobody named it\n{said}");
        assert_eq!(ended.code, Some(75), "{what}\n{said}");
        assert!(said.contains("stands: start again with --resume"), "{what}\n{said}");
    }
    let kept = checkpoints(&place.path(output));
    assert!(kept.last().is_some_and(|&step| step >= 4), "{what}: {kept:?}\n{said}");
    // The next start says what ended this one, and goes on.
    let said = place.run(Some((mpi, 2)), output, &arguments);
    let before = said.lines().find(|line| line.contains("did not end well")).unwrap_or_default();
    assert!(!before.is_empty(), "{what}\n{}\n{said}", ended.said);
    // A launcher may kill all within milliseconds of the first; `rank_failures.py` counts how often a name is left.
    if name == "STOP" {
        let first = format!("did not end well: rank {rank} ");
        assert!(before.contains(&first), "{what}\n{}\n{said}", ended.said);
    }
    assert_eq!(metrics(&place.path(output)).len(), STEPS, "{what}\n{said}");
    assert_same(&what, &place.path("whole"), &place.path(output));
}

fn every_failure(mpi: Mpi) {
    if mpi.find().is_none() {
        return;
    }
    let (_alone, place) = (alone(), Place::new());
    place.run(None, "whole", &place.arguments("whole", STEPS, &SETS));
    fails(&place, mpi, "KILL", "killed");
    fails(&place, mpi, "STOP", "stopped");
}

#[test]
fn a_rank_that_dies_or_hangs_is_named_under_mpich() {
    every_failure(Mpi::Mpich);
}

#[test]
fn a_rank_that_dies_or_hangs_is_named_under_open_mpi() {
    every_failure(Mpi::Open);
}

#[test]
fn records_of_a_run_with_more_ranks_mislead_nobody() {
    if Mpi::Mpich.find().is_none() {
        return;
    }
    let (_alone, place) = (alone(), Place::new());
    let run = |ranks: usize, steps: usize| {
        let arguments = [place.arguments("run", steps, &SETS), vec!["--resume".into()]].concat();
        place.run(Some((Mpi::Mpich, ranks)), "run", &arguments)
    };
    run(4, 2);
    let said = run(2, 4);
    assert!(!said.contains("did not end well"), "{said}");
    let arguments = [place.arguments("run", 400, &SETS), vec!["--resume".into()]].concat();
    let mut started = place.start(Some((Mpi::Mpich, 2)), "run", &arguments);
    // Some seconds: records are written now and then only.
    started.until(100);
    let pid = started.pid(1);
    signal("KILL", pid);
    let said = started.end().said;
    assert!(blamed(&said).iter().all(|&rank| rank == 1), "{said}");
    let steps = *checkpoints(&place.path("run")).last().unwrap() as usize + 2;
    let said = run(4, steps);
    let of_others = (2..4).any(|rank| said.contains(&format!("did not end well: rank {rank} ")));
    assert!(said.contains("did not end well: ") && !of_others, "{said}");
    let said = run(4, steps);
    assert!(!said.contains("did not end well"), "{said}");
}

#[test]
fn a_slow_disk_is_not_a_rank_that_hangs() {
    if let Some(mpi) = [Mpi::Open, Mpi::Mpich].into_iter().find(|mpi| mpi.find().is_some()) {
        let (_alone, place) = (alone(), Place::new());
        // A time-out far below the time of the run, and many checkpoints that rank 0 waits for the disk to take.
        let sets = ["parallel.timeout_seconds=5", "parallel.init_timeout_seconds=5", "checkpoint.every_steps=1"];
        let mut started = place.start(Some((mpi, 4)), "run", &place.arguments("run", 10_000, &sets));
        started.until(2);
        std::thread::sleep(std::time::Duration::from_secs(8));
        let pid = started.pid(0);
        signal("TERM", pid);
        let ended = started.end();
        assert!(ended.code == Some(0) && !ended.said.contains("gives up"), "{}", ended.said);
    }
}
