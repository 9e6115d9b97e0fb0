//! Checked calls of the fused kernels: what a layer of the model does in one pass over its data.

use super::call::{Call, Cost, bytes_of, bytes_of_mut, is_float, is_index, same_shape};
use crate::error::{InvalidOp, ensure, same};
use crate::layer::router::RouteConfig;
use crate::tensor::{MatMut, MatRef};

/// `y = x / rms(x) · w`, `rms(x) = √(mean(x²) + eps)` over each row.
#[non_exhaustive]
pub struct RmsNorm<'a, B> {
    /// `[t, n]`.
    pub x: MatRef<'a, B>,
    /// `w`, `[1, n]`.
    pub weight: MatRef<'a, B>,
    /// Added to the mean square.
    pub eps: f64,
    /// `[t, n]`.
    pub y: MatMut<'a, B>,
    /// `1 / rms(x)`, `[t, 1]`, kept for the gradient.
    pub rstd: MatMut<'a, B>,
}

impl<'a, B> RmsNorm<'a, B> {
    /// Normalises every row of `x`.
    pub fn new(
        x: MatRef<'a, B>,
        weight: MatRef<'a, B>,
        eps: f64,
        y: MatMut<'a, B>,
        rstd: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "rmsnorm";
        same_shape(OP, &x, &y.as_ref())?;
        for m in [&x, &weight, &y.as_ref(), &rstd.as_ref()] {
            is_float(OP, m)?;
        }
        same(OP, "columns of the weight", x.cols(), weight.cols())?;
        same(OP, "rows of the weight", 1, weight.rows())?;
        same(OP, "rows of rstd", x.rows(), rstd.rows())?;
        same(OP, "columns of rstd", 1, rstd.cols())?;
        Ok(Self { x, weight, eps, y, rstd })
    }
}

impl<B> Call for RmsNorm<'_, B> {
    const NAME: &'static str = "rmsnorm";
    fn cost(&self) -> Cost {
        Cost::new(4 * self.x.elements() as u64, bytes_of(&self.x) + bytes_of_mut(&self.y))
    }
}

/// The gradient of [`RmsNorm`]: with `x̂ = x·rstd` and `g = dy·w`,
/// `dx = rstd·(g − x̂·mean(g·x̂))` and `dw += Σ_t dy·x̂`.
#[non_exhaustive]
pub struct RmsNormGrad<'a, B> {
    /// `[t, n]`.
    pub x: MatRef<'a, B>,
    /// `[1, n]`.
    pub weight: MatRef<'a, B>,
    /// `[t, 1]` from the forward call.
    pub rstd: MatRef<'a, B>,
    /// `[t, n]`.
    pub dy: MatRef<'a, B>,
    /// `[t, n]`.
    pub dx: MatMut<'a, B>,
    /// Add to `dx` instead of replacing it: a residual stream's gradient is already there.
    pub accumulate: bool,
    /// `[1, n]`, added to.
    pub dweight: MatMut<'a, B>,
}

impl<'a, B> RmsNormGrad<'a, B> {
    /// The gradients of input and weight.
    pub fn new(
        x: MatRef<'a, B>,
        weight: MatRef<'a, B>,
        rstd: MatRef<'a, B>,
        dy: MatRef<'a, B>,
        dx: MatMut<'a, B>,
        accumulate: bool,
        dweight: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "rmsnorm_grad";
        for m in [&x, &weight, &rstd, &dy, &dx.as_ref(), &dweight.as_ref()] {
            is_float(OP, m)?;
        }
        same_shape(OP, &x, &dy)?;
        same_shape(OP, &x, &dx.as_ref())?;
        same_shape(OP, &weight, &dweight.as_ref())?;
        same(OP, "columns of the weight", x.cols(), weight.cols())?;
        same(OP, "rows of the weight", 1, weight.rows())?;
        same(OP, "rows of rstd", x.rows(), rstd.rows())?;
        same(OP, "columns of rstd", 1, rstd.cols())?;
        Ok(Self { x, weight, rstd, dy, dx, accumulate, dweight })
    }
}

