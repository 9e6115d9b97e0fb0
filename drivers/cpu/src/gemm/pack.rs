//! Copies of the factors in the order in which the tiles read them.

use super::{Left, NR, Right, packed, tile_rows};
use crate::mat::Mat;
use crate::simd::{Isa, kernel};

/// Packs `b[k, n]` into panels of [`NR`] columns. Columns past `n` are zeros.
pub(crate) fn pack_rows<'s>(isa: Isa, b: &Mat<'_, f32>, to: &'s mut [f32]) -> Right<'s> {
    let (depth, cols) = (b.rows(), b.cols());
    let to = &mut to[..packed(depth, cols)];
    copy_rows(isa, b, to);
    Right { data: to, depth, pitch: depth, cols }
}

/// Packs `b[n, k]ᵀ` into panels of [`NR`] columns, which are rows of `b`. Columns past `n` are zeros.
pub(crate) fn pack_columns<'s>(isa: Isa, b: &Mat<'_, f32>, to: &'s mut [f32]) -> Right<'s> {
    let (depth, cols) = (b.cols(), b.rows());
    let to = &mut to[..packed(depth, cols)];
    transpose_rows(isa, b, to);
    Right { data: to, depth, pitch: depth, cols }
}

kernel! {
    fn copy_rows(b: &Mat<'_, f32>, to: &mut [f32]) {
        let (depth, cols) = (b.rows(), b.cols());
        for (p, panel) in to.chunks_exact_mut((depth * NR).max(1)).enumerate() {
            let (first, width) = (p * NR, NR.min(cols - p * NR));
            let (lines, _) = panel.as_chunks_mut::<NR>();
            for (r, line) in lines.iter_mut().enumerate() {
                let row = &b.row(r)[first..first + width];
                match <&[f32; NR]>::try_from(row) {
                    Ok(whole) => *line = *whole,
                    Err(_) => {
                        line[..width].copy_from_slice(row);
                        line[width..].fill(0.0);
                    }
                }
            }
        }
    }
}

kernel! {
    fn transpose_rows(b: &Mat<'_, f32>, to: &mut [f32]) {
        let (depth, cols) = (b.cols(), b.rows());
        for (p, panel) in to.chunks_exact_mut((depth * NR).max(1)).enumerate() {
            let (first, width) = (p * NR, NR.min(cols - p * NR));
            if width < NR {
                panel.fill(0.0);
            }
            for j in 0..width {
                let row = b.row(first + j);
                for (line, &v) in panel.as_chunks_mut::<NR>().0.iter_mut().zip(row) {
                    line[j] = v;
                }
            }
        }
    }
}

/// The left factor `a[m, k]`: as it lies, or copied to other distances where its rows would fall on each other in the
/// cache.
pub(super) fn left<'s>(isa: Isa, a: &Mat<'s, f32>, to: &'s mut [f32]) -> Left<'s> {
    const ALIAS: usize = 1024; // numbers in the 4 KiB after which addresses share a set of the L1 cache
    if a.stride() % ALIAS != 0 || a.rows() < 8 {
        return Left::new(isa, a);
    }
    let stride = a.cols().next_multiple_of(16) + 16;
    let to = &mut to[..a.rows() * stride];
    for (r, line) in to.chunks_exact_mut(stride).enumerate() {
        line[..a.cols()].copy_from_slice(a.row(r));
    }
    Left::new(isa, &Mat::new(to, a.rows(), a.cols(), stride))
}

/// The left factor `a[k, m]ᵀ`, copied so that a tile reads it from one place.
pub(super) fn left_transposed<'s>(isa: Isa, a: &Mat<'_, f32>, to: &'s mut [f32]) -> Left<'s> {
    let (depth, rows, most) = (a.rows(), a.cols(), tile_rows(isa));
    let to = &mut to[..rows.next_multiple_of(most) * depth];
    for (p, panel) in to.chunks_exact_mut((depth * most).max(1)).enumerate() {
        let (first, height) = (p * most, most.min(rows - p * most));
        for (r, line) in panel.chunks_exact_mut(most).enumerate() {
            line[..height].copy_from_slice(&a.row(r)[first..first + height]);
        }
    }
    Left { data: to, rows, depth, panel: depth * most, row: 1, step: most }
}
