//! Reductions: sums and maxima of rows, sums of columns.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, ReduceRows, Reduction, SumColumns};

use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::REDUCE;

const THREADS: u32 = 256;
/// Longest row that one warp reduces.
const SHORT: usize = 2048;
/// Longest row that one block reduces; a longer row is reduced in pieces of this length.
const PIECE: usize = 1 << 15;
/// Rows of a column that one block sums; if there were more than [`PIECES`] pieces, the pieces are longer.
const ROWS: usize = 256;
const PIECES: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Reduce {
    x: Mat,
    y: Mat,
    f: i32,
    piece: i32,
    pieces: i32,
    accumulate: i32,
    wide: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Columns {
    x: Mat,
    y: Mat,
    piece: i32,
    accumulate: i32,
    wide: u32,
    reserved: u32,
}

impl Cuda {
    pub(super) fn reduce_rows(&self, call: ReduceRows<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = ReduceRows::<Buffer>::NAME;
        let (f, then) = match call.f {
            Reduction::Sum => (0, 0),
            Reduction::SumSquares => (1, 0),
            Reduction::Max => (2, 2),
        };
        let (x, y) = (mat(OP, &call.x)?, mat_mut(OP, &call.y)?);
        let accumulate = i32::from(call.out.adds());
        let (rows, cols) = (call.x.rows(), call.x.cols());
        if cols <= PIECE {
            return self.reduce(x, y, f, accumulate, rows, cols, 1);
        }
        // One number for each piece of every row, and then a row of those.
        let pieces = cols.div_ceil(PIECE);
        let scratch = self.scratch(rows * pieces * size_of::<f32>())?;
        let partial = Mat::f32(OP, &scratch, rows, pieces)?;
        self.reduce(x, partial, f, 0, rows, PIECE, pieces)?;
        self.reduce(partial, y, then, accumulate, rows, pieces, 1)
    }

    /// Reduces every row of `x` in pieces of `piece` columns into `y [rows, pieces]`.
    #[expect(clippy::too_many_arguments, reason = "they are the kernel's own")]
    fn reduce(
        &self,
        x: Mat,
        y: Mat,
        f: i32,
        accumulate: i32,
        rows: usize,
        piece: usize,
        pieces: usize,
    ) -> Result<(), CudaError> {
        let wide = x.is_aligned(16).into();
        let args = Reduce { x, y, f, piece: piece as i32, pieces: pieces as i32, accumulate, wide, reserved: 0 };
        if piece <= SHORT {
            return self.launch(REDUCE, "reduce_short", [rows.div_ceil(8), 1, 1], THREADS, 0, &args);
        }
        self.launch(REDUCE, "reduce_long", [rows * pieces, 1, 1], THREADS, 32 * 4, &args)
    }

    pub(super) fn sum_columns(&self, call: SumColumns<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = SumColumns::<Buffer>::NAME;
        let (x, y) = (mat(OP, &call.x)?, mat_mut(OP, &call.y)?);
        let (rows, cols) = (call.x.rows(), call.x.cols());
        let piece = ROWS.max(rows.div_ceil(PIECES));
        let pieces = rows.div_ceil(piece);
        if pieces <= 1 {
            return self.sum_pieces(x, y, rows, pieces, cols, true);
        }
        let scratch = self.scratch(pieces * cols * size_of::<f32>())?;
        let partial = Mat::f32(OP, &scratch, pieces, cols)?;
        self.sum_pieces(x, partial, piece, pieces, cols, false)?;
        self.sum_pieces(partial, y, pieces, 1, cols, true)
    }

    /// Sums the columns of each piece of `piece` rows of `x` into a row of `y`.
    fn sum_pieces(
        &self,
        x: Mat,
        y: Mat,
        piece: usize,
        pieces: usize,
        cols: usize,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let wide = x.is_aligned(16).into();
        let args = Columns { x, y, piece: piece as i32, accumulate: accumulate.into(), wide, reserved: 0 };
        let grid = [pieces * cols.div_ceil(256), 1, 1];
        self.launch(REDUCE, "sum_columns", grid, THREADS, 8 * 256 * 4, &args)
    }
}