impl<B> Call for RmsNormGrad<'_, B> {
    const NAME: &'static str = "rmsnorm_grad";
    fn cost(&self) -> Cost {
        let dx = bytes_of_mut(&self.dx) * if self.accumulate { 2 } else { 1 };
        Cost::new(8 * self.x.elements() as u64, bytes_of(&self.x) + bytes_of(&self.dy) + dx)
    }
}

/// Rotates pairs of columns by an angle that depends on the position, in place: rotary position embedding with
/// interleaved pairs, `(x₂ᵢ, x₂ᵢ₊₁) ← (x₂ᵢ·cos − x₂ᵢ₊₁·sin, x₂ᵢ·sin + x₂ᵢ₊₁·cos)`.
///
/// Every row holds `heads` heads of `head` columns, of which the `r` from `start` on are rotated.
#[non_exhaustive]
pub struct Rope<'a, B> {
    /// `[t, heads·head]`.
    pub x: MatMut<'a, B>,
    /// Columns of a head.
    pub head: usize,
    /// First rotated column of a head.
    pub start: usize,
    /// `[positions, r]`: cosine and sine of pair `i` in columns `2i` and `2i + 1`.
    pub table: MatRef<'a, B>,
    /// `[t, 1]` u32, each below the rows of the table.
    pub positions: MatRef<'a, B>,
    /// Rotate back (transpose): the gradient.
    pub inverse: bool,
}

impl<'a, B> Rope<'a, B> {
    /// Rotates `x`.
    pub fn new(
        x: MatMut<'a, B>,
        head: usize,
        start: usize,
        table: MatRef<'a, B>,
        positions: MatRef<'a, B>,
        inverse: bool,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "rope";
        is_float(OP, &x.as_ref())?;
        is_float(OP, &table)?;
        is_index(OP, &positions)?;
        ensure(OP, "a head has no columns", head > 0)?;
        same(OP, "columns of x must be whole heads", 0, x.cols() % head)?;
        same(OP, "rotated columns must be even", 0, table.cols() % 2)?;
        ensure(OP, "rotated columns reach past the head", start + table.cols() <= head)?;
        same(OP, "rows of positions", x.rows(), positions.rows())?;
        same(OP, "columns of positions", 1, positions.cols())?;
        Ok(Self { x, head, start, table, positions, inverse })
    }

    /// Number of heads in a row.
    pub fn heads(&self) -> usize {
        self.x.cols() / self.head
    }
}

impl<B> Call for Rope<'_, B> {
    const NAME: &'static str = "rope";
    fn cost(&self) -> Cost {
        let n = (self.x.rows() * self.heads() * self.table.cols()) as u64;
        Cost::new(3 * n, 2 * n * self.x.dtype().size() as u64)
    }
}

/// `y = silu(gate)·up·scale` with `silu(z) = z·σ(z)`; `gate` and `up` are the two halves of a row.
///
/// `scale`, where there is one, is the routing weight of the row: applying it here and not after the down projection
/// gives the same sum and needs no second copy of the experts' outputs for the gradient.
#[non_exhaustive]
pub struct Swiglu<'a, B> {
    /// `[t, 2i]`: gate, then up.
    pub gate_up: MatRef<'a, B>,
    /// `[t, 1]`.
    pub scale: Option<MatRef<'a, B>>,
    /// `[t, i]`.
    pub y: MatMut<'a, B>,
}

impl<'a, B> Swiglu<'a, B> {
    /// The gated product.
    pub fn new(gate_up: MatRef<'a, B>, scale: Option<MatRef<'a, B>>, y: MatMut<'a, B>) -> Result<Self, InvalidOp> {
        const OP: &str = "swiglu";
        is_float(OP, &gate_up)?;
        is_float(OP, &y.as_ref())?;
        same(OP, "rows of y", gate_up.rows(), y.rows())?;
        same(OP, "columns of gate_up", 2 * y.cols(), gate_up.cols())?;
        if let Some(s) = &scale {
            is_float(OP, s)?;
            same(OP, "rows of scale", y.rows(), s.rows())?;
            same(OP, "columns of scale", 1, s.cols())?;
        }
        Ok(Self { gate_up, scale, y })
    }
}

