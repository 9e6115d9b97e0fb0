//! The gradient of attention against the reference device.

mod common;
#[path = "common/heads.rs"]
mod heads;

use fathom_conformance::Options;
use fathom_core::device::Host;
use fathom_cuda::Emulation;

#[test]
fn attention_grad() {
    for reverse in [false, true] {
        let Some(device) = common::emulated(Emulation { reverse, ..Emulation::default() }) else { return };
        let outcome =
            fathom_conformance::attention_grad(&device, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(outcome.unsupported, 0);
    }
}

#[test]
fn every_width() {
    let Some(device) = common::device() else { return };
    for case in heads::cases() {
        let (got, want) = (case.backward(&device), case.backward(&Host::new()));
        for ((name, got), want) in ["dq", "dkv", "dk_pe"].into_iter().zip(&got).zip(&want) {
            case.compare(name, got, want);
        }
    }
}
