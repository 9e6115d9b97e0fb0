//! Calls of decoding: the latent cache's rows, the products that absorb the projections of keys and values, and
//! attention over cached tokens.

use super::{Call, Cost, Factor, Heads, Scaled, Tiles, bytes_of, bytes_of_mut, is_float, is_index};
use crate::device::view::{MatMut, MatRef};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure, multiple, same};
use crate::fp8::TILE;

/// The layout of one token's row in the latent cache: its normed latent, then its rotated key, which all heads share.
///
/// In F32 and BF16 they follow each other. A row of E4M3 is bytes: the codes of the latent in tiles of [`TILE`], the
/// tiles' F32 scales on the next multiple of four bytes, and the key in BF16, padded to a multiple of four. With a
/// latent of 512 and a key of 64 those are the 656 bytes of FlashMLA's FP8 cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentRow {
    dtype: DType,
    latent: usize,
    rope: usize,
}

impl LatentRow {
    /// Rows of a latent of `latent` columns and a key of `rope` columns, in F32, BF16 or (the latent) E4M3.
    pub fn new(dtype: DType, latent: usize, rope: usize) -> Result<Self, InvalidOp> {
        const OP: &str = "latent_row";
        ensure(OP, "a cache holds F32, BF16 or E4M3", matches!(dtype, DType::F32 | DType::BF16 | DType::E4M3))?;
        ensure(OP, "a latent has no columns", latent > 0)?;
        Ok(Self { dtype, latent, rope })
    }

    /// The element type of the cache.
    pub const fn dtype(self) -> DType {
        self.dtype
    }

    /// Columns of the latent, `kv_lora_rank`.
    pub const fn latent(self) -> usize {
        self.latent
    }

    /// Columns of the rotated key, `qk_rope_head_dim`.
    pub const fn rope(self) -> usize {
        self.rope
    }

    /// Elements of a row.
    pub const fn cols(self) -> usize {
        match self.dtype {
            DType::E4M3 => (self.rope_byte() + self.rope * DType::BF16.size()).next_multiple_of(DType::F32.size()),
            _ => self.latent + self.rope,
        }
    }

    /// Bytes of a row.
    pub const fn bytes(self) -> usize {
        self.cols() * self.dtype.size()
    }

    /// Scales of a row of E4M3.
    pub const fn tiles(self) -> usize {
        self.latent.div_ceil(TILE)
    }

    /// The first byte of the scales in a row of E4M3.
    pub const fn scales_byte(self) -> usize {
        self.latent.next_multiple_of(DType::F32.size())
    }

    /// The first byte of the key in a row of E4M3.
    pub const fn rope_byte(self) -> usize {
        self.scales_byte() + self.tiles() * DType::F32.size()
    }

    /// The latents of rows of E4M3, as codes with their scales.
    pub fn codes<'a, B>(self, rows: MatRef<'a, B>) -> Result<Scaled<'a, B>, InvalidOp> {
        let scales = rows.reinterpret(DType::F32)?.columns(self.scale_columns())?;
        Scaled::new(rows.columns(0..self.latent)?, scales, Tiles::Row { part: self.latent })
    }

    /// The rotated keys of rows, as numbers.
    pub fn keys<'a, B>(self, rows: MatRef<'a, B>) -> Result<MatRef<'a, B>, InvalidOp> {
        match self.dtype {
            DType::E4M3 => rows.reinterpret(DType::BF16)?.columns(self.key_columns()),
            _ => rows.columns(self.key_columns()),
        }
    }

    /// Where the scales lie in a row of E4M3, in columns of F32.
    pub(in crate::device) fn scale_columns(self) -> core::ops::Range<usize> {
        let first = self.scales_byte() / DType::F32.size();
        first..first + self.tiles()
    }

    /// Where the key lies in a row, in its own columns.
    pub(in crate::device) fn key_columns(self) -> core::ops::Range<usize> {
        let first = match self.dtype {
            DType::E4M3 => self.rope_byte() / DType::BF16.size(),
            _ => self.latent,
        };
        first..first + self.rope
    }

    /// Checks that `cache` holds whole rows without gaps.
    fn check<B>(self, op: &'static str, cache: &MatRef<'_, B>) -> Result<(), InvalidOp> {
        ensure(op, "the cache is of another element type than its rows", cache.dtype() == self.dtype)?;
        same(op, "columns of the cache", self.cols(), cache.cols())?;
        ensure(op, "a cache has no gaps between its rows", cache.stride() == self.cols())?;
        if self.dtype == DType::E4M3 {
            multiple(op, "the first byte of the cache", cache.offset(), "the bytes of a scale", DType::F32.size())?;
        }
        Ok(())
    }
}

