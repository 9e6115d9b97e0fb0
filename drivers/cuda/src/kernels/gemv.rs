//! Inference's products with weights as they are stored: few rows (GEMV).
//! Products of many rows decode their weights first, as f32: activations of inference are f32 unless asked otherwise,
//! and such a product is far above the time of decoding a weight.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{self, Call, Factor, Gemv, GroupedGemv};
use fathom_core::dtype::DType;

use super::quantize::Tiles;
use super::scores::check;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::GEMV;

in_primitives! {
    gemm_mixed: GemmMixed, grouped_gemm_mixed: GroupedGemmMixed,
}

/// Threads of a block, and the columns of y that its warps compute.
const THREADS: u32 = 128;
const COLUMNS: usize = 16;
/// Blocks along y or z.
pub(super) const MOST_BLOCKS: usize = 65535;

/// `Weight` of `weights.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Weight {
    w: Mat,
    scales: Mat,
    tiles: Tiles,
}

/// How a weight is read: its type, and whether in sixteen bytes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Read {
    F32,
    Bf16,
    E4m3,
    F32Any,
    Bf16Any,
    F16Any,
    E4m3Any,
}

impl Weight {
    pub(super) fn new(op: &'static str, w: &Factor<'_, Buffer>) -> Result<Self, CudaError> {
        Ok(match w {
            Factor::Float(w) => {
                check(op, &[w.dtype()])?;
                Self { w: mat(op, w)?, scales: Mat::NONE, tiles: Tiles::NONE }
            }
            Factor::Fp8(w) => Self {
                w: mat(op, &w.codes)?,
                scales: mat(op, &w.scales)?,
                tiles: Tiles::new(op, &w.tiles, w.codes.cols())?,
            },
        })
    }

    pub(super) fn read(&self) -> Read {
        let piece = if self.w.size() == 1 { 16 } else { 8 };
        let wide = self.w.cols() % piece == 0 && self.w.is_aligned_in_any_number(16);
        match (self.w.dtype(), wide) {
            (4, true) => Read::E4m3,
            (4, false) => Read::E4m3Any,
            (2, _) => Read::F16Any,
            (1, true) => Read::Bf16,
            (1, false) => Read::Bf16Any,
            (_, true) => Read::F32,
            (_, false) => Read::F32Any,
        }
    }
}

/// Whether kernels decode this weight: they know numbers, and E4M3 in 128×128 blocks.
pub(super) fn is_known(w: &Factor<'_, Buffer>) -> bool {
    match w {
        Factor::Float(_) => true,
        Factor::Fp8(w) => w.codes.dtype() == DType::E4M3 && matches!(w.tiles, device::Tiles::Block { .. }),
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Args {
    pub(super) x: Mat,
    pub(super) y: Mat,
    pub(super) offsets: Mat,
    pub(super) w: Weight,
    pub(super) n: i32,
    pub(super) k: i32,
    pub(super) groups: i32,
    pub(super) accumulate: i32,
    pub(super) wide: i32,
    pub(super) x_step: i32,
    pub(super) y_step: i32,
    pub(super) w_step: i32,
    pub(super) w_first: i32,
    pub(super) reserved: i32,
}

impl Cuda {
    /// Queues `products` products side by side, of all rows or of groups of rows.
    pub(super) fn few_rows(&self, op: &'static str, products: usize, mut args: Args) -> Result<(), CudaError> {
        let (rows, n, groups) = (args.x.rows() as usize, args.n as usize, args.groups as usize);
        args.wide = (args.k % 8 == 0 && args.x_step % 8 == 0 && args.x.is_aligned_in_any_number(16)).into();
        // The fewest that hold the rows, or those of a group if all have as many.
        let each = rows.div_ceil(groups.max(1));
        let size = if each <= 1 && groups == 0 { 0 } else { 1 + usize::from(each > 4) };
        let (name, at_once) = match (args.w.read(), size) {
            (Read::F32, 0) => ("gemv_f32_1", 1),
            (Read::F32, 1) => ("gemv_f32_4", 4),
            (Read::F32, _) => ("gemv_f32_16", 16),
            (Read::Bf16, 0) => ("gemv_bf16_1", 1),
            (Read::Bf16, 1) => ("gemv_bf16_4", 4),
            (Read::Bf16, _) => ("gemv_bf16_16", 16),
            (Read::E4m3, 0) => ("gemv_e4m3_1", 1),
            (Read::E4m3, 1) => ("gemv_e4m3_4", 4),
            (Read::E4m3, _) => ("gemv_e4m3_16", 16),
            (Read::F32Any, _) => ("gemv_f32_any", 4),
            (Read::Bf16Any, _) => ("gemv_bf16_any", 4),
            (Read::F16Any, _) => ("gemv_f16_any", 4),
            (Read::E4m3Any, _) => ("gemv_e4m3_any", 4),
        };
        // Groups do not start at a tile of rows: each may add a partial one.
        let tiles = if groups > 0 { (rows / at_once + groups).min(rows) } else { rows.div_ceil(at_once) };
        if tiles > MOST_BLOCKS || products > MOST_BLOCKS {
            return Err(unsupported(op, format!("does not support {rows} rows of {products} products")));
        }
        self.launch(GEMV, name, [n.div_ceil(COLUMNS), tiles, products], THREADS, 0, &args)
    }

    pub(super) fn gemv(&self, call: Gemv<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Gemv::<Buffer>::NAME;
        check(OP, &[call.x.dtype(), call.y.dtype()])?;
        let (x, y, w) = (mat(OP, &call.x)?, mat_mut(OP, &call.y)?, Weight::new(OP, &call.w)?);
        let (n, k, accumulate) = (w.w.rows(), w.w.cols(), call.out.adds().into());
        let args = Args { x, y, w, n, k, accumulate, ..Args::zeroed() };
        self.few_rows(OP, 1, args)
    }

    pub(super) fn grouped_gemv(&self, call: GroupedGemv<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = GroupedGemv::<Buffer>::NAME;
        check(OP, &[call.x.dtype(), call.y.dtype()])?;
        let (x, y, w) = (mat(OP, &call.x)?, mat_mut(OP, &call.y)?, Weight::new(OP, &call.w)?);
        // There is an offset for each group, and `mat` counts them.
        let (offsets, groups) = (mat(OP, &call.offsets)?, call.groups as i32);
        let args = Args { x, y, offsets, w, n: y.cols(), k: x.cols(), groups, ..Args::zeroed() };
        self.few_rows(OP, 1, args)
    }
}
