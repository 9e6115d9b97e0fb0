//! Calls of causal attention and its gradient, and of the mask that attention uses.

use super::{Call, Cost, bytes_of, bytes_of_mut, is_float, is_index, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, ensure, multiple, same};

/// Masks scores: `y[r, c] = -inf` unless `first[r] ≤ base + c ≤ last + r`.
#[non_exhaustive]
pub struct MaskWindow<'a, B> {
    /// `[m, 1]` u32: the first position that row `r` sees.
    pub first: MatRef<'a, B>,
    /// The position of column 0.
    pub base: usize,
    /// The last position that row 0 sees; row `r` sees `r` more.
    pub last: usize,
    /// `[m, n]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> MaskWindow<'a, B> {
    /// Masks `y`.
    pub fn new(first: MatRef<'a, B>, base: usize, last: usize, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "mask_window";
        is_index(OP, &first)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "rows of first", y.rows(), first.rows())?;
        same(OP, "columns of first", 1, first.cols())?;
        Ok(Self { first, base, last, y })
    }
}

impl<B> Call for MaskWindow<'_, B> {
    const NAME: &'static str = "mask_window";
    fn cost(&self) -> Cost {
        Cost::new(0, 2 * bytes_of_mut(&self.y))
    }
}

/// The dimensions of latent attention once keys and values are decompressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Number of heads, `h`.
    pub heads: usize,
    /// Columns of a query or key without position, `qk_nope_head_dim`.
    pub nope: usize,
    /// Columns of a query or key with rotary position, `qk_rope_head_dim`.
    pub rope: usize,
    /// Columns of a value, `v_head_dim`.
    pub value: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f64,
    /// Rows of a sequence. No row sees another sequence.
    pub sequence: usize,
}

impl Heads {
    fn check<B>(
        &self,
        op: &'static str,
        q: &MatRef<'_, B>,
        kv: &MatRef<'_, B>,
        k_pe: &MatRef<'_, B>,
        starts: &MatRef<'_, B>,
    ) -> Result<(), InvalidOp> {
        for m in [q, kv, k_pe] {
            is_float(op, m)?;
            same(op, "rows of its operands", q.rows(), m.rows())?;
        }
        is_index(op, starts)?;
        ensure(op, "a sequence has no rows", self.sequence > 0)?;
        ensure(op, "a head has no columns", self.heads > 0 && self.nope + self.rope > 0 && self.value > 0)?;
        multiple(op, "the number of rows", q.rows(), "the sequence length", self.sequence)?;
        same(op, "columns of q", self.heads * (self.nope + self.rope), q.cols())?;
        same(op, "columns of kv", self.heads * (self.nope + self.value), kv.cols())?;
        same(op, "columns of k_pe", self.rope, k_pe.cols())?;
        same(op, "rows of starts", q.rows(), starts.rows())?;
        same(op, "columns of starts", 1, starts.cols())
    }

    /// Multiply-adds of the causal triangle: `(query, key)` pairs of one head.
    fn pairs(&self, rows: usize) -> u64 {
        let s = self.sequence as u64;
        (rows as u64 / s * self.heads as u64).saturating_mul(s * (s + 1) / 2)
    }
}

/// Causal softmax attention over decompressed latent keys and values (MLA without absorption, V3 report eq. 1–11).
///
/// Head `j` of row `t` holds query `[q_nope; q_pe]`, key `[k_nope; k_pe]` with one `k_pe` for all heads, and value `v`:
/// `o = Σ_u softmax_u(scale·q·k_u)·v_u` over the rows `u` of `starts[t] ..= t`.
#[non_exhaustive]
pub struct Attention<'a, B> {
    /// Dimensions.
    pub heads: Heads,
    /// `[t, h·(nope + rope)]`: per head `q_nope`, then `q_pe`, already rotated.
    pub q: MatRef<'a, B>,
    /// `[t, h·(nope + value)]`: per head `k_nope`, then `v`.
    pub kv: MatRef<'a, B>,
    /// `[t, rope]`, already rotated.
    pub k_pe: MatRef<'a, B>,
    /// `[t, 1]` u32: the first row that row `t` sees, the start of its document. Values outside the row's own sequence
    /// up to itself are clamped to it.
    pub starts: MatRef<'a, B>,
    /// `[t, h·value]`.
    pub o: MatMut<'a, B>,
    /// `[t, h]`: natural logarithm of the softmax's denominator, for the gradient.
    pub lse: MatMut<'a, B>,
}