/// Writes latents and rotated keys into rows of the cache, rounded to its format.
///
/// Latents of a cache of E4M3 are encoded as [`Quantize`](super::Quantize) does in 1×128 tiles, each with the scale
/// `amax / 448`; one that is not finite is an error of kind [`NonFinite`](crate::error::ErrorKind::NonFinite).
#[non_exhaustive]
pub struct StoreLatent<'a, B> {
    /// Layout of a row of the cache.
    pub row: LatentRow,
    /// `[t, kv_lora_rank]`, normed.
    pub latent: MatRef<'a, B>,
    /// `[t, rope]`, rotated.
    pub k_pe: MatRef<'a, B>,
    /// `[t, 1]` u32: the row of the cache that each token goes to, all different.
    pub slots: MatRef<'a, B>,
    /// `[rows, row.cols()]`; other rows stay as they are.
    pub cache: MatMut<'a, B>,
}

impl<'a, B> StoreLatent<'a, B> {
    /// Stores `latent` and `k_pe`.
    pub fn new(
        row: LatentRow,
        latent: MatRef<'a, B>,
        k_pe: MatRef<'a, B>,
        slots: MatRef<'a, B>,
        cache: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        check_rows("store_latent", row, &latent, &k_pe, &slots, &cache.as_ref())?;
        Ok(Self { row, latent, k_pe, slots, cache })
    }
}

impl<B> Call for StoreLatent<'_, B> {
    const NAME: &'static str = "store_latent";
    fn cost(&self) -> Cost {
        let stored = (self.row.bytes() * self.slots.rows()) as u64;
        Cost::new(0, bytes_of(&self.latent) + bytes_of(&self.k_pe) + bytes_of(&self.slots) + stored)
    }
}

/// Reads latents and rotated keys from rows of the cache.
#[non_exhaustive]
pub struct LoadLatent<'a, B> {
    /// Layout of a row of the cache.
    pub row: LatentRow,
    /// `[rows, row.cols()]`.
    pub cache: MatRef<'a, B>,
    /// `[t, 1]` u32: the row of the cache that each token comes from.
    pub slots: MatRef<'a, B>,
    /// `[t, kv_lora_rank]`, rounded to its type.
    pub latent: MatMut<'a, B>,
    /// `[t, rope]`, rounded to its type.
    pub k_pe: MatMut<'a, B>,
}

impl<'a, B> LoadLatent<'a, B> {
    /// Loads `latent` and `k_pe`.
    pub fn new(
        row: LatentRow,
        cache: MatRef<'a, B>,
        slots: MatRef<'a, B>,
        latent: MatMut<'a, B>,
        k_pe: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        check_rows("load_latent", row, &latent.as_ref(), &k_pe.as_ref(), &slots, &cache)?;
        Ok(Self { row, cache, slots, latent, k_pe })
    }
}

impl<B> Call for LoadLatent<'_, B> {
    const NAME: &'static str = "load_latent";
    fn cost(&self) -> Cost {
        let stored = (self.row.bytes() * self.slots.rows()) as u64;
        Cost::new(0, bytes_of_mut(&self.latent) + bytes_of_mut(&self.k_pe) + bytes_of(&self.slots) + stored)
    }
}

