//! Encoding and decoding of FP8 matrices, by [`fp8`](crate::fp8) in f32, so that the bits are those of every device.

use alloc::vec::Vec;

use super::matrix::{Matrix, group_rows, indices, read, row_bytes, row_bytes_mut, write};
use super::{Host, HostBuffer, HostError, Result};
use crate::device::call::{Dequantize, GatherCodes, Quantize, QuantizeBoth, Requantize, Scaled, ScaledMut, Tiles};
use crate::device::default;
use crate::dtype::DType;
use crate::error::ErrorKind;
use crate::fp8::{self, Code, E4M3, E5M2, E5M6, TILE, pack_pair, unpack_pair};

/// A tile: the place of its scale, and the rows and columns it covers.
struct Tile {
    scale: (usize, usize),
    rows: core::ops::Range<usize>,
    cols: core::ops::Range<usize>,
}

/// All tiles of a matrix: every element lies in one.
fn tiles(
    kernel: &'static str,
    tiles: &Tiles<'_, HostBuffer>,
    rows: usize,
    cols: usize,
) -> core::result::Result<Vec<Tile>, HostError> {
    let cut = |start: usize, end: usize| (start..end).step_by(TILE).map(move |at| at..end.min(at + TILE));
    let parts = |total: usize, part: usize| {
        (0..total).step_by(part).flat_map(move |start| cut(start, start + part)).enumerate()
    };
    let mut all = Vec::new();
    match *tiles {
        Tiles::Row { part } => {
            for r in 0..rows {
                all.extend(parts(cols, part).map(|(j, cols)| Tile { scale: (r, j), rows: r..r + 1, cols }));
            }
        }
        Tiles::Block { part } => {
            for (i, rows) in parts(rows, part) {
                let across = cut(0, cols).enumerate();
                all.extend(across.map(|(j, cols)| Tile { scale: (i, j), rows: rows.clone(), cols }));
            }
        }
        Tiles::Column => {
            for (i, rows) in cut(0, rows).enumerate() {
                all.extend((0..cols).map(|c| Tile { scale: (i, c), rows: rows.clone(), cols: c..c + 1 }));
            }
        }
        Tiles::Groups { offsets } => {
            for (g, group) in group_rows(kernel, &indices(&offsets), rows)?.enumerate() {
                let first = group.start / TILE + g;
                for (j, rows) in cut(group.start, group.end).enumerate() {
                    all.extend((0..cols).map(|c| Tile { scale: (first + j, c), rows: rows.clone(), cols: c..c + 1 }));
                }
            }
        }
    }
    Ok(all)
}

/// The numbers of a row of codes, scales left aside.
fn derow_bytes(dtype: DType, row: &[u8]) -> Vec<f32> {
    match dtype {
        DType::E4M3 => row.iter().map(|&c| E4M3::decode(c.into())).collect(),
        DType::E5M2 => row.iter().map(|&c| E5M2::decode(c.into())).collect(),
        _ => row
            .chunks_exact(3)
            .flat_map(|pair| {
                let (a, b) = unpack_pair([pair[0], pair[1], pair[2]]);
                [E5M6::decode(a), E5M6::decode(b)]
            })
            .collect(),
    }
}

/// Stores the codes of the elements from column `from` on.
fn store_codes(dtype: DType, row: &mut [u8], from: usize, codes: &[u16]) {
    match dtype {
        DType::E5M6Pair => {
            for (pair, two) in row[from / 2 * 3..].chunks_exact_mut(3).zip(codes.chunks_exact(2)) {
                pair.copy_from_slice(&pack_pair(two[0], two[1]));
            }
        }
        _ => {
            for (to, &code) in row[from..].iter_mut().zip(codes) {
                *to = code as u8;
            }
        }
    }
}

/// Codes without their scales, and for every element its scale.
pub(super) struct Decoded {
    pub(super) codes: Matrix,
    pub(super) scales: Matrix,
}

