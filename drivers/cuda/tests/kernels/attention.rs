//! Attention and its window mask against the reference device.

use fathom_conformance::Options;
use fathom_core::device::Host;
use fathom_core::dtype::DType;
use fathom_cuda::Emulation;

use crate::{common, heads};

#[test]
fn attention() {
    for (reverse, cases) in [(false, 32), (true, 8)] {
        let emulation = Emulation { reverse, ..Emulation::default() };
        common::suite_on(emulation, &[fathom_conformance::attention], &[Options { cases, ..Options::default() }]);
    }
}

#[test]
fn mask_window() {
    common::suite_with_f16(&[fathom_conformance::mask_window]);
}

#[test]
fn every_width() {
    let Some(device) = common::device() else { return };
    for case in heads::cases() {
        let ([o, lse], [want_o, want_lse]) = (case.forward(&device), case.forward(&Host::new()));
        case.compare("o", &o, &want_o);
        heads::Case { dtype: DType::F32, ..case }.compare("lse", &lse, &want_lse);
    }
}

#[test]
fn a_sequence_does_not_depend_on_others() {
    let Some(device) = common::device() else { return };
    for case in heads::cases().into_iter().filter(|c| c.sequences > 1) {
        let alone = heads::Case { sequences: 1, ..case };
        for (all, one) in case.forward(&device).iter().zip(&alone.forward(&device)) {
            assert!(all[..one.len()] == one[..], "{case:?}");
        }
    }
}
