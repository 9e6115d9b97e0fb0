//! Whole models on the CUDA emulator: parity with transformers, and first training steps equal to the reference device.

use fathom_core::precision::Precision;
use fathom_cuda::{Cuda, Emulation};
use fathom_tests::golden::{Golden, check_case};
use fathom_tests::steps::Reference;

/// The emulator, or `None` (said on stderr) where this machine has no C++ compiler. Under `CI` that is a failure.
fn emulated() -> Option<Cuda> {
    match Cuda::emulated(Emulation::default()) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn v3_yarn() {
    let Some(device) = emulated() else { return };
    check_case(&device, "v3_yarn", &Golden::load("v3_yarn"));
}

#[test]
fn v3_mtp() {
    let Some(device) = emulated() else { return };
    check_case(&device, "v3_mtp", &Golden::load("v3_mtp"));
}

fn check_steps(precision: Precision) {
    let Some(device) = emulated() else { return };
    Reference::new(precision).check("emulated", device);
}

#[test]
fn three_steps_in_f32() {
    check_steps(Precision::F32);
}

#[test]
fn three_steps_in_bf16() {
    check_steps(Precision::BF16);
}

#[test]
fn three_steps_in_fp8() {
    check_steps(Precision::FP8);
}
