//! Matrix products.
//!
//! The result is cut into blocks, one task each. A task packs its columns of `b` into panels ([`pack`]), [`DEPTH`] of
//! the inner dimension at a time, and multiplies its rows of `a` with them by the tiles of [`tile`]. Nothing is shared
//! between tasks and nothing is reduced across them, so an element of `c` is always the same chain of multiply-adds:
//! rising `k`, a new chain every [`DEPTH`]. Which block it lies in, and how many rows or columns there are besides,
//! does not matter to its bits.

mod grouped;
mod pack;
mod tile;
mod transpose;

use fathom_core::device::{Form, Gemm};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles};
use crate::simd::{Isa, Level};
pub(crate) use pack::{left, left_size, pack_columns, pack_rows};
pub(crate) use tile::NR;
use tile::TileTable;
pub(crate) use transpose::transpose;

/// How much of the inner dimension is multiplied in one go. Part of the definition of the result: sums are chained
/// inside `DEPTH`, then added.
const DEPTH: usize = 512;
/// Columns of a task's block: 128 × `DEPTH` packed numbers fill a quarter of an L2 cache.
const COLS: usize = 128;
/// Rows of `a` that are packed at once where they must be: a multiple of every tile's rows.
const ROWS: usize = 96;
/// The most rows of a task's block.
const MAX_ROWS: usize = 384;
/// Tasks that a product is cut into where it is large enough: some for each core of a workstation.
const TASKS: usize = 24;
/// Scratch of a task: packed columns of `b`, packed rows of `a`.
const SCRATCH: usize = DEPTH * COLS + left_size(ROWS, DEPTH);

/// The rows of the left factor, as the tiles read it: row `i`, depth `p` at
/// `(i / R)·panel + (i % R)·row + p·step`, with `R` rows to a tile.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    data: &'a [f32],
    rows: usize,
    depth: usize,
    panel: usize,
    row: usize,
    step: usize,
}

impl<'a> Left<'a> {
    /// `a[m, k]`, as it lies.
    pub(crate) fn new(isa: Isa, a: &Mat<'a, f32>) -> Self {
        let panel = tile_rows(isa) * a.stride();
        Self { data: a.as_slice(), rows: a.rows(), depth: a.cols(), panel, row: a.stride(), step: 1 }
    }

    /// `a[k, m]ᵀ`, as it lies.
    pub(crate) fn transposed(isa: Isa, a: &Mat<'a, f32>) -> Self {
        let panel = tile_rows(isa);
        Self { data: a.as_slice(), rows: a.cols(), depth: a.rows(), panel, row: 1, step: a.stride() }
    }

    /// One past the largest index any tile reads.
    fn end(&self, tile_rows: usize) -> usize {
        if self.rows * self.depth == 0 {
            return 0;
        }
        let (panels, rest) = ((self.rows - 1) / tile_rows, (self.rows - 1) % tile_rows);
        let last = panels * self.panel + rest * self.row;
        let before = if panels == 0 { 0 } else { (panels - 1) * self.panel + (tile_rows - 1) * self.row };
        last.max(before) + (self.depth - 1) * self.step + 1
    }
}

/// The right factor, packed: panels of [`NR`] columns, each `depth` rows of `NR` numbers.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    data: &'a [f32],
    depth: usize,
    /// Depth that was packed, of which the first `depth` are used.
    pitch: usize,
    cols: usize,
}

impl Right<'_> {
    /// The first `depth` rows only.
    pub(crate) fn shallow(self, depth: usize) -> Self {
        assert!(depth <= self.pitch, "no deeper than packed");
        Self { depth, ..self }
    }
}

/// Numbers in `cols` packed columns of depth `depth`.
pub(crate) const fn packed(depth: usize, cols: usize) -> usize {
    cols.next_multiple_of(NR) * depth
}

fn table(isa: Isa) -> TileTable {
    match isa.level() {
        Level::Any => tile::any::TABLE,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => tile::avx2::TABLE,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => tile::avx512::TABLE,
    }
}

/// Rows of the largest tile.
fn tile_rows(isa: Isa) -> usize {
    table(isa).len()
}