impl<B> Call for Swiglu<'_, B> {
    const NAME: &'static str = "swiglu";
    fn cost(&self) -> Cost {
        Cost::new(5 * self.y.elements() as u64, bytes_of(&self.gate_up) + bytes_of_mut(&self.y))
    }
}

/// The gradient of [`Swiglu`], which recomputes its output: only the input was kept.
#[non_exhaustive]
pub struct SwigluGrad<'a, B> {
    /// `[t, 2i]`.
    pub gate_up: MatRef<'a, B>,
    /// `[t, 1]`.
    pub scale: Option<MatRef<'a, B>>,
    /// `[t, i]`.
    pub dy: MatRef<'a, B>,
    /// `[t, 2i]`.
    pub d_gate_up: MatMut<'a, B>,
    /// `[t, 1]`: `Σ_i dy·silu(gate)·up`. There is one exactly where there is a scale.
    pub dscale: Option<MatMut<'a, B>>,
    /// The output again, `[t, i]`, for the weight gradient of the down projection.
    pub y: MatMut<'a, B>,
}

impl<'a, B> SwigluGrad<'a, B> {
    /// The gradients of both halves and of the scale, and the output again.
    pub fn new(
        gate_up: MatRef<'a, B>,
        scale: Option<MatRef<'a, B>>,
        dy: MatRef<'a, B>,
        d_gate_up: MatMut<'a, B>,
        dscale: Option<MatMut<'a, B>>,
        y: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "swiglu_grad";
        for m in [&gate_up, &dy, &d_gate_up.as_ref(), &y.as_ref()] {
            is_float(OP, m)?;
        }
        same_shape(OP, &gate_up, &d_gate_up.as_ref())?;
        same_shape(OP, &dy, &y.as_ref())?;
        same(OP, "rows of dy", gate_up.rows(), dy.rows())?;
        same(OP, "columns of gate_up", 2 * dy.cols(), gate_up.cols())?;
        ensure(OP, "scale and dscale go together", scale.is_some() == dscale.is_some())?;
        for s in scale.iter().copied().chain(dscale.as_ref().map(MatMut::as_ref)) {
            is_float(OP, &s)?;
            same(OP, "rows of scale", gate_up.rows(), s.rows())?;
            same(OP, "columns of scale", 1, s.cols())?;
        }
        Ok(Self { gate_up, scale, dy, d_gate_up, dscale, y })
    }
}

impl<B> Call for SwigluGrad<'_, B> {
    const NAME: &'static str = "swiglu_grad";
    fn cost(&self) -> Cost {
        Cost::new(12 * self.dy.elements() as u64, 2 * bytes_of(&self.gate_up) + 2 * bytes_of(&self.dy))
    }
}

/// Chooses the experts of every token and weighs them; see [`layer::router`](crate::layer::router) for the rule.
///
/// Choices are the same bits on every device: a driver computes scores with [`math::exp`](crate::math::exp).
#[non_exhaustive]
pub struct Route<'a, B> {
    /// The rule.
    pub config: RouteConfig,
    /// `[t, e]`.
    pub logits: MatRef<'a, B>,
    /// `e_score_correction_bias`, `[1, e]`: added to the scores for the choice only.
    pub bias: Option<MatRef<'a, B>>,
    /// `s`, `[t, e]`: sigmoid or softmax of the logits.
    pub scores: MatMut<'a, B>,
    /// `[t, k]` u32, by falling biased score; among equals the lower expert.
    pub experts: MatMut<'a, B>,
    /// `[t, k]`.
    pub weights: MatMut<'a, B>,
}

