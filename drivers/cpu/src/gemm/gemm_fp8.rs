//! FP8 GEMM: products of E4M3 codes with scales.
//!
//! The inner dimension falls into segments: at most 128 long, in each of which an element has one scale. E4M3 numbers
//! are BF16 numbers, so a segment is multiplied in pairs, scales left aside, and its sum is promoted: multiplied by
//! both scales and added to the total in f32. Segments are padded to whole pairs.
//!
//! A factor may also be BF16 numbers, whose scales are one: activations, where the weight alone is codes.
//!
//! Without an instruction for pairs, or where a factor is F32, both factors are made f32 and multiplied as such.

use fathom_core::DType;
use fathom_core::device::{Form, GemmFp8, GemmMixed, GroupedGemmFp8, GroupedGemmMixed, Out};
use fathom_core::fp8::TILE;
use half::bf16;
use std::ops::Range;

use super::block::{Job, Shape};
use super::codes::{Codes, decode};
use super::pack::{left_room, left_stride, left_transposed};
use super::source::Source;
use super::tile::{NR, Output, Scales, Segment, codes_tiles, has_pairs};
use super::{DEPTH, Left, Right, for_tiles, pack_columns, pack_rows, packed};
use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::Tile;
use crate::real::with_real;

/// Rows of `a` that are decoded at once: a multiple of every tile's rows.
const ROWS: usize = 96;
/// Words of depth that are multiplied in one go, segments padded.
const WORDS: usize = DEPTH / 2;
/// The most segments of them.
const SEGMENTS: usize = 16;

/// Some segments of the inner dimension.
struct Span {
    segments: [Segment; SEGMENTS],
    count: usize,
}

impl Span {
    fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    /// Words of all segments.
    fn words(&self) -> usize {
        self.segments().iter().map(|s| s.words()).sum()
    }
}

/// The inner dimension of `k`, where tiles restart every `part`, in spans of at most [`WORDS`].
fn spans(k: usize, part: usize) -> impl Iterator<Item = Span> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut span = Span { segments: [Segment::default(); SEGMENTS], count: 0 };
        let mut words = 0;
        while at < k && span.count < SEGMENTS {
            let left_of_part = part - at % part;
            let segment = Segment { start: at, len: left_of_part.min(TILE - at % part % TILE).min(k - at) };
            words += segment.words();
            if words > WORDS {
                break;
            }
            span.segments[span.count] = segment;
            span.count += 1;
            at += segment.len;
        }
        (span.count > 0).then_some(span)
    })
}

/// A factor whose numbers are BF16, scales left aside.
pub(super) trait Factor: Source<f32> {
    /// After how many elements of the inner dimension, which runs along the tiles, these restart; none if never.
    fn part(&self) -> Option<usize>;

    /// The numbers of columns `range` of row `r`, scales left aside.
    fn numbers_of_row(&self, job: &Job, r: usize, range: Range<usize>, to: &mut [bf16]);

    /// The scales of the first elements of row `r`.
    fn scales_of_row(&self, r: usize, to: &mut [f32]);

    /// The scales of the first elements of column `c`.
    fn scales_of_column(&self, c: usize, to: &mut [f32]);
}

impl Factor for Codes<'_> {
    fn part(&self) -> Option<usize> {
        Codes::part(self)
    }

    fn numbers_of_row(&self, job: &Job, r: usize, range: Range<usize>, to: &mut [bf16]) {
        decode(job.isa, &self.row(r)[range], to);
    }

    fn scales_of_row(&self, r: usize, to: &mut [f32]) {
        Codes::scales_of_row(self, r, to);
    }

    fn scales_of_column(&self, c: usize, to: &mut [f32]) {
        Codes::scales_of_column(self, c, to);
    }
}

impl Factor for Mat<'_, bf16> {
    fn part(&self) -> Option<usize> {
        None
    }

    fn numbers_of_row(&self, _: &Job, r: usize, range: Range<usize>, to: &mut [bf16]) {
        to.copy_from_slice(&self.row(r)[range]);
    }

    fn scales_of_row(&self, _: usize, to: &mut [f32]) {
        to.fill(1.0);
    }

    fn scales_of_column(&self, _: usize, to: &mut [f32]) {
        to.fill(1.0);
    }
}

