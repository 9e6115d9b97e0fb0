//! Causal attention over decompressed latent keys and values, and the window mask.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Attention, Call, ChunkAttention, Heads, MaskWindow};
use fathom_core::dtype::DType;

use super::scores::{Problem, WIDTHS, check, fit, is_bf16, padded, rows};
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::ATTENTION;

/// Rows of a tile of keys.
const KEYS: usize = 64;
/// Threads of a block that masks.
const MASK_THREADS: u32 = 256;
/// The kernels for [`WIDTHS`].
const NAMES: [&str; WIDTHS.len()] = [
    "attention_bf16_32_32",
    "attention_bf16_64_64",
    "attention_bf16_96_64",
    "attention_bf16_128_128",
    "attention_bf16_192_128",
];

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Forward {
    p: Problem,
    o: Mat,
    lse: Mat,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MaskArgs {
    first: Mat,
    y: Mat,
    base: i64,
    last: i64,
}

impl Cuda {
    pub(super) fn mask_window(&self, call: MaskWindow<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = MaskWindow::<Buffer>::NAME;
        let y = mat_mut(OP, &call.y)?;
        // Positions are below 2^62, where sums with rows and columns do not overflow.
        let position = |p: usize| p.min(1 << 62) as i64;
        let args = MaskArgs { first: mat(OP, &call.first)?, y, base: position(call.base), last: position(call.last) };
        self.launch(ATTENTION, "mask_window", [y.eighths(OP, MASK_THREADS)?, 1, 1], MASK_THREADS, 0, &args)
    }

    pub(super) fn attention(&self, call: Attention<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = Attention::<Buffer>::NAME;
        let types = [call.q.dtype(), call.kv.dtype(), call.k_pe.dtype(), call.o.dtype()];
        check(OP, &types)?;
        check(OP, &[call.lse.dtype()])?;
        if call.q.rows() == 0 {
            return Ok(());
        }
        let p = Problem::new(OP, &call.heads, &call.q, &call.kv, &call.k_pe, Some(&call.starts))?;
        self.attend(OP, &types, Forward { p, o: mat_mut(OP, &call.o)?, lse: mat_mut(OP, &call.lse)? })
    }

    pub(super) fn chunk_attention(&self, call: ChunkAttention<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = ChunkAttention::<Buffer>::NAME;
        let types = [call.q.dtype(), call.kv.dtype(), call.k_pe.dtype(), call.o.dtype()];
        check(OP, &types)?;
        if call.q.rows() == 0 {
            return Ok(());
        }
        let heads = Heads { sequence: call.q.rows(), ..call.heads };
        let p = Problem::new(OP, &heads, &call.q, &call.kv, &call.k_pe, None)?.of_chunk(call.before());
        self.attend(OP, &types, Forward { p, o: mat_mut(OP, &call.o)?, lse: Mat::NONE })
    }

    /// Queues a forward pass over operands of these types.
    fn attend(&self, op: &'static str, types: &[DType], mut args: Forward) -> Result<(), CudaError> {
        let p = args.p;
        if let (true, Some(i)) = (is_bf16(types), fit(&p)) {
            let w = WIDTHS[i];
            args.p.align(&[args.o]);
            let shared = 2 * (2 * padded(KEYS, w.qk) + 2 * padded(KEYS, w.value)) + 32 * 4;
            return self.launch(ATTENTION, NAMES[i], [p.blocks(w.rows), 1, 1], 2 * w.rows as u32, shared, &args);
        }
        let (qk, value) = p.widths();
        let (threads, shared) = args.p.general(op, |n| 2 * rows(n, qk) + 2 * rows(n, value) + rows(n, n))?;
        let blocks = p.blocks(args.p.tile());
        self.launch(ATTENTION, "attention_general", [blocks, 1, 1], threads, shared, &args)
    }
}
