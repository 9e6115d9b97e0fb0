//! First training steps on the CPU driver equal the reference device's on every instruction set of this machine.

use std::panic::AssertUnwindSafe;

use fathom_core::device::Host;
use fathom_core::precision::Precision;
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
fn attention_that_is_moved_by_a_rounding_is_found_where_it_should_be_exact() {
    for precision in [Precision::BF16, Precision::FP8] {
        let reference = Reference::new(precision);
        reference.compare("host", Host::new(), Attend::InF32).unwrap();
        let problem = reference.compare("host", Host::new(), Attend::Moved(17)).unwrap_err();
        assert!(problem.contains("Moved(17)"), "{problem}");
    }
}

/// One call of a kernel left out, of the thousands in three steps. What changes only later steps must be found in f32:
/// in FP8 one update of one group of weights is less than what rounding makes of three steps.
#[test]
fn a_kernel_that_is_left_out_once_is_found() {
    let all = ["rope", "combine", "attention_grad", "swiglu_grad", "rmsnorm_grad", "route_grad"];
    let codes = ["quantize", "quantize_both", "swiglu_quantize", "rmsnorm_quantize", "gather_codes"];
    for (precision, more) in
        [(Precision::F32, &["swiglu", "balance", "adamw", "update_bias"][..]), (Precision::FP8, &codes[..])]
    {
        let reference = Reference::new(precision);
        for &kernel in all.iter().chain(more) {
            // A step that fails for it is found as well.
            let found = std::panic::catch_unwind(AssertUnwindSafe(|| reference.without(kernel, 2).is_err()));
            assert!(found.unwrap_or(true), "{kernel} in {}", precision.name());
        }
        reference.without("no such kernel", 2).unwrap();
    }
}