/// Decodes rows of codes whose columns are the inner dimension to rows of pairs, `stride` words apart.
fn decode_rows<'s, X: Factor>(job: &Job, x: &X, span: &Span, stride: usize, to: &'s mut [u32]) -> Mat<'s, bf16> {
    let (rows, words) = (Source::rows(x), span.words());
    let to: &mut [bf16] = bytemuck::cast_slice_mut(&mut to[..rows * stride]);
    for (r, line) in to.chunks_exact_mut(2 * stride).enumerate() {
        let mut at = 0;
        for segment in span.segments() {
            x.numbers_of_row(job, r, segment.range(), &mut line[at..at + segment.len]);
            line[at + segment.len..at + 2 * segment.words()].fill(bf16::ZERO);
            at += 2 * segment.words();
        }
    }
    Mat::new(to, rows, 2 * words, 2 * stride)
}

/// Decodes rows of codes that are the inner dimension, and puts a row of zeros where a segment is padded.
fn decode_columns<'s, X: Factor>(job: &Job, x: &X, span: &Span, to: &'s mut [u32]) -> Mat<'s, bf16> {
    let (rows, cols) = (2 * span.words(), Source::cols(x));
    // Whole cache lines to a row, and an odd number of them.
    let stride = 2 * left_stride(cols.div_ceil(2));
    let to: &mut [bf16] = &mut bytemuck::cast_slice_mut(to)[..rows * stride];
    let mut lines = to.chunks_exact_mut(stride);
    for segment in span.segments() {
        for (r, line) in segment.range().zip(&mut lines) {
            x.numbers_of_row(job, r, 0..cols, &mut line[..cols]);
        }
        if !segment.len.is_multiple_of(2)
            && let Some(line) = lines.next()
        {
            line[..cols].fill(bf16::ZERO);
        }
    }
    Mat::new(to, rows, cols, stride)
}

impl Shape {
    /// Scratch of a task over codes, in words.
    fn scratch_of_codes<C: Output>(&self) -> usize {
        let cols = self.cols.next_multiple_of(NR);
        let sums = if C::ROUNDS { self.rows * self.cols } else { 0 };
        let kept = packed(WORDS, cols) + SEGMENTS * cols + SEGMENTS * ROWS + left_room(ROWS, WORDS);
        let decoded = [cols * left_stride(WORDS), 2 * WORDS * left_stride(cols.max(ROWS) / 2)];
        sums + kept + decoded[0].max(decoded[1])
    }
}

impl Job {
    /// Computes `c`, the block that starts at `(row, col)` of the product of all of `a` and `b`.
    fn run_codes<A: Factor, C: Output>(
        &self,
        a: &A,
        b: &Codes<'_>,
        at: (usize, usize),
        c: &mut Tile<'_, C>,
        scratch: &mut [f32],
    ) {
        let _tiles = self.isa.hold_tiles();
        let k = if self.form == Form::Tn { Source::rows(a) } else { Source::cols(a) };
        let part = a.part().unwrap_or(k).max(1);
        let (rows, cols) = (c.rows(), c.cols());
        if !C::ROUNDS || spans(k, part).nth(1).is_none() {
            return self.sum_codes(a, b, at, c, self.add, (k, part), scratch);
        }
        let (sums, scratch) = scratch.split_at_mut(rows * cols);
        let mut tile = Tile::whole(MatMut::new(sums, rows, cols, cols));
        self.sum_codes(a, b, at, &mut tile, false, (k, part), scratch);
        self.round(sums, c);
    }