impl<'a, B> Route<'a, B> {
    /// Routes every token.
    pub fn new(
        config: RouteConfig,
        logits: MatRef<'a, B>,
        bias: Option<MatRef<'a, B>>,
        scores: MatMut<'a, B>,
        experts: MatMut<'a, B>,
        weights: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "route";
        config.check()?;
        is_float(OP, &logits)?;
        is_index(OP, &experts.as_ref())?;
        same(OP, "columns of the logits", config.experts, logits.cols())?;
        same_shape(OP, &logits, &scores.as_ref())?;
        same(OP, "columns of the experts", config.top_k, experts.cols())?;
        same_shape(OP, &experts.as_ref(), &weights.as_ref())?;
        same(OP, "rows of the experts", logits.rows(), experts.rows())?;
        if let Some(b) = &bias {
            is_float(OP, b)?;
            same(OP, "columns of the bias", config.experts, b.cols())?;
            same(OP, "rows of the bias", 1, b.rows())?;
        }
        for m in [scores.as_ref(), experts.as_ref(), weights.as_ref()] {
            ensure(OP, "results must have no gaps", m.is_contiguous())?;
        }
        Ok(Self { config, logits, bias, scores, experts, weights })
    }
}

impl<B> Call for Route<'_, B> {
    const NAME: &'static str = "route";
    fn cost(&self) -> Cost {
        Cost::new(8 * self.logits.elements() as u64, 2 * bytes_of(&self.logits) + 2 * bytes_of_mut(&self.weights))
    }
}

/// The gradient of [`Route`]: of the logits, through weights and scores. The choice and the bias have none.
#[non_exhaustive]
pub struct RouteGrad<'a, B> {
    /// The rule.
    pub config: RouteConfig,
    /// `[t, e]` from the forward call.
    pub scores: MatRef<'a, B>,
    /// `[t, k]` u32.
    pub experts: MatRef<'a, B>,
    /// Gradient of the weights, `[t, k]`.
    pub dweights: MatRef<'a, B>,
    /// Gradient of the scores from elsewhere (the balance loss), `[t, e]`.
    pub dscores: Option<MatRef<'a, B>>,
    /// `[t, e]`.
    pub dlogits: MatMut<'a, B>,
}

impl<'a, B> RouteGrad<'a, B> {
    /// The gradient of the logits.
    pub fn new(
        config: RouteConfig,
        scores: MatRef<'a, B>,
        experts: MatRef<'a, B>,
        dweights: MatRef<'a, B>,
        dscores: Option<MatRef<'a, B>>,
        dlogits: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "route_grad";
        config.check()?;
        is_index(OP, &experts)?;
        is_float(OP, &scores)?;
        same(OP, "columns of the scores", config.experts, scores.cols())?;
        same(OP, "columns of the experts", config.top_k, experts.cols())?;
        same(OP, "rows of the experts", scores.rows(), experts.rows())?;
        same_shape(OP, &experts, &dweights)?;
        same_shape(OP, &scores, &dlogits.as_ref())?;
        if let Some(d) = &dscores {
            same_shape(OP, &scores, d)?;
        }
        Ok(Self { config, scores, experts, dweights, dscores, dlogits })
    }
}

impl<B> Call for RouteGrad<'_, B> {
    const NAME: &'static str = "route_grad";
    fn cost(&self) -> Cost {
        Cost::new(8 * self.scores.elements() as u64, 3 * bytes_of(&self.scores) + 2 * bytes_of(&self.dweights))
    }
}

