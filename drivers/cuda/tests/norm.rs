//! RMS norm and its gradient against the reference device.

mod common;

use fathom_conformance::Options;

#[test]
fn rmsnorm() {
    let Some(device) = common::device() else { return };
    let outcome = fathom_conformance::rmsnorm(&device, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(outcome.unsupported, 0);
}