    #[allow(clippy::too_many_arguments)]
    fn sum_codes<A: Factor, C: Output>(
        &self,
        a: &A,
        b: &Codes<'_>,
        (row, col): (usize, usize),
        c: &mut Tile<'_, C>,
        add: bool,
        (k, part): (usize, usize),
        scratch: &mut [f32],
    ) {
        let Self { isa, form, .. } = *self;
        let (rows, cols) = (c.rows(), c.cols());
        let padded = cols.next_multiple_of(NR);
        let (b_packed, scratch) = scratch.split_at_mut(packed(WORDS, cols));
        let (b_scales, scratch) = scratch.split_at_mut(SEGMENTS * padded);
        let (a_scales, scratch) = scratch.split_at_mut(SEGMENTS * ROWS);
        let (a_packed, scratch) = scratch.split_at_mut(left_room(ROWS, WORDS));
        let (b_packed, a_packed) = (bytemuck::cast_slice_mut(b_packed), bytemuck::cast_slice_mut(a_packed));
        // Nothing is decoded for both factors at once.
        let decoded: &mut [u32] = bytemuck::cast_slice_mut(scratch);
        if k == 0 && !add {
            c.for_rows(|_, y| y.fill(C::store(0.0)));
        }
        for (i, span) in spans(k, part).enumerate() {
            let words = span.words();
            let right: Right<'_, u32> = if form == Form::Nt {
                let b = b.block(col, cols, 0, k);
                scales(&span, padded, cols, b_scales, |at, to| b.scales_of_column(at, to));
                pack_columns(isa, &decode_rows(self, &b, &span, left_stride(words), decoded), b_packed)
            } else {
                let b = b.block(0, k, col, cols);
                scales(&span, padded, cols, b_scales, |at, to| b.scales_of_row(at, to));
                pack_rows(isa, &decode_columns(self, &b, &span, decoded), b_packed)
            };
            for top in (0..rows).step_by(ROWS) {
                let height = ROWS.min(rows - top);
                let left: Left<'_, u32> = if form == Form::Tn {
                    let a = a.block(0, k, row + top, height);
                    scales(&span, ROWS, height, a_scales, |at, to| a.scales_of_row(at, to));
                    left_transposed(isa, &decode_columns(self, &a, &span, decoded), a_packed)
                } else {
                    let a = a.block(row + top, height, 0, k);
                    scales(&span, ROWS, height, a_scales, |at, to| a.scales_of_column(at, to));
                    let stride = left_stride(words);
                    decode_rows(self, &a, &span, stride, a_packed);
                    Left::new(isa, &Mat::new(a_packed, height, words, stride))
                };
                let mut c = c.block(top, height, 0, cols);
                multiply(self, &left, &right, &span, (a_scales, b_scales), &mut c, add || i > 0);
            }
        }
    }
}

/// The scales of `n` rows or columns, `pitch` apart for every segment; zeros after the last.
fn scales(span: &Span, pitch: usize, n: usize, to: &mut [f32], scales_at: impl Fn(usize, &mut [f32])) {
    for (line, segment) in to.chunks_exact_mut(pitch.max(1)).zip(span.segments()) {
        scales_at(segment.start, &mut line[..n]);
        line[n..].fill(0.0);
    }
}

/// `c (+)= Σ a.scale·b.scale·(a·b)` over the segments of a span.
fn multiply<C: Output>(
    job: &Job,
    a: &Left<'_, u32>,
    b: &Right<'_, u32>,
    span: &Span,
    (a_scales, b_scales): (&[f32], &[f32]),
    c: &mut Tile<'_, C>,
    add: bool,
) {
    let (m, count, padded) = (c.rows(), span.count, c.cols().next_multiple_of(NR));
    let table = codes_tiles(job.isa);
    assert!(
        a_scales.len() >= count * ROWS && m <= ROWS && b_scales.len() >= count * padded,
        "scales for every segment"
    );
    for_tiles(job.isa, table.len(), a, b, c, (1.0, add), |x, (row, col)| {
        let scales = Scales {
            segments: span.segments(),
            a: a_scales[row..].as_ptr(),
            a_pitch: ROWS,
            b: b_scales[col..].as_ptr(),
            b_pitch: padded,
        };
        // SAFETY: the table is for the instructions of `isa`, and the operands are those of a tile of its rows.
        // Segments have as many words as both factors are deep; scales of the tile's rows and of `NR` columns were
        // found in their slices.
        unsafe { table[x.rows - 1][usize::from(x.n > 16)](x, &scales) };
    });
}

impl Cpu {
    pub(crate) fn gemm_fp8(&self, call: GemmFp8<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gemm_fp8";
        let (form, add, (m, n, k)) = (call.form, call.out.adds(), call.dimensions());
        let (a, b) = (Codes::read(OP, &call.a)?, Codes::read(OP, &call.b)?);
        with_real!(OP, call.c.dtype(), C => {
            let c = mat::write::<C>(OP, call.c)?;
            self.product_of_codes::<_, C>(form, a, b, c, add, (m, n, k))
        })
    }

