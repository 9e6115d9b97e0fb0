//! Parallel work over parts of a matrix that do not overlap.
//!
//! Every kernel runs as a number of tasks. How many, and what each does, follows from the shapes of the operands and
//! never from the number of threads: that is what makes results the same bits on one thread and on sixty. Tasks write
//! to [`Parts`] of the output, each of which one task gets, so the kernels themselves are safe code.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::MatMut;

/// Something mutable that is divided among tasks.
///
/// # Safety
/// `part(i)` must give disjoint things for different `i`.
pub(crate) unsafe trait Parts: Sync {
    /// Part of the matrix that one task gets.
    type Part;

    /// How many parts there are.
    fn count(&self) -> usize;

    /// Part `i`.
    ///
    /// # Safety
    /// `i` is below `count()`, and no other `part(i)` of the same `i` is alive.
    unsafe fn part(&self, i: usize) -> Self::Part;
}

/// A block of a matrix that one task writes.
pub(crate) struct Tile<'a, T> {
    first: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    /// Row of the whole matrix that this tile's first row is.
    pub row: usize,
    /// Column of the whole matrix that this tile's first column is.
    pub col: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r` of the tile.
    #[inline(always)]
    pub(crate) fn row(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: the constructors' premise: `rows × cols` elements with this stride lie in memory that this tile
        // alone may use during its life, and `r` is below `rows`.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(r * self.stride), self.cols) }
    }

    /// The rows of the tile with their numbers in the whole matrix.
    #[inline(always)]
    pub(crate) fn for_rows(&mut self, mut f: impl FnMut(usize, &mut [T])) {
        for r in 0..self.rows {
            f(self.row + r, self.row(r));
        }
    }

    /// The first element, for a kernel that works on the tile as a whole.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.first
    }

    /// Columns `from..from + cols` of rows `row..row + rows`, lent.
    pub(crate) fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Tile<'_, T> {
        assert!(row + rows <= self.rows && col + cols <= self.cols, "a block lies inside its tile");
        let first = self.first.wrapping_add(row * self.stride + col);
        let (row, col) = (self.row + row, self.col + col);
        Tile { first, rows, cols, stride: self.stride, row, col, life: PhantomData }
    }
}

impl<'a, T> Tile<'a, T> {
    /// A whole matrix as one tile.
    pub(crate) fn whole(m: MatMut<'a, T>) -> Self {
        let (rows, cols, stride) = (m.rows(), m.cols(), m.stride());
        Self { first: m.into_slice().as_mut_ptr(), rows, cols, stride, row: 0, col: 0, life: PhantomData }
    }
}

/// A matrix cut into blocks of `rows × cols`, counted along the rows of blocks first.
pub(crate) struct Tiles<'a, T> {
    first: *mut T,
    shape: (usize, usize),
    stride: usize,
    block: (usize, usize),
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Tiles` only hands out parts that do not overlap, as an exclusive slice would; they may go to other threads
// if `T` may.
unsafe impl<T: Send> Sync for Tiles<'_, T> {}

/// Elements of a block of an elementwise kernel: large enough to pay for handing out, small enough for the L2 cache.
pub(crate) const BLOCK: usize = 1 << 14;

impl<'a, T> Tiles<'a, T> {
    /// Blocks of `rows × cols` (the last of each row and column smaller).
    pub(crate) fn new(m: MatMut<'a, T>, rows: usize, cols: usize) -> Self {
        let (shape, stride) = ((m.rows(), m.cols()), m.stride());
        let block = (rows.max(1), cols.max(1));
        Self { first: m.into_slice().as_mut_ptr(), shape, stride, block, life: PhantomData }
    }

    /// Blocks of whole rows, about [`BLOCK`] elements each.
    pub(crate) fn of_rows(m: MatMut<'a, T>) -> Self {
        let (rows, cols) = (rows_per_block(m.cols()), m.cols());
        Self::new(m, rows, cols)
    }