impl<'a, B> Attention<'a, B> {
    /// Attends.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        heads: Heads,
        q: MatRef<'a, B>,
        kv: MatRef<'a, B>,
        k_pe: MatRef<'a, B>,
        starts: MatRef<'a, B>,
        o: MatMut<'a, B>,
        lse: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "attention";
        heads.check(OP, &q, &kv, &k_pe, &starts)?;
        same(OP, "rows of o", q.rows(), o.rows())?;
        same(OP, "columns of o", heads.heads * heads.value, o.cols())?;
        same(OP, "rows of lse", q.rows(), lse.rows())?;
        same(OP, "columns of lse", heads.heads, lse.cols())?;
        Ok(Self { heads, q, kv, k_pe, starts, o, lse })
    }
}

impl<B> Call for Attention<'_, B> {
    const NAME: &'static str = "attention";
    fn cost(&self) -> Cost {
        let h = &self.heads;
        let flops = h.pairs(self.q.rows()).saturating_mul(2 * (h.nope + h.rope + h.value) as u64);
        Cost::new(flops, bytes_of(&self.q) + bytes_of(&self.kv) + bytes_of(&self.k_pe) + bytes_of_mut(&self.o))
    }
}

/// The gradient of [`Attention`]; scores are recomputed from `lse`.
#[non_exhaustive]
pub struct AttentionGrad<'a, B> {
    /// Dimensions.
    pub heads: Heads,
    /// As in the forward call.
    pub q: MatRef<'a, B>,
    /// As in the forward call.
    pub kv: MatRef<'a, B>,
    /// As in the forward call.
    pub k_pe: MatRef<'a, B>,
    /// As in the forward call.
    pub starts: MatRef<'a, B>,
    /// The forward call's result.
    pub o: MatRef<'a, B>,
    /// The forward call's result.
    pub lse: MatRef<'a, B>,
    /// Gradient of `o`.
    pub d_o: MatRef<'a, B>,
    /// Like `q`, replaced.
    pub dq: MatMut<'a, B>,
    /// Like `kv`, replaced.
    pub dkv: MatMut<'a, B>,
    /// Like `k_pe`, replaced: the sum over heads.
    pub dk_pe: MatMut<'a, B>,
}

impl<'a, B> AttentionGrad<'a, B> {
    /// The gradients of queries, keys and values.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        heads: Heads,
        q: MatRef<'a, B>,
        kv: MatRef<'a, B>,
        k_pe: MatRef<'a, B>,
        starts: MatRef<'a, B>,
        o: MatRef<'a, B>,
        lse: MatRef<'a, B>,
        d_o: MatRef<'a, B>,
        dq: MatMut<'a, B>,
        dkv: MatMut<'a, B>,
        dk_pe: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "attention_grad";
        heads.check(OP, &q, &kv, &k_pe, &starts)?;
        same(OP, "columns of o", heads.heads * heads.value, o.cols())?;
        same_shape(OP, &o, &d_o)?;
        same(OP, "rows of o", q.rows(), o.rows())?;
        same(OP, "rows of lse", q.rows(), lse.rows())?;
        same(OP, "columns of lse", heads.heads, lse.cols())?;
        same_shape(OP, &q, &dq.as_ref())?;
        same_shape(OP, &kv, &dkv.as_ref())?;
        same_shape(OP, &k_pe, &dk_pe.as_ref())?;
        Ok(Self { heads, q, kv, k_pe, starts, o, lse, d_o, dq, dkv, dk_pe })
    }
}

impl<B> Call for AttentionGrad<'_, B> {
    const NAME: &'static str = "attention_grad";
    fn cost(&self) -> Cost {
        let h = &self.heads;
        let columns = 3 * (h.nope + h.rope) as u64 + 2 * h.value as u64;
        let bytes = 2 * (bytes_of(&self.q) + bytes_of(&self.kv) + bytes_of(&self.k_pe) + bytes_of(&self.o));
        Cost::new(h.pairs(self.q.rows()).saturating_mul(2 * columns), bytes)
    }
}
