//! RMSNorm and its gradient.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, RmsNorm, RmsNormGrad, RmsNormQuantize};
use fathom_core::dtype::DType;

use super::quantize::{Both, encoding_names};
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, eights, mat, mat_mut, threads_for, wide};
use crate::memory::Buffer;
use crate::source::NORM;

/// Threads of all blocks of a gradient together, about as many as fill a large GPU. A constant, not a property of the
/// device, because the division of rows into parts shows in the last bits of the sums.
const THREADS: usize = 264 * 512;

/// Columns whose sums are in shared memory: `WINDOW` of `norm.cu`.
const WINDOW: usize = 8192;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Forward {
    x: Mat,
    weight: Mat,
    y: Mat,
    rstd: Mat,
    eps: f32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Normalize {
    both: Both,
    weight: Mat,
    rstd: Mat,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Backward {
    x: Mat,
    weight: Mat,
    rstd: Mat,
    dy: Mat,
    dx: Mat,
    sums: Mat,
    rows: i32,
    accumulate: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Total {
    sums: Mat,
    dweight: Mat,
}

impl Cuda {
    pub(super) fn rmsnorm(&self, call: RmsNorm<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = RmsNorm::<Buffer>::NAME;
        let args = Forward {
            x: mat(OP, &call.x)?,
            weight: mat(OP, &call.weight)?,
            y: mat_mut(OP, &call.y)?,
            rstd: mat_mut(OP, &call.rstd)?,
            eps: call.eps as f32,
            reserved: 0,
        };
        let name = wide!("rmsnorm", &[args.x, args.y], &[args.weight]);
        let threads = threads_for(eights(call.x.cols()), 1024);
        self.launch(NORM, name, [call.x.rows(), 1, 1], threads, 32 * 4, &args)
    }

    pub(super) fn rmsnorm_quantize(&self, call: RmsNormQuantize<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = RmsNormQuantize::<Buffer>::NAME;
        let (rows, cols, x, weight) = (call.x.rows(), call.x.cols(), mat(OP, &call.x)?, mat(OP, &call.weight)?);
        let rstd = mat_mut(OP, &call.rstd)?;
        let args = Forward { x, weight, y: x, rstd, eps: call.eps as f32, reserved: 0 };
        let name = wide!("rmsnorm_roots", &[args.x], &[]);
        self.launch(NORM, name, [rows, 1, 1], threads_for(eights(cols), 1024), 32 * 4, &args)?;
        let mut encoding = self.encoding(OP, x, cols, &call.y)?;
        encoding.wide &= weight.is_aligned(16) && call.weight.dtype() == DType::F32;
        let args = Normalize { both: encoding.args, weight, rstd };
        self.launch_encoding((OP, NORM), encoding_names!("rmsnorm"), [2, 2, 1], &encoding, &args)
    }

    pub(super) fn rmsnorm_grad(&self, call: RmsNormGrad<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = RmsNormGrad::<Buffer>::NAME;
        let (rows, cols) = (call.x.rows(), call.x.cols());
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let threads = threads_for(eights(cols), 512);
        let height = rows.div_ceil(THREADS / threads as usize);
        let (parts, width) = (rows.div_ceil(height), 8 * eights(cols));
        let scratch = self.scratch(parts * width * 4)?;
        let sums = Mat::f32(OP, &scratch, parts, width)?;
        let args = Backward {
            x: mat(OP, &call.x)?,
            weight: mat(OP, &call.weight)?,
            rstd: mat(OP, &call.rstd)?,
            dy: mat(OP, &call.dy)?,
            dx: mat_mut(OP, &call.dx)?,
            sums,
            // At most the rows of `x`, which `mat` let pass.
            rows: height as i32,
            accumulate: call.out.adds().into(),
        };
        let name = wide!("rmsnorm_grad", &[args.x, args.dy, args.dx], &[args.weight]);
        self.launch(NORM, name, [parts, 1, 1], threads, 128 + 4 * width.min(WINDOW), &args)?;
        let args = Total { sums, dweight: mat_mut(OP, &call.dweight)? };
        self.launch(NORM, "rmsnorm_weight_grad", [cols.div_ceil(32), 1, 1], 256, 256 * 4, &args)
    }
}
