//! Grouped GEMM: one product per group of rows, as the experts of a layer need.

use fathom_core::DType;
use fathom_core::device::{Form, GroupedGemm, Out};
use half::bf16;

use super::{Job, Output, Shape, Source, Word, with_operands, work};
use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat, MatMut};
use crate::memory::Buffer;
use crate::par::{Blocks, Tile};

/// Where the groups lie, and which tasks are whose.
pub(crate) struct Plan<'a> {
    /// Per group: first row, one past its last row, number of its first task; then one entry that ends the tasks.
    entries: &'a [[u32; 3]],
    /// Blocks side by side.
    across: usize,
    /// Blocks of a group.
    shape: Shape,
}

impl<'a> Plan<'a> {
    /// Reads `offsets`, clamped so that groups lie in `0..rows` one after the other whatever it holds. `down` gives
    /// the rows to cut into blocks for a group with a given number of rows.
    pub(crate) fn new(
        offsets: &Mat<'_, u32>,
        rows: usize,
        (width, shape): (usize, Shape),
        down: impl Fn(usize) -> usize,
        entries: &'a mut [[u32; 3]],
    ) -> Self {
        let offsets = offsets.as_slice();
        let across = width.div_ceil(shape.cols).max(1);
        let (mut end, mut tasks) = (0, 0);
        for (entry, bounds) in entries.iter_mut().zip(offsets.windows(2)) {
            let start = (bounds[0] as usize).min(rows).max(end);
            end = (bounds[1] as usize).min(rows).max(start);
            *entry = [start as u32, end as u32, tasks as u32];
            tasks += down(end - start).div_ceil(shape.rows) * across;
        }
        if let Some(last) = entries.last_mut() {
            *last = [rows as u32, rows as u32, tasks as u32];
        }
        Self { entries, across, shape }
    }

    pub(crate) fn tasks(&self) -> usize {
        self.entries.last().map_or(0, |e| e[2] as usize)
    }

    /// Group of task `i`, its rows, and the place of the task's block: row and column.
    pub(crate) fn task(&self, i: usize) -> (usize, std::ops::Range<usize>, usize, usize) {
        let group = self.entries.partition_point(|e| e[2] as usize <= i) - 1;
        let [start, end, first] = self.entries[group].map(|v| v as usize);
        let (row, col) = ((i - first) / self.across * self.shape.rows, (i - first) % self.across * self.shape.cols);
        (group, start..end, row, col)
    }
}

impl Cpu {
    pub(crate) fn grouped_gemm(&self, call: GroupedGemm<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "grouped_gemm";
        let offsets = mat::read::<u32>(OP, &call.offsets)?;
        let (job, weight) = (self.grouped_job(call.form, call.out), call.weight());
        with_operands!(OP, self.isa(), call, |W, a, b, c| {
            self.grouped_product::<W, _, _, _>(job, weight, &offsets, a, b, c)
        })
    }

    /// What all blocks of a grouped product have in common.
    pub(super) fn grouped_job(&self, form: Form, out: Out) -> Job {
        Job { isa: self.isa(), form, alpha: 1.0, add: out.adds() }
    }

    pub(super) fn grouped_product<W: Word, A: Source<W::Number>, B: Source<W::Number>, C: Output>(
        &self,
        job: Job,
        weight: (usize, usize),
        offsets: &Mat<'_, u32>,
        a: A,
        b: B,
        c: MatMut<'_, C>,
    ) -> Result<(), CpuError> {
        let k = if job.form == Form::Tn { a.rows() } else { a.cols() };
        let scratch = |shape: Shape| shape.scratch::<W, A, B, C>(self.isa(), k);
        self.grouped_blocks::<W, W::Number, A, B, C>(&job, weight, offsets, (a, b), c, scratch, |a, b, at, c, s| {
            job.run::<W, A, B, C>(a, b, at, c, s);
        })
    }

    /// Runs `f` for every block of every group: the group's factors, the place of the block in its product, the block
    /// and scratch. `n` and `k` are the shape of a group's weight.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn grouped_blocks<W: Word, N, A: Source<N>, B: Source<N>, C: Output>(
        &self,
        job: &Job,
        (n, k): (usize, usize),
        offsets: &Mat<'_, u32>,
        (a, b): (A, B),
        c: MatMut<'_, C>,
        scratch: impl Fn(Shape) -> usize,
        f: impl Fn(&A, &B, (usize, usize), &mut Tile<'_, C>, &mut [f32]) + Sync,
    ) -> Result<(), CpuError> {
        let (rows, groups) = (a.rows(), offsets.cols() - 1);
        let (width, tn) = (c.cols(), job.form == Form::Tn);
        let down = if tn { n } else { rows.div_ceil(groups) };
        let shape = Shape::new::<W>(self.isa(), down, width, self.threads().div_ceil(groups));
        let mut entries = self.alloc_f32(3 * (groups + 1))?;
        let entries = bytemuck::cast_slice_mut(entries.elements_mut::<u32>());
        let down = |rows: usize| match tn {
            // Nothing is to be added.
            true if rows == 0 && job.add => 0,
            true => n,
            false => rows,
        };
        let plan = Plan::new(offsets, rows, (width, shape), down, entries);

        // Groups of rows do not overlap, and neither do their weights; inside a group, blocks form a grid.
        let place = |i: usize| {
            let (group, members, row, col) = plan.task(i);
            let (first, limit) = if tn { (group * n, n) } else { (members.start, members.len()) };
            [first + row, shape.rows.min(limit - row), col, shape.cols.min(width - col)]
        };
        // SAFETY: see above: `Plan::new` makes the groups follow one another, and `place` cuts each into a grid.
        let blocks = unsafe { Blocks::new(c, plan.tasks(), place) };
        self.for_each_with(work(2 * rows * n * k), scratch(shape), blocks, |i, mut c, scratch| {
            let (group, members, row, col) = plan.task(i);
            let a = a.group(group, members.clone());
            let b = if tn { b.group(group, members) } else { b.block(group * n, n, 0, k) };
            f(&a, &b, (row, col), &mut c, scratch);
        })
    }
}
