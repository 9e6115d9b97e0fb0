//! Multi-token prediction (V3 report §2.2, eq. 21–25): module `k` predicts the token `k + 1` places ahead.
//!
//! Position `i` takes the hidden state of depth `k − 1` at `i` and the embedding of token `i + k`, each normed,
//! concatenated as `[embedding; hidden]` — the order of the published weights, the reverse of eq. 21 — and projected to
//! the width of the model; a whole layer and a norm follow. Embedding and head are the main model's. The hidden state
//! that goes in has passed the previous depth's final norm, as in transformers, vLLM and Megatron.

use alloc::format;

use super::Pass;
use super::block::{self, Block};
use super::linear::Linear;
use super::mla;
use super::moe::{BalanceLoss, Routers};
use super::operand::Operand;
use super::rmsnorm::{self, RmsNorm};
use crate::config::ModelConfig;
use crate::device::{Kernels, Out};
use crate::layer::embedding::Embedding;
use crate::tensor::{Tensor, View};
use crate::weights::{Layout, Lowest, Parameters};

/// One MTP module.
#[derive(Clone, Debug)]
pub struct Mtp {
    enorm: RmsNorm,
    hnorm: RmsNorm,
    eh_proj: Linear,
    block: Block,
    norm: RmsNorm,
}

/// What the backward pass needs beside its inputs.
pub struct Saved<D: Kernels> {
    enorm: rmsnorm::Saved<D>,
    hnorm: rmsnorm::Saved<D>,
    block: block::Saved<D>,
    /// The layer's output before the final norm, `[t, d]`.
    output: Tensor<D>,
    norm: rmsnorm::Saved<D>,
}

/// The output, `[t, d]`, and in training the saved activations.
type Output<D> = (Tensor<D>, Option<Saved<D>>);

impl Mtp {
    /// Declares the module in layer `prefix`, in an open group.
    pub fn declare(layout: &mut Layout, prefix: &str, config: &ModelConfig, experts: Option<usize>) -> Self {
        let (d, eps) = (config.hidden_size, config.rms_norm_eps);
        Self {
            enorm: RmsNorm::declare(layout, format!("{prefix}.enorm.weight"), d, eps),
            hnorm: RmsNorm::declare(layout, format!("{prefix}.hnorm.weight"), d, eps),
            eh_proj: Linear::declare(layout, &format!("{prefix}.eh_proj"), 2 * d, d, false, Lowest::Bf16),
            block: Block::declare(layout, prefix, config, experts),
            norm: RmsNorm::declare(layout, format!("{prefix}.shared_head.norm.weight"), d, eps),
        }
    }

    /// The layer of the module.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The module's hidden states after its norm, `[t, d]`, from those of the depth before (`hidden [t, d]`) and the
    /// tokens `tokens [t, 1]` that follow each position.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        routers: &mut Routers<'_, D>,
        embedding: &Embedding,
        tokens: View<'_, D>,
        hidden: View<'_, D>,
    ) -> Result<Output<D>, D::Error> {
        let (x, enorm, hnorm) = self.projected(pass, embedding, tokens, hidden)?;
        let (output, block) = self.block.forward(pass, routers, x)?;
        let (normed, norm) = self.norm.normed(pass, output.view())?;
        Ok((normed, block.map(|block| Saved { enorm, hnorm, block, output, norm })))
    }

    /// As [`forward`](Self::forward), with attention over `cache`, to which the positions are added.
    #[allow(clippy::too_many_arguments)]
    pub fn extend<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        routers: &mut Routers<'_, D>,
        embedding: &Embedding,
        tokens: View<'_, D>,
        hidden: View<'_, D>,
        context: &mla::Context<D>,
        cache: &mut Tensor<D>,
    ) -> Result<Tensor<D>, D::Error> {
        let x = self.projected(pass, embedding, tokens, hidden)?.0;
        let output = self.block.extend(pass, routers, context, cache, x)?;
        Ok(self.norm.normed(pass, output.view())?.0)
    }

    /// Adds the gradients of the module's parameters, of the embedding, and of `hidden` (into `dhidden`), given the
    /// gradient `dy [t, d]` of the normed output.
    #[allow(clippy::too_many_arguments)]
    pub fn backward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        saved: Saved<D>,
        balance: Option<BalanceLoss<'_, D>>,
        embedding: &Embedding,
        tokens: View<'_, D>,
        hidden: View<'_, D>,
        dy: View<'_, D>,
        dhidden: &mut Tensor<D>,
    ) -> Result<(), D::Error> {
        let (t, d) = (hidden.rows(), hidden.cols());
        let Saved { enorm, hnorm, block, output, norm } = saved;
        let mut dx = pass.activation(t, d)?;
        self.norm.backward(pass, gradients, output.view(), &norm, dy, dx.view_mut(), Out::Replace)?;
        drop(output);
        self.block.backward(pass, gradients, block, balance, &mut dx)?;

        let embedded = embedding.forward(pass, tokens)?;
        let (both, _, _) = self.concatenate(pass, embedded.view(), hidden)?;
        let dy = Operand::of(dx.view());
        self.eh_proj.backward_weight(pass, gradients, &Operand::of(both.view()), &dy)?;
        let mut dboth = both;
        self.eh_proj.backward_input(pass, &dy, dboth.view_mut(), Out::Replace)?;
        drop(dy);
        let (de, dh) = (dboth.view().columns(0..d)?, dboth.view().columns(d..2 * d)?);
        self.enorm.backward(pass, gradients, embedded.view(), &enorm, de, dx.view_mut(), Out::Replace)?;
        self.hnorm.backward(pass, gradients, hidden, &hnorm, dh, dhidden.view_mut(), Out::Add)?;
        embedding.backward_weight(pass.device, gradients, tokens, dx.view())
    }

    /// What goes into the module's layer, `[t, d]`, and the statistics of both norms.
    #[allow(clippy::type_complexity)]
    fn projected<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        embedding: &Embedding,
        tokens: View<'_, D>,
        hidden: View<'_, D>,
    ) -> Result<(Tensor<D>, rmsnorm::Saved<D>, rmsnorm::Saved<D>), D::Error> {
        let embedded = embedding.forward(pass, tokens)?;
        let (both, enorm, hnorm) = self.concatenate(pass, embedded.view(), hidden)?;
        drop(embedded);
        let mut x = pass.activation(hidden.rows(), hidden.cols())?;
        self.eh_proj.forward(pass, &Operand::of(both.view()), x.view_mut(), Out::Replace)?;
        Ok((x, enorm, hnorm))
    }

    /// `[enorm(embedded); hnorm(hidden)]`, `[t, 2d]`.
    #[allow(clippy::type_complexity)]
    fn concatenate<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        embedded: View<'_, D>,
        hidden: View<'_, D>,
    ) -> Result<(Tensor<D>, rmsnorm::Saved<D>, rmsnorm::Saved<D>), D::Error> {
        let (t, d) = (hidden.rows(), hidden.cols());
        let mut both = pass.activation(t, 2 * d)?;
        let enorm = self.enorm.forward(pass, embedded, both.view_mut().columns(0..d)?)?;
        let hnorm = self.hnorm.forward(pass, hidden, both.view_mut().columns(d..2 * d)?)?;
        Ok((both, enorm, hnorm))
    }
}
