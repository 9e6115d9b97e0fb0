//! Quantization, dequantization and requantization against the reference device, bit for bit.

use fathom_core::device::{
    Dequantize, Device, Encoded, Host, Kernels, Primitives, Quantize, QuantizeBoth, Requantize, Scaled, ScaledMut,
    Tiles,
};
use fathom_core::dtype::DType;
use fathom_core::tensor::{Tensor, TensorOf};
use fathom_cuda::Cuda;

use crate::common;

#[test]
fn quantize() {
    common::suite(&[fathom_conformance::quantize]);
}

#[test]
fn dequantize() {
    common::suite(&[fathom_conformance::dequantize]);
}

#[test]
fn requantize() {
    common::suite(&[fathom_conformance::requantize]);
}

#[test]
fn quantize_both() {
    common::suite(&[fathom_conformance::quantize_both]);
}

#[test]
fn gather_codes() {
    common::suite(&[fathom_conformance::gather_codes]);
}

#[test]
fn what_is_not_finite_is_reported() {
    common::suite(&[fathom_conformance::properties::non_finite]);
}

/// Rows and columns of the matrices below: several blocks of every kernel, rows aligned to 16 bytes.
const ROWS: usize = 390;
const COLS: usize = 432;

#[derive(Clone, Copy, Debug)]
enum Tiling {
    Row(usize),
    Column,
    Groups,
    Block(usize),
}

const OFFSETS: [u32; 6] = [0, 100, 100, 237, 365, ROWS as u32];

impl Tiling {
    fn tiles<B>(self, offsets: &TensorOf<B>) -> Tiles<'_, B> {
        match self {
            Self::Row(part) => Tiles::Row { part },
            Self::Column => Tiles::Column,
            Self::Groups => Tiles::Groups { offsets: offsets.view() },
            Self::Block(part) => Tiles::Block { part },
        }
    }
}

/// Numbers whose rows and columns differ in size.
fn numbers() -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let size = |i: usize| [1.0, 1e-3, 70.0, 1e-6, 3e4][i / 7 % 5];
    (0..ROWS * COLS).map(|i| next() * size(i / COLS) * size(i % COLS)).collect()
}

/// Numbers as `dtype` has them in memory.
fn encode_numbers(x: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => bytemuck::cast_slice(x).to_vec(),
        DType::BF16 => x.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        _ => x.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn bytes<D: Kernels>(device: &D, tensor: &Tensor<D>) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    device.download(tensor.view().buffer(), 0, &mut bytes).unwrap();
    bytes
}

/// Bytes of codes and scales, of those codes decoded as F32 and as BF16, and of the codes in rows requantized with
/// `tiling`.
fn results<D: Kernels>(device: &D, dtype: DType, format: DType, tiling: Tiling, power_of_two: bool) -> Vec<Vec<u8>> {
    let numbers = encode_numbers(&numbers(), dtype);
    let mut x = Tensor::<D>::empty(device, &[ROWS, COLS], dtype).unwrap();
    device.upload(x.view_mut().buffer_mut(), 0, &numbers).unwrap();
    let offsets = Tensor::<D>::from_slice(device, &[1, OFFSETS.len()], DType::U32, &OFFSETS).unwrap();
    let mut all = Vec::new();
    let encoded = |tiling: Tiling, format: DType| {
        let [r, c] = tiling.tiles(&offsets).scales(ROWS, COLS);
        let codes = Tensor::<D>::empty(device, &[ROWS, COLS / format.numbers()], format).unwrap();
        (codes, Tensor::<D>::from_slice(device, &[r, c], DType::F32, &vec![0.0f32; r * c]).unwrap())
    };
    let (mut codes, mut scales) = encoded(tiling, format);
    let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiling.tiles(&offsets)).unwrap();
    device.quantize(Quantize::new(x.view(), y, power_of_two).unwrap()).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let mut y = Tensor::<D>::empty(device, &[ROWS, COLS], dtype).unwrap();
        let scaled = Scaled::new(codes.view(), scales.view(), tiling.tiles(&offsets)).unwrap();
        device.dequantize(Dequantize::new(scaled, y.view_mut()).unwrap()).unwrap();
        all.push(bytes(device, &y));
    }
    all.push(bytes(device, &codes));
    all.push(bytes(device, &scales));
    if format == DType::E4M3 {
        for from in [Tiling::Row(144), Tiling::Block(130)] {
            let (mut codes, mut scales) = encoded(from, DType::E4M3);
            let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), from.tiles(&offsets)).unwrap();
            device.quantize(Quantize::new(x.view(), y, power_of_two).unwrap()).unwrap();
            let (mut anew, mut new_scales) = encoded(tiling, format);
            let y = ScaledMut::new(anew.view_mut(), new_scales.view_mut(), tiling.tiles(&offsets)).unwrap();
            let x = Scaled::new(codes.view(), scales.view(), from.tiles(&offsets)).unwrap();
            device.requantize(Requantize::new(x, y, power_of_two).unwrap()).unwrap();
            all.push(bytes(device, &anew));
            all.push(bytes(device, &new_scales));
        }
    }
    all
}