    fn product_of_codes<A: Factor, C: Output>(
        &self,
        form: Form,
        a: A,
        b: Codes<'_>,
        c: MatMut<'_, C>,
        add: bool,
        (m, n, k): (usize, usize, usize),
    ) -> Result<(), CpuError> {
        if !has_pairs(self.isa()) {
            return self.product::<f32, _, _, C>(form, a, b, c, 1.0, add);
        }
        let shape = Shape::new::<u32>(self.isa(), m, n, self.threads());
        let job = Job { isa: self.isa(), form, alpha: 1.0, add };
        self.blocks(2 * m * n * k, shape, shape.scratch_of_codes::<C>(), c, |at, c, scratch| {
            job.run_codes(&a, &b, at, c, scratch);
        })
    }

    pub(crate) fn gemm_mixed(&self, call: GemmMixed<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "gemm_mixed";
        let (add, shape) = (call.out.adds(), call.dimensions());
        let b = Codes::read(OP, &call.w)?;
        with_real!(OP, call.c.dtype(), C => {
            let c = mat::write::<C>(OP, call.c)?;
            if call.a.dtype() == DType::BF16 {
                let a = mat::read::<bf16>(OP, &call.a)?;
                return self.product_of_codes::<_, C>(Form::Nt, a, b, c, add, shape);
            }
            self.product::<f32, _, _, C>(Form::Nt, mat::read::<f32>(OP, &call.a)?, b, c, 1.0, add)
        })
    }

    pub(crate) fn grouped_gemm_mixed(&self, call: GroupedGemmMixed<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "grouped_gemm_mixed";
        let (job, weight) = (self.grouped_job(Form::Nt, Out::Replace), call.weight());
        let b = Codes::read(OP, &call.w)?;
        let offsets = mat::read::<u32>(OP, &call.offsets)?;
        with_real!(OP, call.c.dtype(), C => {
            let c = mat::write::<C>(OP, call.c)?;
            if call.a.dtype() == DType::BF16 {
                let a = mat::read::<bf16>(OP, &call.a)?;
                return self.grouped_product_of_codes::<_, C>(job, weight, &offsets, a, b, c);
            }
            self.grouped_product::<f32, _, _, C>(job, weight, &offsets, mat::read::<f32>(OP, &call.a)?, b, c)
        })
    }

    pub(crate) fn grouped_gemm_fp8(&self, call: GroupedGemmFp8<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "grouped_gemm_fp8";
        let (job, weight) = (self.grouped_job(call.form, call.out), call.weight());
        let (a, b) = (Codes::read(OP, &call.a)?, Codes::read(OP, &call.b)?);
        let offsets = mat::read::<u32>(OP, &call.offsets)?;
        with_real!(OP, call.c.dtype(), C => {
            let c = mat::write::<C>(OP, call.c)?;
            self.grouped_product_of_codes::<_, C>(job, weight, &offsets, a, b, c)
        })
    }

    fn grouped_product_of_codes<A: Factor, C: Output>(
        &self,
        job: Job,
        weight: (usize, usize),
        offsets: &Mat<'_, u32>,
        a: A,
        b: Codes<'_>,
        c: MatMut<'_, C>,
    ) -> Result<(), CpuError> {
        if !has_pairs(self.isa()) {
            return self.grouped_product::<f32, _, _, C>(job, weight, offsets, a, b, c);
        }
        let scratch = |shape: Shape| shape.scratch_of_codes::<C>();
        self.grouped_blocks::<u32, f32, _, _, C>(&job, weight, offsets, (a, b), c, scratch, |a, b, at, c, s| {
            job.run_codes(a, b, at, c, s);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_the_inner_dimension_once() {
        for (k, part) in
            [(0, 1), (1, 1), (128, 128), (700, 700), (512, 512), (99, 33), (300, 150), (40, 1), (1030, 515)]
        {
            let mut at = 0;
            for span in spans(k, part) {
                assert!(span.words() <= WORDS);
                for segment in span.segments() {
                    assert_eq!(segment.start, at);
                    let (first, last) = (at % part, (at + segment.len - 1) % part);
                    assert!(segment.len > 0 && first / TILE == last / TILE && first <= last);
                    at += segment.len;
                }
            }
            assert_eq!(at, k);
        }
    }
}
