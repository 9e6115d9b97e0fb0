//! GEMM: matrix products, plain and grouped, in F32, BF16 and FP8.
//!
//! Factors are F32, BF16, or E4M3 codes with scales. Two BF16 factors are multiplied in pairs where the processor has
//! an instruction for that, and so are codes ([`gemm_fp8`]); in every other case what is not F32 is made so first.
//! Either way the product is over [`Word`]s, and sums are f32; a BF16 result is rounded once, at the end.
//!
//! The result is cut into blocks ([`block`]), one task each. A task packs its columns of `b` into panels ([`pack`]),
//! [`depth`] of the inner dimension at a time, and multiplies its rows of `a` with them by the tiles of [`tile`].
//! Nothing is shared between tasks and nothing is reduced across them, so an element of `c` is always the same chain of
//! multiply-adds: rising `k`, a new chain every [`depth`] (every segment, for codes). AMX alone has two chains inside
//! every 32 numbers, whose sum it adds to the chain. Which block it lies in, and how
//! many rows or columns there are besides, does not matter to its bits; so blocks may be cut for the number of threads.

mod block;
mod codes;
mod gemm_fp8;
mod grouped;
#[cfg(target_arch = "x86_64")]
mod join;
mod pack;
mod source;
#[cfg(target_arch = "x86_64")]
mod squares;
mod tile;
mod transpose;

use std::ops::Range;

use fathom_core::DType;
use fathom_core::device::{Form, Gemm};
use half::bf16;

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles};
use crate::simd::Isa;
use block::Job;
pub(crate) use block::Shape;
pub(crate) use grouped::Plan;
pub(crate) use pack::{left, left_size, left_stride, pack_columns, pack_rows};
use source::Source;
#[cfg(target_arch = "x86_64")]
pub(crate) use squares::turn;
pub(crate) use tile::{NR, Output, Unit, Word, has_pairs};

/// How much of the inner dimension is multiplied in one go at most.
const DEPTH: usize = 512;

/// How much of the inner dimension is multiplied in one go. Part of the definition of the result on an instruction set:
/// sums are chained inside it, then added.
///
/// With AVX2 a tile is half as wide, and a panel of half the depth fits the L1 cache beside the rows that it is
/// multiplied with.
fn depth(isa: Isa) -> usize {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        crate::simd::Level::Avx2 => DEPTH / 2,
        _ => DEPTH,
    }
}

/// The rows of the left factor, as the tiles read it: row `i`, word `p` at
/// `(i / R)·panel + (i % R)·row + p·step`, with `R` rows to a tile.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a, W = f32> {
    data: &'a [W],
    rows: usize,
    depth: usize,
    panel: usize,
    row: usize,
    step: usize,
}

impl<'a, W: Word> Left<'a, W> {
    /// The operand `a[m, k]`, as it is stored.
    pub(crate) fn new(isa: Isa, a: &Mat<'a, W>) -> Self {
        let panel = tile_rows::<W>(isa) * a.stride();
        Self { data: a.as_slice(), rows: a.rows(), depth: a.cols(), panel, row: a.stride(), step: 1 }
    }

    /// The operand `a[k, m]ᵀ`, as it is stored.
    pub(crate) fn transposed(isa: Isa, a: &Mat<'a, W>) -> Self {
        let panel = tile_rows::<W>(isa);
        Self { data: a.as_slice(), rows: a.cols(), depth: a.rows(), panel, row: 1, step: a.stride() }
    }

    /// Rows `rows` and numbers `depth` of them only, of a factor whose rows are all equally far apart. The numbers
    /// start with a word.
    pub(crate) fn part(self, rows: Range<usize>, depth: Range<usize>) -> Self {
        let depth = words::<W>(depth);
        assert!(rows.end <= self.rows && depth.end <= self.depth, "a part lies inside its factor");
        let data = &self.data[rows.start * self.row + depth.start * self.step..];
        Self { data, rows: rows.len(), depth: depth.len(), ..self }
    }

    /// Where the words of panel `panel` start, and how far apart lines are fetched ahead of their use, one for every
    /// word of depth: as far as the panel's words, or a line where they follow one another; else nowhere.
    fn ahead(&self, panel: usize) -> (*const W, usize) {
        const LINE: usize = 16;
        let start = self.data.as_ptr().wrapping_add(panel * self.panel);
        if self.row == 1 && self.step > LINE {
            // The last word of a panel, since the first is often in a line of the panel before.
            return (start.wrapping_add(self.panel - 1), self.step);
        }
        let packed = self.panel == self.step * self.depth || self.step == 1 && self.row == self.depth;
        (start, if packed { LINE } else { 0 })
    }

