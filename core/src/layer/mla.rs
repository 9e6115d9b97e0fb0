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

use alloc::format;

use super::linear::Linear;
use super::rmsnorm::{self, RmsNorm};
use super::{Pass, Sequences};
use crate::config::{LATENT_NORM_EPS, ModelConfig};
use crate::device::{Attention, AttentionGrad, Heads, Kernels, Rope};
use crate::model::{Layout, Parameters};
use crate::tensor::{Tensor, View, ViewMut};

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
/// Normed compressed queries and the gradient before their norm, both `[t, q_lora_rank]`.
type CompressedGradient<D> = (Tensor<D>, Tensor<D>);

/// What the backward pass needs beside the input. The norms' outputs are computed again.
pub struct Saved<D: Kernels> {
    /// Compressed queries `[t, q_lora_rank]` before their norm, and its statistics.
    pub q_a: Option<Compressed<D>>,
    /// Rotated queries, `[t, h·(nope + rope)]`.
    pub q: Tensor<D>,
    /// `[t, kv_lora_rank + rope]`: the latent before its norm, and the rotated `k_pe`.
    pub kv_a: Tensor<D>,
    /// Statistics of the latent's norm.
    pub kv_norm: rmsnorm::Saved<D>,
    /// `[t, h·(nope + value)]`.
    pub kv: Tensor<D>,
    /// Attention output, `[t, h·value]`.
    pub o: Tensor<D>,
    /// `[t, h]`.
    pub lse: Tensor<D>,
}

/// What the input's gradient leaves for the weights' gradients.
pub struct Pending<D: Kernels> {
    /// Normed latent, `[t, kv_lora_rank]`.
    latent: Tensor<D>,
    /// `[t, h·(nope + value)]`.
    dkv: Tensor<D>,
    /// `[t, kv_lora_rank + rope]`.
    dkv_a: Tensor<D>,
    /// `[t, h·(nope + rope)]`.
    dq: Tensor<D>,
    /// Normed compressed queries and the gradient before their norm, both `[t, q_lora_rank]`.
    q_a: Option<CompressedGradient<D>>,
}

impl Mla {
    /// Declares the attention of layer `prefix`.
    pub fn declare(layout: &mut Layout, prefix: &str, config: &ModelConfig) -> Self {
        let name = |part: &str| format!("{prefix}.self_attn.{part}");
        let (d, h, bias) = (config.hidden_size, config.num_attention_heads, config.attention_bias);
        let (nope, rope, value) = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim);
        let latent = config.kv_lora_rank;
        let query = match config.q_lora_rank {
            None => Query::Direct(Linear::declare(layout, &name("q_proj"), d, h * (nope + rope), false)),
            Some(rank) => Query::Compressed {
                q_a_proj: Linear::declare(layout, &name("q_a_proj"), d, rank, bias),
                q_a_layernorm: RmsNorm::declare(layout, name("q_a_layernorm.weight"), rank, LATENT_NORM_EPS),
                q_b_proj: Linear::declare(layout, &name("q_b_proj"), rank, h * (nope + rope), false),
            },
        };
        Self {
            query,
            kv_a_proj_with_mqa: Linear::declare(layout, &name("kv_a_proj_with_mqa"), d, latent + rope, bias),
            kv_a_layernorm: RmsNorm::declare(layout, name("kv_a_layernorm.weight"), latent, LATENT_NORM_EPS),
            kv_b_proj: Linear::declare(layout, &name("kv_b_proj"), latent, h * (nope + value), false),
            o_proj: Linear::declare(layout, &name("o_proj"), h * value, d, bias),
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
        x: View<'_, D>,
        y: ViewMut<'_, D>,
    ) -> Result<Saved<D>, D::Error> {
        let (t, h) = (x.rows(), self.heads.heads);
        let (device, at) = (pass.device, pass.sequences);
        let mut q = pass.activation(t, h * self.head())?;
        let q_a = self.query.forward(pass, x, q.view_mut())?;
        let rotate = |x, head, start| Rope::new(x, head, start, pass.rope.view(), at.positions.view(), false);
        device.rope(rotate(q.view_mut(), self.head(), self.heads.nope)?)?;

        let mut kv_a = pass.activation(t, self.kv_a_proj_with_mqa.outputs())?;
        self.kv_a_proj_with_mqa.forward(pass, x, kv_a.view_mut(), false)?;
        let width = self.latent..self.latent + self.heads.rope;
        device.rope(rotate(kv_a.view_mut().columns(width.clone())?, self.heads.rope, 0)?)?;
        let mut latent = pass.activation(t, self.latent)?;
        let kv_norm = self.kv_a_layernorm.forward(pass, kv_a.view().columns(0..self.latent)?, latent.view_mut())?;
        let mut kv = pass.activation(t, self.kv_b_proj.outputs())?;
        self.kv_b_proj.forward(pass, latent.view(), kv.view_mut(), false)?;

        let mut o = pass.activation(t, h * self.heads.value)?;
        let mut lse = pass.statistics(t, h)?;
        device.attention(Attention::new(
            self.heads(at),
            q.view(),
            kv.view(),
            kv_a.view().columns(width)?,
            at.starts.view(),
            o.view_mut(),
            lse.view_mut(),
        )?)?;
        self.o_proj.forward(pass, o.view(), y, true)?;
        Ok(Saved { q_a, q, kv_a, kv_norm, kv, o, lse })
    }

