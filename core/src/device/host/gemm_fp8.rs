//! Products of FP8 matrices, summed as the host's [`Accumulation`] says: exactly unless asked otherwise.

use alloc::vec::Vec;

use super::matrix::{before, group_rows, indices, write};
use super::quantize::decode;
use super::{Host, HostBuffer, Result};
use crate::device::call::{Form, GemmFp8, GroupedGemmFp8, Scaled, Tiles};
use crate::fp8::TILE;
use crate::fp8::accumulate::{Accumulation, Hopper};

impl Host {
    pub(super) fn gemm_fp8(&self, mut call: GemmFp8<'_, HostBuffer>) -> Result {
        const OP: &str = "gemm_fp8";
        let (m, n, _) = call.dimensions();
        let (a, b, mut c) = (decode(OP, &call.a)?, decode(OP, &call.b)?, before(&call.c, call.out));
        let ends = inner_ends(call.form, &call.a);
        for i in 0..m {
            for j in 0..n {
                let element = |l| {
                    let (at_a, at_b) = match call.form {
                        Form::Nt => ((i, l), (j, l)),
                        Form::Nn => ((i, l), (l, j)),
                        Form::Tn => ((l, i), (l, j)),
                    };
                    (a.codes[at_a], b.codes[at_b], a.scales[at_a], b.scales[at_b])
                };
                c[(i, j)] += sum(self.accumulation, &ends, element);
            }
        }
        write(&mut call.c, &c.data);
        Ok(())
    }

    pub(super) fn grouped_gemm_fp8(&self, mut call: GroupedGemmFp8<'_, HostBuffer>) -> Result {
        const OP: &str = "grouped_gemm_fp8";
        let (n, k) = call.weight();
        let (a, b, mut c) = (decode(OP, &call.a)?, decode(OP, &call.b)?, before(&call.c, call.out));
        let inner = inner_ends(call.form, &call.a);
        for (g, rows) in group_rows(OP, &indices(&call.offsets), call.rows())?.enumerate() {
            let weight = g * n;
            let start = rows.start;
            if call.form == Form::Tn {
                let ends = ends(rows.len(), rows.len());
                for (i, j) in (0..n).flat_map(|i| (0..k).map(move |j| (i, j))) {
                    let element = |l| {
                        let (at_a, at_b) = ((start + l, i), (start + l, j));
                        (a.codes[at_a], b.codes[at_b], a.scales[at_a], b.scales[at_b])
                    };
                    c[(weight + i, j)] += sum(self.accumulation, &ends, element);
                }
                continue;
            }
            for r in rows {
                for j in 0..c.cols {
                    let element = |l| {
                        let at_b = if call.form == Form::Nt { (weight + j, l) } else { (weight + l, j) };
                        (a.codes[(r, l)], b.codes[at_b], a.scales[(r, l)], b.scales[at_b])
                    };
                    c[(r, j)] += sum(self.accumulation, &inner, element);
                }
            }
        }
        write(&mut call.c, &c.data);
        Ok(())
    }
}

/// An element of a product: `(code of a, code of b, scale of a, scale of b)` along the inner dimension, which is cut
/// after each of `ends`.
fn sum(accumulation: Accumulation, ends: &[usize], element: impl Fn(usize) -> (f64, f64, f64, f64)) -> f64 {
    let mut start = 0;
    let segments = ends.iter().map(|&end| core::mem::replace(&mut start, end)..end);
    match accumulation {
        Accumulation::Exact => segments
            .map(|range| {
                let (_, _, sa, sb) = element(range.start);
                sa * sb * range.map(&element).map(|(a, b, _, _)| a * b).sum::<f64>()
            })
            .sum(),
        Accumulation::Hopper { promote: true } => segments
            .fold(0.0f32, |total, range| {
                let (_, _, sa, sb) = element(range.start);
                let mut partial = Hopper::default();
                partial.add(range.map(&element).map(|(a, b, _, _)| a * b));
                libm::fmaf(partial.sum() as f32, (sa * sb) as f32, total)
            })
            .into(),
        Accumulation::Hopper { promote: false } => {
            // The tensor core sees codes alone: its sum is kept in units of the scales of the tile it is at.
            let (mut all, mut unit) = (Hopper::default(), 1.0);
            for range in segments {
                let (_, _, sa, sb) = element(range.start);
                if sa * sb != 0.0 {
                    all.rescale(unit / (sa * sb));
                    unit = sa * sb;
                    all.add(range.map(&element).map(|(a, b, _, _)| a * b));
                }
            }
            unit * all.sum()
        }
    }
}

/// Where the tiles of an inner dimension end.
fn ends(total: usize, part: usize) -> Vec<usize> {
    let part = part.max(1);
    (0..total)
        .step_by(part)
        .flat_map(|start| (start..start + part).step_by(TILE).map(move |at| (at + TILE).min(start + part)))
        .collect()
}

/// Ends of the inner dimension's tiles of a product whose first factor is `a`.
fn inner_ends(form: Form, a: &Scaled<'_, HostBuffer>) -> Vec<usize> {
    match (form, a.tiles) {
        (Form::Tn, _) => ends(a.rows(), a.rows()),
        (_, Tiles::Row { part }) => ends(a.cols(), part),
        _ => ends(a.cols(), a.cols()),
    }
}
