//! The whole conformance suite on the emulator: every kernel and property is supported and passes.

#[path = "common/device.rs"]
mod device;

use fathom_conformance::Options;
use fathom_cuda::Emulation;

fn check(options: Emulation, cases: u32) {
    let Some(device) = device::emulated(options) else { return };
    let outcomes = fathom_conformance::run_with(&device, &Options { cases, ..Options::default() });
    // The driver has no F64, which conversions are from and to as well.
    let refuses = |o: &fathom_conformance::Outcome| o.unsupported > 0 && o.name != "conversions";
    assert!(!outcomes.iter().any(refuses), "{outcomes:?}");
}

#[test]
fn conformance() {
    check(Emulation::default(), 16);
}

/// Results do not depend on the order in which blocks, warps and lanes happen to run.
#[test]
fn conformance_in_reverse() {
    check(Emulation { reverse: true, ..Emulation::default() }, 8);
}

#[test]
fn conformance_in_a_random_order() {
    check(Emulation { seed: 1, ..Emulation::default() }, 8);
}
