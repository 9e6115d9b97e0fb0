//! Gradient of causal attention.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{AttentionGrad, Call};

use super::scores::{Problem, WIDTHS, check, fit, is_bf16, padded, rows};
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut};
use crate::memory::Buffer;
use crate::source::ATTENTION_GRAD;

/// Rows of a tile.
const TILE: usize = 64;
/// The kernels for [`WIDTHS`]: of keys and values, and of queries.
const NAMES: [[&str; 2]; WIDTHS.len()] = [
    ["attention_grad_keys_bf16_32_32", "attention_grad_queries_bf16_32_32"],
    ["attention_grad_keys_bf16_64_64", "attention_grad_queries_bf16_64_64"],
    ["attention_grad_keys_bf16_96_64", "attention_grad_queries_bf16_96_64"],
    ["attention_grad_keys_bf16_128_128", "attention_grad_queries_bf16_128_128"],
    ["attention_grad_keys_bf16_192_128", "attention_grad_queries_bf16_192_128"],
];

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Backward {
    p: Problem,
    o: Mat,
    lse: Mat,
    d_o: Mat,
    dq: Mat,
    dkv: Mat,
    dk_pe: Mat,
    weights: u64,
    starts: u64,
    lowest: u64,
    partial: u64,
}

impl Cuda {
    pub(super) fn attention_grad(&self, call: AttentionGrad<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = AttentionGrad::<Buffer>::NAME;
        let outer = [call.o.dtype(), call.lse.dtype()];
        check(OP, &outer)?;
        let types = [&call.q, &call.kv, &call.k_pe, &call.d_o].map(|m| m.dtype());
        let results = [&call.dq, &call.dkv, &call.dk_pe].map(|m| m.dtype());
        let types = [types[0], types[1], types[2], types[3], results[0], results[1], results[2]];
        check(OP, &types)?;
        let t = call.q.rows();
        if t == 0 {
            return Ok(());
        }
        let h = &call.heads;
        let tiles = t / h.sequence * h.sequence.div_ceil(TILE);
        let weights = self.scratch(tiles * TILE * h.heads * 2 * 4)?;
        let starts = self.scratch(tiles * TILE * 4)?;
        let lowest = self.scratch(tiles * 4)?;
        let partial = self.scratch(t * h.heads * h.rope * 4)?;
        let mut args = Backward {
            p: Problem::new(OP, h, &call.q, &call.kv, &call.k_pe, Some(&call.starts))?,
            o: mat(OP, &call.o)?,
            lse: mat(OP, &call.lse)?,
            d_o: mat(OP, &call.d_o)?,
            dq: mat_mut(OP, &call.dq)?,
            dkv: mat_mut(OP, &call.dkv)?,
            dk_pe: mat_mut(OP, &call.dk_pe)?,
            weights: weights.address(),
            starts: starts.address(),
            lowest: lowest.address(),
            partial: partial.address(),
        };
        let grid = |blocks: usize| [blocks, 1, 1];
        let go = |name, blocks, threads, shared, args: &Backward| {
            self.launch(ATTENTION_GRAD, name, grid(blocks), threads, shared, args)
        };
        go("attention_grad_weights", tiles * TILE * h.heads / 8, 256, 0, &args)?;
        if let (true, Some(i)) = (is_bf16(&types), fit(&args.p)) {
            let (w, [keys, queries]) = (WIDTHS[i], NAMES[i]);
            args.p.align(&[args.d_o, args.dq, args.dkv]);
            go("attention_grad_starts", tiles, TILE as u32, 32 * 4, &args)?;
            let (qk, value) = (padded(TILE, w.qk), padded(TILE, w.value));
            let shared = 2 * (2 * qk + value + 2 * padded(TILE, TILE)) + 3 * TILE * 4;
            go(keys, args.p.blocks(TILE), 256, shared, &args)?;
            let shared = 2 * (2 * qk + 2 * value) + 32 * 4;
            go(queries, args.p.blocks(w.rows), 2 * w.rows as u32, shared, &args)?;
        } else {
            let (qk, value) = args.p.widths();
            let (threads, shared) =
                args.p.general(OP, |n| 3 * rows(n, qk) + 3 * rows(n, value) + 2 * rows(n, n) + 3 * n)?;
            go("attention_grad_keys_general", args.p.blocks(args.p.tile()), threads, shared, &args)?;
            go("attention_grad_queries_general", args.p.blocks(args.p.tile()), threads, shared, &args)?;
        }
        go("attention_grad_positions", (t * h.rope).div_ceil(256), 256, 0, &args)
    }
}
