//! The device under test: the emulator, or the GPU that `FATHOM_CUDA_DEVICE` names.

use fathom_conformance::{Failure, Options, Outcome};
use fathom_cuda::{Cuda, Emulation};

#[allow(dead_code, reason = "each test has its own copy of this file")]
/// The device, or `None` (said on stderr) where this machine has no C++ compiler to emulate with. Under `CI` that is a
/// failure.
pub fn device() -> Option<Cuda> {
    emulated(Emulation::default())
}

/// An emulator with options of its own.
pub fn emulated(options: Emulation) -> Option<Cuda> {
    match Cuda::emulated(options) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs kernels of the conformance suite with blocks and threads in either order; every case must be supported.
#[allow(dead_code, reason = "each test has its own copy of this file")]
pub fn suite(kernels: &[fn(&Cuda, &Options) -> Result<Outcome, Failure>]) {
    for reverse in [false, true] {
        let Some(device) = emulated(Emulation { reverse, ..Emulation::default() }) else { return };
        for kernel in kernels {
            let outcome = kernel(&device, &Options::default()).unwrap_or_else(|e| panic!("reverse: {reverse}: {e}"));
            assert_eq!(outcome.unsupported, 0, "{}", outcome.name);
        }
    }
}
