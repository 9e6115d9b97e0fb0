//! Multi-head latent attention (V3 report §2.1.1, eq. 1–11).
//!
//! Keys and values of all heads are computed from one latent vector `c` of `kv_lora_rank` columns per token, and the
//! rotary part of the key is one vector for all heads: those two are all that a cache holds. Queries are compressed
//! likewise, or projected directly where the model has no `q_lora_rank`.
//!
//! ```text
//! h ─ q_a_proj ─ q_a_layernorm ─ q_b_proj ─ [q_nope; q_pe]·heads ─ rope ┐
//! └─ kv_a_proj_with_mqa ─ [c; k_pe] ─ k_pe: rope ───────────────────────┼─ attention ─ o_proj
//!                          └─ c: kv_a_layernorm ─ kv_b_proj ─ [k_nope; v]·heads ┘
//! ```

mod decode;

use alloc::format;

pub use decode::{Context, Keys, Prefix, Seen, Together, scratch_numbers, tokens_together};

use super::finite;
use super::linear::Linear;
use super::operand::{Kept, Operand, Restored};
use super::rmsnorm::{self, Read, RmsNorm};
use super::{Pass, Sequences};
use crate::DType;
use crate::config::{LATENT_NORM_EPS, ModelConfig};
use crate::device::{Attention, AttentionGrad, Heads, Kernels, Out, Rope};
use crate::error::InvalidOp;
use crate::tensor::{Tensor, View, ViewMut};
use crate::weights::{Layout, Lowest, Parameters};

/// The projections and norms of one attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Mla {
    query: Query,
    kv_a_proj_with_mqa: Linear,
    kv_a_layernorm: RmsNorm,
    kv_b_proj: Linear,
    o_proj: Linear,
    heads: Heads,
    latent: usize,
}

/// How queries come about.
#[derive(Clone, Copy, Debug)]
enum Query {
    Direct(Linear),
    Compressed { q_a_proj: Linear, q_a_layernorm: RmsNorm, q_b_proj: Linear },
}

/// Compressed queries `[t, q_lora_rank]` before their norm, and its statistics.
type Compressed<D> = (Tensor<D>, rmsnorm::Saved<D>);

/// What the backward pass needs beside the input.
pub struct Saved<D: Kernels> {
    /// Compressed queries `[t, q_lora_rank]` before their norm, and its statistics.
    pub q_a: Option<Compressed<D>>,
    /// Rotated queries, `[t, h·(nope + rope)]`, unless they are projected up again.
    pub q: Option<Tensor<D>>,
    /// `[t, kv_lora_rank + rope]`: the latent before its norm, and the rotated `k_pe`.
    pub kv_a: Tensor<D>,
    /// Statistics of the latent's norm.
    pub kv_norm: rmsnorm::Saved<D>,
    /// `[t, h·(nope + value)]`, unless it is projected up again.
    pub kv: Option<Tensor<D>>,
    /// Attention output, `[t, h·value]`.
    pub o: Kept<D>,
    /// `[t, h]`.
    pub lse: Tensor<D>,
}

/// What the input's gradient leaves for the weights' gradients.
pub struct Pending<'a, D: Kernels> {
    /// Normed latent, `[t, kv_lora_rank]`.
    latent: Operand<'a, D>,
    /// Normed compressed queries, `[t, q_lora_rank]`.
    queries: Option<Operand<'a, D>>,
    /// Attention output, `[t, h·value]`.
    o: Restored<'a, D>,
    /// `[t, h·(nope + value)]`.
    dkv: Operand<'a, D>,
    /// `[t, kv_lora_rank + rope]`.
    dkv_a: Operand<'a, D>,
    /// `[t, h·(nope + rope)]`.
    dq: Operand<'a, D>,
    /// The gradient of the compressed queries before their norm, `[t, q_lora_rank]`.
    dq_a: Option<Operand<'a, D>>,
}

