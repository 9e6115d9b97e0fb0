//! Gathers, scatters and combinations against the reference device, for rows of every width.

use fathom_core::device::{
    Combine, Device, GatherColumns, GatherRows, Kernels, Out, Primitives, ScatterAddColumns, ScatterAddRows,
};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_cuda::Cuda;
use half::bf16;

use crate::common;

#[test]
fn gather_rows() {
    common::suite_with_f16(&[fathom_conformance::gather_rows]);
}

#[test]
fn scatter_add_rows() {
    common::suite_with_f16(&[fathom_conformance::scatter_add_rows]);
}

#[test]
fn gather_columns() {
    common::suite_with_f16(&[fathom_conformance::gather_columns]);
}

#[test]
fn scatter_add_columns() {
    common::suite_with_f16(&[fathom_conformance::scatter_add_columns]);
}

#[test]
fn combine() {
    common::suite_with_f16(&[fathom_conformance::combine]);
}

/// Bits of bfloat16 numbers.
fn halves(n: usize) -> Vec<u16> {
    (0..n as u64).map(|i| bf16::from_f32(rng::normal(4, 0, i)).to_bits()).collect()
}

fn tensor<T: bytemuck::Pod>(device: &Cuda, rows: usize, cols: usize, dtype: DType, values: &[T]) -> Tensor<Cuda> {
    Tensor::<Cuda>::from_slice(device, &[rows, cols], dtype, values).unwrap()
}

/// Rows of every width of access, from aligned and odd places.
#[test]
fn gathers_of_every_width() {
    let (rows, picks, divisor) = (13, 50, 3);
    for cols in [1, 2, 8, 63, 64, 255, 256, 2560, 7168] {
        let x = halves(rows * (cols + 8) + 1);
        let index: Vec<u32> = (0..picks).map(|i| (rng::bits(5, 0, i) % (rows * divisor) as u64) as u32).collect();
        for (shift, gap) in [(0, 0), (0, 8), (0, 2), (1, 0)] {
            let Some(device) = common::device() else { return };
            let stride = cols + gap;
            let from = tensor(&device, 1, x.len(), DType::BF16, &x);
            let view = from.part(shift, rows, stride).unwrap().columns(0..cols).unwrap();
            let i = tensor(&device, picks as usize, 1, DType::U32, &index);
            let mut y = Tensor::<Cuda>::empty(&device, &[picks as usize, cols], DType::BF16).unwrap();
            device.gather_rows(GatherRows::new(view, i.view(), divisor, y.view_mut()).unwrap()).unwrap();
            let y = y.download::<Cuda, u16>(&device).unwrap();
            for (y, &i) in y.chunks(cols).zip(&index) {
                assert_eq!(y, &x[shift + i as usize / divisor * stride..][..cols], "{cols} {shift} {gap}");
            }
        }
    }
}

/// Sums in the order of rows: exactly those of a loop, with targets hit once, often and by more than a batch of rows.
#[test]
fn scatters_are_sums_in_order() {
    for (rows, targets, cols, spread) in
        [(700, 3000, 40, 3000), (700, 3000, 1032, 5), (300, 5, 2056, 1), (1100, 130_000, 8, 130_000), (0, 3, 8, 3)]
    {
        let x = halves(rows * cols);
        let index: Vec<u32> =
            (0..rows as u64).map(|r| (targets - spread) as u32 + (rng::bits(6, 0, r) % spread as u64) as u32).collect();
        let start: Vec<f32> = (0..(targets * cols) as u64).map(|i| (i % 97) as f32 * 0.01).collect();
        let mut expected = start.clone();
        for (r, &i) in index.iter().enumerate() {
            for c in 0..cols {
                expected[i as usize * cols + c] += bf16::from_bits(x[r * cols + c]).to_f32();
            }
        }
        for emulation in common::ENGINES {
            let Some(device) = common::emulated(emulation) else { return };
            let x = tensor(&device, rows, cols, DType::BF16, &x);
            let index = tensor(&device, rows, 1, DType::U32, &index);
            let mut y = tensor(&device, targets, cols, DType::F32, &start);
            device.scatter_add_rows(ScatterAddRows::new(x.view(), index.view(), y.view_mut()).unwrap()).unwrap();
            assert!(y.download::<Cuda, f32>(&device).unwrap() == expected, "{rows} {targets} {cols}");
        }
    }
}

