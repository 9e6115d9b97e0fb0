//! One product per group of rows: the experts of a layer.

use fathom_core::device::{Form, GroupedGemm};

use super::{COLS, MAX_ROWS, SCRATCH, block, work};
use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, Mat};
use crate::memory::Buffer;
use crate::par::Blocks;

/// Where the groups lie, and which tasks are whose.
struct Plan<'a> {
    /// Per group: first row, one past its last row, number of its first task; then one entry that ends the tasks.
    entries: &'a [[u32; 3]],
    /// Blocks side by side.
    across: usize,
    /// Rows of a block.
    height: usize,
}

impl<'a> Plan<'a> {
    /// Reads `offsets`, clamped so that groups lie in `0..rows` one after the other whatever it holds. `down` gives
    /// the rows to cut into blocks for a group of so many rows.
    fn new(
        offsets: &Mat<'_, u32>,
        rows: usize,
        across: usize,
        height: usize,
        down: impl Fn(usize) -> usize,
        entries: &'a mut [[u32; 3]],
    ) -> Self {
        let offsets = offsets.as_slice();
        let (mut end, mut tasks) = (0, 0);
        for (entry, bounds) in entries.iter_mut().zip(offsets.windows(2)) {
            let start = (bounds[0] as usize).min(rows).max(end);
            end = (bounds[1] as usize).min(rows).max(start);
            *entry = [start as u32, end as u32, tasks as u32];
            tasks += down(end - start).div_ceil(height) * across;
        }
        if let Some(last) = entries.last_mut() {
            *last = [rows as u32, rows as u32, tasks as u32];
        }
        Self { entries, across, height }
    }

    fn tasks(&self) -> usize {
        self.entries.last().map_or(0, |e| e[2] as usize)
    }

    /// Group of task `i`, its rows, and the place of the task's block: row and column.
    fn task(&self, i: usize) -> (usize, std::ops::Range<usize>, usize, usize) {
        let group = self.entries.partition_point(|e| e[2] as usize <= i) - 1;
        let [start, end, first] = self.entries[group].map(|v| v as usize);
        let (row, col) = ((i - first) / self.across * self.height, (i - first) % self.across * COLS);
        (group, start..end, row, col)
    }
}

impl Cpu {
    pub(crate) fn run_grouped_gemm(&self, call: GroupedGemm<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "grouped_gemm";
        let (n, k) = call.weight();
        let (rows, form, isa) = (call.rows(), call.form, self.isa());
        let (a, b) = (mat::read::<f32>(OP, &call.a)?, mat::read::<f32>(OP, &call.b)?);
        let offsets = mat::read::<u32>(OP, &call.offsets)?;
        let c = mat::write::<f32>(OP, call.c)?;
        let (width, height) = (c.cols(), MAX_ROWS);
        let mut entries = self.alloc_f32(3 * (call.groups + 1))?;
        let entries = bytemuck::cast_slice_mut(entries.elements_mut::<u32>());
        let down = |rows: usize| if form == Form::Tn { if rows == 0 { 0 } else { n } } else { rows };
        let plan = Plan::new(&offsets, rows, width.div_ceil(COLS).max(1), height, down, entries);

        // Groups of rows do not overlap, and neither do their weights; inside a group, blocks form a grid.
        let place = |i: usize| {
            let (group, members, row, col) = plan.task(i);
            let (first, limit) = if form == Form::Tn { (group * n, n) } else { (members.start, members.len()) };
            [first + row, height.min(limit - row), col, COLS.min(width - col)]
        };
        // SAFETY: see above: `Plan::new` makes the groups follow one another, and `place` cuts each into a grid.
        let blocks = unsafe { Blocks::new(c, plan.tasks(), place) };
        self.for_each_with(work(2 * rows * n * k), SCRATCH, blocks, |i, mut c, scratch| {
            let (group, members, row, col) = plan.task(i);
            let (start, len) = (members.start, members.len());
            let a = a.block(start, len, 0, a.cols());
            let b = match form {
                Form::Tn => b.block(start, len, 0, k),
                Form::Nt | Form::Nn => b.block(group * n, n, 0, k),
            };
            block(isa, form, &a, &b, (row, col), &mut c, 1.0, form == Form::Tn, scratch);
        })
    }
}
