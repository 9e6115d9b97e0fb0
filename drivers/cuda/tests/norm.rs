//! RMS norm and its gradient against the reference device.

mod common;

use common::suite;

#[test]
fn rmsnorm() {
    suite(&[fathom_conformance::rmsnorm, fathom_conformance::rmsnorm_grad]);
}