    /// `dx = …` from the residual stream's gradient `dy [t, d]`. The norms' gradients are added here too.
    pub fn backward_input<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        saved: &Saved<D>,
        dy: View<'_, D>,
        mut dx: ViewMut<'_, D>,
    ) -> Result<Pending<D>, D::Error> {
        let (t, device, at) = (dy.rows(), pass.device, pass.sequences);
        let mut d_o = pass.activation(t, self.o_proj.inputs())?;
        self.o_proj.backward_input(pass, dy, d_o.view_mut(), false)?;

        let mut dq = pass.activation(t, self.heads.heads * self.head())?;
        let mut dkv = pass.activation(t, self.kv_b_proj.outputs())?;
        let mut dkv_a = pass.activation(t, self.kv_a_proj_with_mqa.outputs())?;
        let width = self.latent..self.latent + self.heads.rope;
        device.attention_grad(AttentionGrad::new(
            self.heads(at),
            saved.q.view(),
            saved.kv.view(),
            saved.kv_a.view().columns(width.clone())?,
            at.starts.view(),
            saved.o.view(),
            saved.lse.view(),
            d_o.view(),
            dq.view_mut(),
            dkv.view_mut(),
            dkv_a.view_mut().columns(width.clone())?,
        )?)?;
        drop(d_o);
        let rotate = |x, head, start| Rope::new(x, head, start, pass.rope.view(), at.positions.view(), true);
        device.rope(rotate(dq.view_mut(), self.head(), self.heads.nope)?)?;
        device.rope(rotate(dkv_a.view_mut().columns(width)?, self.heads.rope, 0)?)?;

        let before_norm = saved.kv_a.view().columns(0..self.latent)?;
        let mut d_latent = pass.activation(t, self.latent)?;
        self.kv_b_proj.backward_input(pass, dkv.view(), d_latent.view_mut(), false)?;
        self.kv_a_layernorm.backward(
            pass,
            gradients,
            before_norm,
            &saved.kv_norm,
            d_latent.view(),
            dkv_a.view_mut().columns(0..self.latent)?,
            false,
        )?;
        self.kv_a_proj_with_mqa.backward_input(pass, dkv_a.view(), dx.reborrow(), false)?;
        let q_a = self.query.backward_input(pass, gradients, saved.q_a.as_ref(), dq.view(), dx)?;
        let latent = self.kv_a_layernorm.output(pass, before_norm)?;
        Ok(Pending { latent, dkv, dkv_a, dq, q_a })
    }

    /// The projections' gradients, from the input `x` and the residual stream's gradient `dy`.
    pub fn backward_weight<D: Kernels>(
        &self,
        device: &D,
        gradients: &mut Parameters<D>,
        saved: &Saved<D>,
        pending: &Pending<D>,
        x: View<'_, D>,
        dy: View<'_, D>,
    ) -> Result<(), D::Error> {
        self.o_proj.backward_weight(device, gradients, saved.o.view(), dy)?;
        self.kv_b_proj.backward_weight(device, gradients, pending.latent.view(), pending.dkv.view())?;
        self.kv_a_proj_with_mqa.backward_weight(device, gradients, x, pending.dkv_a.view())?;
        match (&self.query, &pending.q_a) {
            (Query::Compressed { q_a_proj, q_b_proj, .. }, Some((normed, dq_a))) => {
                q_b_proj.backward_weight(device, gradients, normed.view(), pending.dq.view())?;
                q_a_proj.backward_weight(device, gradients, x, dq_a.view())
            }
            (Query::Direct(q_proj) | Query::Compressed { q_b_proj: q_proj, .. }, _) => {
                q_proj.backward_weight(device, gradients, x, pending.dq.view())
            }
        }
    }
}

impl Query {
    /// `q [t, h·(nope + rope)]` from `x [t, d]`, not yet rotated.
    fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: View<'_, D>,
        q: ViewMut<'_, D>,
    ) -> Result<Option<Compressed<D>>, D::Error> {
        match self {
            Self::Direct(q_proj) => {
                q_proj.forward(pass, x, q, false)?;
                Ok(None)
            }
            Self::Compressed { q_a_proj, q_a_layernorm, q_b_proj } => {
                let mut q_a = pass.activation(x.rows(), q_a_proj.outputs())?;
                q_a_proj.forward(pass, x, q_a.view_mut(), false)?;
                let mut normed = pass.activation(x.rows(), q_a_proj.outputs())?;
                let norm = q_a_layernorm.forward(pass, q_a.view(), normed.view_mut())?;
                q_b_proj.forward(pass, normed.view(), q, false)?;
                Ok(Some((q_a, norm)))
            }
        }
    }

    /// `dx += …`; returns the normed compressed queries and the gradient before their norm.
    fn backward_input<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        saved: Option<&Compressed<D>>,
        dq: View<'_, D>,
        dx: ViewMut<'_, D>,
    ) -> Result<Option<CompressedGradient<D>>, D::Error> {
        match (self, saved) {
            (Self::Compressed { q_a_proj, q_a_layernorm, q_b_proj }, Some((q_a, norm))) => {
                let mut d_normed = pass.activation(dq.rows(), q_b_proj.inputs())?;
                q_b_proj.backward_input(pass, dq, d_normed.view_mut(), false)?;
                let mut dq_a = pass.activation(dq.rows(), q_b_proj.inputs())?;
                let (x, dy) = (q_a.view(), d_normed.view());
                q_a_layernorm.backward(pass, gradients, x, norm, dy, dq_a.view_mut(), false)?;
                q_a_proj.backward_input(pass, dq_a.view(), dx, true)?;
                Ok(Some((q_a_layernorm.output(pass, x)?, dq_a)))
            }
            (Self::Direct(q_proj) | Self::Compressed { q_b_proj: q_proj, .. }, _) => {
                q_proj.backward_input(pass, dq, dx, true)?;
                Ok(None)
            }
        }
    }
}
