//! Attention against the reference device.

mod common;
#[path = "common/heads.rs"]
mod heads;

use fathom_conformance::Options;
use fathom_core::device::Host;
use fathom_core::dtype::DType;
use fathom_cuda::Emulation;

#[test]
fn attention() {
    for reverse in [false, true] {
        let Some(device) = common::emulated(Emulation { reverse, ..Emulation::default() }) else { return };
        let outcome = fathom_conformance::attention(&device, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(outcome.unsupported, 0);
    }
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
