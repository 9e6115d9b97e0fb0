//! A run that is killed and goes on with another number of ranks equals one that was never stopped.

use crate::support::{Mpi, Place, alone, any, assert_same, metrics, signal};

const STEPS: usize = 16;

fn changes_ranks(mpi: Mpi, sets: &[&str]) {
    if mpi.find().is_none() {
        return;
    }
    let (_alone, place) = (alone(), Place::new());
    let sets = [sets, &["checkpoint.every_steps=2", "train.sequence_length=128"]].concat();
    place.run(None, "whole", &place.arguments("whole", STEPS, &sets));
    let mut told = Vec::new();
    for (part, (ranks, zero)) in [(1, 1), (2, 0), (4, 2), (1, 1)].into_iter().enumerate() {
        let (zero, last) = (format!("parallel.zero={zero}"), 4 * part + 1 + any(3));
        let sets = [sets.as_slice(), &[zero.as_str()]].concat();
        let mut arguments = place.arguments("parts", STEPS, &sets);
        arguments.push("--resume".into());
        let mut started = place.start((ranks > 1).then_some((mpi, ranks)), "parts", &arguments);
        started.until(last);
        let rank = any(ranks);
        let pid = if ranks > 1 { started.pid(rank) } else { started.id() };
        signal("KILL", pid);
        let ended = started.end();
        assert_ne!(ended.code, Some(0), "{}", ended.said);
        told.push((ranks, rank, metrics(&place.path("parts")).len()));
    }
    let mut arguments = place.arguments("parts", STEPS, &sets);
    arguments.push("--resume".into());
    place.run(None, "parts", &arguments);
    assert_same(
        &format!("{mpi:?}, ranks, the one killed, steps: {told:?}"),
        &place.path("whole"),
        &place.path("parts"),
    );
}

#[test]
fn one_two_four_and_one_ranks_under_mpich() {
    changes_ranks(Mpi::Mpich, &["train.precision=fp8", "train.ema_decay=0.9"]);
}

#[test]
fn one_two_four_and_one_ranks_under_open_mpi() {
    changes_ranks(Mpi::Open, &["train.precision=f32", "checkpoint.format=bf16"]);
}