    /// Blocks of about [`BLOCK`] elements for kernels that look at one element at a time.
    pub(crate) fn of_elements(m: MatMut<'a, T>) -> Self {
        let (rows, cols) = (rows_per_block(m.cols()), m.cols().min(BLOCK));
        Self::new(m, rows, cols)
    }
}

impl<T> Tiles<'_, T> {
    /// Blocks side by side. Rows without columns still count: something else may be computed for them.
    fn across(&self) -> usize {
        self.shape.1.div_ceil(self.block.1).max(1)
    }
}

/// Rows that make a block of about [`BLOCK`] elements.
pub(crate) fn rows_per_block(cols: usize) -> usize {
    (BLOCK / cols.max(1)).max(1)
}

// SAFETY: parts are blocks of a grid, which do not overlap.
unsafe impl<'a, T: Send> Parts for Tiles<'a, T> {
    type Part = Tile<'a, T>;

    fn count(&self) -> usize {
        self.shape.0.div_ceil(self.block.0) * self.across()
    }

    unsafe fn part(&self, i: usize) -> Tile<'a, T> {
        let across = self.across();
        let (row, col) = (i / across * self.block.0, i % across * self.block.1);
        let rows = self.block.0.min(self.shape.0 - row);
        let cols = self.block.1.min(self.shape.1 - col);
        let first = self.first.wrapping_add(row * self.stride + col);
        Tile { first, rows, cols, stride: self.stride, row, col, life: PhantomData }
    }
}

/// A slice cut into pieces of `len` elements, the last one shorter.
pub(crate) struct Chunks<'a, T> {
    first: *mut T,
    total: usize,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: as for `Tiles`.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    pub(crate) fn new(slice: &'a mut [T], len: usize) -> Self {
        Self { first: slice.as_mut_ptr(), total: slice.len(), len: len.max(1), life: PhantomData }
    }
}

// SAFETY: pieces of a slice do not overlap.
unsafe impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.total.div_ceil(self.len)
    }

    unsafe fn part(&self, i: usize) -> &'a mut [T] {
        let start = i * self.len;
        let len = self.len.min(self.total - start);
        // SAFETY: inside the slice this was made of, since `i` is below `count()`; and of that piece nobody else has a
        // reference, by the caller's premise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), len) }
    }
}

/// A matrix of which tasks write blocks that no grid describes; the blocks are given by a function.
pub(crate) struct Blocks<'a, T, F> {
    whole: Tiles<'a, T>,
    count: usize,
    block: F,
}

impl<'a, T, F: Fn(usize) -> [usize; 4]> Blocks<'a, T, F> {
    /// `count` blocks, block `i` being `[row, rows, col, cols] = block(i)`.
    ///
    /// # Safety
    /// The blocks of different `i` do not overlap.
    pub(crate) unsafe fn new(m: MatMut<'a, T>, count: usize, block: F) -> Self {
        let (rows, cols) = (m.rows(), m.cols());
        Self { whole: Tiles::new(m, rows, cols), count, block }
    }
}

// SAFETY: the constructor's premise.
unsafe impl<'a, T: Send, F: Fn(usize) -> [usize; 4] + Sync> Parts for Blocks<'a, T, F> {
    type Part = Tile<'a, T>;

    fn count(&self) -> usize {
        self.count
    }

    unsafe fn part(&self, i: usize) -> Tile<'a, T> {
        let [row, rows, col, cols] = (self.block)(i);
        let (height, width) = self.whole.shape;
        assert!(row + rows <= height && col + cols <= width, "a block lies inside its matrix");
        let stride = self.whole.stride;
        let first = self.whole.first.wrapping_add(row * stride + col);
        Tile { first, rows, cols, stride, row, col, life: PhantomData }
    }
}

macro_rules! tuple {
    ($($p:ident . $i:tt),*) => {
        // SAFETY: parts of each member are disjoint, so tuples of them are.
        unsafe impl<$($p: Parts),*> Parts for ($($p,)*) {
            type Part = ($($p::Part,)*);

            fn count(&self) -> usize {
                let count = self.0.count();
                $(assert_eq!(self.$i.count(), count, "operands are cut alike");)*
                count
            }

            unsafe fn part(&self, i: usize) -> Self::Part {
                // SAFETY: the caller's premise holds for each member.
                unsafe { ($(self.$i.part(i),)*) }
            }
        }
    };
}
tuple!(A.0, B.1);
tuple!(A.0, B.1, C.2);
tuple!(A.0, B.1, C.2, D.3);

