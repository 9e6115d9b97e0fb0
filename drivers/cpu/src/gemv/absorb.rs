//! The absorbed projections of latent attention: products with each head's rows of `kv_b_proj`, as they are stored.

use std::ops::Range;

use fathom_core::DType;
use fathom_core::device::{AbsorbOutput, AbsorbQuery, Call, Factor};
use fathom_core::fp8::TILE;
use half::bf16;

use super::columns::columns;
use super::dots::{self, Stored, dots};
use super::{CUT, Rows, codes, pitch, store, with_rows};
use crate::Cpu;
use crate::attention::take;
use crate::elementwise::convert;
use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::par::Tiles;
use crate::real::{Real, typed};

/// Rows that a task of an absorbed projection multiplies by a head's weight.
const ROWS: usize = 64;

typed! {
    absorb_query: AbsorbQuery[q, y] => run_absorb_query,
    absorb_output: AbsorbOutput[x, o] => run_absorb_output,
}

impl<W: Stored> Rows<'_, W> {
    /// Pieces of `lines`, each of at most `most` rows that lie in one block.
    fn pieces(&self, lines: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
        let (part, mut at) = (self.part, lines.start);
        std::iter::from_fn(move || {
            let start = at;
            at = lines.end.min(start + most).min(start - start % part % TILE + TILE).min(start - start % part + part);
            (start < at).then_some(start..at)
        })
    }
}

impl Cpu {
    fn run_absorb_query<T: Real, Y: Real>(&self, call: AbsorbQuery<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "absorb_query";
        let (cost, isa, h) = (call.cost(), self.isa(), call.heads);
        let q = mat::read::<T>(OP, &call.q)?;
        let (latent, head) = (call.weight.cols(), h.nope + h.rope);
        let y = mat::write::<Y>(OP, call.y)?;
        let (most, lines) = (dots::rows(isa), call.weight.rows());
        with_rows!(OP, call.weight, lines, |w| {
            let parts = Tiles::new(y, ROWS, latent + h.rope);
            let scratch = most * (latent + 2 * h.nope);
            self.for_each_with((cost.flops / 8) as usize, scratch, parts, |_, mut y, mut scratch| {
                let sums = take(&mut scratch, most * latent);
                let x = take(&mut scratch, most * h.nope);
                let scaled = take(&mut scratch, most * h.nope);
                let j = y.col / (latent + h.rope);
                let first = j * (h.nope + h.value);
                for top in (0..y.rows()).step_by(most) {
                    let rows = most.min(y.rows() - top);
                    let at = y.row + top;
                    let query = |r: usize| &q.row(at + r)[j * head..][..head];
                    for (r, x) in x.chunks_exact_mut(h.nope.max(1)).enumerate().take(rows) {
                        convert(isa, &query(r)[..h.nope], x);
                    }
                    // Codes are multiplied a column of blocks at a time, by factors with the scales of its blocks.
                    let width = if w.scales.is_some() { TILE } else { latent };
                    for c in (0..latent).step_by(width) {
                        let width = width.min(latent - c);
                        let numbers = w.numbers.block(first, h.nope, c, width);
                        let factors = if w.scales.is_some() {
                            for piece in w.pieces(first..first + h.nope, h.nope) {
                                let scale = w.scales(piece.start).map_or(1.0, |scales| scales[c / TILE]);
                                for i in piece.start - first..piece.end - first {
                                    for r in 0..rows {
                                        scaled[r * h.nope + i] = x[r * h.nope + i] * (scale * w.factor());
                                    }
                                }
                            }
                            &*scaled
                        } else {
                            &*x
                        };
                        let factors = Mat::new(factors, rows, h.nope, h.nope);
                        columns(isa, &factors, &numbers, &mut sums[c..], latent);
                    }
                    for r in 0..rows {
                        let (to, pe) = y.row(top + r).split_at_mut(latent);
                        convert(isa, &sums[r * latent..][..latent], to);
                        convert(isa, &query(r)[h.nope..], pe);
                    }
                }
            })
        })
    }

    fn run_absorb_output<T: Real, O: Real>(&self, call: AbsorbOutput<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "absorb_output";
        let (cost, isa, h) = (call.cost(), self.isa(), call.heads);
        let x = mat::read::<T>(OP, &call.x)?;
        let o = mat::write::<O>(OP, call.o)?;
        let (latent, most, lines) = (call.weight.cols(), dots::rows(isa), call.weight.rows());
        with_rows!(OP, call.weight, lines, |w| {
            let parts = Tiles::new(o, ROWS, h.value);
            self.for_each_with((cost.flops / 8) as usize, most * pitch(latent), parts, |_, mut o, scratch| {
                let j = o.col / h.value;
                let first = j * (h.nope + h.value) + h.nope;
                let mut sums = [0.0; dots::ROWS * CUT];
                for top in (0..o.rows()).step_by(most) {
                    let rows = most.min(o.rows() - top);
                    let x = x.block(o.row + top, rows, j * latent, latent);
                    for piece in w.pieces(first..first + h.value, CUT) {
                        let numbers = w.numbers.block(piece.start, piece.len(), 0, latent);
                        let x = w.prepare(isa, &x, piece.start, scratch);
                        let sums = &mut sums[..rows * piece.len()];
                        dots(isa, &x, &numbers, sums);
                        store(&mut o.block(top, rows, piece.start - first, piece.len()), sums, false);
                    }
                }
            })
        })
    }
}
