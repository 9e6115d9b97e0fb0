//! A run that is asked to stop, at whichever rank, stops on all ranks after the same step, saves, and ends well.

use crate::support::{Mpi, Place, alone, any, assert_same, checkpoints, metrics, signal};

const STEPS: usize = 60;

fn stops(place: &Place, mpi: Mpi, name: &str, output: &str, to_launcher: bool) {
    let arguments = place.arguments(output, STEPS, &[]);
    let mut started = place.start(Some((mpi, 4)), output, &arguments);
    started.until(3);
    let rank = any(4);
    let pid = if to_launcher { started.id() } else { started.pid(rank) };
    signal(name, pid);
    let ended = started.end();
    let what = format!("{mpi:?}: {name} to {}", if to_launcher { "mpirun".into() } else { format!("rank {rank}") });
    assert_eq!(ended.code, Some(0), "{what}\n{}", ended.said);
    let steps = metrics(&place.path(output)).len();
    assert!((3..STEPS).contains(&steps), "{what}: it stopped early, at {steps}\n{}", ended.said);
    assert_eq!(checkpoints(&place.path(output)), [steps as u64], "{what}\n{}", ended.said);
    assert!(ended.said.contains("--resume") && !ended.said.contains("error:"), "{what}\n{}", ended.said);
    let notices = ended.said.matches("finishing the step and saving").count();
    assert!(notices <= 1, "{what}: {notices} notices\n{}", ended.said);
    let resumed = [arguments, vec!["--resume".into()]].concat();
    let said = place.run(Some((mpi, 2)), output, &resumed);
    assert!(!said.contains("did not end well"), "{what}\n{said}");
    assert_same(&what, &place.path("whole"), &place.path(output));
}

fn both(mpi: Mpi) {
    if mpi.find().is_none() {
        return;
    }
    let (_alone, place) = (alone(), Place::new());
    place.run(None, "whole", &place.arguments("whole", STEPS, &[]));
    stops(&place, mpi, "TERM", "rank", false);
    stops(&place, mpi, "INT", "interrupt", false);
    // Open MPI's launcher gives the ranks two seconds after SIGTERM and SIGINT, and kills them.
    if mpi == Mpi::Mpich {
        stops(&place, mpi, "TERM", "launcher", true);
        stops(&place, mpi, "INT", "ctrl-c", true);
    }
}

#[test]
fn a_signal_to_one_rank_or_to_mpich_stops_all_after_the_same_step() {
    both(Mpi::Mpich);
}

#[test]
fn a_signal_to_one_rank_or_to_open_mpi_stops_all_after_the_same_step() {
    both(Mpi::Open);
}
