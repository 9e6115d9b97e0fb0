//! FP8 codes and scales from PyTorch, which every device must reproduce bit for bit.

use fathom_core::DType;
use fathom_core::device::{Dequantize, Kernels, Quantize, Scaled, ScaledMut, Tiles};
use fathom_core::tensor::Tensor;
use safetensors::SafeTensors;

/// Compares a device's FP8 codes and scales with PyTorch's: row, column and block tiles, with f32 and power-of-two
/// scales, and the values of all 256 codes.
///
/// `bytes` are the contents of `tests/golden/v3_fp8/quant.safetensors`.
///
/// # Panics
/// A bit differs.
pub fn check_codes<D: Kernels>(device: &D, bytes: &[u8]) {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let floats = |name: &str| -> (Vec<usize>, Vec<f32>) {
        let tensor = file.tensor(name).expect("a tensor of that name");
        let (quads, _) = tensor.data().as_chunks::<4>();
        (tensor.shape().to_vec(), quads.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let (shape, values) = floats("x");
    let (rows, cols) = (shape[0], shape[1]);
    let x = Tensor::<D>::from_slice(device, &shape, DType::F32, &values).expect("memory");
    let tilings: [(&str, Tiles<'_, D::Buffer>); 3] =
        [("tile", Tiles::Row { part: cols }), ("tile_t", Tiles::Column), ("block", Tiles::Block { part: rows })];
    for (name, tiles) in tilings {
        for (scale, power_of_two) in [("f32", false), ("pow2", true)] {
            let mut codes = Tensor::<D>::empty(device, &shape, DType::E4M3).expect("memory");
            let mut scales = Tensor::<D>::zeros(device, &tiles.scales(rows, cols), DType::F32).expect("memory");
            let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles).expect("fitting shapes");
            let call = Quantize::new(x.view(), y, power_of_two).expect("fitting shapes");
            device.quantize(call).unwrap_or_else(|e| panic!("{name}.{scale}: {e}"));
            let scales: Vec<f32> = scales.download(device).unwrap_or_else(|e| panic!("{name}.{scale}: {e}"));
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let (_, want) = floats(&format!("{name}.{scale}.scales"));
            assert_eq!(bits(&scales), bits(&want), "scales of {name}.{scale}");
            let codes: Vec<u8> = codes.download(device).unwrap_or_else(|e| panic!("{name}.{scale}: {e}"));
            let want = file.tensor(&format!("{name}.{scale}.codes")).expect("a tensor of that name");
            assert_eq!(codes, want.data(), "codes of {name}.{scale}");
        }
    }
    every_code(device, &floats("all_codes_as_f32").1);
}

/// The values of the 256 E4M3 codes in PyTorch, with NaN written as zero.
fn every_code<D: Kernels>(device: &D, want: &[f32]) {
    let all: Vec<u8> = (0..=255).collect();
    let codes = Tensor::<D>::from_slice(device, &[1, 256], DType::E4M3, &all).expect("memory");
    let scales = Tensor::<D>::from_slice(device, &[1, 2], DType::F32, &[1.0f32; 2]).expect("memory");
    let x = Scaled::new(codes.view(), scales.view(), Tiles::Row { part: 256 }).expect("fitting shapes");
    let mut y = Tensor::<D>::empty(device, &[1, 256], DType::F32).expect("memory");
    device.dequantize(Dequantize::new(x, y.view_mut()).expect("fitting shapes")).unwrap_or_else(|e| panic!("{e}"));
    let got: Vec<f32> = y.download(device).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(got.iter().filter(|x| x.is_nan()).count(), 2);
    for (code, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!(got == want || got.is_nan() && code & 0x7f == 0x7f, "code {code} is {got}, should be {want}");
    }
}
