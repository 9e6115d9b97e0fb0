//! Attention against the reference device.

mod common;

use fathom_conformance::Options;
use fathom_cuda::Emulation;

#[test]
fn attention() {
    for reverse in [false, true] {
        let Some(device) = common::emulated(Emulation { reverse, ..Emulation::default() }) else { return };
        let outcome = fathom_conformance::attention(&device, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(outcome.unsupported, 0);
    }
}
