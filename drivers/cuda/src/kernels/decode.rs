//! Decoding: the rows of the latent cache, and the absorbed projections of keys and values.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{
    AbsorbOutput, AbsorbQuery, Call, Device as _, LatentRow as Row, LoadLatent, StoreLatent, default,
};

use super::gemv::{Args, MOST_BLOCKS, Read, Weight, is_known};
use super::latent_attention::LatentRow;
use super::scores::check;
use super::site;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::DECODE;

/// Threads of a block, a warp for each token.
const THREADS: u32 = 256;
/// Columns of a latent that a block absorbs, rows of queries it does so for, and parts of the sum.
const ABSORBED: usize = 256;
const QUERIES: usize = 8;
const QUARTERS: usize = 4;
/// Bytes of shared memory per block on every device from sm_80 on.
const SHARED: usize = 99 << 10;
/// Threads of a block that absorbs.
const ABSORB_THREADS: u32 = 128;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Tokens {
    latent: Mat,
    k_pe: Mat,
    slots: Mat,
    cache: Mat,
    row: LatentRow,
    fault: u64,
    site: u32,
    wide: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Absorb {
    q: Mat,
    y: Mat,
    w: Weight,
    heads: i32,
    nope: i32,
    rope: i32,
    value: i32,
    chunks: i32,
    reserved: i32,
}

impl Cuda {
    pub(super) fn store_latent(&self, call: StoreLatent<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = StoreLatent::<Buffer>::NAME;
        let [latent, k_pe] = [mat(OP, &call.latent)?, mat(OP, &call.k_pe)?];
        self.tokens(OP, call.row, [latent, k_pe, mat(OP, &call.slots)?, mat_mut(OP, &call.cache)?])
    }

    pub(super) fn load_latent(&self, call: LoadLatent<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = LoadLatent::<Buffer>::NAME;
        let [latent, k_pe] = [mat_mut(OP, &call.latent)?, mat_mut(OP, &call.k_pe)?];
        self.tokens(OP, call.row, [latent, k_pe, mat(OP, &call.slots)?, mat(OP, &call.cache)?])
    }

    /// Queues kernel `op` over latents, keys, slots and the cache.
    fn tokens(&self, op: &'static str, row: Row, [latent, k_pe, slots, cache]: [Mat; 4]) -> Result<(), CudaError> {
        let blocks = self.capabilities().padded(slots.rows() as usize).div_ceil(THREADS as usize / 32);
        let (row, wide) = (LatentRow::new(op, row)?, latent.is_aligned(16).into());
        let args = Tokens { latent, k_pe, slots, cache, row, fault: self.report(), site: site(op), wide };
        self.launch(DECODE, op, [blocks, 1, 1], THREADS, 0, &args)
    }

    pub(super) fn absorb_query(&self, call: AbsorbQuery<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = AbsorbQuery::<Buffer>::NAME;
        let (h, latent) = (call.heads, call.weight.cols());
        let shared = (QUERIES * h.nope + 3 + QUARTERS * QUERIES * ABSORBED) * 4;
        let tiles = call.q.rows().div_ceil(QUERIES);
        if !is_known(&call.weight) || shared > SHARED || tiles > MOST_BLOCKS {
            return default::absorb_query(self, call);
        }
        check(OP, &[call.q.dtype(), call.y.dtype()])?;
        let w = Weight::new(OP, &call.weight)?;
        let name = match w.read() {
            Read::F32 => "absorb_query_f32",
            Read::Bf16 => "absorb_query_bf16",
            Read::E4m3 => "absorb_query_e4m3",
            Read::F32Any => "absorb_query_f32_any",
            Read::Bf16Any => "absorb_query_bf16_any",
            Read::F16Any => "absorb_query_f16_any",
            Read::E4m3Any => "absorb_query_e4m3_any",
        };
        let chunks = latent.div_ceil(ABSORBED);
        let args = Absorb {
            q: mat(OP, &call.q)?,
            y: mat_mut(OP, &call.y)?,
            w,
            // Each is at most the number of rows or columns of an operand, which `mat` finds to fit.
            heads: h.heads as i32,
            nope: h.nope as i32,
            rope: h.rope as i32,
            value: h.value as i32,
            chunks: chunks as i32,
            reserved: 0,
        };
        self.launch(DECODE, name, [h.heads * chunks, tiles, 1], ABSORB_THREADS, shared, &args)
    }

    pub(super) fn absorb_output(&self, call: AbsorbOutput<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = AbsorbOutput::<Buffer>::NAME;
        let (h, latent) = (call.heads, call.weight.cols());
        if !is_known(&call.weight) || h.heads > MOST_BLOCKS {
            return default::absorb_output(self, call);
        }
        check(OP, &[call.x.dtype(), call.o.dtype()])?;
        let (x, y, w) = (mat(OP, &call.x)?, mat_mut(OP, &call.o)?, Weight::new(OP, &call.weight)?);
        // As above.
        let (value, part) = (h.value as i32, (h.nope + h.value) as i32);
        let steps =
            Args { x_step: latent as i32, y_step: value, w_step: part, w_first: h.nope as i32, ..Args::zeroed() };
        self.few_rows(OP, h.heads, Args { x, y, w, n: value, k: latent as i32, ..steps })
    }
}