impl Mla {
    /// Declares the attention of layer `prefix`.
    pub fn declare(layout: &mut Layout, prefix: &str, config: &ModelConfig) -> Self {
        let name = |part: &str| format!("{prefix}.self_attn.{part}");
        let (d, h, bias) = (config.hidden_size, config.num_attention_heads, config.attention_bias);
        let (nope, rope, value) = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim);
        let latent = config.kv_lora_rank;
        let query = match config.q_lora_rank {
            None => Query::Direct(Linear::declare(layout, &name("q_proj"), d, h * (nope + rope), false, Lowest::Fp8)),
            Some(rank) => Query::Compressed {
                q_a_proj: Linear::declare(layout, &name("q_a_proj"), d, rank, bias, Lowest::Fp8),
                q_a_layernorm: RmsNorm::declare(layout, name("q_a_layernorm.weight"), rank, LATENT_NORM_EPS),
                q_b_proj: Linear::declare(layout, &name("q_b_proj"), rank, h * (nope + rope), false, Lowest::Fp8),
            },
        };
        Self {
            query,
            kv_a_proj_with_mqa: Linear::declare(
                layout,
                &name("kv_a_proj_with_mqa"),
                d,
                latent + rope,
                bias,
                Lowest::Fp8,
            ),
            kv_a_layernorm: RmsNorm::declare(layout, name("kv_a_layernorm.weight"), latent, LATENT_NORM_EPS),
            kv_b_proj: Linear::declare(layout, &name("kv_b_proj"), latent, h * (nope + value), false, Lowest::Fp8),
            o_proj: Linear::declare(layout, &name("o_proj"), h * value, d, bias, Lowest::Fp8),
            heads: Heads { heads: h, nope, rope, value, scale: config.softmax_scale(), sequence: 1 },
            latent,
        }
    }

    fn heads<D: Kernels>(&self, sequences: &Sequences<D>) -> Heads {
        Heads { sequence: sequences.length, ..self.heads }
    }

    fn head(&self) -> usize {
        self.heads.nope + self.heads.rope
    }

    /// `y += attention(x)`: `x [t, d]` normed, `y [t, d]` the residual stream.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: &Operand<'_, D>,
        y: ViewMut<'_, D>,
    ) -> Result<Saved<D>, D::Error> {
        let (t, at) = (y.rows(), pass.sequences);
        let (q, q_a) = match self.query.compress(pass, x, t)? {
            None => (self.queries(pass, x, t)?, None),
            Some((q_a, normed, mut norm)) => {
                let q = self.queries(pass, &normed, t)?;
                norm.keep(pass, normed);
                (q, Some((q_a, norm)))
            }
        };
        let mut kv_a = pass.activation(t, self.kv_a_proj_with_mqa.outputs())?;
        self.kv_a_proj_with_mqa.forward(pass, x, kv_a.view_mut(), Out::Replace)?;
        let width = self.latent..self.latent + self.heads.rope;
        let k_pe = kv_a.view_mut().columns(width.clone())?;
        pass.device.rope(Rope::new(k_pe, self.heads.rope, 0, pass.rope.view(), at.positions.view(), false)?)?;
        let (before_norm, read) =
            (kv_a.view().columns(0..self.latent)?, Read::forward(self.kv_b_proj.reads_codes(pass)?));
        let (latent, mut kv_norm) = self.kv_a_layernorm.factor(pass, before_norm, read)?;
        let kv = self.keys_values(pass, &latent, t)?;
        kv_norm.keep(pass, latent);

        let mut o = pass.activation(t, self.o_proj.inputs())?;
        let mut lse = pass.statistics(t, self.heads.heads)?;
        pass.device.attention(Attention::new(
            self.heads(at),
            q.view(),
            kv.view(),
            kv_a.view().columns(width)?,
            at.starts.view(),
            o.view_mut(),
            lse.view_mut(),
        )?)?;
        if pass.training {
            // The gradient takes exp(score − lse), which is 0 where the sum is infinite.
            finite::spread(pass.device, lse.view(), o.view_mut().row_range(0..1)?)?;
        }
        self.o_proj.forward(pass, &output(pass, o.view()), y, Out::Add)?;
        let again = pass.precision.recompute_up_projections;
        let q = (!again || q_a.is_none()).then_some(q);
        Ok(Saved { q_a, q, kv_a, kv_norm, kv: (!again).then_some(kv), o: keep_output(pass, o)?, lse })
    }

    /// Whether this pass reads its input as codes alone.
    pub fn reads_codes<D: Kernels>(&self, pass: &Pass<'_, D>) -> Result<bool, D::Error> {
        Ok(self.kv_a_proj_with_mqa.reads_codes(pass)? && self.query.first().reads_codes(pass)?)
    }

    /// Rotated queries `[t, h·(nope + rope)]` from what they are projected from.
    fn queries<D: Kernels>(&self, pass: &Pass<'_, D>, x: &Operand<'_, D>, t: usize) -> Result<Tensor<D>, D::Error> {
        let mut q = pass.activation(t, self.heads.heads * self.head())?;
        self.query.up().forward(pass, x, q.view_mut(), Out::Replace)?;
        let (table, positions) = (pass.rope.view(), pass.sequences.positions.view());
        pass.device.rope(Rope::new(q.view_mut(), self.head(), self.heads.nope, table, positions, false)?)?;
        Ok(q)
    }

    /// Keys and values `[t, h·(nope + value)]` from the normed latent `[t, kv_lora_rank]`.
    fn keys_values<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        latent: &Operand<'_, D>,
        t: usize,
    ) -> Result<Tensor<D>, D::Error> {
        let mut kv = pass.activation(t, self.kv_b_proj.outputs())?;
        self.kv_b_proj.forward(pass, latent, kv.view_mut(), Out::Replace)?;
        Ok(kv)
    }

    /// `dx = …` from the residual stream's gradient `dy [t, d]`. The norms' gradients are added here too.
    pub fn backward_input<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        saved: &'a Saved<D>,
        dy: &Operand<'_, D>,
        mut dx: ViewMut<'_, D>,
    ) -> Result<Pending<'a, D>, D::Error> {
        let (t, device, at) = (dx.rows(), pass.device, pass.sequences);
        let before_norm = saved.kv_a.view().columns(0..self.latent)?;
        let codes = self.kv_b_proj.reads_codes(pass)?;
        let read = Read { along: saved.kv.is_none(), across: true, codes };
        let latent = self.kv_a_layernorm.output(pass, &saved.kv_norm, before_norm, read)?;
        let queries = self.query.normed(pass, saved.q_a.as_ref(), saved.q.is_none())?;
        let q = match (&saved.q, &queries) {
            (Some(q), _) => Restored::<D>::Kept(q),
            (None, Some(normed)) => Restored::Again(self.queries(pass, normed, t)?),
            (None, None) => return Err(InvalidOp::plain("attention", "kept no queries").into()),
        };
        let kv = match &saved.kv {
            Some(kv) => Restored::<D>::Kept(kv),
            None => Restored::Again(self.keys_values(pass, &latent, t)?),
        };
        let (latent, queries) = (latent.for_weight(false), queries.map(|normed| normed.for_weight(false)));
        let o = saved.o.restore(pass)?;
        let mut d_o = pass.activation(t, self.o_proj.inputs())?;
        self.o_proj.backward_input(pass, dy, d_o.view_mut(), Out::Replace)?;

        let mut dq = pass.activation(t, self.heads.heads * self.head())?;
        let mut dkv = pass.activation(t, self.kv_b_proj.outputs())?;
        let mut dkv_a = pass.activation(t, self.kv_a_proj_with_mqa.outputs())?;
        let width = self.latent..self.latent + self.heads.rope;
        device.attention_grad(AttentionGrad::new(
            self.heads(at),
            q.view(),
            kv.view(),
            saved.kv_a.view().columns(width.clone())?,
            at.starts.view(),
            o.view(),
            saved.lse.view(),
            d_o.view(),
            dq.view_mut(),
            dkv.view_mut(),
            dkv_a.view_mut().columns(width.clone())?,
        )?)?;
        drop((d_o, q, kv));
        let rotate = |x, head, start| Rope::new(x, head, start, pass.rope.view(), at.positions.view(), true);
        device.rope(rotate(dq.view_mut(), self.head(), self.heads.nope)?)?;
        device.rope(rotate(dkv_a.view_mut().columns(width)?, self.heads.rope, 0)?)?;

        let mut d_latent = pass.activation(t, self.latent)?;
        let dkv = Operand::owned(dkv).both();
        self.kv_b_proj.backward_input(pass, &dkv, d_latent.view_mut(), Out::Replace)?;
        let dkv = self.kv_b_proj.for_weight(dkv);
        self.kv_a_layernorm.backward(
            pass,
            gradients,
            before_norm,
            &saved.kv_norm,
            d_latent.view(),
            dkv_a.view_mut().columns(0..self.latent)?,
            Out::Replace,
        )?;
        drop(d_latent);
        let dkv_a = Operand::owned(dkv_a).both();
        self.kv_a_proj_with_mqa.backward_input(pass, &dkv_a, dx.reborrow(), Out::Replace)?;
        let dkv_a = self.kv_a_proj_with_mqa.for_weight(dkv_a);
        let dq = Operand::owned(dq).both();
        let dq_a = self.query.backward_input(pass, gradients, saved.q_a.as_ref(), &dq, dx)?;
        let dq = self.query.up().for_weight(dq);
        Ok(Pending { latent, queries, o, dkv, dkv_a, dq, dq_a })
    }

    /// The projections' gradients, from the input `x` and the residual stream's gradient `dy`.
    pub fn backward_weight<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        pending: &Pending<'_, D>,
        x: &Operand<'_, D>,
        dy: &Operand<'_, D>,
    ) -> Result<(), D::Error> {
        self.o_proj.backward_weight(pass, gradients, &output(pass, pending.o.view()), dy)?;
        self.kv_b_proj.backward_weight(pass, gradients, &pending.latent, &pending.dkv)?;
        self.kv_a_proj_with_mqa.backward_weight(pass, gradients, x, &pending.dkv_a)?;
        match (&self.query, &pending.queries, &pending.dq_a) {
            (Query::Compressed { q_a_proj, q_b_proj, .. }, Some(normed), Some(dq_a)) => {
                q_b_proj.backward_weight(pass, gradients, normed, &pending.dq)?;
                q_a_proj.backward_weight(pass, gradients, x, dq_a)
            }
            (query, ..) => query.up().backward_weight(pass, gradients, x, &pending.dq),
        }
    }
}

