//! Fills, casts, unary and binary operations and random numbers against the reference device.

use fathom_core::device::{Binary, BinaryOp, Cast, Device, Fill, Kernels, Primitives, RandomNormal, Unary, UnaryOp};
use fathom_core::dtype::DType;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_cuda::Cuda;
use half::{bf16, f16};

use crate::common;

#[test]
fn fill() {
    common::suite_with_f16(&[fathom_conformance::fill]);
}

#[test]
fn cast() {
    common::suite_with_f16(&[fathom_conformance::cast]);
}

#[test]
fn unary() {
    common::suite_with_f16(&[fathom_conformance::unary]);
}

#[test]
fn binary() {
    common::suite_with_f16(&[fathom_conformance::binary]);
}

#[test]
fn random_normal() {
    common::suite_with_f16(&[fathom_conformance::random_normal]);
}

/// Numbers that a conversion may get wrong, and many more.
fn numbers(n: usize) -> Vec<f32> {
    let special = [0.0, -0.0, 1.0, f32::INFINITY, 65519.9, 65520.0, 1e-8, -3.1e-5, 1.0039063, f32::MAX, 2.5, 3.5, -7.0];
    let special = special.into_iter().chain([8388607.5, 4294967040.0, 5e9]);
    special.chain((0..).map(|i| rng::normal(7, 1, i) * 100.0)).take(n).collect()
}

#[test]
fn large_and_aligned_casts() {
    let Some(device) = common::device() else { return };
    let n = 10_003;
    let x = numbers(n);
    let from = Tensor::<Cuda>::from_slice(&device, &[1, n], DType::F32, &x).unwrap();
    let cast = |dtype| {
        let mut y = Tensor::<Cuda>::empty(&device, &[1, n], dtype).unwrap();
        device.cast(Cast::new(from.view(), y.view_mut()).unwrap()).unwrap();
        y
    };
    let b = cast(DType::BF16);
    let expected: Vec<u16> = x.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
    assert_eq!(b.download::<Cuda, u16>(&device).unwrap(), expected);
    let h = cast(DType::F16);
    let expected: Vec<u16> = x.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
    assert_eq!(h.download::<Cuda, u16>(&device).unwrap(), expected);
    let i = cast(DType::U32);
    let expected: Vec<u32> = x.iter().map(|&v| v.round_ties_even() as u32).collect();
    assert_eq!(i.download::<Cuda, u32>(&device).unwrap(), expected);
    // The same bits where the type is the same, from an odd place.
    let mut y = Tensor::<Cuda>::zeros(&device, &[1, n], DType::BF16).unwrap();
    let to = y.part_mut(1, 1, n - 1).unwrap();
    device.cast(Cast::new(b.part(0, 1, n - 1).unwrap(), to).unwrap()).unwrap();
    let bits = b.download::<Cuda, u16>(&device).unwrap();
    assert_eq!(y.download::<Cuda, u16>(&device).unwrap()[1..], bits[..n - 1]);
}

#[test]
fn integers_round_once() {
    let Some(device) = common::device() else { return };
    // Halfway between two bfloat16, and above by less than an f32 tells.
    let x = [0, 1, 0x0180_0000, 0x0181_0000, 0x8080_0000, 0x8080_0001, 0xffff_ffff, 0x7fff_ffff];
    let from = Tensor::<Cuda>::from_slice(&device, &[2, 4], DType::U32, &x).unwrap();
    let mut y = Tensor::<Cuda>::empty(&device, &[2, 4], DType::BF16).unwrap();
    device.cast(Cast::new(from.view(), y.view_mut()).unwrap()).unwrap();
    let expected = [0, 0x3f80, 0x4bc0, 0x4bc0, 0x4f00, 0x4f01, 0x4f80, 0x4f00];
    assert_eq!(y.download::<Cuda, u16>(&device).unwrap(), expected);
    let mut same = Tensor::<Cuda>::empty(&device, &[2, 4], DType::U32).unwrap();
    device.cast(Cast::new(from.view(), same.view_mut()).unwrap()).unwrap();
    assert_eq!(same.download::<Cuda, u32>(&device).unwrap(), x);
}

