//! The bits of a run do not depend on the number of ranks, on what they divide, or on the MPI.

use crate::support::{Mpi, Place, alone, assert_same, metrics, prepare};

const STEPS: usize = 3;

/// Runs `sets` alone, and on each of `worlds`, with what is divided there (`parallel.zero`).
fn compare(place: &Place, mpi: Mpi, name: &str, sets: &[&str], worlds: &[(usize, u32)]) {
    if mpi.find().is_none() {
        return;
    }
    // More than 512 rows in a micro-batch: products add up their inner dimension in pieces of 512.
    let sets = [&["train.sequence_length=260"], sets].concat();
    let alone = format!("{name}-alone");
    if !place.path(&alone).exists() {
        place.run(None, &alone, &place.arguments(&alone, STEPS, &sets));
        let rows = metrics(&place.path(&alone));
        assert!(rows[2]["validation_loss"].as_f64().is_some() && rows[0]["expert_load"].is_array(), "{rows:?}");
    }
    for &(ranks, zero) in worlds {
        let (output, divide) = (format!("{name}-{mpi:?}-{ranks}-{zero}"), format!("parallel.zero={zero}"));
        let sets = [sets.as_slice(), &[divide.as_str()]].concat();
        place.run(Some((mpi, ranks)), &output, &place.arguments(&output, STEPS, &sets));
        assert_same(&output, &place.path(&alone), &place.path(&output));
    }
}

#[test]
fn bits_of_f32() {
    let (_alone, place) = (alone(), Place::new());
    let sets = ["train.precision=f32", "train.ema_decay=0.9"];
    compare(&place, Mpi::Mpich, "f32", &sets, &[(2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 2)]);
    compare(&place, Mpi::Open, "f32", &sets, &[(2, 1), (4, 2)]);
}

#[test]
fn bits_of_bf16_in_a_checkpoint_of_bf16() {
    let (_alone, place) = (alone(), Place::new());
    let sets = ["train.precision=bf16", "checkpoint.format=bf16", "checkpoint.shard_bytes=300000"];
    compare(&place, Mpi::Mpich, "bf16", &sets, &[(2, 2), (4, 0), (4, 1), (4, 2)]);
    compare(&place, Mpi::Open, "bf16", &sets, &[(4, 1)]);
}

#[test]
fn bits_of_fp8_in_a_checkpoint_of_fp8() {
    let (_alone, place) = (alone(), Place::new());
    let sets = ["train.precision=fp8", "checkpoint.format=fp8", "train.ema_decay=0.9"];
    compare(&place, Mpi::Mpich, "fp8", &sets, &[(2, 0), (4, 0), (4, 1), (4, 2)]);
    compare(&place, Mpi::Open, "fp8", &sets, &[(2, 2), (4, 1)]);
}

#[test]
fn bits_of_a_mix_of_sources() {
    let (_alone, place) = (alone(), Place::new());
    let second = prepare(&place.path("second"), 5);
    let sources = [
        format!("data.sources.first.path={}", place.data.display()),
        format!("data.sources.second.path={}", second.display()),
    ];
    let weights = ["data.sources.first.weight=3", "data.sources.second.weight=1", "data.packing=best_fit"];
    let sets: Vec<&str> = sources.iter().map(String::as_str).chain(weights).collect();
    compare(&place, Mpi::Mpich, "mix", &sets, &[(2, 1), (4, 2)]);
    compare(&place, Mpi::Open, "mix", &sets, &[(4, 1)]);
    let rows = metrics(&place.path("mix-alone"));
    assert!(rows.iter().all(|row| row["loss_by_source"]["second"].as_f64().is_some()), "{rows:?}");
}
