//! Gradient of attention against the reference device.

use fathom_conformance::Options;
use fathom_core::device::Host;
use fathom_cuda::Emulation;

use crate::{common, heads};

#[test]
fn attention_grad() {
    for (reverse, cases) in [(false, 32), (true, 8)] {
        let emulation = Emulation { reverse, ..Emulation::default() };
        common::suite_on(emulation, &[fathom_conformance::attention_grad], &[Options { cases, ..Options::default() }]);
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

#[test]
fn a_sequence_does_not_depend_on_others() {
    let Some(device) = common::device() else { return };
    for case in heads::cases().into_iter().filter(|c| c.sequences > 1) {
        let alone = heads::Case { sequences: 1, ..case };
        for (all, one) in case.backward(&device).iter().zip(&alone.backward(&device)) {
            assert!(all[..one.len()] == one[..], "{case:?}");
        }
    }
}