#[test]
fn fills_of_every_type_stay_inside() {
    let Some(device) = common::device() else { return };
    let (rows, cols) = (3, 40_000);
    for (dtype, value, bytes) in [
        (DType::F32, -1.5, vec![0, 0, 0xc0, 0xbf]),
        (DType::BF16, 1.003_906_250_001, vec![0x81, 0x3f]),
        (DType::F16, 1.0, vec![0, 0x3c]),
        (DType::U32, 7.0, vec![7, 0, 0, 0]),
        (DType::E4M3, 1.0, vec![0x38]),
        (DType::E5M2, 1.0, vec![0x3c]),
        (DType::E5M6Pair, 0.0, vec![0, 0, 0]),
    ] {
        let size = dtype.size();
        let mut buffer = vec![0xa5u8; rows * cols * size];
        let mut y = Tensor::<Cuda>::empty(&device, &[rows, cols], dtype).unwrap();
        for range in [0..cols, 3..cols - 1, 16..48, 5..6] {
            let whole = y.view_mut().into_buffer();
            device.upload(whole, 0, &buffer).unwrap();
            device.fill(Fill::new(y.view_mut().columns(range.clone()).unwrap(), value)).unwrap();
            let mut expected = buffer.clone();
            for r in 0..rows {
                for c in range.clone() {
                    expected[(r * cols + c) * size..][..size].copy_from_slice(&bytes);
                }
            }
            device.download(y.view().buffer(), 0, &mut buffer).unwrap();
            assert!(buffer == expected, "{dtype} {range:?}");
            buffer.fill(0xa5);
        }
    }
}

#[test]
fn random_numbers_are_the_cores() {
    let Some(device) = common::device() else { return };
    let mut y = Tensor::<Cuda>::empty(&device, &[7, 715], DType::F32).unwrap();
    device.random_normal(RandomNormal::new(1 << 40, 1 << 35, 0.006, y.view_mut()).unwrap()).unwrap();
    let mut expected = vec![0.0; 7 * 715];
    rng::fill_normal(1 << 40, 1 << 35, 0, 0.006, &mut expected);
    let near = |(a, b): (&f32, &f32)| a.to_bits().abs_diff(b.to_bits()) <= 1;
    assert!(y.download::<Cuda, f32>(&device).unwrap().iter().zip(&expected).all(near));
}

/// Exponentials and sigmoids have the bits of the core, and rows of whatever alignment the same.
#[test]
fn maps_have_the_bits_of_the_core() {
    let Some(device) = common::device() else { return };
    let x: Vec<f32> = (0..5000).map(|i| rng::normal(3, 0, i) * 30.0).collect();
    for (f, core) in [
        (UnaryOp::Exp, fathom_core::math::exp as fn(f32) -> f32),
        (UnaryOp::Sigmoid, fathom_core::math::sigmoid as fn(f32) -> f32),
    ] {
        let mut y = Tensor::<Cuda>::from_slice(&device, &[1, 5000], DType::F32, &x).unwrap();
        device.unary(Unary::new(f, y.part_mut(1, 1, 4999).unwrap()).unwrap()).unwrap();
        device.unary(Unary::new(f, y.part_mut(0, 1, 1).unwrap()).unwrap()).unwrap();
        let expected: Vec<u32> = x.iter().map(|&v| core(v).to_bits()).collect();
        assert_eq!(y.download::<Cuda, u32>(&device).unwrap(), expected);
    }
}

#[test]
fn operands_are_repeated() {
    let Some(device) = common::device() else { return };
    let (m, n) = (37, 264);
    let start: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
    let x: Vec<f32> = (0..m * n).map(|i| (i * i % 1000) as f32).collect();
    let all = Tensor::<Cuda>::from_slice(&device, &[m, n], DType::F32, &x).unwrap();
    for (rows, cols) in [(m, n), (1, n), (m, 1), (1, 1)] {
        let mut y = Tensor::<Cuda>::from_slice(&device, &[m, n], DType::F32, &start).unwrap();
        let view = all.view().row_range(0..rows).unwrap().columns(0..cols).unwrap();
        device.binary(Binary::new(BinaryOp::Sub, view, y.view_mut()).unwrap()).unwrap();
        let y = y.download::<Cuda, f32>(&device).unwrap();
        for (i, y) in y.into_iter().enumerate() {
            assert_eq!(y, start[i] - x[(i / n).min(rows - 1) * n + (i % n).min(cols - 1)]);
        }
    }
}
