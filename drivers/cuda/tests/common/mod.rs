//! The device under test: the emulator, or the GPU that `FATHOM_CUDA_DEVICE` names.

use fathom_cuda::{Cuda, Emulation};

#[allow(dead_code)] // not every test uses all of these
/// The device, or `None` (said on stderr) where this machine has no C++ compiler to emulate with. Under `CI` that is a
/// failure.
pub fn device() -> Option<Cuda> {
    emulated(Emulation::default())
}

#[allow(dead_code)]
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