/// The output of attention as its projection reads it.
fn output<'a, D: Kernels>(pass: &Pass<'_, D>, o: View<'a, D>) -> Operand<'a, D> {
    Operand::of(o).power_of_two(pass.precision.recipe.power_of_two_attention_output)
}

/// The output of attention as the policy keeps it. Attention's own gradient needs it too, which is why it is kept in
/// more bits than other activations.
fn keep_output<D: Kernels>(pass: &Pass<'_, D>, o: Tensor<D>) -> Result<Kept<D>, D::Error> {
    let width = o.shape().cols();
    if pass.training && pass.precision.keeps_attention_codes() && width.is_multiple_of(2) {
        let power_of_two = pass.precision.recipe.power_of_two_attention_output;
        Kept::codes(pass, &o, DType::E5M6Pair, width, power_of_two)
    } else {
        Ok(Kept::Plain(o))
    }
}

impl Query {
    /// The projection that reads the layer's input.
    fn first(&self) -> &Linear {
        match self {
            Self::Direct(q_proj) => q_proj,
            Self::Compressed { q_a_proj, .. } => q_a_proj,
        }
    }

    /// The projection to the queries of all heads.
    fn up(&self) -> &Linear {
        match self {
            Self::Direct(q_proj) => q_proj,
            Self::Compressed { q_b_proj, .. } => q_b_proj,
        }
    }