#[test]
fn wide_rows_have_the_bits_of_the_reference() {
    let Some(device) = common::device() else { return };
    let host = Host::default();
    let tilings = [Tiling::Row(COLS), Tiling::Row(144), Tiling::Column, Tiling::Groups, Tiling::Block(130)];
    for (i, tiling) in tilings.into_iter().enumerate() {
        for (j, format) in [DType::E4M3, DType::E5M2, DType::E5M6Pair].into_iter().enumerate() {
            if format == DType::E5M6Pair && !matches!(tiling, Tiling::Row(_)) {
                continue;
            }
            for (k, dtype) in [DType::F32, DType::BF16].into_iter().enumerate() {
                let power_of_two = (i + j + k) % 2 == 0;
                let ours = results(&device, dtype, format, tiling, power_of_two);
                let theirs = results(&host, dtype, format, tiling, power_of_two);
                assert!(ours == theirs, "{dtype} as {format} in {tiling:?}, powers of two: {power_of_two}");
            }
        }
    }
}

/// Offsets that do not rise, or lie past the end, write no code outside the matrix.
#[test]
fn offsets_that_are_wrong_stay_inside() {
    let Some(device) = common::device() else { return };
    let x = Tensor::<Cuda>::from_slice(&device, &[ROWS, COLS], DType::F32, &numbers()).unwrap();
    for offsets in [[300, 20, 999, 7, u32::MAX, 0], [u32::MAX; 6], [0; 6]] {
        let offsets = Tensor::<Cuda>::from_slice(&device, &[1, 6], DType::U32, &offsets).unwrap();
        let tiles = Tiles::Groups { offsets: offsets.view() };
        let [r, c] = tiles.scales(ROWS, COLS);
        let mut y = Tensor::<Cuda>::empty(&device, &[ROWS, COLS], DType::F32).unwrap();
        let mut scales = Tensor::<Cuda>::from_slice(&device, &[r, c], DType::F32, &vec![1.0f32; r * c]).unwrap();
        let mut codes = Tensor::<Cuda>::empty(&device, &[ROWS, COLS], DType::E4M3).unwrap();
        let to = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles).unwrap();
        device.quantize(Quantize::new(x.view(), to, false).unwrap()).unwrap();
        let scaled = Scaled::new(codes.view(), scales.view(), tiles).unwrap();
        device.dequantize(Dequantize::new(scaled, y.view_mut()).unwrap()).unwrap();
        device.flush().unwrap();
    }
}

/// Bytes of codes and scales of both tilings, made at once.
fn both<D: Kernels>(device: &D, dtype: DType, part: usize, columns: Tiling, power_of_two: bool) -> Vec<Vec<u8>> {
    let mut x = Tensor::<D>::empty(device, &[ROWS, COLS], dtype).unwrap();
    device.upload(x.view_mut().buffer_mut(), 0, &encode_numbers(&numbers(), dtype)).unwrap();
    let offsets = Tensor::<D>::from_slice(device, &[1, OFFSETS.len()], DType::U32, &OFFSETS).unwrap();
    let [rows, columns] = [Tiles::Row { part }, columns.tiles(&offsets)];
    let [mut a, mut b] = [rows, columns].map(|tiles| {
        let [r, c] = tiles.scales(ROWS, COLS);
        let codes = Tensor::<D>::empty(device, &[ROWS, COLS], DType::E4M3).unwrap();
        (codes, Tensor::<D>::from_slice(device, &[r, c], DType::F32, &vec![0.0f32; r * c]).unwrap())
    });
    let rows = ScaledMut::new(a.0.view_mut(), a.1.view_mut(), rows).unwrap();
    let columns = ScaledMut::new(b.0.view_mut(), b.1.view_mut(), columns).unwrap();
    let y = Encoded::new(Some(rows), Some(columns), power_of_two).unwrap();
    device.quantize_both(QuantizeBoth::new(x.view(), y).unwrap()).unwrap();
    [&a.0, &a.1, &b.0, &b.1].map(|t| bytes(device, t)).to_vec()
}

#[test]
fn both_tilings_of_wide_rows_have_the_bits_of_the_reference() {
    let Some(device) = common::device() else { return };
    for dtype in [DType::F32, DType::BF16] {
        for (i, (part, columns)) in
            [(COLS, Tiling::Column), (144, Tiling::Groups), (COLS, Tiling::Groups)].into_iter().enumerate()
        {
            let ours = both(&device, dtype, part, columns, i == 1);
            let theirs = both(&Host::default(), dtype, part, columns, i == 1);
            assert!(ours == theirs, "{dtype} in parts of {part} and {columns:?}");
        }
    }
}