    /// Rows that lie before row `row` as those of its tile lie behind it.
    fn before(&self, row: usize, tile_rows: usize) -> usize {
        if self.panel == tile_rows * self.row { row } else { 0 }
    }

    /// Checks that an `m × n` product by tiles of `tile_rows` rows stays inside both factors.
    fn check(&self, b: &Right<'_, W>, (m, n): (usize, usize), tile_rows: usize) {
        assert!(self.rows >= m && self.depth == b.depth && b.cols >= n, "factors fit their product");
        assert!(self.data.len() >= self.end(tile_rows), "the left factor lies inside its memory");
        assert!(b.data.len() >= b.end(), "the right factor lies inside its memory");
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

/// The right factor, as the tiles read it: panels of [`NR`] columns. Column `j`, word `p` at
/// `(j / NR)·panel + p·line + j % NR`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a, W = f32> {
    data: &'a [W],
    depth: usize,
    line: usize,
    panel: usize,
    cols: usize,
}

impl<'a, W: Word> Right<'a, W> {
    /// Panels that follow one another, of `depth` lines each.
    fn packed(data: &'a [W], depth: usize, cols: usize) -> Self {
        Self { data, depth, line: NR, panel: depth * NR, cols }
    }

    /// The operand `b[k, n]`, as it is stored. Its rows are so far apart that sixteen columns can be read wherever one
    /// can.
    pub(crate) fn new(b: &Mat<'a, W>) -> Self {
        assert!(b.stride() >= b.cols().next_multiple_of(TILE), "rows have room for whole registers");
        Self { data: b.as_slice(), depth: b.rows(), line: b.stride(), panel: NR, cols: b.cols() }
    }

    /// Numbers `depth` of every column only. They start with a word. Where they end inside one, the left factor must
    /// have zeros for the rest of it.
    pub(crate) fn part(self, depth: Range<usize>) -> Self {
        let depth = words::<W>(depth);
        assert!(depth.end <= self.depth, "no deeper than the factor");
        Self { data: &self.data[depth.start * self.line..], depth: depth.len(), ..self }
    }

