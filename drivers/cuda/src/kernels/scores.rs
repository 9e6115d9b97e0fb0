//! Operands and tiles of attention, shared by the forward pass and the gradient.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::Heads;
use fathom_core::dtype::DType;
use fathom_core::tensor::MatRef;

use crate::error::CudaError;
use crate::launch::{Mat, mat, unsupported};
use crate::memory::Buffer;

/// Bytes of shared memory per block on every device from sm_80 on.
const SHARED: usize = 99 << 10;
/// Bytes of keys and values per section of heads and sequences: about half of the smallest L2 cache.
const CACHED: usize = 16 << 20;

/// `Problem` of `scores.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Problem {
    pub(super) q: Mat,
    kv: Mat,
    k_pe: Mat,
    starts: Mat,
    heads: i32,
    nope: i32,
    rope: i32,
    value: i32,
    sequence: i32,
    sequences: i32,
    scale: f32,
    before: i32,
    keys: i32,
    section: i32,
    aligned: i32,
    tile: i32,
}

impl Problem {
    /// The operands, of which there is at least one row; without `starts` a row sees all before it.
    pub(super) fn new(
        op: &'static str,
        heads: &Heads,
        q: &MatRef<'_, Buffer>,
        kv: &MatRef<'_, Buffer>,
        k_pe: &MatRef<'_, Buffer>,
        starts: Option<&MatRef<'_, Buffer>>,
    ) -> Result<Self, CudaError> {
        let sequences = q.rows() / heads.sequence;
        let pairs = heads.heads * sequences;
        let bytes = heads.sequence * (heads.nope + heads.rope + heads.value) * q.dtype().size();
        // As many sections as that makes, all about as large.
        let sections = pairs.div_ceil((CACHED / bytes.max(1)).max(1));
        // Each is at most the number of rows or columns of an operand, which `mat` finds to fit, but for the pairs.
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Ok(Self {
            q: mat(op, q)?,
            kv: mat(op, kv)?,
            k_pe: mat(op, k_pe)?,
            starts: starts.map_or(Ok(Mat::NONE), |starts| mat(op, starts))?,
            heads: int(heads.heads),
            nope: int(heads.nope),
            rope: int(heads.rope),
            value: int(heads.value),
            sequence: int(heads.sequence),
            sequences: int(sequences),
            scale: heads.scale as f32,
            before: 0,
            keys: int(heads.sequence),
            section: int(pairs.div_ceil(sections)),
            aligned: 0,
            tile: 0,
        })
    }

    /// The same for the last rows of one sequence, with `before` rows of keys before the first query.
    pub(super) fn of_chunk(self, before: usize) -> Self {
        // Both are rows of the keys, which `mat` finds to fit.
        let before = before as i32;
        Self { before, keys: self.sequence + before, ..self }
    }

    /// Marks the operands as aligned to 16 bytes if they and `others` are.
    pub(super) fn align(&mut self, others: &[Mat]) {
        let widths = [self.nope, self.rope, self.value].iter().all(|n| n % 8 == 0);
        let rows = [self.q, self.kv, self.k_pe].iter().chain(others).all(|m| m.is_aligned(16));
        self.aligned = (widths && rows).into();
    }

    /// Chooses the largest tile of the general kernels whose `numbers(tile)` floats fit into shared memory; returns
    /// threads and bytes of shared memory per block.
    pub(super) fn general(
        &mut self,
        op: &'static str,
        numbers: impl Fn(usize) -> usize,
    ) -> Result<(u32, usize), CudaError> {
        // Pieces of shared memory begin on 16 bytes.
        let bytes = |tile: usize| (numbers(tile) + 8 * 4 + 32) * 4;
        let tile = [32, 16, 8].into_iter().find(|&tile| bytes(tile) <= SHARED);
        let tile = tile.ok_or_else(|| unsupported(op, "with heads this wide does not work"))?;
        self.tile = tile as i32;
        Ok((8 * tile as u32, bytes(tile)))
    }

    /// Columns of a query or key, and of a value.
    pub(super) fn widths(&self) -> (usize, usize) {
        ((self.nope + self.rope) as usize, self.value as usize)
    }

    /// Rows of a tile of the general kernels.
    pub(super) fn tile(&self) -> usize {
        self.tile as usize
    }

    /// Blocks for tiles of `rows` rows, for each pair of head and sequence.
    pub(super) fn blocks(&self, rows: usize) -> usize {
        (self.sequence as usize).div_ceil(rows) * self.heads as usize * self.sequences as usize
    }
}

/// Numbers of a tile of the general kernels, whose rows are an odd number of elements apart.
pub(super) fn rows(rows: usize, columns: usize) -> usize {
    rows * (columns | 1)
}

/// Elements of a tile of the kernels on tensor cores: see `padded` in `scores.cuh`.
pub(super) fn padded(rows: usize, columns: usize) -> usize {
    rows * (columns + 8)
}

/// Whether the tensor-core kernels support operands of these types.
pub(super) fn is_bf16<'a>(operands: impl IntoIterator<Item = &'a DType>) -> bool {
    operands.into_iter().all(|&d| d == DType::BF16)
}

/// Fails if the general kernels do not support one of the types.
pub(super) fn check(op: &'static str, types: &[DType]) -> Result<(), CudaError> {
    match types.iter().find(|d| !matches!(d, DType::F32 | DType::BF16 | DType::F16)) {
        Some(other) => Err(unsupported(op, format!("does not compute in {other}"))),
        None => Ok(()),
    }
}

/// Head widths of a tensor-core kernel: columns of queries and keys, and of values.
#[derive(Clone, Copy)]
pub(super) struct Widths {
    /// Columns of a query or key.
    pub(super) qk: usize,
    /// Columns of a value.
    pub(super) value: usize,
    /// Rows of queries per block if queries stay in registers: 16 per warp.
    pub(super) rows: usize,
}

/// All kernels, the narrowest first.
pub(super) const WIDTHS: [Widths; 5] = [
    Widths { qk: 32, value: 32, rows: 64 },
    Widths { qk: 64, value: 64, rows: 64 },
    Widths { qk: 96, value: 64, rows: 64 },
    Widths { qk: 128, value: 128, rows: 128 },
    Widths { qk: 192, value: 128, rows: 128 },
];

/// The narrowest kernel that fits these heads.
pub(super) fn fit(p: &Problem) -> Option<usize> {
    let (qk, value) = p.widths();
    WIDTHS.iter().position(|w| qk <= w.qk && value <= w.value)
}
