//! The first steps of training on the CPU driver, beside the reference device, with every instruction set of this machine.

use fathom_core::device::Host;
use fathom_core::layer::Precision;
use fathom_cpu::{Cpu, Isa};
use fathom_tests::choices::Attend;
use fathom_tests::steps::Reference;

fn check(precision: Precision) {
    let reference = Reference::new(precision);
    for isa in Isa::all() {
        reference.check(&isa.to_string(), Cpu::with(2, isa));
    }
}

#[test]
fn three_steps_in_f32() {
    check(Precision::F32);
}

#[test]
fn three_steps_in_bf16() {
    check(Precision::BF16);
}

#[test]
fn three_steps_in_fp8() {
    check(Precision::FP8);
}

#[test]
fn one_rounding_too_many_is_found() {
    let reference = Reference::new(Precision::BF16);
    reference.compare("host", Host::new(), Attend::InF32).unwrap();
    let problem = reference.compare("host", Host::new(), Attend::Moved(17)).unwrap_err();
    assert!(problem.contains("Moved(17)"), "{problem}");
}
