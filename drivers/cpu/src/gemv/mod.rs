//! GEMV: products of few rows with weights as they are stored, F32, BF16 or E4M3 codes in blocks, plain and grouped.
//!
//! Decoding is bound by memory: a token reads every active weight once. A task is a block of output columns, which are
//! rows of the weight; it streams them once, and multiplies up to [`dots::ROWS`] rows of activations while a weight is
//! in registers ([`dots`]). The scales of codes are put on the activations, block by block, so that a code is only
//! widened. A weight is read in several long streams side by side, which the processor fetches ahead best.
//!
//! An element is one chain of multiply-adds to each lane of a vector, over rising `k`, then the sum of the lanes. So it
//! depends on its own row and column alone, however many rows there are and wherever tasks are cut.

mod absorb;
mod columns;
mod dots;

use std::ops::Range;

use fathom_core::DType;
use fathom_core::device::{Factor, Gemv, GroupedGemv, Scaled, Tiles};
use fathom_core::fp8::TILE;
use half::bf16;

use crate::Cpu;
use crate::error::CpuError;
use crate::gemm::{Plan, Shape};
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Blocks, Tile};
use crate::real::{Real, with_real};
use crate::simd::{Isa, kernel};
use dots::{Stored, dots};

/// Bytes of a weight's column that a task reads: as many rows as make this are cut off at once.
const CUT: usize = 64;

/// The rows of a weight, or of several one under the other.
#[derive(Clone, Copy)]
struct Rows<'a, W> {
    numbers: Mat<'a, W>,
    /// Of codes: the scales of their blocks.
    scales: Option<Mat<'a, f32>>,
    /// Rows after which blocks restart; those of a whole weight where there are no blocks.
    part: usize,
}

impl<W: Stored> Rows<'_, W> {
    /// Rows that a task takes. They divide a block.
    const STEP: usize = CUT / size_of::<W>();

    /// What a widened element must be multiplied by beside its scale.
    fn factor(&self) -> f32 {
        W::FACTOR
    }

    /// Tasks of a weight of `n` rows.
    fn cuts(&self, n: usize) -> usize {
        if n == 0 { 0 } else { n / self.part * self.part.div_ceil(Self::STEP) }
    }

    /// The rows of task `cut` of a weight.
    fn cut(&self, cut: usize) -> Range<usize> {
        let each = self.part.div_ceil(Self::STEP);
        let (start, from) = (cut / each * self.part, cut % each * Self::STEP);
        start + from..start + (from + Self::STEP).min(self.part)
    }

    /// Activations for products with rows from `row` on that lie in one block: see [`prepare`].
    fn prepare<'s, X: Real>(&self, isa: Isa, x: &Mat<'s, X>, row: usize, scratch: &'s mut [f32]) -> Mat<'s, f32> {
        prepare::<X, W>(isa, x, self.scales(row).map(|scales| (scales, W::FACTOR)), scratch)
    }

    /// The scales along row `row` of all, one for every block of columns.
    fn scales(&self, row: usize) -> Option<&[f32]> {
        let (part, within) = (row / self.part, row % self.part);
        self.scales.as_ref().map(|scales| scales.row(part * self.part.div_ceil(TILE) + within / TILE))
    }
}

/// `$body` with `$w`: the rows of the weight `$weight`, of whichever type they are, of which one weight has `$n`.
macro_rules! with_rows {
    ($op:expr, $weight:expr, $n:expr, |$w:ident| $body:expr) => {
        match $weight {
            Factor::Float(w) => match w.dtype() {
                DType::F32 => {
                    let $w = Rows::<f32> { numbers: mat::read($op, &w)?, scales: None, part: $n };
                    $body
                }
                DType::BF16 => {
                    let $w = Rows::<bf16> { numbers: mat::read($op, &w)?, scales: None, part: $n };
                    $body
                }
                other => Err(mat::unsupported($op, other, "F32, BF16 and E4M3")),
            },
            Factor::Fp8(w) => {
                let $w = codes($op, &w)?;
                $body
            }
        }
    };
}

use with_rows;

fn codes<'a>(op: &'static str, w: &Scaled<'a, Buffer>) -> Result<Rows<'a, u8>, CpuError> {
    let part = match w.tiles {
        Tiles::Block { part } => part,
        _ => w.rows(),
    };
    Ok(Rows { numbers: mat::read_bytes(&w.codes), scales: Some(mat::read(op, &w.scales)?), part })
}

impl Cpu {
    pub(crate) fn gemv(&self, call: Gemv<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gemv";
        let Gemv { x, w, y, out, .. } = call;
        let (m, n) = (x.rows(), w.rows());
        with_rows!(OP, w, n, |w| with_real!(OP, x.dtype(), X => with_real!(OP, y.dtype(), Y => {
            let (x, y) = (mat::read::<X>(OP, &x)?, mat::write::<Y>(OP, y)?);
            let task = |cut| (0, 0..m, cut);
            self.dots(&x, &w, n, y, out.adds(), if m == 0 { 0 } else { w.cuts(n) }, task)
        })))
    }

