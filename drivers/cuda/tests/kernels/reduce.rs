//! Reductions against the reference device, with rows and columns that take several launches.

use fathom_core::device::{Kernels, Out, Primitives, ReduceRows, Reduction, SumColumns};
use fathom_core::dtype::DType;
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_cuda::Cuda;

use crate::common;

#[test]
fn reduce_rows() {
    common::suite_with_f16(&[fathom_conformance::reduce_rows]);
}

#[test]
fn sum_columns() {
    common::suite_with_f16(&[fathom_conformance::sum_columns]);
}

fn close(got: f32, want: f64, magnitude: f64) {
    assert!((f64::from(got) - want).abs() <= 1e-5 * magnitude, "{got} for {want}");
}

/// Rows of every length class, aligned and not: the same bits either way and in any order of blocks.
#[test]
fn long_rows() {
    const STRIDE: usize = 100_104;
    let x: Vec<f32> = (0..2 * STRIDE as u64 + 1).map(|i| rng::normal(5, 0, i)).collect();
    for cols in [1, 2048, 2049, 5000, 32_768, 32_769, 100_001] {
        let mut seen: Vec<[Vec<u32>; 3]> = Vec::new();
        for emulation in common::ENGINES {
            let Some(device) = common::emulated(emulation) else { return };
            for shift in [0, 1] {
                let mut moved = vec![f32::NAN; shift];
                moved.extend_from_slice(&x[..2 * STRIDE]);
                let x = Tensor::<Cuda>::from_slice(&device, &[1, moved.len()], DType::F32, &moved).unwrap();
                let view = x.part(shift, 2, STRIDE).unwrap().columns(0..cols).unwrap();
                let bits = [Reduction::Sum, Reduction::SumSquares, Reduction::Max].map(|f| {
                    let mut y = Tensor::<Cuda>::from_slice(&device, &[2, 1], DType::F32, &[2.0f32, 3.0]).unwrap();
                    let accumulate = f == Reduction::SumSquares;
                    device
                        .reduce_rows(ReduceRows::new(f, view, y.view_mut(), Out::add_if(accumulate)).unwrap())
                        .unwrap();
                    y.download::<Cuda, u32>(&device).unwrap()
                });
                seen.push(bits);
            }
        }
        assert!(seen.iter().all(|bits| *bits == seen[0]), "{cols}");
        for r in 0..2 {
            let row = &x[r * STRIDE..][..cols];
            let sum = |f: fn(f64) -> f64| row.iter().map(|&v| f(v.into())).sum::<f64>();
            close(f32::from_bits(seen[0][0][r]), sum(|v| v), sum(f64::abs));
            close(f32::from_bits(seen[0][1][r]), 2.0 + r as f64 + sum(|v| v * v), sum(|v| v * v));
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(f32::from_bits(seen[0][2][r]), most);
        }
    }
}

/// A NaN anywhere is the maximum, and the sum of squares shows it.
#[test]
fn nan_is_not_lost() {
    let Some(device) = common::device() else { return };
    for (cols, at) in [(8, 3), (3000, 2999), (70_000, 40_000)] {
        let mut x = vec![1.0f32; cols];
        x[at] = f32::NAN;
        let x = Tensor::<Cuda>::from_slice(&device, &[1, cols], DType::F32, &x).unwrap();
        for f in [Reduction::Max, Reduction::SumSquares] {
            let mut y = Tensor::<Cuda>::zeros(&device, &[1, 1], DType::F32).unwrap();
            device.reduce_rows(ReduceRows::new(f, x.view(), y.view_mut(), Out::Replace).unwrap()).unwrap();
            assert!(y.download::<Cuda, f32>(&device).unwrap()[0].is_nan());
        }
    }
}

#[test]
fn long_columns() {
    for (rows, cols) in [(256, 300), (257, 300), (1000, 264), (70_000, 3), (0, 5)] {
        let x: Vec<f32> = (0..(rows * cols) as u64).map(|i| rng::normal(9, 0, i)).collect();
        let mut seen: Vec<Vec<f32>> = Vec::new();
        for emulation in common::ENGINES {
            let Some(device) = common::emulated(emulation) else { return };
            let x = Tensor::<Cuda>::from_slice(&device, &[rows, cols], DType::F32, &x).unwrap();
            let mut y = Tensor::<Cuda>::from_slice(&device, &[1, cols], DType::F32, &vec![0.5f32; cols]).unwrap();
            device.sum_columns(SumColumns::new(x.view(), y.view_mut()).unwrap()).unwrap();
            seen.push(y.download(&device).unwrap());
        }
        assert_eq!(seen[0], seen[1]);
        for (c, &got) in seen[0].iter().enumerate() {
            let column = x.iter().skip(c).step_by(cols).map(|&v| f64::from(v));
            close(got, 0.5 + column.clone().sum::<f64>(), 0.5 + column.map(f64::abs).sum::<f64>());
        }
    }
}
