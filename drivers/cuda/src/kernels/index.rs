//! Gathers and scatters of rows and columns, and the combination of experts' outputs.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, Combine, GatherColumns, GatherRows, ScatterAddColumns, ScatterAddRows};
use fathom_core::dtype::DType;

use super::elementwise::wide;
use super::site;
use super::sort::Keys;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, blocks, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::INDEX;

const THREADS: u32 = 256;
/// Bytes of a row that a warp gathers; columns that a block scatters.
const PIECE: usize = 2048;
const WIDTH: usize = 1024;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Gather {
    x: u64,
    y: u64,
    x_stride: i64,
    y_stride: i64,
    bytes: i64,
    index: Mat,
    fault: u64,
    rows: u32,
    divisor: u32,
    limit: u32,
    site: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GatherCast {
    x: Mat,
    index: Mat,
    y: Mat,
    fault: u64,
    divisor: u32,
    limit: u32,
    site: u32,
    wide: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Columns {
    x: Mat,
    index: Mat,
    y: Mat,
    fault: u64,
    site: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ScatterRows {
    x: Mat,
    index: Mat,
    y: Mat,
    order: u64,
    wide: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CombineArgs {
    x: Mat,
    inverse: Mat,
    y: Mat,
    fault: u64,
    site: u32,
    accumulate: u32,
    wide: u32,
    reserved: u32,
}

/// `n`, or the largest number of 32 bits.
pub(super) fn word(n: usize) -> u32 {
    n.min(u32::MAX as usize) as u32
}

impl Cuda {
    pub(super) fn gather_rows(&self, call: GatherRows<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = GatherRows::<Buffer>::NAME;
        let index = mat(OP, &call.index)?;
        let (divisor, limit) = (word(call.divisor), word(call.x.rows().saturating_mul(call.divisor)));
        let (fault, site) = (self.report(), site(OP));
        if call.x.dtype() != call.y.dtype() {
            let (x, y) = (mat(OP, &call.x)?, mat_mut(OP, &call.y)?);
            let args = GatherCast { x, index, y, fault, divisor, limit, site, wide: wide(&x, &y) };
            return self.launch(INDEX, "gather_cast", [y.eighths(OP, THREADS)?, 1, 1], THREADS, 0, &args);
        }
        let size = call.x.dtype().size();
        let (rows, bytes) = (call.y.rows(), call.y.cols() * size);
        let args = Gather {
            x: call.x.buffer().address() + (call.x.offset() * size) as u64,
            y: call.y.buffer().address() + (call.y.offset() * size) as u64,
            x_stride: (call.x.stride() * size) as i64,
            y_stride: (call.y.stride() * size) as i64,
            bytes: bytes as i64,
            index,
            fault,
            rows: word(call.x.rows()),
            divisor,
            limit,
            site,
        };
        // The widest access that every row allows.
        let together = args.x | args.y | args.x_stride as u64 | args.y_stride as u64 | bytes as u64;
        let (name, width) = match together.trailing_zeros() {
            0 => ("gather_8", 1),
            1 => ("gather_16", 2),
            2 | 3 => ("gather_32", 4),
            _ => ("gather_128", 16),
        };
        if width == 16 && bytes >= PIECE / 4 {
            let warps = blocks(OP, rows, bytes.div_ceil(PIECE), 8)?;
            return self.launch(INDEX, "gather_wide", [warps, 1, 1], THREADS, 0, &args);
        }
        self.launch(INDEX, name, [blocks(OP, rows, bytes / width, THREADS)?, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn scatter_add_rows(&self, call: ScatterAddRows<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = ScatterAddRows::<Buffer>::NAME;
        let (x, index, y) = (mat(OP, &call.x)?, mat(OP, &call.index)?, mat_mut(OP, &call.y)?);
        let name = match call.x.dtype() {
            DType::F32 => "scatter_add_rows_f32",
            DType::BF16 => "scatter_add_rows_bf16",
            DType::F16 => "scatter_add_rows_f16",
            other => return Err(unsupported(OP, format!("does not support {other}"))),
        };
        let (rows, targets) = (call.x.rows(), call.y.rows());
        // Rows in the order of what they are added to: those of one target together, in their own order. What is out of
        // range comes last, and is left alone.
        let order = self.scratch(rows * size_of::<u32>())?;
        let keys = Keys {
            op: OP,
            address: index.address(),
            stride: call.index.stride(),
            items: rows,
            limit: targets,
            most: targets,
        };
        self.sort(&keys, order.address(), 0, 0, targets)?;
        let args = ScatterRows { x, index, y, order: order.address(), wide: wide(&x, &y), reserved: 0 };
        let grid = blocks(OP, rows, call.y.cols().div_ceil(WIDTH), 1)?;
        self.launch(INDEX, name, [grid, 1, 1], 128, (128 + 4) * 4, &args)
    }

    pub(super) fn gather_columns(&self, call: GatherColumns<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = GatherColumns::<Buffer>::NAME;
        let name = match call.x.dtype().size() {
            2 => "gather_columns_16",
            4 => "gather_columns_32",
            _ => return Err(unsupported(OP, format!("does not support {}", call.x.dtype()))),
        };
        let (x, index, y) = (mat(OP, &call.x)?, mat(OP, &call.index)?, mat_mut(OP, &call.y)?);
        let args = Columns { x, index, y, fault: self.report(), site: site(OP), reserved: 0 };
        let grid = blocks(OP, call.y.rows(), call.y.cols(), THREADS)?;
        self.launch(INDEX, name, [grid, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn scatter_add_columns(&self, call: ScatterAddColumns<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = ScatterAddColumns::<Buffer>::NAME;
        let (x, index, y) = (mat(OP, &call.x)?, mat(OP, &call.index)?, mat_mut(OP, &call.y)?);
        let args = Columns { x, index, y, fault: self.report(), site: site(OP), reserved: 0 };
        let grid = call.y.rows().div_ceil(THREADS as usize);
        self.launch(INDEX, "scatter_add_columns", [grid, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn combine(&self, call: Combine<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Combine::<Buffer>::NAME;
        let name = match call.x.dtype() {
            DType::F32 => "combine_f32",
            DType::BF16 => "combine_bf16",
            DType::F16 => "combine_f16",
            other => return Err(unsupported(OP, format!("does not support {other}"))),
        };
        let (x, inverse, y) = (mat(OP, &call.x)?, mat(OP, &call.inverse)?, mat_mut(OP, &call.y)?);
        let args = CombineArgs {
            x,
            inverse,
            y,
            fault: self.report(),
            site: site(OP),
            accumulate: call.out.adds().into(),
            wide: wide(&x, &y),
            reserved: 0,
        };
        self.launch(INDEX, name, [y.eighths(OP, THREADS)?, 1, 1], THREADS, 0, &args)
    }
}
