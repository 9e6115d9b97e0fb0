//! The benefit of promotion: the error of a product of FP8 matrices, summed as Hopper's tensor cores do.
//!
//! Normally distributed operands `[64, k]` are quantized as the recipe does, the first in 1×128 tiles and the second in
//! 128×128 blocks, and multiplied exactly, with 14-bit sums that are promoted to f32 every 128 elements, and with
//! 14-bit sums all the way. Errors are against the product in f64, of the quantized operands (what the sums lose) and
//! of the operands as they were (what FP8 itself loses).
//!
//! ```sh
//! cargo run --release --example accumulation
//! ```

use fathom_core::device::{
    Dequantize, Form, Gemm, GemmFp8, Host, HostBuffer, HostError, Kernels, Out, Primitives, Quantize, Scaled,
    ScaledMut, Tiles,
};
use fathom_core::dtype::DType;
use fathom_core::fp8::accumulate::Accumulation;
use fathom_core::rng;
use fathom_core::tensor::Tensor;

/// Rows of either operand.
const SIDE: usize = 64;

type T = Tensor<Host>;

/// Errors of a product: their root mean square over the product's, and the largest over the product's largest.
struct Errors {
    rms: f64,
    max: f64,
}

impl Errors {
    fn between(got: &[f64], want: &[f64]) -> Self {
        let errors: Vec<f64> = got.iter().zip(want).map(|(got, want)| got - want).collect();
        let square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        let largest = |x: &[f64]| x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        Self { rms: (square(&errors) / square(want)).sqrt(), max: largest(&errors) / largest(want) }
    }
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2e} | {:.2e}", self.rms, self.max)
    }
}

/// An operand as it was, and in codes with scales.
struct Operand {
    values: T,
    codes: T,
    scales: T,
    tiles: Tiles<'static, HostBuffer>,
}

impl Operand {
    fn new(host: &Host, k: usize, stream: u64, tiles: Tiles<'static, HostBuffer>) -> Result<Self, HostError> {
        let mut drawn = vec![0.0f32; SIDE * k];
        rng::fill_normal(0, stream, 0, 1.0, &mut drawn);
        let values = T::from_slice(host, &[SIDE, k], DType::F32, &drawn)?;
        let mut codes = T::empty(host, &[SIDE, k], DType::E4M3)?;
        let mut scales = T::empty(host, &tiles.scales(SIDE, k), DType::F32)?;
        let coded = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles)?;
        host.quantize(Quantize::new(values.view(), coded, false)?)?;
        Ok(Self { values, codes, scales, tiles })
    }

    fn coded(&self) -> Result<Scaled<'_, HostBuffer>, HostError> {
        Ok(Scaled::new(self.codes.view(), self.scales.view(), self.tiles)?)
    }

    /// The numbers that codes and scales stand for.
    fn decoded(&self, host: &Host) -> Result<T, HostError> {
        let mut values = T::empty(host, self.codes.shape().dimensions(), DType::F32)?;
        host.dequantize(Dequantize::new(self.coded()?, values.view_mut())?)?;
        Ok(values)
    }
}

/// `a·bᵀ` in f64.
fn exact(host: &Host, a: &T, b: &T) -> Result<Vec<f64>, HostError> {
    let mut c = T::empty(host, &[SIDE, SIDE], DType::F64)?;
    host.gemm(Gemm::new(Form::Nt, a.view(), b.view(), c.view_mut())?)?;
    c.download(host)
}

/// `a·bᵀ` from the codes, into f32.
fn product(host: &Host, a: &Operand, b: &Operand) -> Result<Vec<f64>, HostError> {
    let mut c = T::empty(host, &[SIDE, SIDE], DType::F32)?;
    host.gemm_fp8(GemmFp8::new(Form::Nt, a.coded()?, b.coded()?, c.view_mut(), Out::Replace)?)?;
    Ok(c.download::<Host, f32>(host)?.into_iter().map(f64::from).collect())
}

fn main() -> Result<(), HostError> {
    println!("| K | 14 bits: RMS | max | promoted: RMS | max | exact, in f32: RMS | max | quantisation: RMS | max |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let host = Host::new();
    for k in (7..=13).map(|i| 1usize << i) {
        let a = Operand::new(&host, k, 1, Tiles::Row { part: k })?;
        let b = Operand::new(&host, k, 2, Tiles::Block { part: SIDE })?;
        let want = exact(&host, &a.decoded(&host)?, &b.decoded(&host)?)?;
        let errors = |accumulation| {
            let got = product(&Host::with_accumulation(accumulation), &a, &b)?;
            Ok::<_, HostError>(Errors::between(&got, &want))
        };
        let plain = errors(Accumulation::Hopper { promote: false })?;
        let promoted = errors(Accumulation::Hopper { promote: true })?;
        let in_f32 = errors(Accumulation::Exact)?;
        let quantized = Errors::between(&want, &exact(&host, &a.values, &b.values)?);
        println!("| {k} | {plain} | {promoted} | {in_f32} | {quantized} |");
    }
    Ok(())
}
