//! What attention asks of small products, over either type of activations: F32 factors, or BF16 factors in pairs.
//!
//! Sums are f32 for both. Where both factors of a product were in memory as activations they are multiplied as stored;
//! a factor that was computed in f32 (probabilities, their gradients) is rounded to the type of the other.

use half::bf16;

use crate::gemm;
use crate::mat::Mat;
use crate::pairs;
use crate::par::Tile;
use crate::real::Real;
use crate::simd::Isa;

/// A type of activations with products. Sizes are in numbers of f32 scratch.
pub(crate) trait Factor: Real {
    /// A left factor.
    type Left<'a>: Copy;
    /// A right factor, packed.
    type Right<'a>: Copy;

    /// Scratch for a left factor of `rows × depth`.
    fn left_size(rows: usize, depth: usize) -> usize;

    /// Scratch for a right factor of `depth × cols`.
    fn right_size(depth: usize, cols: usize) -> usize;

    /// `a[m, k]`.
    fn left<'s>(isa: Isa, a: &Mat<'s, Self>, scratch: &'s mut [f32]) -> Self::Left<'s>;

    /// `a[m, k]`, rounded.
    fn rounded<'s>(isa: Isa, a: &Mat<'s, f32>, scratch: &'s mut [f32]) -> Self::Left<'s>;

    /// `a[k, m]ᵀ`, rounded.
    fn rounded_transposed<'s>(isa: Isa, a: &Mat<'s, f32>, scratch: &'s mut [f32]) -> Self::Left<'s>;

    /// `b[k, n]`.
    fn pack_rows<'s>(isa: Isa, b: &Mat<'_, Self>, scratch: &'s mut [f32]) -> Self::Right<'s>;

    /// `b[n, k]ᵀ`.
    fn pack_columns<'s>(isa: Isa, b: &Mat<'_, Self>, scratch: &'s mut [f32]) -> Self::Right<'s>;

    /// The first `depth` rows of `b`.
    fn shallow(b: Self::Right<'_>, depth: usize) -> Self::Right<'_>;

    /// `c = α·a·b`, or `c += …` with `add`.
    fn multiply(isa: Isa, a: &Self::Left<'_>, b: &Self::Right<'_>, c: &mut Tile<'_, f32>, alpha: f32, add: bool);
}

impl Factor for f32 {
    type Left<'a> = gemm::Left<'a>;
    type Right<'a> = gemm::Right<'a>;

    fn left_size(rows: usize, depth: usize) -> usize {
        gemm::left_size(rows, depth)
    }

    fn right_size(depth: usize, cols: usize) -> usize {
        gemm::packed(depth, cols)
    }

    fn left<'s>(isa: Isa, a: &Mat<'s, f32>, scratch: &'s mut [f32]) -> gemm::Left<'s> {
        gemm::left(isa, a, scratch)
    }

    fn rounded<'s>(isa: Isa, a: &Mat<'s, f32>, _: &'s mut [f32]) -> gemm::Left<'s> {
        gemm::Left::new(isa, a)
    }

    fn rounded_transposed<'s>(isa: Isa, a: &Mat<'s, f32>, _: &'s mut [f32]) -> gemm::Left<'s> {
        gemm::Left::transposed(isa, a)
    }

    fn pack_rows<'s>(isa: Isa, b: &Mat<'_, f32>, scratch: &'s mut [f32]) -> gemm::Right<'s> {
        gemm::pack_rows(isa, b, scratch)
    }

    fn pack_columns<'s>(isa: Isa, b: &Mat<'_, f32>, scratch: &'s mut [f32]) -> gemm::Right<'s> {
        gemm::pack_columns(isa, b, scratch)
    }

    fn shallow(b: Self::Right<'_>, depth: usize) -> Self::Right<'_> {
        b.shallow(depth)
    }

    fn multiply(isa: Isa, a: &gemm::Left<'_>, b: &gemm::Right<'_>, c: &mut Tile<'_, f32>, alpha: f32, add: bool) {
        gemm::multiply(isa, a, b, c, alpha, add);
    }
}

impl Factor for bf16 {
    type Left<'a> = pairs::Left<'a>;
    type Right<'a> = pairs::Right<'a>;

    fn left_size(rows: usize, depth: usize) -> usize {
        pairs::copied(rows, depth)
    }

    fn right_size(depth: usize, cols: usize) -> usize {
        pairs::packed(depth, cols) + pairs::copied(cols, depth)
    }

    fn left<'s>(_: Isa, a: &Mat<'s, bf16>, scratch: &'s mut [f32]) -> pairs::Left<'s> {
        pairs::left(a, bytemuck::cast_slice_mut(scratch))
    }

    fn rounded<'s>(isa: Isa, a: &Mat<'s, f32>, scratch: &'s mut [f32]) -> pairs::Left<'s> {
        pairs::rounded(isa, a, bytemuck::cast_slice_mut(scratch))
    }

    fn rounded_transposed<'s>(isa: Isa, a: &Mat<'s, f32>, scratch: &'s mut [f32]) -> pairs::Left<'s> {
        pairs::rounded_transposed(isa, a, bytemuck::cast_slice_mut(scratch))
    }

    fn pack_rows<'s>(isa: Isa, b: &Mat<'_, bf16>, scratch: &'s mut [f32]) -> pairs::Right<'s> {
        pairs::pack_rows(isa, b, bytemuck::cast_slice_mut(scratch))
    }

    fn pack_columns<'s>(isa: Isa, b: &Mat<'_, bf16>, scratch: &'s mut [f32]) -> pairs::Right<'s> {
        pairs::pack_columns(isa, b, bytemuck::cast_slice_mut(scratch))
    }

    fn shallow(b: Self::Right<'_>, depth: usize) -> Self::Right<'_> {
        b.shallow(depth)
    }

    fn multiply(isa: Isa, a: &pairs::Left<'_>, b: &pairs::Right<'_>, c: &mut Tile<'_, f32>, alpha: f32, add: bool) {
        pairs::multiply(isa, a, b, c, alpha, add);
    }
}