/// Work, in about nanoseconds on one core, below which handing out tasks costs more than it gains.
const WORTH_SHARING: usize = 5_000;

impl Cpu {
    /// Runs `f(i, part i)` for every part. `work` is the whole call's in about nanoseconds on one core.
    pub(crate) fn for_each<P: Parts>(&self, work: usize, parts: P, f: impl Fn(usize, P::Part) + Sync) {
        self.share(work, parts.count(), Chunks::<u8>::new(&mut [], 1), |i, _| {
            // SAFETY: `share` calls this once for every `i` below the count.
            f(i, unsafe { parts.part(i) });
        });
    }

    /// Runs `f(i, part i, scratch)` for every part, with `scratch` numbers of undefined value to each thread.
    pub(crate) fn for_each_with<P: Parts>(
        &self,
        work: usize,
        scratch: usize,
        parts: P,
        f: impl Fn(usize, P::Part, &mut [f32]) + Sync,
    ) -> Result<(), CpuError> {
        // Whole pages and a cache line, so that no two threads' scratch shares a line or aliases in the L1 cache.
        let each = scratch.next_multiple_of(1024) + 16;
        let mut memory = self.alloc_f32(each * self.threads())?;
        let scratch = Chunks::new(memory.elements_mut::<f32>(), each);
        self.share(work, parts.count(), scratch, |i, scratch| {
            // SAFETY: `share` calls this once for every `i` below the count.
            f(i, unsafe { parts.part(i) }, scratch);
        });
        Ok(())
    }

    /// Calls `f` once for every task number below `tasks`, on this thread or on all of the pool. Each thread takes the
    /// next number when it is free, and one part of `scratch` (empty if there are not enough).
    fn share<T: Send>(&self, work: usize, tasks: usize, scratch: Chunks<'_, T>, f: impl Fn(usize, &mut [T]) + Sync) {
        let next = AtomicUsize::new(0);
        let run = |worker: usize| {
            let scratch: &mut [T] = if worker < scratch.count() {
                // SAFETY: every worker number occurs once.
                unsafe { scratch.part(worker) }
            } else {
                &mut []
            };
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    break;
                }
                f(i, scratch);
            }
        };
        let workers = self.threads().min(tasks);
        if workers <= 1 || work < WORTH_SHARING {
            run(0);
        } else {
            self.team().run(workers, &run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_belongs_to_one_part() {
        let cpu = Cpu::with_threads(3);
        for (rows, cols, stride) in [(1, 1, 1), (7, 5, 9), (100, 33, 40), (1, 40_000, 40_000), (0, 4, 4)] {
            let mut data = vec![0u32; rows * stride];
            cpu.for_each(1 << 20, Tiles::new(MatMut::new(&mut data, rows, cols, stride), 3, 8), |_, mut tile| {
                tile.for_rows(|_, row| row.iter_mut().for_each(|v| *v += 1));
            });
            for (i, &v) in data.iter().enumerate() {
                assert_eq!(v, u32::from(i % stride < cols), "element {i} of {rows}x{cols}/{stride}");
            }
        }
    }

    #[test]
    fn threads_have_scratch_of_their_own() {
        let cpu = Cpu::with_threads(4);
        let mut sums = vec![0.0f32; 64];
        cpu.for_each_with(1 << 20, 100, Chunks::new(&mut sums, 1), |i, sum, scratch| {
            assert!(scratch.len() >= 100);
            scratch.fill(i as f32);
            std::thread::yield_now();
            sum[0] = scratch.iter().take(100).sum();
        })
        .unwrap();
        assert!(sums.iter().enumerate().all(|(i, &s)| s == 100.0 * i as f32));
    }
}
