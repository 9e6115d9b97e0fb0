//! The device under test: the emulator, or the GPU that `FATHOM_CUDA_DEVICE` names.

use fathom_cuda::{Cuda, Emulation};

/// The GPU that `FATHOM_CUDA_DEVICE` names, if it is set.
fn gpu() -> Option<Cuda> {
    let ordinal = std::env::var("FATHOM_CUDA_DEVICE").ok().filter(|v| !v.is_empty())?;
    let ordinal = ordinal.parse().unwrap_or_else(|_| panic!("FATHOM_CUDA_DEVICE={ordinal}: not the number of a GPU"));
    Some(Cuda::new(ordinal).unwrap_or_else(|e| panic!("{e}")))
}

/// The device under test, or `None` with a message on stderr if there is no C++ compiler; under `CI` that is a failure.
/// `options` are those of the emulator.
pub fn emulated(options: Emulation) -> Option<Cuda> {
    if let Some(gpu) = gpu() {
        return Some(gpu);
    }
    match Cuda::emulated(options) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
