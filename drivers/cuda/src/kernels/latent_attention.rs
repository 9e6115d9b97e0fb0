//! Attention of absorbed queries over cached latents.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, LatentAttention, LatentRow as Row};
use fathom_core::dtype::DType;
use fathom_core::error::InvalidOp;

use super::scores::{check, padded, rows};
use super::site;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::LATENT_ATTENTION;

/// Tokens whose softmax is computed by itself: few enough that one long sequence keeps a GPU busy, many enough that
/// what is written for each is little beside the tokens.
const SPLIT: usize = 256;
/// Splits that are put together before others.
const SPAN: usize = 16;
/// Tokens of a tile of the kernels on tensor cores, and the columns of a key there.
const KEYS: usize = 32;
const ROPE: usize = 64;
/// Tokens of a tile of the general kernel.
const FEW: usize = 16;
/// Bytes of shared memory per block on every device from sm_80 on.
const SHARED: usize = 99 << 10;
/// Threads of a block that puts pieces together.
const MERGE_THREADS: usize = 128;

/// `LatentRow` of `latent.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LatentRow {
    latent: i32,
    rope: i32,
    scales: i32,
    keys: i32,
}

impl LatentRow {
    pub(super) fn new(op: &'static str, row: Row) -> Result<Self, CudaError> {
        let int = |n: usize| i32::try_from(n).map_err(|_| unsupported(op, "has rows this wide, which does not work"));
        Ok(Self {
            latent: int(row.latent())?,
            rope: int(row.rope())?,
            scales: int(row.scales_byte())?,
            keys: int(row.rope_byte())?,
        })
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Latent {
    q: Mat,
    cache: Mat,
    tables: Mat,
    sequence: Mat,
    keys: Mat,
    o: Mat,
    parts: Mat,
    stats: Mat,
    row: LatentRow,
    heads: i32,
    page_tokens: i32,
    groups: i32,
    each: i32,
    pieces: i32,
    scale: f32,
    aligned: i32,
    per_block: i32,
    fault: u64,
    site: u32,
    reserved: u32,
}

/// How blocks compute a call.
struct Plan {
    name: &'static str,
    /// Heads of a block, and rows that it computes them for.
    per_block: usize,
    rows: usize,
    threads: u32,
    shared: usize,
}

impl Plan {
    /// On tensor cores where the cache is narrower than f32, for `heads` heads; `most` bytes of shared memory. Where
    /// `runs` says that rows next to each other are mostly of one sequence, a block has two of few heads.
    fn new(op: &'static str, row: Row, heads: usize, most: usize, runs: bool) -> Result<Self, CudaError> {
        let fits = row.dtype() != DType::F32 && row.latent() <= 512 && row.rope() <= ROPE;
        if !fits {
            return Self::general(op, row, heads);
        }
        let codes = row.dtype() == DType::E4M3;
        let latent = if row.latent() <= 128 { 128 } else { 512 };
        let shared = |twice: usize| {
            let tile = 2 * padded(KEYS, latent + ROPE);
            let raw = (latent + latent / 128 * 4 + 2 * ROPE).next_multiple_of(16);
            let tokens = if codes { tile + KEYS * raw } else { 2 * tile + 16 };
            let queries = if twice > 1 { 2 * padded(16 * twice, latent + ROPE) } else { 16 };
            tokens + 4 * 4 * 16 * twice * (KEYS + 8) + queries
        };
        let pair = runs && heads <= 16 && shared(2) <= most;
        let twice = if pair || latent == 512 && heads > 16 && shared(2) <= most { 2 } else { 1 };
        let name = match (codes, latent, twice) {
            (false, 128, _) if pair => "latent_attention_bf16_128_pair",
            (false, _, _) if pair => "latent_attention_bf16_512_pair",
            (true, 128, _) if pair => "latent_attention_fp8_128_pair",
            (true, _, _) if pair => "latent_attention_fp8_512_pair",
            (false, 128, _) => "latent_attention_bf16_128",
            (false, _, 1) => "latent_attention_bf16_512",
            (false, _, _) => "latent_attention_bf16_512_twice",
            (true, 128, _) => "latent_attention_fp8_128",
            (true, _, 1) => "latent_attention_fp8_512",
            (true, _, _) => "latent_attention_fp8_512_twice",
        };
        let per_block = if pair { 16 } else { 16 * twice };
        Ok(Self { name, per_block, rows: 1 + usize::from(pair), threads: 256, shared: shared(twice) })
    }

    /// In f32: the most heads that fit.
    fn general(op: &'static str, row: Row, heads: usize) -> Result<Self, CudaError> {
        let (latent, width) = (row.latent(), row.latent().saturating_add(row.rope()));
        let bytes = |h: usize| {
            let tiles = rows(FEW, width) + rows(h, width) + 2 * rows(h, latent) + rows(h, FEW) + 3 * h;
            // Pieces of shared memory begin on 16 bytes.
            4 * (tiles + 6 * 4)
        };
        if width > SHARED {
            return Err(unsupported(op, "with a latent this wide does not work"));
        }
        let per_block = [8, 4, 2, 1].into_iter().find(|&h| bytes(h) <= SHARED && (h == 1 || h < 2 * heads));
        let per_block = per_block.ok_or_else(|| unsupported(op, "with a latent this wide does not work"))?;
        let (threads, shared) = (32 * per_block as u32, bytes(per_block));
        Ok(Self { name: "latent_attention_general", per_block, rows: 1, threads, shared })
    }
}

impl Cuda {
    pub(super) fn latent_attention(&self, call: LatentAttention<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = LatentAttention::<Buffer>::NAME;
        check(OP, &[call.q.dtype(), call.o.dtype()])?;
        let (rows, heads, paged) = (call.q.rows(), call.heads, call.paged);
        if rows == 0 {
            return Ok(());
        }
        if paged.most_keys() == 0 {
            return Err(InvalidOp::above(OP, "the keys of a row,", 1, "those of its pages,", 0).into());
        }
        let properties = self.engine().properties();
        // Tables have a row for each sequence: with many more rows than that, drafts are verified.
        let runs = 2 * rows >= 3 * paged.tables.rows() && rows > 1;
        let plan = Plan::new(OP, paged.row, heads, properties.shared, runs)?;
        let groups = heads.div_ceil(plan.per_block);
        let blocks = rows.div_ceil(plan.rows) * groups;
        let splits = paged.most_keys().div_ceil(SPLIT);
        let spans = splits.div_ceil(SPAN);
        let each = if splits == 1 || blocks * spans >= properties.multiprocessors { SPAN } else { 1 };
        let pieces = splits.div_ceil(each);
        let too_many =
            || unsupported(OP, format!("does not support {rows} rows of {heads} heads over {splits} splits"));
        let int = |n: Option<usize>| n.and_then(|n| i32::try_from(n).ok()).ok_or_else(too_many);
        // What kernels count.
        int(paged.tables.cols().checked_mul(paged.page_tokens))?;
        let parts = int(rows.checked_mul(heads).and_then(|n| n.checked_mul(pieces)))? as usize;
        if pieces > 65535 || paged.row.latent().div_ceil(MERGE_THREADS) > 65535 {
            return Err(too_many());
        }
        let (latent, merged) = (paged.row.latent(), pieces > 1);
        let scratch = |cols: usize| self.scratch(if merged { parts * cols * 4 } else { 0 });
        let (sums, stats) = (scratch(latent)?, scratch(2)?);
        let part = |buffer: &Buffer, cols| if merged { Mat::f32(OP, buffer, parts, cols) } else { Ok(Mat::NONE) };
        let (q, cache) = (mat(OP, &call.q)?, mat(OP, &paged.cache)?);
        let widths = latent % 8 == 0 && paged.row.rope() % 8 == 0;
        let args = Latent {
            q,
            cache,
            tables: mat(OP, &paged.tables)?,
            sequence: mat(OP, &call.sequence)?,
            keys: mat(OP, &call.keys)?,
            o: mat_mut(OP, &call.o)?,
            parts: part(&sums, latent)?,
            stats: part(&stats, 2)?,
            row: LatentRow::new(OP, paged.row)?,
            heads: int(Some(heads))?,
            page_tokens: int(Some(paged.page_tokens))?,
            groups: int(Some(groups))?,
            each: each as i32,
            pieces: pieces as i32,
            scale: call.scale as f32,
            aligned: (widths && q.is_aligned(16) && cache.is_aligned_in_any_number(16)).into(),
            per_block: plan.per_block as i32,
            fault: self.report(),
            site: site(OP),
            reserved: 0,
        };
        int(rows.checked_mul(groups))?;
        self.launch(LATENT_ATTENTION, plan.name, [blocks, pieces, 1], plan.threads, plan.shared, &args)?;
        if !merged {
            return Ok(());
        }
        let grid = [rows * heads, latent.div_ceil(MERGE_THREADS), 1];
        self.launch(LATENT_ATTENTION, "latent_merge", grid, MERGE_THREADS as u32, 0, &args)
    }
}
