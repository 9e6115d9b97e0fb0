//! A GEMM task: one block of the product.

use fathom_core::device::Form;

use super::pack::{left_room, left_transposed, pack_source_columns, pack_source_rows};
use super::{DEPTH, NR, Output, Source, Word, depth, left, multiply, packed, tile_rows};
use crate::mat::MatMut;
use crate::par::Tile;
use crate::simd::{Isa, kernel};

/// The most rows of a block.
const MAX_ROWS: usize = 384;
/// Rows and columns below which a block is not cut: packing would cost more than waiting.
const LEAST: usize = 64;
/// A block has a multiple of this many rows, or of a tile's if those are more.
const STRIP: usize = 12;

/// How a product is cut into blocks.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub rows: usize,
    pub cols: usize,
}

impl Shape {
    /// Blocks of an `m × n` product for `threads` threads: as large as caches like them, but two for each thread if
    /// there can be, and as many for one as for another.
    pub(super) fn new<W: Word>(isa: Isa, m: usize, n: usize, threads: usize) -> Self {
        let widest = W::cols(isa);
        let (mut down, mut across) = (m.div_ceil(MAX_ROWS).max(1), n.div_ceil(widest).max(1));
        let enough = |blocks: usize| blocks.is_multiple_of(threads) && blocks >= 2 * threads || threads == 1;
        while !enough(down * across) && down * across < 8 * threads {
            let (rows, cols) = (m / down, n / across);
            if rows >= cols.max(2 * LEAST) {
                down += 1;
            } else if cols >= 2 * LEAST {
                across += 1;
            } else {
                break;
            }
        }
        let even = |total: usize, parts: usize, unit: usize| total.div_ceil(parts).next_multiple_of(unit).max(unit);
        Self { rows: even(m, down, STRIP.max(tile_rows::<W>(isa))), cols: even(n, across, NR).min(widest) }
    }

    /// Scratch size of a task of a product of depth `k`, in f32 numbers.
    pub(super) fn scratch<W: Word, A: Source<W::Number>, B: Source<W::Number>, C: Output>(
        &self,
        isa: Isa,
        k: usize,
    ) -> usize {
        let words = DEPTH / W::NUMBERS;
        let sums = if sums_apart::<C>(isa, k) { self.rows * self.cols } else { 0 };
        let made = |made: bool, rows: usize| if made { rows * words } else { 0 };
        sums + packed(words, self.cols) + left_room(W::ROWS, words) + made(B::MADE, NR) + made(A::MADE, W::ROWS)
    }
}

/// Whether sums need separate memory: where they are more than one chain and would be rounded in between.
fn sums_apart<C: Output>(isa: Isa, k: usize) -> bool {
    C::ROUNDS && k > depth(isa)
}

/// What all blocks of a product have in common.
pub(super) struct Job {
    pub isa: Isa,
    pub form: Form,
    pub alpha: f32,
    pub add: bool,
}

impl Job {
    /// Computes `c`, the block that starts at `(row, col)` of the product of all of `a` and `b`.
    pub(super) fn run<W: Word, A: Source<W::Number>, B: Source<W::Number>, C: Output>(
        &self,
        a: &A,
        b: &B,
        at: (usize, usize),
        c: &mut Tile<'_, C>,
        scratch: &mut [f32],
    ) {
        let _tiles = self.isa.hold_tiles();
        let (rows, cols) = (c.rows(), c.cols());
        if !sums_apart::<C>(self.isa, if self.form == Form::Tn { a.rows() } else { a.cols() }) {
            return self.sum::<W, A, B, C>(a, b, at, c, self.add, scratch);
        }
        let (sums, scratch) = scratch.split_at_mut(rows * cols);
        self.sum::<W, A, B, f32>(a, b, at, &mut Tile::whole(MatMut::new(sums, rows, cols, cols)), false, scratch);
        self.round(sums, c);
    }

    /// Rounds the rows of `sums`, added to `c` if the product is, into `c`.
    pub(super) fn round<C: Output>(&self, sums: &[f32], c: &mut Tile<'_, C>) {
        for (r, sums) in sums.chunks_exact(c.cols().max(1)).enumerate() {
            if self.add {
                add_rounded(self.isa, sums, c.row(r));
            } else {
                round(self.isa, sums, c.row(r));
            }
        }
    }

    fn sum<W: Word, A: Source<W::Number>, B: Source<W::Number>, C: Output>(
        &self,
        a: &A,
        b: &B,
        (row, col): (usize, usize),
        c: &mut Tile<'_, C>,
        add: bool,
        scratch: &mut [f32],
    ) {
        let Self { isa, form, alpha, .. } = *self;
        let (rows, cols) = (c.rows(), c.cols());
        let words = DEPTH / W::NUMBERS;
        let (b_packed, scratch) = scratch.split_at_mut(packed(words, cols));
        let (b_made, scratch) = scratch.split_at_mut(if B::MADE { words * NR } else { 0 });
        let (a_packed, a_made) = scratch.split_at_mut(left_room(W::ROWS, words));
        let (b_packed, b_made) = (bytemuck::cast_slice_mut(b_packed), bytemuck::cast_slice_mut(b_made));
        let (a_packed, a_made) = (bytemuck::cast_slice_mut(a_packed), bytemuck::cast_slice_mut(a_made));
        let k = if form == Form::Tn { a.rows() } else { a.cols() };
        if k == 0 && !add {
            c.for_rows(|_, y| y.fill(C::store(0.0)));
        }
        let most = depth(isa);
        for from in (0..k).step_by(most) {
            let depth = most.min(k - from);
            let right = match form {
                Form::Nt => pack_source_columns(isa, &b.block(col, cols, from, depth), b_made, b_packed),
                Form::Nn | Form::Tn => pack_source_rows(isa, &b.block(from, depth, col, cols), b_made, b_packed),
            };
            for top in (0..rows).step_by(W::ROWS) {
                let height = W::ROWS.min(rows - top);
                let left = if form == Form::Tn {
                    left_transposed(isa, &a.block(from, depth, row + top, height).numbers(isa, a_made), a_packed)
                } else {
                    left(isa, &a.block(row + top, height, from, depth).numbers(isa, a_made), a_packed)
                };
                multiply::<W, C>(isa, &left, &right, &mut c.block(top, height, 0, cols), alpha, add || from > 0);
            }
        }
    }
}

kernel! {
    fn round<C: Output>(sums: &[f32], c: &mut [C]) {
        for (c, &sum) in c.iter_mut().zip(sums) {
            *c = C::store(sum);
        }
    }
}

kernel! {
    fn add_rounded<C: Output>(sums: &[f32], c: &mut [C]) {
        for (c, &sum) in c.iter_mut().zip(sums) {
            *c = C::store(sum + c.load());
        }
    }
}