fn check_rows<B>(
    op: &'static str,
    row: LatentRow,
    latent: &MatRef<'_, B>,
    k_pe: &MatRef<'_, B>,
    slots: &MatRef<'_, B>,
    cache: &MatRef<'_, B>,
) -> Result<(), InvalidOp> {
    row.check(op, cache)?;
    is_float(op, latent)?;
    is_float(op, k_pe)?;
    is_index(op, slots)?;
    same(op, "columns of the latent", row.latent(), latent.cols())?;
    same(op, "columns of k_pe", row.rope(), k_pe.cols())?;
    same(op, "rows of k_pe", latent.rows(), k_pe.rows())?;
    same(op, "rows of slots", latent.rows(), slots.rows())?;
    same(op, "columns of slots", 1, slots.cols())
}

/// Checks that `weight` is that of `kv_b_proj`: head `j` has rows `j(n + v)..`, `n` of W_UK and then `v` of W_UV.
fn check_weight<B>(
    op: &'static str,
    heads: &Heads,
    latent: usize,
    x: &MatRef<'_, B>,
    weight: &Factor<'_, B>,
    y: &MatRef<'_, B>,
) -> Result<(), InvalidOp> {
    is_float(op, x)?;
    is_float(op, y)?;
    weight.check(op, weight.rows())?;
    ensure(op, "a head has no columns", heads.heads > 0 && heads.value > 0 && latent > 0)?;
    same(op, "rows of the weight", heads.heads * (heads.nope + heads.value), weight.rows())?;
    same(op, "columns of the weight", latent, weight.cols())?;
    same(op, "rows of y", x.rows(), y.rows())
}

/// Takes the projection of keys into the queries: `q' = [q_nope·W_UK; q_pe]` for every head (V2 report §2.1.2).
///
/// A score is then `q'·[c; k_pe]`, over the latent itself. W_UK of head `j` is rows `j(nope + value)..` of the weight,
/// `nope` of them.
#[non_exhaustive]
pub struct AbsorbQuery<'a, B> {
    /// Dimensions; `scale` and `sequence` are not used.
    pub heads: Heads,
    /// `[t, h·(nope + rope)]`, rotated.
    pub q: MatRef<'a, B>,
    /// `[h·(nope + value), kv_lora_rank]`, of `kv_b_proj`.
    pub weight: Factor<'a, B>,
    /// `[t, h·(kv_lora_rank + rope)]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> AbsorbQuery<'a, B> {
    /// Absorbs W_UK into `q`.
    pub fn new(heads: Heads, q: MatRef<'a, B>, weight: Factor<'a, B>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "absorb_query";
        let latent = weight.cols();
        check_weight(OP, &heads, latent, &q, &weight, &y.as_ref())?;
        same(OP, "columns of q", heads.heads * (heads.nope + heads.rope), q.cols())?;
        same(OP, "columns of y", heads.heads * (latent + heads.rope), y.cols())?;
        Ok(Self { heads, q, weight, y })
    }
}

impl<B> Call for AbsorbQuery<'_, B> {
    const NAME: &'static str = "absorb_query";
    fn cost(&self) -> Cost {
        let (h, latent) = (&self.heads, self.weight.cols());
        let flops = 2 * self.q.rows() * h.heads * h.nope * latent;
        let weight = self.weight.bytes() / (h.nope + h.value).max(1) as u64 * h.nope as u64;
        Cost::new(flops as u64, bytes_of(&self.q) + weight + bytes_of_mut(&self.y))
    }
}

/// The values of attention over latents: `o = x·W_UVᵀ` for every head.
///
/// W_UV of head `j` is rows `j(nope + value) + nope..` of the weight, `value` of them.
#[non_exhaustive]
pub struct AbsorbOutput<'a, B> {
    /// Dimensions; `rope`, `scale` and `sequence` are not used.
    pub heads: Heads,
    /// `[t, h·kv_lora_rank]`: per head `Σ_u p_u·c_u`.
    pub x: MatRef<'a, B>,
    /// `[h·(nope + value), kv_lora_rank]`, of `kv_b_proj`.
    pub weight: Factor<'a, B>,
    /// `[t, h·value]`.
    pub o: MatMut<'a, B>,
}