    /// Compressed queries `[t, q_lora_rank]`, the same normed, and the norm's statistics.
    #[allow(clippy::type_complexity)]
    fn compress<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: &Operand<'_, D>,
        t: usize,
    ) -> Result<Option<(Tensor<D>, Operand<'_, D>, rmsnorm::Saved<D>)>, D::Error> {
        let Self::Compressed { q_a_proj, q_a_layernorm, .. } = self else { return Ok(None) };
        let mut q_a = pass.activation(t, q_a_proj.outputs())?;
        q_a_proj.forward(pass, x, q_a.view_mut(), Out::Replace)?;
        let read = Read::forward(self.up().reads_codes(pass)?);
        let (normed, norm) = q_a_layernorm.factor(pass, q_a.view(), read)?;
        Ok(Some((q_a, normed, norm)))
    }

    /// The normed compressed queries, kept or computed again: for the weight's gradient, and to be projected if
    /// `along`.
    fn normed<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        saved: Option<&'a Compressed<D>>,
        along: bool,
    ) -> Result<Option<Operand<'a, D>>, D::Error> {
        match (self, saved) {
            (Self::Compressed { q_a_layernorm, .. }, Some((q_a, norm))) => {
                let read = Read { along, across: true, codes: self.up().reads_codes(pass)? };
                Ok(Some(q_a_layernorm.output(pass, norm, q_a.view(), read)?))
            }
            _ => Ok(None),
        }
    }

    /// `dx += …`; returns the gradient of the compressed queries before their norm.
    fn backward_input<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        saved: Option<&Compressed<D>>,
        dq: &Operand<'_, D>,
        dx: ViewMut<'_, D>,
    ) -> Result<Option<Operand<'a, D>>, D::Error> {
        match (self, saved) {
            (Self::Compressed { q_a_proj, q_a_layernorm, q_b_proj }, Some((q_a, norm))) => {
                let mut d_normed = pass.activation(dx.rows(), q_b_proj.inputs())?;
                q_b_proj.backward_input(pass, dq, d_normed.view_mut(), Out::Replace)?;
                let mut dq_a = pass.activation(dx.rows(), q_b_proj.inputs())?;
                let (x, dy) = (q_a.view(), d_normed.view());
                q_a_layernorm.backward(pass, gradients, x, norm, dy, dq_a.view_mut(), Out::Replace)?;
                let dq_a = Operand::owned(dq_a).both();
                q_a_proj.backward_input(pass, &dq_a, dx, Out::Add)?;
                Ok(Some(q_a_proj.for_weight(dq_a)))
            }
            _ => {
                self.up().backward_input(pass, dq, dx, Out::Add)?;
                Ok(None)
            }
        }
    }
}
