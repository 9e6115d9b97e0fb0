//! Power failures and failing disks: checkpoints, prepared data and converted models outlive them.
//!
//! `FATHOM_CRASH_STATES=10000` makes that many states a scene, and lets every single call fail.

mod calls;
mod crash;
mod faults;
mod record;
mod scenes;

use std::io::ErrorKind;
use std::path::Path;

use crash::State;
use fathom_dataprep::durable::Retry;
use faults::{Fault, Faulty, PLAIN};
use record::{Op, Recorder, Trace};
use scenes::{Conversion, Preparation, STEPS, Scene, Training, copy};

/// Number of states asked for.
fn asked() -> Option<u64> {
    std::env::var("FATHOM_CRASH_STATES").ok().and_then(|count| count.parse().ok())
}

/// What a scene does to a folder.
fn record(scene: &dyn Scene, root: &Path) -> Trace {
    let recorder = Box::leak(Box::new(Recorder::new(root)));
    scene.perform(recorder, root).unwrap();
    let trace = recorder.trace();
    assert!(trace.ops.len() > 20, "the scene was recorded");
    trace
}

/// Gives `check` states after any number of the trace's operations.
fn crashes(name: &str, trace: &Trace, count: u64, check: impl Fn(&Path, usize, u64)) {
    let places = trace.ops.len() + 1;
    for seed in 0..count {
        // Every place as often as others, in an order without a pattern.
        let done = (seed as usize).wrapping_mul(7919) % places;
        let root = tempfile::tempdir().unwrap();
        State::after(trace, done, seed).write(root.path());
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(root.path(), done, seed)));
        if let Err(panic) = checked {
            let left = root.keep();
            eprintln!("{name}: seed {seed}, after {done} operations, the last {:?}", trace.ops[..done].last());
            eprintln!("the state, as far as it was taken up, is in {}", left.display());
            std::panic::resume_unwind(panic);
        }
    }
    println!("{name}: {} operations, {count} states, all recovered", trace.ops.len());
}

/// Steps of the checkpoints that a run has promised after some operations, and of those that it has begun to name.
fn saved(ops: &[Op]) -> (u64, u64) {
    let (mut promised, mut begun) = (0, 0);
    for op in ops {
        match op {
            Op::Rename(_, (_, name), _) if name.starts_with("step-") && !name.contains("tmp") => {
                begun = name["step-".len()..].parse().unwrap();
            }
            Op::SyncDir(_) => promised = begun,
            _ => {}
        }
    }
    (promised, begun)
}

#[test]
fn a_run_finds_the_old_checkpoint_or_the_new_one_after_a_power_failure() {
    let (base, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let training = Training::new(base.path());
    let trace = record(&training, root.path());
    crashes("train", &trace, asked().unwrap_or(200), |root, done, seed| {
        let (promised, begun) = saved(&trace.ops[..done]);
        training.finds(root, promised..=begun);
        if seed.is_multiple_of(16) {
            training.recovers(root);
        }
    });
}

#[test]
fn a_preparation_goes_on_to_the_same_bytes_after_a_power_failure() {
    let (base, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let preparation = Preparation::new(base.path());
    let trace = record(&preparation, root.path());
    crashes("prep", &trace, asked().unwrap_or(100), |root, _, _| preparation.recovers(root));
}

#[test]
fn a_converted_model_is_absent_or_whole_after_a_power_failure() {
    let (base, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Training::new(base.path());
    let conversion = Conversion::new(base.path());
    let trace = record(&conversion, root.path());
    crashes("convert", &trace, asked().unwrap_or(100), |root, _, _| conversion.recovers(root));
}

#[test]
fn a_sync_that_is_left_out_is_found() {
    let (base, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Training::new(base.path());
    let conversion = Conversion::new(base.path());
    let trace = record(&conversion, root.path());
    let lost = |left_out: fn(&Op) -> bool| {
        let mut careless = trace.clone();
        careless.ops.retain(|op| !left_out(op));
        let broken = |seed: &u64| {
            let root = tempfile::tempdir().unwrap();
            State::after(&careless, careless.ops.len(), *seed).write(root.path());
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| conversion.recovers(root.path()))).is_err()
        };
        (0..60).filter(broken).count()
    };
    assert_eq!(lost(|_| false), 0);
    assert!(lost(|op| matches!(op, Op::SyncFile(_))) > 5, "files are not synced");
    assert!(lost(|op| matches!(op, Op::SyncDir(_))) > 5, "folders are not synced");
}

/// Lets the calls of a scene fail one after the other, in folders that `begin` fills.
fn faults(name: &str, scene: &dyn Scene, begin: impl Fn(&Path)) {
    // By hand every call; else some of them.
    let stride = if asked().is_some() { 1 } else { 29 };
    let kinds = [ErrorKind::StorageFull, ErrorKind::Other];
    for fault in kinds.into_iter().flat_map(|kind| [Fault::Once(kind), Fault::FromThenOn(kind)]) {
        let (mut failed, mut forgiven) = (0, 0);
        for number in (0..).step_by(stride) {
            let root = tempfile::tempdir().unwrap();
            begin(root.path());
            let faulty = Box::leak(Box::new(Faulty::new(fault, number)));
            let done = scene.perform(faulty, root.path());
            match &done {
                Ok(()) if !faulty.met() => break,
                Ok(()) => forgiven += 1,
                Err(message) => {
                    failed += 1;
                    let (Fault::Once(kind) | Fault::FromThenOn(kind)) = fault else { unreachable!() };
                    let named = message.contains(&std::io::Error::from(kind).to_string());
                    let folder = root.path().to_str().unwrap();
                    assert!(named && message.contains(folder), "call {number}, {fault:?}: {message}");
                }
            }
            scene.recovers(root.path());
        }
        assert!(failed > 0, "{name}, {fault:?}: no call failed");
        println!("{name}, {fault:?}, every {stride}: {failed} refused, {forgiven} done all the same, all recovered");
    }
    for fault in [Fault::Interrupted, Fault::Short] {
        let root = tempfile::tempdir().unwrap();
        begin(root.path());
        let files = Box::leak(Box::new(Retry(Faulty::new(fault, 0))));
        scene.perform(files, root.path()).unwrap_or_else(|message| panic!("{name}, {fault:?}: {message}"));
        scene.recovers(root.path());
    }
}

#[test]
fn a_run_outlives_failing_calls() {
    let base = tempfile::tempdir().unwrap();
    let training = Training::new(base.path());
    let begun = tempfile::tempdir().unwrap();
    training.train(&PLAIN, begun.path(), 2).unwrap();
    faults("train", &training, |root| copy(begun.path(), root));
    // The disk is full for good after the run was opened: it ends after some failures, and what it had is there.
    let root = tempfile::tempdir().unwrap();
    copy(begun.path(), root.path());
    let full = Box::leak(Box::new(Faulty::new(Fault::FromThenOn(ErrorKind::StorageFull), 30)));
    assert!(training.train(full, root.path(), STEPS).is_err());
    assert!(training.finds(root.path(), 2..=2) == 2, "the checkpoint from before is untouched");
}

#[test]
fn a_preparation_outlives_failing_calls() {
    let base = tempfile::tempdir().unwrap();
    faults("prep", &Preparation::new(base.path()), |_| {});
}

#[test]
fn a_conversion_outlives_failing_calls() {
    let base = tempfile::tempdir().unwrap();
    Training::new(base.path());
    faults("convert", &Conversion::new(base.path()), |_| {});
}