    /// One past the largest index any tile reads.
    fn end(&self) -> usize {
        if self.cols * self.depth == 0 {
            return 0;
        }
        let last = self.cols - 1;
        last / NR * self.panel + (self.depth - 1) * self.line + (last % NR + 1).next_multiple_of(TILE)
    }
}

/// Columns that a tile reads at a time.
const TILE: usize = 16;

/// Words of numbers `depth`, which start with a word.
fn words<W: Word>(depth: Range<usize>) -> Range<usize> {
    assert!(depth.start.is_multiple_of(W::NUMBERS), "words are not cut");
    depth.start / W::NUMBERS..depth.end.div_ceil(W::NUMBERS)
}

/// Words in `cols` packed columns of `depth` words.
pub(crate) const fn packed(depth: usize, cols: usize) -> usize {
    cols.next_multiple_of(NR) * depth
}

/// Rows of the largest tile.
pub(crate) fn tile_rows<W: Word>(isa: Isa) -> usize {
    W::tiles(isa).len()
}

/// `c = α·a·b`, or `c += …` with `add`.
pub(crate) fn multiply<W: Word, C: Output>(
    isa: Isa,
    a: &Left<'_, W>,
    b: &Right<'_, W>,
    c: &mut Tile<'_, C>,
    alpha: f32,
    add: bool,
) {
    let table = W::tiles(isa);
    for_tiles(isa, table.len(), a, b, c, (alpha, add), |x, _| {
        // SAFETY: the table is for the instructions of `isa`, and the operands are those of a tile of its rows.
        unsafe { table[x.rows - 1][usize::from(x.n > TILE)](x) };
    });
}

/// `f(operands, (row, column))` for every tile of a product, of at most `most` rows: down the panels of the right
/// factor, each of which stays in the nearest cache, or, where products are quicker than what they read and write,
/// along the rows. The operands are what a [`tile::TileFn`] may read and write.
#[inline(always)]
fn for_tiles<W: Word, C: Output>(
    isa: Isa,
    most: usize,
    a: &Left<'_, W>,
    b: &Right<'_, W>,
    c: &mut Tile<'_, C>,
    (alpha, add): (f32, bool),
    mut f: impl FnMut(&tile::Operands<W>, (usize, usize)),
) {
    let (m, n, ldc) = (c.rows(), c.cols(), c.stride());
    // So the tile's rows of `a`, and those before them, lie inside `a.data`, and whole panels of `NR` columns in `b`.
    a.check(b, (m, n), most);
    let mut tile = |row: usize, col: usize| {
        let (panel, height) = (row / most, most.min(m - row));
        let operands = tile::Operands {
            k: b.depth,
            a: a.data.as_ptr().wrapping_add(panel * a.panel),
            rows: height,
            before: a.before(row, most),
            row: a.row,
            step: a.step,
            ahead: a.ahead(if row + height < m { panel + 1 } else { 0 }),
            b: b.data[col / NR * b.panel..].as_ptr(),
            line: b.line,
            // Rows `row..row + rows` and columns `col..col + n` are inside `c`, whose memory is ours.
            c: C::target(c.as_mut_ptr().wrapping_add(row * ldc + col)),
            ldc,
            n: NR.min(n - col),
            alpha,
            add,
        };
        f(&operands, (row, col));
    };
    let _registers = isa.hold_tiles();
    let (rows, cols) = ((0..m).step_by(most), (0..n).step_by(NR));
    if isa.has_amx() && W::NUMBERS == 2 {
        rows.for_each(|row| cols.clone().for_each(|col| tile(row, col)));
    } else {
        cols.for_each(|col| rows.clone().for_each(|row| tile(row, col)));
    }
}

/// Nanoseconds, roughly, that `flops` take on one core.
fn work(flops: usize) -> usize {
    flops / 32
}

/// `$body` with `$a`, `$b`: the factors as sources of `$W`, and `$c`: the result, of whichever types they are; or an
/// error that products of them are not done.
macro_rules! with_operands {
    ($op:expr, $isa:expr, $call:expr, |$W:ident, $a:ident, $b:ident, $c:ident| $body:expr) => {{
        use $crate::real::with_real;
        let is_bf16 = $call.a.dtype() == DType::BF16 && $call.b.dtype() == DType::BF16;
        let pairs = is_bf16 && $crate::gemm::has_pairs($isa);
        with_real!($op, $call.c.dtype(), C => {
            if pairs {
                type $W = u32;
                let ($a, $b) = (mat::read::<bf16>($op, &$call.a)?, mat::read::<bf16>($op, &$call.b)?);
                let $c = mat::write::<C>($op, $call.c)?;
                $body
            } else {
                type $W = f32;
                with_real!($op, $call.a.dtype(), A => with_real!($op, $call.b.dtype(), B => {
                    let ($a, $b) = (mat::read::<A>($op, &$call.a)?, mat::read::<B>($op, &$call.b)?);
                    let $c = mat::write::<C>($op, $call.c)?;
                    $body
                }))
            }
        })
    }};
}
use with_operands;

impl Cpu {
    pub(crate) fn gemm(&self, call: Gemm<'_, Buffer>) -> Result<(), CpuError> {
        let (form, alpha, add) = (call.form, call.alpha as f32, call.out.adds());
        with_operands!("gemm", self.isa(), call, |W, a, b, c| self.product::<W, _, _, _>(form, a, b, c, alpha, add))
    }

    fn product<W: Word, A: Source<W::Number>, B: Source<W::Number>, C: Output>(
        &self,
        form: Form,
        a: A,
        b: B,
        c: MatMut<'_, C>,
        alpha: f32,
        add: bool,
    ) -> Result<(), CpuError> {
        let k = if form == Form::Tn { a.rows() } else { a.cols() };
        let shape = Shape::new::<W>(self.isa(), c.rows(), c.cols(), self.threads());
        let job = Job { isa: self.isa(), form, alpha, add };
        let scratch = shape.scratch::<W, A, B, C>(job.isa, k);
        self.blocks(2 * c.rows() * c.cols() * k, shape, scratch, c, |at, c, scratch| {
            job.run::<W, A, B, C>(&a, &b, at, c, scratch);
        })
    }

    /// Runs `f` for every block of `c`: its place, the block and `scratch` numbers.
    fn blocks<C: Output>(
        &self,
        flops: usize,
        shape: Shape,
        scratch: usize,
        c: MatMut<'_, C>,
        f: impl Fn((usize, usize), &mut Tile<'_, C>, &mut [f32]) + Sync,
    ) -> Result<(), CpuError> {
        let blocks = Tiles::new(c, shape.rows, shape.cols);
        self.for_each_with(work(flops), scratch, blocks, |_, mut c, scratch| f((c.row, c.col), &mut c, scratch))
    }
}

#[cfg(test)]
mod tests;
