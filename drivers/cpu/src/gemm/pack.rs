//! Copies of the factors in the order in which the tiles read them.

use super::transpose::transpose;
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
    for (p, panel) in to.chunks_exact_mut((depth * NR).max(1)).enumerate() {
        transpose(isa, b, p * NR, panel.as_chunks_mut().0);
    }
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
    assert!(matches!(most, 12 | 6 | 4), "a copy for every tile");
    let to = &mut to[..rows.next_multiple_of(most) * depth];
    match most {
        12 => copy_columns::<12>(a, to),
        6 => copy_columns::<6>(a, to),
        _ => copy_columns::<4>(a, to),
    }
    Left { data: to, rows, depth, panel: depth * most, row: 1, step: most }
}

/// Copies `R` columns of `a` at a time. Rows past its last column keep what `to` held: no tile reads them.
fn copy_columns<const R: usize>(a: &Mat<'_, f32>, to: &mut [f32]) {
    let (depth, rows) = (a.rows(), a.cols());
    for (p, panel) in to.chunks_exact_mut((depth * R).max(1)).enumerate() {
        let first = p * R;
        for (r, line) in panel.as_chunks_mut::<R>().0.iter_mut().enumerate() {
            let row = &a.row(r)[first..rows.min(first + R)];
            match <&[f32; R]>::try_from(row) {
                Ok(whole) => *line = *whole,
                Err(_) => line[..row.len()].copy_from_slice(row),
            }
        }
    }
}