impl<'a, B> AbsorbOutput<'a, B> {
    /// Multiplies by W_UV.
    pub fn new(heads: Heads, x: MatRef<'a, B>, weight: Factor<'a, B>, o: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "absorb_output";
        let latent = weight.cols();
        check_weight(OP, &heads, latent, &x, &weight, &o.as_ref())?;
        same(OP, "columns of x", heads.heads * latent, x.cols())?;
        same(OP, "columns of o", heads.heads * heads.value, o.cols())?;
        Ok(Self { heads, x, weight, o })
    }
}

impl<B> Call for AbsorbOutput<'_, B> {
    const NAME: &'static str = "absorb_output";
    fn cost(&self) -> Cost {
        let (h, latent) = (&self.heads, self.weight.cols());
        let flops = 2 * self.x.rows() * h.heads * h.value * latent;
        let weight = self.weight.bytes() / (h.nope + h.value).max(1) as u64 * h.value as u64;
        Cost::new(flops as u64, bytes_of(&self.x) + weight + bytes_of_mut(&self.o))
    }
}

/// Cached tokens of several sequences, in pages.
pub struct Paged<'a, B> {
    /// Layout of a row of the cache.
    pub row: LatentRow,
    /// `[pages·page_tokens, row.cols()]`: page `p` is the rows from `p·page_tokens` on.
    pub cache: MatRef<'a, B>,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// `[s, n]` u32: the pages of each sequence in order; what a sequence does not need is any page number.
    pub tables: MatRef<'a, B>,
}

impl<B> Clone for Paged<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Paged<'_, B> {}

impl<'a, B> Paged<'a, B> {
    /// Checks that the cache is whole pages.
    pub fn new(
        row: LatentRow,
        cache: MatRef<'a, B>,
        page_tokens: usize,
        tables: MatRef<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "paged";
        row.check(OP, &cache)?;
        multiple(OP, "the number of rows", cache.rows(), "the tokens of a page", page_tokens)?;
        is_index(OP, &tables)?;
        Ok(Self { row, cache, page_tokens, tables })
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.cache.rows() / self.page_tokens
    }

    /// The most keys that a row can see: the pages of a table, full.
    pub fn most_keys(&self) -> usize {
        self.tables.cols() * self.page_tokens
    }
}

/// Softmax attention of absorbed queries over cached latents (MLA with absorption, V2 report §2.1.2).
///
/// Row `t` sees the first `keys[t]` tokens of its sequence: `o_j = Σ_u softmax_u(scale·q_j·[c_u; k_pe_u])·c_u`. A
/// result depends on nothing but the row's query and the tokens it sees: neither on other rows nor on the pages the
/// tokens lie in. Where the cache is narrower than F32, a device may round queries, probabilities and cached numbers to
/// BF16 for their products.
#[non_exhaustive]
pub struct LatentAttention<'a, B> {
    /// Number of heads, `h`.
    pub heads: usize,
    /// What scores are multiplied by before the softmax: that of the heads before absorption.
    pub scale: f64,
    /// `[t, h·(kv_lora_rank + rope)]`, of [`AbsorbQuery`].
    pub q: MatRef<'a, B>,
    /// The cached tokens.
    pub paged: Paged<'a, B>,
    /// `[t, 1]` u32: the sequence of each row, as a row of the tables.
    pub sequence: MatRef<'a, B>,
    /// `[t, 1]` u32: how many tokens each row sees, at least one.
    pub keys: MatRef<'a, B>,
    /// `[t, h·kv_lora_rank]`.
    pub o: MatMut<'a, B>,
}

