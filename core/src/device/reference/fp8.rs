//! Codes with scales. Quantisation follows [`fp8`](crate::fp8) in f32, so that its bits are every device's; products are
//! summed as the host's [`Accumulation`] says, exactly unless asked otherwise.

use alloc::vec::Vec;

use super::matrix::{Matrix, indices, read, row_bytes, row_bytes_mut, write};
use super::primitives::group_rows;
use super::{Host, HostBuffer, HostError, Result};
use crate::device::{Dequantize, Form, GemmFp8, GroupedGemmFp8, Quantize, Requantize, Scaled, ScaledMut, Tiles};
use crate::dtype::DType;
use crate::error::ErrorKind;
use crate::fp8::accumulate::{Accumulation, Hopper};
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
struct Decoded {
    codes: Matrix,
    scales: Matrix,
}

fn decode(kernel: &'static str, x: &Scaled<'_, HostBuffer>) -> core::result::Result<Decoded, HostError> {
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
    fn values(&self) -> Vec<f32> {
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

pub(super) fn quantize(mut call: Quantize<'_, HostBuffer>) -> Result {
    let x: Vec<f32> = read(&call.x).data.iter().map(|&x| x as f32).collect();
    encode("quantize", &x, &mut call.y, call.power_of_two)
}

pub(super) fn dequantize(mut call: Dequantize<'_, HostBuffer>) -> Result {
    let y: Vec<f64> = decode("dequantize", &call.x)?.values().into_iter().map(f64::from).collect();
    write(&mut call.y, &y);
    Ok(())
}

pub(super) fn requantize(mut call: Requantize<'_, HostBuffer>) -> Result {
    let x = decode("requantize", &call.x)?.values();
    encode("requantize", &x, &mut call.y, call.power_of_two)
}

/// An element of a product: `(code of a, code of b, scale of a, scale of b)` along the inner dimension, which is cut
/// after each of `ends`.
fn sum(accumulation: Accumulation, ends: &[usize], element: impl Fn(usize) -> (f64, f64, f64, f64)) -> f64 {
    let mut start = 0;
    let segments = ends.iter().map(|&end| core::mem::replace(&mut start, end)..end);
    match accumulation {
        Accumulation::Exact => segments
            .map(|range| {
                let (_, _, sa, sb) = element(range.start);
                sa * sb * range.map(&element).map(|(a, b, _, _)| a * b).sum::<f64>()
            })
            .sum(),
        Accumulation::Hopper { promote: true } => segments
            .fold(0.0f32, |total, range| {
                let (_, _, sa, sb) = element(range.start);
                let mut partial = Hopper::default();
                partial.add(range.map(&element).map(|(a, b, _, _)| a * b));
                libm::fmaf(partial.sum() as f32, (sa * sb) as f32, total)
            })
            .into(),
        Accumulation::Hopper { promote: false } => {
            // The tensor core sees codes alone: its sum is kept in units of the scales of the tile it is at.
            let (mut all, mut unit) = (Hopper::default(), 1.0);
            for range in segments {
                let (_, _, sa, sb) = element(range.start);
                if sa * sb != 0.0 {
                    all.rescale(unit / (sa * sb));
                    unit = sa * sb;
                    all.add(range.map(&element).map(|(a, b, _, _)| a * b));
                }
            }
            unit * all.sum()
        }
    }
}

/// Where the tiles of an inner dimension end.
fn ends(total: usize, part: usize) -> Vec<usize> {
    let part = part.max(1);
    (0..total)
        .step_by(part)
        .flat_map(|start| (start..start + part).step_by(TILE).map(move |at| (at + TILE).min(start + part)))
        .collect()
}

/// Ends of the inner dimension's tiles of a product whose first factor is `a`.
fn inner_ends(form: Form, a: &Scaled<'_, HostBuffer>) -> Vec<usize> {
    match (form, a.tiles) {
        (Form::Tn, _) => ends(a.rows(), a.rows()),
        (_, Tiles::Row { part }) => ends(a.cols(), part),
        _ => ends(a.cols(), a.cols()),
    }
}

pub(super) fn gemm_fp8(host: &Host, mut call: GemmFp8<'_, HostBuffer>) -> Result {
    const OP: &str = "gemm_fp8";
    let (m, n, _) = call.dimensions();
    let (a, b, c) = (decode(OP, &call.a)?, decode(OP, &call.b)?, read(&call.c.as_ref()));
    let ends = inner_ends(call.form, &call.a);
    let mut out = Matrix::zeros(m, n);
    for i in 0..m {
        for j in 0..n {
            let element = |l| {
                let (at_a, at_b) = match call.form {
                    Form::Nt => ((i, l), (j, l)),
                    Form::Nn => ((i, l), (l, j)),
                    Form::Tn => ((l, i), (l, j)),
                };
                (a.codes[at_a], b.codes[at_b], a.scales[at_a], b.scales[at_b])
            };
            let before = if call.accumulate { c[(i, j)] } else { 0.0 };
            out[(i, j)] = before + sum(host.accumulation, &ends, element);
        }
    }
    write(&mut call.c, &out.data);
    Ok(())
}

pub(super) fn grouped_gemm_fp8(host: &Host, mut call: GroupedGemmFp8<'_, HostBuffer>) -> Result {
    const OP: &str = "grouped_gemm_fp8";
    let (n, k) = call.weight();
    let (a, b, mut c) = (decode(OP, &call.a)?, decode(OP, &call.b)?, read(&call.c.as_ref()));
    let inner = inner_ends(call.form, &call.a);
    for (g, rows) in group_rows(OP, &indices(&call.offsets), call.rows())?.enumerate() {
        let weight = g * n;
        let start = rows.start;
        if call.form == Form::Tn {
            let ends = ends(rows.len(), rows.len());
            for (i, j) in (0..n).flat_map(|i| (0..k).map(move |j| (i, j))) {
                let element = |l| {
                    let (at_a, at_b) = ((start + l, i), (start + l, j));
                    (a.codes[at_a], b.codes[at_b], a.scales[at_a], b.scales[at_b])
                };
                c[(weight + i, j)] += sum(host.accumulation, &ends, element);
            }
            continue;
        }
        for r in rows {
            for j in 0..c.cols {
                let element = |l| {
                    let at_b = if call.form == Form::Nt { (weight + j, l) } else { (weight + l, j) };
                    (a.codes[(r, l)], b.codes[at_b], a.scales[(r, l)], b.scales[at_b])
                };
                c[(r, j)] = sum(host.accumulation, &inner, element);
            }
        }
    }
    write(&mut call.c, &c.data);
    Ok(())
}
