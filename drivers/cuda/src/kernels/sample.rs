//! Choosing tokens by rows of logits.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, Device as _, Sample};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, in_eights, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::SAMPLE;

/// Logits of a piece, threads of a block, and bins of a histogram, as in `sample.cu`.
const PIECE: usize = 4096;
const THREADS: u32 = 512;
const BINS: usize = 256;
/// Bytes of shared memory of the four kernels.
const SHARED: [usize; 4] = [32 * 8, 32 * 8 + 2 * BINS * 4 + 3 * 8, 32 * 8, 34 * 8];
/// Rows that are chosen for at once: as many as a grid has along y.
const MOST_ROWS: usize = 65535 / 16 * 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    logits: Mat,
    rules: Mat,
    tokens: Mat,
    most: Mat,
    kept: Mat,
    sums: Mat,
    pieces: i32,
    reserved: i32,
}

impl Cuda {
    pub(super) fn sample(&self, call: Sample<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Sample::<Buffer>::NAME;
        let rows = call.logits.rows();
        if rows == 0 {
            return Ok(());
        }
        if rows > MOST_ROWS {
            return Err(unsupported(OP, format!("does not support {rows} rows (at most {MOST_ROWS})")));
        }
        let pieces = call.logits.cols().div_ceil(PIECE);
        let scratch = |cols: usize| self.scratch(rows * cols * 4);
        let buffers = [scratch(2 * pieces)?, scratch(2)?, scratch(2 * pieces)?];
        // Words, of which kernels read and write pairs.
        let [most, kept, sums] = &buffers;
        let args = Args {
            logits: mat(OP, &call.logits)?,
            rules: mat(OP, &call.rules)?,
            tokens: mat_mut(OP, &call.tokens)?,
            most: Mat::f32(OP, most, rows, 2 * pieces)?,
            kept: Mat::f32(OP, kept, rows, 2)?,
            sums: Mat::f32(OP, sums, rows, 2 * pieces)?,
            pieces: pieces as i32,
            reserved: 0,
        };
        let names = match in_eights(&[args.logits]) {
            true => ["sample_most_wide", "sample_keep_wide", "sample_weigh_wide", "sample_draw_wide"],
            false => ["sample_most_any", "sample_keep_any", "sample_weigh_any", "sample_draw_any"],
        };
        let blocks = self.capabilities().padded(rows);
        let grids = [[pieces, blocks, 1], [blocks, 1, 1], [pieces, blocks, 1], [blocks, 1, 1]];
        for ((name, grid), shared) in names.into_iter().zip(grids).zip(SHARED) {
            self.launch(SAMPLE, name, grid, THREADS, shared, &args)?;
        }
        Ok(())
    }
}
