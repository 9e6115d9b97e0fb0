//! Codes with scales.

use std::ops::Range;

use fathom_core::DType;
use fathom_core::device::{Dequantize, Quantize, Tiles};
use fathom_core::error::ErrorKind;
use fathom_core::fp8::{self, Code, E4M3, E5M2, E5M6, NonFinite, TILE, pack_pair, unpack_pair};

use half::{bf16, f16};

use crate::Cpu;
use crate::elementwise::{Convert, with_type};
use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;

/// Calls `tile` with the place of the scale, the rows and the columns of every tile.
fn for_tiles(
    tiles: &Tiles<'_, Buffer>,
    (rows, cols): (usize, usize),
    mut tile: impl FnMut((usize, usize), Range<usize>, Range<usize>) -> Result<(), CpuError>,
) -> Result<(), CpuError> {
    let cut = |start: usize, end: usize| (start..end).step_by(TILE).map(move |at| at..end.min(at + TILE));
    let parts = |total: usize, part: usize| (0..total).step_by(part).flat_map(move |at| cut(at, at + part)).enumerate();
    match *tiles {
        Tiles::Row { part } => {
            for r in 0..rows {
                for (j, columns) in parts(cols, part) {
                    tile((r, j), r..r + 1, columns)?;
                }
            }
        }
        Tiles::Block { part } => {
            for (i, lines) in parts(rows, part) {
                for (j, columns) in cut(0, cols).enumerate() {
                    tile((i, j), lines.clone(), columns)?;
                }
            }
        }
        Tiles::Column => {
            for (i, lines) in cut(0, rows).enumerate() {
                for c in 0..cols {
                    tile((i, c), lines.clone(), c..c + 1)?;
                }
            }
        }
        Tiles::Groups { offsets } => {
            let offsets = mat::read::<u32>("quantize", &offsets)?;
            let mut end = 0;
            for (g, bounds) in offsets.as_slice().windows(2).enumerate() {
                let start = (bounds[0] as usize).min(rows).max(end);
                end = (bounds[1] as usize).min(rows).max(start);
                for (j, lines) in cut(start, end).enumerate() {
                    for c in 0..cols {
                        tile((start / TILE + g + j, c), lines.clone(), c..c + 1)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn encode<T: Convert>(
    x: &Mat<'_, T>,
    dtype: DType,
    tiles: &Tiles<'_, Buffer>,
    mut codes: Bytes<'_>,
    mut scales: MatMut<'_, f32>,
    power_of_two: bool,
) -> Result<(), CpuError> {
    let (mut elements, mut line) = (Vec::new(), Vec::new());
    for_tiles(tiles, (x.rows(), x.cols()), |place, rows, cols| {
        elements.clear();
        elements.extend(rows.clone().flat_map(|r| &x.row(r)[cols.clone()]).map(|x| x.to_f64() as f32));
        line.resize(elements.len(), 0);
        let scale = match dtype {
            DType::E4M3 => fp8::quantize::<E4M3>(&elements, power_of_two, &mut line),
            DType::E5M2 => fp8::quantize::<E5M2>(&elements, power_of_two, &mut line),
            _ => fp8::quantize::<E5M6>(&elements, power_of_two, &mut line),
        };
        scales.row(place.0)[place.1] = scale.map_err(|NonFinite| {
            let at = (rows.start, cols.start);
            CpuError::new(
                ErrorKind::NonFinite,
                format!("quantize: the tile at row {}, column {}: {NonFinite}", at.0, at.1),
            )
        })?;
        for (r, line) in rows.zip(line.chunks(cols.len().max(1))) {
            let to = codes.row(r);
            if dtype == DType::E5M6Pair {
                for (pair, two) in to[cols.start / 2 * 3..].chunks_exact_mut(3).zip(line.chunks_exact(2)) {
                    pair.copy_from_slice(&pack_pair(two[0], two[1]));
                }
            } else {
                to[cols.clone()].iter_mut().zip(line).for_each(|(to, &code)| *to = code as u8);
            }
        }
        Ok(())
    })
}

/// Rows of bytes.
struct Bytes<'a> {
    data: &'a mut [u8],
    offset: usize,
    stride: usize,
    width: usize,
}

impl Bytes<'_> {
    fn row(&mut self, r: usize) -> &mut [u8] {
        &mut self.data[self.offset + r * self.stride..][..self.width]
    }
}

fn number(dtype: DType, row: &[u8], c: usize) -> f32 {
    match dtype {
        DType::E4M3 => E4M3::decode(row[c].into()),
        DType::E5M2 => E5M2::decode(row[c].into()),
        _ => {
            let pair = &row[c / 2 * 3..][..3];
            let (first, second) = unpack_pair([pair[0], pair[1], pair[2]]);
            E5M6::decode(if c.is_multiple_of(2) { first } else { second })
        }
    }
}

impl Cpu {
    pub(crate) fn run_quantize(&self, call: Quantize<'_, Buffer>) -> Result<(), CpuError> {
        let Quantize { x, y, power_of_two, .. } = call;
        let (dtype, tiles) = (y.codes.dtype(), y.tiles);
        let size = dtype.size();
        let (offset, stride, width) = (y.codes.offset() * size, y.codes.stride() * size, y.codes.cols() * size);
        let codes = Bytes { data: y.codes.into_buffer().elements_mut::<u8>(), offset, stride, width };
        let scales = mat::write::<f32>("quantize", y.scales)?;
        with_type!("quantize", x.dtype(), T => {
            encode::<T>(&mat::read("quantize", &x)?, dtype, &tiles, codes, scales, power_of_two)
        })
    }

    pub(crate) fn run_dequantize(&self, call: Dequantize<'_, Buffer>) -> Result<(), CpuError> {
        let Dequantize { x, y, .. } = call;
        let (dtype, size) = (x.codes.dtype(), x.codes.dtype().size());
        let bytes = x.codes.buffer().elements::<u8>();
        let (offset, stride, width) = (x.codes.offset() * size, x.codes.stride() * size, x.codes.cols() * size);
        let scales = mat::read::<f32>("dequantize", &x.scales)?;
        with_type!("dequantize", y.dtype(), T => {
            let mut y = mat::write::<T>("dequantize", y)?;
            for_tiles(&x.tiles, (x.rows(), x.cols()), |place, rows, cols| {
                let scale = scales.row(place.0)[place.1];
                for r in rows {
                    let row = &bytes[offset + r * stride..][..width];
                    let to = &mut y.row(r)[cols.clone()];
                    for (y, c) in to.iter_mut().zip(cols.clone()) {
                        *y = T::from_f64(f64::from(number(dtype, row, c) * scale));
                    }
                }
                Ok(())
            })
        })
    }
}
