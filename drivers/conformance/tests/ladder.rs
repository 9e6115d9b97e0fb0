//! The reference device passes its own suite, and so do the default bodies of the fused kernels over its primitives.

use fathom_conformance::{Ladder, Options, run, run_with};
use fathom_core::device::Host;

#[test]
fn the_host_agrees_with_itself() {
    run(&Host::new());
}

#[test]
fn default_bodies_agree_with_the_definitions() {
    let outcomes = run_with(&Ladder(Host::new()), &Options { cases: 48, ..Options::default() });
    for outcome in outcomes {
        assert_eq!(outcome.unsupported, 0, "{} skips cases", outcome.name);
    }
}
