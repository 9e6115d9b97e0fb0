//! Arbitrary numbers in every tiling: NaN and infinity are errors, all other elements decode near themselves.
#![no_main]

use fathom_core::device::{Dequantize, Host, Kernels, Quantize, Requantize, Scaled, ScaledMut, Tiles};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError, ErrorKind, InvalidOp};
use fathom_core::fp8::{Code, E4M3, E5M2, E5M6};
use fathom_core::tensor::{MatRef, Tensor};
use fathom_cpu::Cpu;
use libfuzzer_sys::fuzz_target;

/// What the first bytes of the input choose.
struct Case<'a> {
    format: DType,
    tiling: u8,
    part: usize,
    rows: usize,
    cols: usize,
    offsets: Vec<u32>,
    power_of_two: bool,
    x: &'a [f32],
}

/// The most elements of a matrix.
const LIMIT: usize = 1 << 14;

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, part_low, part_high, cols_low, cols_high, rows, groups, offset], rest)) =
        data.split_first_chunk()
    else {
        return;
    };
    let format = [DType::E4M3, DType::E5M2, DType::E5M6Pair][usize::from(choice >> 4) % 3];
    let (rows, cols) = (usize::from(rows), usize::from(u16::from_le_bytes([cols_low, cols_high])));
    if rows * cols > LIMIT || cols % format.numbers() != 0 {
        return;
    }
    let mut x: Vec<f32> = rest.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    x.resize(rows * cols, 0.0);
    // Mostly groups that fit, at times some that do not.
    let count = usize::from(groups % 8) + 1;
    let mut offsets: Vec<u32> = (0..=count).map(|g| (rows * g / count) as u32).collect();
    offsets[usize::from(offset) % (count + 1)] ^= u32::from(offset >> 6);
    let case = Case {
        format,
        tiling: choice & 3,
        part: usize::from(u16::from_le_bytes([part_low, part_high])),
        rows,
        cols,
        offsets,
        power_of_two: choice & 4 != 0,
        x: &x,
    };
    let host = quantized(&Host::new(), &case);
    // A new device each time, since a pool keeps a buffer of every size.
    let cpu = quantized(&Cpu::with_threads(1), &case);
    assert!(host == cpu, "the devices differ");
});

fn kind<E: DeviceError>(error: E) -> ErrorKind {
    error.kind()
}

fn tiles<'a, B>(case: &Case<'_>, offsets: MatRef<'a, B>) -> Tiles<'a, B> {
    match case.tiling {
        0 => Tiles::Row { part: case.part },
        1 => Tiles::Column,
        2 => Tiles::Groups { offsets },
        _ => Tiles::Block { part: case.part },
    }
}

/// Bytes of the codes and bits of the scales; or the kind of the error.
fn quantized<D: Kernels>(device: &D, case: &Case<'_>) -> Result<(Vec<u8>, Vec<u32>), ErrorKind> {
    let Case { format, rows, cols, ref offsets, power_of_two, x, .. } = *case;
    let offsets = Tensor::<D>::from_slice(device, &[1, offsets.len()], DType::U32, offsets).map_err(kind)?;
    let tiles = tiles(case, offsets.view());
    let from = Tensor::<D>::from_slice(device, &[rows, cols], DType::F32, x).map_err(kind)?;
    let bytes = vec![0u8; rows * cols / format.numbers() * format.size()];
    let mut codes = Tensor::<D>::empty(device, &[rows, cols / format.numbers()], format).map_err(kind)?;
    codes.upload(device, &bytes).map_err(kind)?;
    let mut scales = Tensor::<D>::zeros(device, &tiles.scales(rows, cols), DType::F32).map_err(kind)?;
    let refused = |e: InvalidOp| e.kind();
    let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles).map_err(refused)?;
    let result = device.quantize(Quantize::new(from.view(), y, power_of_two).map_err(refused)?);
    let result = result.and_then(|()| device.flush()).map_err(kind);
    // Groups that do not fit are an error on one device and clamped on the other: that it comes back is enough.
    let rising = case.offsets.is_sorted() && case.offsets[0] == 0 && case.offsets.ends_with(&[rows as u32]);
    if case.tiling == 2 && !rising {
        return Err(ErrorKind::Shape);
    }
    assert_eq!(result.is_err(), x.iter().any(|x| !x.is_finite()), "{result:?}");
    result?;

    let coded = Scaled::new(codes.view(), scales.view(), tiles).expect("as it was written");
    let mut decoded = Tensor::<D>::empty(device, &[rows, cols], DType::F32).map_err(kind)?;
    device.dequantize(Dequantize::new(coded, decoded.view_mut()).expect("the same shape")).map_err(kind)?;
    let decoded: Vec<f32> = decoded.download(device).map_err(kind)?;
    let (mantissa, max, tiny) = match format {
        DType::E4M3 => (E4M3::MANTISSA, E4M3::MAX, E4M3::TINY),
        DType::E5M2 => (E5M2::MANTISSA, E5M2::MAX, E5M2::TINY),
        _ => (E5M6::MANTISSA, E5M6::MAX, E5M6::TINY),
    };
    check(x, &decoded, mantissa, max, tiny);
    requantized(device, coded, &decoded, rows, cols)?;
    let codes = device_bytes(device, &codes, format)?;
    Ok((codes, scales.download(device).map_err(kind)?))
}

fn device_bytes<D: Kernels>(device: &D, codes: &Tensor<D>, format: DType) -> Result<Vec<u8>, ErrorKind> {
    if format.size() == 3 {
        return Ok(codes.download::<D, [u8; 3]>(device).map_err(kind)?.concat());
    }
    codes.download(device).map_err(kind)
}

/// Every element is within half a unit of its code, or of the smallest code, at the largest scale there can be.
fn check(x: &[f32], decoded: &[f32], mantissa: u32, max: f32, tiny: f32) {
    let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let scale = (2.0 * f64::from(largest) / f64::from(max)).max(f64::from(f32::MIN_POSITIVE));
    for (&x, &y) in x.iter().zip(decoded) {
        let relative = f64::exp2(-f64::from(mantissa) - 1.0) + 1e-6;
        let bound = f64::from(x.abs()) * relative + f64::from(tiny) * scale / 2.0 * (1.0 + 1e-6);
        // Next to f32's largest number, half a code more is infinity.
        let past_end = y.is_infinite() && f64::from(x.abs()) * (1.0 + relative) >= f64::from(f32::MAX);
        assert!(
            past_end || (f64::from(x) - f64::from(y)).abs() <= bound,
            "{x:e} became {y:e}, more than {bound:e} off"
        );
    }
}

/// To columns, from what was decoded: an error where that is infinite, and only there.
fn requantized<D: Kernels>(
    device: &D,
    coded: Scaled<'_, D::Buffer>,
    decoded: &[f32],
    rows: usize,
    cols: usize,
) -> Result<(), ErrorKind> {
    let mut codes = Tensor::<D>::empty(device, &[rows, cols], DType::E4M3).map_err(kind)?;
    let shape = Tiles::<D::Buffer>::Column.scales(rows, cols);
    let mut scales = Tensor::<D>::empty(device, &shape, DType::F32).map_err(kind)?;
    let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), Tiles::Column).expect("it fits");
    let result = device.requantize(Requantize::new(coded, y, true).expect("the same shape"));
    let result = result.and_then(|()| device.flush()).map_err(kind);
    let finite = decoded.iter().all(|x| x.is_finite());
    assert_eq!(result, if finite { Ok(()) } else { Err(ErrorKind::NonFinite) });
    Ok(())
}