/// Tokens' rows summed, with aligned rows and not, whatever the number of choices.
#[test]
fn combinations_round_once() {
    let Some(device) = common::device() else { return };
    for (tokens, k, cols) in [(9, 8, 512), (5, 6, 260), (3, 1, 33), (4, 9, 24), (3, 0, 16)] {
        let x = halves(tokens * k * cols);
        let inverse: Vec<u32> = (0..(tokens * k) as u32).rev().collect();
        let sum = |start: f32, t: usize, c: usize| {
            (0..k).fold(start, |s, j| s + bf16::from_bits(x[inverse[t * k + j] as usize * cols + c]).to_f32())
        };
        for accumulate in [false, true] {
            let from = tensor(&device, tokens * k, cols, DType::BF16, &x);
            let i = tensor(&device, tokens, k, DType::U32, &inverse);
            let one = vec![bf16::ONE.to_bits(); tokens * cols];
            let mut y = tensor(&device, tokens, cols, DType::BF16, &one);
            device
                .combine(Combine::new(from.view(), i.view(), y.view_mut(), Out::add_if(accumulate)).unwrap())
                .unwrap();
            let y = y.download::<Cuda, u16>(&device).unwrap();
            let start = f32::from(u8::from(accumulate));
            for (i, y) in y.into_iter().enumerate() {
                assert_eq!(y, bf16::from_f32(sum(start, i / cols, i % cols)).to_bits());
            }
        }
    }
}

/// What is out of range reads as zeros or is left out, is reported, and the rest is as if it were not there.
#[test]
fn bad_indices_are_reported() {
    let Some(device) = common::device() else { return };
    let cols = 256;
    let x: Vec<f32> = (0..4 * cols).map(|i| i as f32 + 1.0).collect();
    let from = tensor(&device, 4, cols, DType::F32, &x);
    for bad in [4, 1 << 30, u32::MAX - 1, u32::MAX] {
        let index = tensor(&device, 4, 1, DType::U32, &[2, bad, 0, 2]);
        let reported = |y: &Tensor<Cuda>| {
            assert_eq!(device.flush().unwrap_err().kind(), ErrorKind::Shape);
            y.download::<Cuda, f32>(&device).unwrap()
        };
        let mut y = tensor(&device, 4, cols, DType::F32, &vec![7.0f32; 4 * cols]);
        device.gather_rows(GatherRows::new(from.view(), index.view(), 1, y.view_mut()).unwrap()).unwrap();
        let got = reported(&y);
        assert!(got[..cols] == x[2 * cols..3 * cols] && got[cols..2 * cols].iter().all(|&v| v == 0.0));
        assert!(got[2 * cols..3 * cols] == x[..cols]);

        let mut y = tensor(&device, 4, cols, DType::F32, &vec![1.0f32; 4 * cols]);
        device.scatter_add_rows(ScatterAddRows::new(from.view(), index.view(), y.view_mut()).unwrap()).unwrap();
        let got = reported(&y);
        assert_eq!([got[0], got[cols], got[2 * cols], got[3 * cols]], [514.0, 1.0, 771.0, 1.0]);

        let mut y = tensor(&device, 1, cols, DType::F32, &vec![1.0f32; cols]);
        let row = index.part(0, 1, 4).unwrap();
        device.combine(Combine::new(from.view(), row, y.view_mut(), Out::Add).unwrap()).unwrap();
        assert_eq!(reported(&y)[0], 1.0 + 513.0 + 1.0 + 513.0);

        let narrow = from.view().columns(0..4).unwrap();
        let mut y = tensor(&device, 4, 1, DType::F32, &[9.0f32; 4]);
        device.gather_columns(GatherColumns::new(narrow, index.view(), y.view_mut()).unwrap()).unwrap();
        assert_eq!(reported(&y), [3.0, 0.0, 513.0, 771.0]);

        let mut y = tensor(&device, 4, 4, DType::F32, &[0.0f32; 16]);
        let ones = tensor(&device, 1, 1, DType::F32, &[1.0f32]);
        device.scatter_add_columns(ScatterAddColumns::new(ones.view(), index.view(), y.view_mut()).unwrap()).unwrap();
        // The largest number of all stands for none.
        let got = if bad == u32::MAX { y.download::<Cuda, f32>(&device).unwrap() } else { reported(&y) };
        assert_eq!((got[2], got.iter().sum::<f32>()), (1.0, 3.0));
    }
}