impl<'a, B> LatentAttention<'a, B> {
    /// Attends.
    pub fn new(
        heads: usize,
        scale: f64,
        q: MatRef<'a, B>,
        paged: Paged<'a, B>,
        sequence: MatRef<'a, B>,
        keys: MatRef<'a, B>,
        o: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "latent_attention";
        ensure(OP, "needs a head", heads > 0)?;
        is_float(OP, &q)?;
        is_float(OP, &o.as_ref())?;
        for index in [&sequence, &keys] {
            is_index(OP, index)?;
            same(OP, "rows of sequence and keys", q.rows(), index.rows())?;
            same(OP, "columns of sequence and keys", 1, index.cols())?;
        }
        same(OP, "columns of q", heads * (paged.row.latent() + paged.row.rope()), q.cols())?;
        same(OP, "rows of o", q.rows(), o.rows())?;
        same(OP, "columns of o", heads * paged.row.latent(), o.cols())?;
        Ok(Self { heads, scale, q, paged, sequence, keys, o })
    }
}

impl<B> Call for LatentAttention<'_, B> {
    const NAME: &'static str = "latent_attention";
    /// As if every row saw all the pages of its table.
    fn cost(&self) -> Cost {
        let (row, keys) = (self.paged.row, self.paged.most_keys());
        let flops = 2 * self.q.rows() * self.heads * keys * (2 * row.latent() + row.rope());
        let cached = self.paged.tables.rows() * keys * row.bytes();
        Cost::new(flops as u64, bytes_of(&self.q) + cached as u64 + bytes_of_mut(&self.o))
    }
}

/// Causal attention of the last rows of a sequence over the keys and values of all its rows: a chunk of a prompt.
///
/// As [`Attention`](super::Attention) with `m − n` rows of keys before the first query: row `t` sees rows
/// `0 ..= m − n + t`. A row's result has the same bits however its sequence is cut.
#[non_exhaustive]
pub struct ChunkAttention<'a, B> {
    /// Dimensions; `sequence` is not used.
    pub heads: Heads,
    /// `[n, h·(nope + rope)]`: per head `q_nope`, then `q_pe`, rotated.
    pub q: MatRef<'a, B>,
    /// `[m, h·(nope + value)]`: per head `k_nope`, then `v`.
    pub kv: MatRef<'a, B>,
    /// `[m, rope]`, rotated.
    pub k_pe: MatRef<'a, B>,
    /// `[n, h·value]`.
    pub o: MatMut<'a, B>,
}

impl<'a, B> ChunkAttention<'a, B> {
    /// Attends.
    pub fn new(
        heads: Heads,
        q: MatRef<'a, B>,
        kv: MatRef<'a, B>,
        k_pe: MatRef<'a, B>,
        o: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "chunk_attention";
        for m in [&q, &kv, &k_pe, &o.as_ref()] {
            is_float(OP, m)?;
        }
        ensure(OP, "a head has no columns", heads.heads > 0 && heads.nope + heads.rope > 0 && heads.value > 0)?;
        ensure(OP, "has more queries than keys", q.rows() <= kv.rows())?;
        same(OP, "rows of k_pe", kv.rows(), k_pe.rows())?;
        same(OP, "columns of q", heads.heads * (heads.nope + heads.rope), q.cols())?;
        same(OP, "columns of kv", heads.heads * (heads.nope + heads.value), kv.cols())?;
        same(OP, "columns of k_pe", heads.rope, k_pe.cols())?;
        same(OP, "rows of o", q.rows(), o.rows())?;
        same(OP, "columns of o", heads.heads * heads.value, o.cols())?;
        Ok(Self { heads, q, kv, k_pe, o })
    }

    /// Rows of keys before the first query.
    pub fn before(&self) -> usize {
        self.kv.rows() - self.q.rows()
    }
}

impl<B> Call for ChunkAttention<'_, B> {
    const NAME: &'static str = "chunk_attention";
    fn cost(&self) -> Cost {
        let (h, n) = (&self.heads, self.q.rows() as u64);
        let pairs = (n * self.before() as u64 + n * (n + 1) / 2) * h.heads as u64;
        let bytes = bytes_of(&self.q) + bytes_of(&self.kv) + bytes_of(&self.k_pe) + bytes_of_mut(&self.o);
        Cost::new(2 * pairs * (h.nope + h.rope + h.value) as u64, bytes)
    }
}