/// The sequence-wise balance loss and its gradient (V3 report, eq. 17–20):
/// `loss += α Σ_seq Σ_i f_i·P_i`, `f_i = N/(K·T)·#{t : i ∈ TopK(s_t)}` (plain top-k of the unbiased scores, no
/// groups), `P_i = 1/T Σ_t s_it / Σ_j s_jt`. The gradient flows through `P` alone.
#[non_exhaustive]
pub struct Balance<'a, B> {
    /// `s`, `[t, e]`, a whole number of sequences.
    pub scores: MatRef<'a, B>,
    /// `T`, tokens of a sequence.
    pub sequence: usize,
    /// `K`.
    pub top_k: usize,
    /// α, already divided by the number of sequences it is a mean over.
    pub alpha: f64,
    /// `[1, 1]`, added to.
    pub loss: MatMut<'a, B>,
    /// `[t, e]`, replaced.
    pub dscores: MatMut<'a, B>,
}

impl<'a, B> Balance<'a, B> {
    /// Loss and gradient.
    pub fn new(
        scores: MatRef<'a, B>,
        sequence: usize,
        top_k: usize,
        alpha: f64,
        loss: MatMut<'a, B>,
        dscores: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "balance";
        is_float(OP, &scores)?;
        ensure(OP, "a sequence has no tokens", sequence > 0)?;
        same(OP, "rows must be whole sequences", 0, scores.rows() % sequence)?;
        ensure(OP, "top-k must be 1 to the number of experts", (1..=scores.cols()).contains(&top_k))?;
        same(OP, "elements of the loss", 1, loss.elements())?;
        same_shape(OP, &scores, &dscores.as_ref())?;
        Ok(Self { scores, sequence, top_k, alpha, loss, dscores })
    }
}

impl<B> Call for Balance<'_, B> {
    const NAME: &'static str = "balance";
    fn cost(&self) -> Cost {
        Cost::new(8 * self.scores.elements() as u64, 2 * bytes_of(&self.scores))
    }
}

/// Sums the rows of every token: `y[t, :] = Σ_j x[inverse[t, j], :]` (or `+=`), in the order of `j`.
#[non_exhaustive]
pub struct Combine<'a, B> {
    /// `[r, d]`, rows grouped by expert.
    pub x: MatRef<'a, B>,
    /// `[t, k]` u32, each below `r`.
    pub inverse: MatRef<'a, B>,
    /// `[t, d]`.
    pub y: MatMut<'a, B>,
    /// Add to `y` instead of replacing it.
    pub accumulate: bool,
}

impl<'a, B> Combine<'a, B> {
    /// Sums `k` rows per token.
    pub fn new(
        x: MatRef<'a, B>,
        inverse: MatRef<'a, B>,
        y: MatMut<'a, B>,
        accumulate: bool,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "combine";
        is_float(OP, &x)?;
        is_float(OP, &y.as_ref())?;
        is_index(OP, &inverse)?;
        same(OP, "columns of y", x.cols(), y.cols())?;
        same(OP, "rows of the index", y.rows(), inverse.rows())?;
        Ok(Self { x, inverse, y, accumulate })
    }
}

impl<B> Call for Combine<'_, B> {
    const NAME: &'static str = "combine";
    fn cost(&self) -> Cost {
        let rows = self.inverse.elements() * self.x.cols();
        Cost::new(rows as u64, (rows * self.x.dtype().size()) as u64 + bytes_of_mut(&self.y))
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
        same(op, "rows must be whole sequences", 0, q.rows() % self.sequence)?;
        same(op, "columns of q", self.heads * (self.nope + self.rope), q.cols())?;
        same(op, "columns of kv", self.heads * (self.nope + self.value), kv.cols())?;
        same(op, "columns of k_pe", self.rope, k_pe.cols())?;
        same(op, "rows of starts", q.rows(), starts.rows())?;
        same(op, "columns of starts", 1, starts.cols())
    }

    /// Multiply-adds of the causal triangle: `(query, key)` pairs of one head.
    fn pairs(&self, rows: usize) -> u64 {
        let s = self.sequence as u64;
        rows as u64 / s * (s * (s + 1) / 2) * self.heads as u64
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
        let flops = 2 * h.pairs(self.q.rows()) * (h.nope + h.rope + h.value) as u64;
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
        Cost::new(2 * h.pairs(self.q.rows()) * columns, bytes)
    }
}
