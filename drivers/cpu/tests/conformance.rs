//! The kernel suite that every driver passes.

use fathom_conformance::Options;
use fathom_cpu::{Cpu, Isa};

/// Runs the suite, and holds the driver to what it says of itself: activations are F32 or BF16, in every kernel.
fn conforms(cpu: &Cpu) {
    for outcome in fathom_conformance::run_with(cpu, &Options::default()) {
        let products = ["gemm", "grouped_gemm", "gemm_fp8", "grouped_gemm_fp8"].contains(&outcome.name);
        assert!(outcome.unsupported == 0 || products, "{outcome:?}");
    }
}

#[test]
fn every_kernel_conforms_on_every_instruction_set() {
    for isa in Isa::all() {
        conforms(&Cpu::with(2, isa));
    }
}

#[test]
fn every_kernel_conforms_on_one_thread_and_on_many() {
    for threads in [1, 5] {
        conforms(&Cpu::with_threads(threads));
    }
}
