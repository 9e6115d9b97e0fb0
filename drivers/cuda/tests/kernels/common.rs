//! Devices, operands and comparisons that the tests of kernels share.

use fathom_conformance::{Failure, Options, Outcome};
use fathom_core::device::Device;
use fathom_core::dtype::DType;
use fathom_core::tensor::Tensor;
use fathom_cuda::{Cuda, Emulation};
use half::bf16;

pub use crate::device::emulated;

/// The device under test, or `None` as [`emulated`] gives it.
pub fn device() -> Option<Cuda> {
    emulated(Emulation::default())
}

/// One kernel's part of the conformance suite.
pub type Part = fn(&Cuda, &Options) -> Result<Outcome, Failure>;

/// Blocks and threads in either order.
pub const ENGINES: [Emulation; 2] = [
    Emulation { reverse: false, seed: 0, sanitize: false, shared: 0, multiprocessors: 0, hopper: false },
    Emulation { reverse: true, seed: 0, sanitize: false, shared: 0, multiprocessors: 0, hopper: false },
];

/// Runs kernels of the conformance suite with blocks and threads in either order; every case must be supported.
pub fn suite(kernels: &[Part]) {
    suite_with(kernels, &[Options::default()]);
}

/// Runs kernels of the conformance suite as [`suite`] does, and once more with F16 among the types of activations.
pub fn suite_with_f16(kernels: &[Part]) {
    let dtypes = vec![DType::F32, DType::BF16, DType::F16];
    suite_with(kernels, &[Options::default(), Options { dtypes, ..Options::default() }]);
}

fn suite_with(kernels: &[Part], options: &[Options]) {
    ENGINES.into_iter().for_each(|emulation| suite_on(emulation, kernels, options));
}

/// Runs kernels of the conformance suite by warpgroups, with blocks and threads in several orders.
pub fn suite_by_warpgroups(kernels: &[Part]) {
    for (reverse, seed) in [(false, 0), (true, 0), (false, 3)] {
        suite_on(Emulation { reverse, seed, hopper: true, ..Emulation::default() }, kernels, &[Options::default()]);
    }
}

/// Runs kernels of the conformance suite on one emulator, with each of the options; every case must be supported.
pub fn suite_on(emulation: Emulation, kernels: &[Part], options: &[Options]) {
    let Some(device) = emulated(emulation) else { return };
    for (kernel, options) in kernels.iter().flat_map(|k| options.iter().map(move |o| (k, o))) {
        let outcome = kernel(&device, options).unwrap_or_else(|e| panic!("{emulation:?}: {e}"));
        assert_eq!(outcome.unsupported, 0, "{}", outcome.name);
    }
}

/// Number `i` of a sequence of numbers between −2 and 2.
pub fn noise(seed: u64, i: usize) -> f32 {
    4.0 * fathom_core::rng::uniform(seed, 0, i as u64) as f32 - 2.0
}

/// A matrix of F32 or BF16 on a device.
pub fn floats<D: Device>(
    device: &D,
    dtype: DType,
    rows: usize,
    cols: usize,
    value: impl Fn(usize) -> f32,
) -> Result<Tensor<D>, D::Error> {
    let values: Vec<f32> = (0..rows * cols).map(value).collect();
    match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            Tensor::<D>::from_slice(device, &[rows, cols], dtype, &values)
        }
        _ => Tensor::<D>::from_slice(device, &[rows, cols], dtype, &values),
    }
}

/// Indices on a device.
pub fn indices<D: Device>(device: &D, rows: usize, cols: usize, values: &[u32]) -> Result<Tensor<D>, D::Error> {
    Tensor::<D>::from_slice(device, &[rows, cols], DType::U32, values)
}

/// The elements of a matrix of F32, BF16 or indices.
pub fn read<D: Device>(device: &D, x: &Tensor<D>) -> Result<Vec<f32>, D::Error> {
    Ok(match x.dtype() {
        DType::BF16 => x.download::<D, bf16>(device)?.into_iter().map(bf16::to_f32).collect(),
        DType::U32 => x.download::<D, u32>(device)?.into_iter().map(|i| i as f32).collect(),
        _ => x.download(device)?,
    })
}

/// Compares matrix by matrix: differences of up to `relative` times the largest number of the matrix.
pub fn assert_near(got: &[Vec<f32>], want: &[Vec<f32>], relative: f32) {
    assert_eq!(got.len(), want.len());
    for (m, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.len(), want.len());
        let allowed = relative * want.iter().filter(|x| x.is_finite()).fold(0.0f32, |a, x| a.max(x.abs()));
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let same = g == w || g.is_nan() && w.is_nan();
            assert!(same || (g - w).abs() <= allowed, "matrix {m}, element {i}: {g} should be {w} (up to {allowed})");
        }
    }
}
