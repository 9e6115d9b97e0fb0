//! The kernel suite that every driver passes.

use fathom_cpu::{Cpu, Isa};

#[test]
fn every_kernel_conforms_on_every_instruction_set() {
    for isa in Isa::all() {
        fathom_conformance::run(&Cpu::with(2, isa));
    }
}

#[test]
fn every_kernel_conforms_on_one_thread_and_on_many() {
    for threads in [1, 5] {
        fathom_conformance::run(&Cpu::with_threads(threads));
    }
}