pub(super) fn decode(kernel: &'static str, x: &Scaled<'_, HostBuffer>) -> core::result::Result<Decoded, HostError> {
    let (rows, cols) = (x.rows(), x.cols());
    let mut codes = Matrix::zeros(rows, cols);
    for r in 0..rows {
        let row = derow_bytes(x.codes.dtype(), row_bytes(&x.codes, r));
        codes.row_mut(r).iter_mut().zip(row).for_each(|(to, x)| *to = x.into());
    }
    let (mut scales, stored) = (Matrix::zeros(rows, cols), read(&x.scales));
    for tile in tiles(kernel, &x.tiles, rows, cols)? {
        for r in tile.rows {
            scales.row_mut(r)[tile.cols.clone()].fill(stored[tile.scale]);
        }
    }
    Ok(Decoded { codes, scales })
}

impl Decoded {
    /// Elements in f32: one rounding.
    pub(super) fn values(&self) -> Vec<f32> {
        self.codes.data.iter().zip(&self.scales.data).map(|(&c, &s)| c as f32 * s as f32).collect()
    }
}

/// Encodes `x [rows, cols]` into `y`.
fn encode(kernel: &'static str, x: &[f32], y: &mut ScaledMut<'_, HostBuffer>, power_of_two: bool) -> Result {
    let (rows, cols, dtype) = (y.as_ref().rows(), y.as_ref().cols(), y.codes.dtype());
    let mut scales = read(&y.scales.as_ref());
    let (mut elements, mut codes) = (Vec::new(), Vec::new());
    for tile in tiles(kernel, &y.tiles, rows, cols)? {
        elements.clear();
        elements.extend(tile.rows.clone().flat_map(|r| &x[r * cols..][tile.cols.clone()]));
        codes.resize(elements.len(), 0);
        let scale = match dtype {
            DType::E4M3 => fp8::quantize::<E4M3>(&elements, power_of_two, &mut codes),
            DType::E5M2 => fp8::quantize::<E5M2>(&elements, power_of_two, &mut codes),
            _ => fp8::quantize::<E5M6>(&elements, power_of_two, &mut codes),
        };
        let scale = scale.map_err(|e| {
            let (row, col) = (tile.rows.start, tile.cols.start);
            HostError::new(ErrorKind::NonFinite, alloc::format!("{kernel}: the tile at row {row}, column {col}: {e}"))
        })?;
        scales[tile.scale] = scale.into();
        let width = tile.cols.len();
        for (r, codes) in tile.rows.zip(codes.chunks(width.max(1))) {
            store_codes(dtype, row_bytes_mut(&mut y.codes, r), tile.cols.start, codes);
        }
    }
    write(&mut y.scales, &scales.data);
    Ok(())
}

impl Host {
    pub(super) fn quantize(&self, mut call: Quantize<'_, HostBuffer>) -> Result {
        let x: Vec<f32> = read(&call.x).data.iter().map(|&x| x as f32).collect();
        encode("quantize", &x, &mut call.y, call.power_of_two)
    }

    pub(super) fn dequantize(&self, mut call: Dequantize<'_, HostBuffer>) -> Result {
        let y: Vec<f64> = decode("dequantize", &call.x)?.values().into_iter().map(f64::from).collect();
        write(&mut call.y, &y);
        Ok(())
    }

    pub(super) fn requantize(&self, mut call: Requantize<'_, HostBuffer>) -> Result {
        let x = decode("requantize", &call.x)?.values();
        encode("requantize", &x, &mut call.y, call.power_of_two)
    }

    pub(super) fn quantize_both(&self, mut call: QuantizeBoth<'_, HostBuffer>) -> Result {
        call.y.each(call.x).try_for_each(|call| self.quantize(call?))
    }

    pub(super) fn gather_codes(&self, call: GatherCodes<'_, HostBuffer>) -> Result {
        default::gather_codes(self, call, |call| self.requantize(call))
    }
}