    pub(crate) fn grouped_gemv(&self, call: GroupedGemv<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "grouped_gemv";
        let GroupedGemv { groups, x, w, offsets, y, .. } = call;
        let (rows, n) = (x.rows(), y.cols());
        let offsets = mat::read::<u32>(OP, &offsets)?;
        let mut entries = self.alloc_f32(3 * (groups + 1))?;
        let entries = bytemuck::cast_slice_mut(entries.elements_mut::<u32>());
        with_rows!(OP, w, n, |w| with_real!(OP, x.dtype(), X => with_real!(OP, y.dtype(), Y => {
            let (x, y) = (mat::read::<X>(OP, &x)?, mat::write::<Y>(OP, y)?);
            // A block is all rows of a group by one cut of its weight.
            let shape = Shape { rows: rows.max(1), cols: 1 };
            let plan = Plan::new(&offsets, rows, (w.cuts(n), shape), |rows| rows, entries);
            let task = |i| {
                let (group, members, _, cut) = plan.task(i);
                (group, members, cut)
            };
            let tasks = if n == 0 { 0 } else { plan.tasks() };
            self.dots(&x, &w, n, y, false, tasks, task)
        })))
    }

    /// `y = x·Wᵀ`, or `y += …`: task `i` is `(group, rows, cut)`, the rows of a group and a cut of its weight of `n`
    /// rows. No two tasks have the same rows and cut.
    #[allow(clippy::too_many_arguments)]
    fn dots<X: Real, Y: Real, W: Stored>(
        &self,
        x: &Mat<'_, X>,
        w: &Rows<'_, W>,
        n: usize,
        y: MatMut<'_, Y>,
        add: bool,
        tasks: usize,
        task: impl Fn(usize) -> (usize, Range<usize>, usize) + Sync,
    ) -> Result<(), CpuError> {
        let (isa, k) = (self.isa(), x.cols());
        let most = dots::rows(isa);
        let place = |i: usize| {
            let (_, members, cut) = task(i);
            let columns = w.cut(cut);
            [members.start, members.len(), columns.start, columns.len()]
        };
        // SAFETY: tasks differ in rows or in cuts, of which neither overlap.
        let blocks = unsafe { Blocks::new(y, tasks, place) };
        // About what a core takes to stream the weights, and what it takes to multiply.
        let elements = n * k * x.rows().min(w.numbers.rows() / n.max(1));
        let work = elements * size_of::<W>() / 12 + n * k * x.rows() / 32;
        self.for_each_with(work, most * pitch(k), blocks, |i, mut y, scratch| {
            let (group, members, cut) = task(i);
            let columns = w.cut(cut);
            let first = group * n + columns.start;
            let numbers = w.numbers.block(first, columns.len(), 0, k);
            let mut sums = [0.0; dots::ROWS * CUT];
            for top in (0..members.len()).step_by(most) {
                let height = most.min(members.len() - top);
                let x = x.block(members.start + top, height, 0, k);
                let x = w.prepare(isa, &x, first, scratch);
                let sums = &mut sums[..height * columns.len()];
                dots(isa, &x, &numbers, sums);
                store(&mut y.block(top, height, 0, columns.len()), sums, add);
            }
        })
    }
}

/// Numbers from row to row of copied activations: an odd number of cache lines, with room for [`dots::MIXED`].
fn pitch(k: usize) -> usize {
    ((k.next_multiple_of(dots::MIXED) / 16) | 1) * 16
}

/// The activations in f32, multiplied by the scales of `TILE` columns each and by a factor, if they are; in the order
/// that products with weights of type `W` want.
fn prepare<'s, X: Real, W: Stored>(
    isa: Isa,
    x: &Mat<'s, X>,
    scales: Option<(&[f32], f32)>,
    scratch: &'s mut [f32],
) -> Mat<'s, f32> {
    /// Numbers in the 4 KiB after which rows fall on each other in the L1 cache.
    const ALIAS: usize = 1024;
    let (rows, k) = (x.rows(), x.cols());
    if scales.is_none()
        && W::mixed(isa) == 1
        && let Some(x) = X::as_f32(x)
        && (rows == 1 || !x.stride().is_multiple_of(ALIAS))
    {
        return x;
    }
    let (pitch, mixed) = (pitch(k), W::mixed(isa));
    for (r, to) in scratch.chunks_exact_mut(pitch).take(rows).enumerate() {
        match scales {
            None => copy(isa, x.row(r), &mut to[..k]),
            Some((scales, factor)) => scaled(isa, x.row(r), scales, factor, &mut to[..k]),
        }
        if mixed > 1 {
            let padded = k.next_multiple_of(mixed);
            to[k..padded].fill(0.0);
            W::mix(isa, to[..padded].as_chunks_mut().0);
        }
    }
    Mat::new(&scratch[..rows * pitch], rows, k, pitch)
}

kernel! {
    fn copy<X: Real>(x: &[X], to: &mut [f32]) {
        for (to, &x) in to.iter_mut().zip(x) {
            *to = x.load();
        }
    }
}

kernel! {
    fn scaled<X: Real>(x: &[X], scales: &[f32], factor: f32, to: &mut [f32]) {
        for ((x, to), &scale) in x.chunks(TILE).zip(to.chunks_mut(TILE)).zip(scales) {
            let scale = scale * factor;
            for (to, &x) in to.iter_mut().zip(x) {
                *to = x.load() * scale;
            }
        }
    }
}

/// Rounds `sums` into `y`, or adds them.
fn store<Y: Real>(y: &mut Tile<'_, Y>, sums: &[f32], add: bool) {
    let columns = y.cols();
    for (r, sums) in sums.chunks_exact(columns.max(1)).enumerate() {
        for (y, &sum) in y.row(r).iter_mut().zip(sums) {
            *y = Y::store(if add { y.load() + sum } else { sum });
        }
    }
}

#[cfg(test)]
mod tests;
