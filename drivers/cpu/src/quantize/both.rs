//! Quantization in 1×128 and in 128×1 tiles from one read.
//!
//! A task has 128 rows of some columns, as one of 128×1 tiles does, and its columns hold whole 1×128 tiles. It goes
//! over them once for the magnitudes of both, and once more, from the cache, for the codes of both.

use std::sync::atomic::{AtomicUsize, Ordering};

use fathom_core::device::{Encoded, QuantizeBoth, Tiles};
use fathom_core::fp8::{Code, E4M3, TILE, scale_of};

use super::codes::Format;
use super::scale::Scale;
use super::tiling::{STRIP, Tiling};
use super::{INFINITE, Magnitude, Source, all_finite, as_groups, over, tiles};
use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::par::{Blocks, Tile};
use crate::real::typed;
use crate::simd::kernel;

kernel! {
    /// Encodes a block with a scale for each tile of a row, and again with one for each column. Gives the place of the
    /// first tile of a row that is not all finite, if there is one.
    fn encode_both<X: Magnitude>(
        x: &Mat<'_, X>,
        part: usize,
        power_of_two: bool,
        row_scales: &mut Tile<'_, f32>,
        row_codes: &mut Tile<'_, u8>,
        column_scales: &mut [f32],
        column_codes: &mut Tile<'_, u8>,
    ) -> Option<(usize, usize)> {
        let mut most = [X::Bits::default(); STRIP];
        for r in 0..x.rows() {
            let row = x.row(r);
            for ((at, end), scale) in tiles(row.len(), part).zip(row_scales.row(r)) {
                let mut largest = X::Bits::default();
                for (most, &x) in most[at..end].iter_mut().zip(&row[at..end]) {
                    let magnitude = x.magnitude();
                    *most = magnitude.max(*most);
                    largest = largest.max(magnitude);
                }
                let largest = X::widen(largest);
                if largest >= INFINITE {
                    return Some((r, at));
                }
                *scale = f32::from_bits(largest);
            }
        }
        for r in 0..x.rows() {
            for scale in row_scales.row(r) {
                *scale = scale_of(*scale, E4M3::MAX, power_of_two);
            }
        }
        for (scale, &most) in column_scales.iter_mut().zip(&most) {
            *scale = scale_of(f32::from_bits(X::widen(most)), E4M3::MAX, power_of_two);
        }
        for r in 0..x.rows() {
            let (row, to) = (x.row(r), row_codes.row(r));
            for ((at, end), &mut scale) in tiles(row.len(), part).zip(row_scales.row(r)) {
                E4M3::put(&row[at..end], over(scale, power_of_two), &mut to[at..end]);
            }
            E4M3::put(row, Scale::OverEach(column_scales), column_codes.row(r));
        }
        None
    }
}

typed! {
    quantize_both: QuantizeBoth[x] => run_quantize_both,
}

impl Cpu {
    fn run_quantize_both<X: Magnitude>(&self, call: QuantizeBoth<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "quantize_both";
        let x = mat::read::<X>(OP, &call.x)?;
        self.encode_each(OP, call.y, 0, &x)
    }

    /// Encodes `x`, whose blocks take `scratch` numbers of scratch, in the tilings of `y`.
    pub(crate) fn encode_each<S: Source>(
        &self,
        op: &'static str,
        y: Encoded<'_, Buffer>,
        scratch: usize,
        x: &S,
    ) -> Result<(), CpuError> {
        let (power_of_two, isa, (height, width)) = (y.power_of_two, self.isa(), y.shape());
        let (rows, columns) = match (y.rows, y.columns) {
            (Some(rows), Some(columns)) => (rows, columns),
            (rows, columns) => {
                let each = rows.into_iter().chain(columns);
                return each.into_iter().try_for_each(|y| self.encode::<E4M3, S>(op, y, power_of_two, scratch, x));
            }
        };
        let part = if let Tiles::Row { part } = rows.tiles { part } else { width };
        let mut groups = self.alloc_f32(3 * Tiling::groups(&columns.tiles))?;
        let tiling = Tiling::columns(op, &columns.tiles, (height, width), part, as_groups(&mut groups))?;
        let code_place = |i: usize| {
            let b = tiling.block(i);
            [b.rows.start, b.rows.len(), b.cols.start, b.cols.len()]
        };
        let place = |col: usize| col / part * part.div_ceil(TILE) + (col % part).div_ceil(TILE);
        let row_scale_place = |i: usize| {
            let b = tiling.block(i);
            let first = place(b.cols.start);
            [b.rows.start, b.rows.len(), first, place(b.cols.end) - first]
        };
        let count = tiling.blocks();
        // SAFETY: different blocks of a tiling share neither elements nor scales of columns; they hold whole tiles of
        // rows, so they share none of those either.
        let parts = unsafe {
            (
                Blocks::new(mat::write::<f32>(op, rows.scales)?, count, row_scale_place),
                Blocks::new(mat::write_bytes(rows.codes), count, code_place),
                Blocks::new(mat::write::<f32>(op, columns.scales)?, count, |i| tiling.block(i).scales),
                Blocks::new(mat::write_bytes(columns.codes), count, code_place),
            )
        };
        let bad = AtomicUsize::new(usize::MAX);
        self.for_each_with(2 * height * width, scratch, parts, |i, (mut a, mut b, mut c, mut d), scratch| {
            let place = tiling.block(i);
            let (first, left) = (place.rows.start, place.cols.start);
            let part = part.min(place.cols.len());
            let x = x.block(place.rows, place.cols, scratch);
            let found = encode_both(isa, &x, part, power_of_two, &mut a, &mut b, c.row(0), &mut d);
            if let Some((r, c)) = found {
                bad.fetch_min((first + r) * width + left + c, Ordering::Relaxed);
            }
        })?;
        all_finite(op, bad, width)
    }
}
