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
        copy_columns::<NR>(b, to);
        let (depth, used) = (b.rows(), b.cols() % NR);
        if used > 0 {
            let last = to.len() - depth * NR;
            for line in to[last..].as_chunks_mut::<NR>().0 {
                line[used..].fill(0.0);
            }
        }
    }
}

/// The left factor `a[m, k]`: as it lies, or copied to other distances where its rows would fall on each other in the
/// cache.
pub(super) fn left<'s>(isa: Isa, a: &Mat<'s, f32>, to: &'s mut [f32]) -> Left<'s> {
    const ALIAS: usize = 1024; // numbers in the 4 KiB after which addresses share a set of the L1 cache
    if !a.stride().is_multiple_of(ALIAS) || a.rows() < 8 {
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
    // No tile reads the rows that the last panel lacks.
    match most {
        12 => copy_columns::<12>(a, to),
        6 => copy_columns::<6>(a, to),
        _ => copy_columns::<4>(a, to),
    }
    Left { data: to, rows, depth, panel: depth * most, row: 1, step: most }
}

/// Copies `a` into panels of `R` columns. The columns that the last panel lacks keep what `to` held.
///
/// Each row is read from end to end, since rows may be far apart and panels are not.
#[inline(always)]
fn copy_columns<const R: usize>(a: &Mat<'_, f32>, to: &mut [f32]) {
    let panel = a.rows() * R;
    for r in 0..a.rows() {
        let (whole, rest) = a.row(r).as_chunks::<R>();
        let mut at = r * R;
        for chunk in whole {
            to[at..at + R].copy_from_slice(chunk);
            at += panel;
        }
        if !rest.is_empty() {
            to[at..at + rest.len()].copy_from_slice(rest);
        }
    }
}