/// `c = α·a·b`, or `c += …` with `add`.
pub(crate) fn multiply(isa: Isa, a: &Left<'_>, b: &Right<'_>, c: &mut Tile<'_, f32>, alpha: f32, add: bool) {
    let (m, n, k) = (c.rows(), c.cols(), b.depth);
    let table = table(isa);
    let most = table.len();
    assert!(a.rows >= m && a.depth == k && b.cols >= n, "factors fit their product");
    assert!(a.data.len() >= a.end(most) && b.data.len() >= packed(b.pitch, b.cols), "factors lie inside their memory");
    let ldc = c.stride();
    for col in (0..n).step_by(NR) {
        let width = NR.min(n - col);
        let panel = b.data[col * b.pitch..].as_ptr();
        for (i, row) in (0..m).step_by(most).enumerate() {
            let height = most.min(m - row);
            let f = table[height - 1][usize::from(width > 16)];
            let operands = tile::Operands {
                k,
                a: a.data.as_ptr().wrapping_add(i * a.panel),
                row: a.row,
                step: a.step,
                b: panel,
                c: c.as_mut_ptr().wrapping_add(row * ldc + col),
                ldc,
                n: width,
                alpha,
                add,
            };
            // SAFETY: the table is for the instructions of `isa`. The tile's rows and depth of `a` end before
            // `a.end()`, which the assertion found inside `a.data`; `b` holds whole panels of `NR` columns; rows
            // `row..row + height` and columns `col..col + width` are inside `c`, whose memory is ours.
            unsafe { f(&operands) };
        }
    }
}

/// The block of `c` that starts at `(row, col)` of the product of all of `a` and `b`.
#[allow(clippy::too_many_arguments)]
fn block(
    isa: Isa,
    form: Form,
    a: &Mat<'_, f32>,
    b: &Mat<'_, f32>,
    (row, col): (usize, usize),
    c: &mut Tile<'_, f32>,
    alpha: f32,
    add: bool,
    scratch: &mut [f32],
) {
    let (rows, cols) = (c.rows(), c.cols());
    let (b_scratch, a_scratch) = scratch.split_at_mut(DEPTH * COLS);
    let k = if form == Form::Tn { a.rows() } else { a.cols() };
    if k == 0 && !add {
        c.for_rows(|_, y| y.fill(0.0));
    }
    for from in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - from);
        let right = match form {
            Form::Nt => pack_columns(isa, &b.block(col, cols, from, depth), b_scratch),
            Form::Nn | Form::Tn => pack_rows(isa, &b.block(from, depth, col, cols), b_scratch),
        };
        for top in (0..rows).step_by(ROWS) {
            let height = ROWS.min(rows - top);
            let left = if form == Form::Tn {
                pack::left_transposed(isa, &a.block(from, depth, row + top, height), a_scratch)
            } else {
                left(isa, &a.block(row + top, height, from, depth), a_scratch)
            };
            multiply(isa, &left, &right, &mut c.block(top, height, 0, cols), alpha, add || from > 0);
        }
    }
}

/// Rows of a task's block of an `m × n` product: few enough for [`TASKS`] tasks, enough to pay for packing.
fn block_rows(m: usize, n: usize) -> usize {
    let across = n.div_ceil(COLS).max(1);
    let down = TASKS.div_ceil(across);
    m.div_ceil(down).next_multiple_of(12).clamp(ROWS, MAX_ROWS)
}

/// Nanoseconds, roughly, that `flops` take on one core.
fn work(flops: usize) -> usize {
    flops / 32
}

impl Cpu {
    pub(crate) fn run_gemm(&self, call: Gemm<'_, Buffer>) -> Result<(), CpuError> {
        let (m, n, k) = call.dimensions();
        let (form, alpha, add) = (call.form, call.alpha as f32, call.accumulate);
        let (a, b) = (mat::read("gemm", &call.a)?, mat::read("gemm", &call.b)?);
        let c = Tiles::new(mat::write("gemm", call.c)?, block_rows(m, n), COLS);
        let isa = self.isa();
        self.for_each_with(work(2 * m * n * k), SCRATCH, c, |_, mut c, scratch| {
            block(isa, form, &a, &b, (c.row, c.col), &mut c, alpha, add, scratch);
        })
    }
}

#[cfg(test)]
mod tests;
