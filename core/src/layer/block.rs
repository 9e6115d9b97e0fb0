//! One layer of the trunk: `x ← x + attention(norm(x))`, then `x ← x + ffn(norm(x))` with a dense network or a mixture
//! of experts.

use alloc::format;

use super::Pass;
use super::ffn::{self, Ffn};
use super::mla::{self, Mla};
use super::moe::{self, BalanceLoss, Moe, Routers};
use super::operand::Operand;
use super::rmsnorm::{self, Read, RmsNorm};
use crate::config::ModelConfig;
use crate::device::{Cast, Kernels, Out};
use crate::tensor::{Tensor, View};
use crate::weights::{Layout, Parameters};

/// Norms, attention and feed-forward part of a layer.
#[derive(Clone, Debug)]
pub struct Block {
    input_layernorm: RmsNorm,
    attention: Mla,
    post_attention_layernorm: RmsNorm,
    feed_forward: FeedForward,
}

/// The second half of a layer.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a few hundred bytes a layer, not worth a heap allocation a step
enum FeedForward {
    Dense(Ffn),
    Experts(Moe),
}

/// What the backward pass needs: the residual stream before each half, and what the halves keep.
pub struct Saved<D: Kernels> {
    /// The residual stream that came in, `[t, d]`.
    pub input: Tensor<D>,
    input_norm: rmsnorm::Saved<D>,
    attention: mla::Saved<D>,
    /// The residual stream between the halves, `[t, d]`.
    pub middle: Tensor<D>,
    middle_norm: rmsnorm::Saved<D>,
    feed_forward: SavedFeedForward<D>,
}

#[allow(clippy::large_enum_variant)] // a few hundred bytes a layer, not worth a heap allocation a step
enum SavedFeedForward<D: Kernels> {
    Dense(ffn::Saved<D>),
    Experts(moe::Saved<D>),
}

/// The output, `[t, d]`, and in training the saved activations.
type Output<D> = (Tensor<D>, Option<Saved<D>>);

impl Block {
    /// Declares layer `prefix` in an open group. `experts` is the layer's number among those with experts, none for a
    /// dense layer.
    pub fn declare(layout: &mut Layout, prefix: &str, config: &ModelConfig, experts: Option<usize>) -> Self {
        let (d, eps) = (config.hidden_size, config.rms_norm_eps);
        Self {
            input_layernorm: RmsNorm::declare(layout, format!("{prefix}.input_layernorm.weight"), d, eps),
            attention: Mla::declare(layout, prefix, config),
            post_attention_layernorm: RmsNorm::declare(
                layout,
                format!("{prefix}.post_attention_layernorm.weight"),
                d,
                eps,
            ),
            feed_forward: match experts {
                None => FeedForward::Dense(Ffn::declare(layout, &format!("{prefix}.mlp"), d, config.intermediate_size)),
                Some(index) => FeedForward::Experts(Moe::declare(layout, prefix, config, index)),
            },
        }
    }

    /// The mixture of experts, if this layer has one.
    pub fn experts(&self) -> Option<&Moe> {
        match &self.feed_forward {
            FeedForward::Dense(_) => None,
            FeedForward::Experts(moe) => Some(moe),
        }
    }

    /// The residual stream after the layer, `[t, d]`, and in training what the backward pass needs.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        routers: &mut Routers<'_, D>,
        input: Tensor<D>,
    ) -> Result<Output<D>, D::Error> {
        let read = Read::forward(self.attention.reads_codes(pass)?);
        let (normed, mut input_norm) = self.input_layernorm.factor(pass, input.view(), read)?;
        let mut middle = copy(pass, &input)?;
        let attention = self.attention.forward(pass, &normed, middle.view_mut())?;
        input_norm.keep(pass, normed);
        let first = pass.training.then_some((input, input_norm, attention));

        let read = Read::forward(self.feed_forward.reads_codes(pass)?);
        let (normed, mut middle_norm) = self.post_attention_layernorm.factor(pass, middle.view(), read)?;
        let mut output = copy(pass, &middle)?;
        let feed_forward = self.feed_forward.forward(pass, routers, &normed, &mut output)?;
        middle_norm.keep(pass, normed);
        let saved = first.map(|(input, input_norm, attention)| Saved {
            input,
            input_norm,
            attention,
            middle,
            middle_norm,
            feed_forward,
        });
        Ok((output, saved))
    }

    /// The residual stream after the layer, `[t, d]`, with attention over `cache`, to which the rows are added.
    pub fn extend<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        routers: &mut Routers<'_, D>,
        context: &mla::Context<D>,
        cache: &mut Tensor<D>,
        mut x: Tensor<D>,
    ) -> Result<Tensor<D>, D::Error> {
        let (normed, _) = self.input_layernorm.normed(pass, x.view())?;
        self.attention.extend(pass, context, cache, &Operand::of(normed.view()), x.view_mut())?;
        let (normed, _) = self.post_attention_layernorm.normed(pass, x.view())?;
        self.feed_forward.forward(pass, routers, &Operand::of(normed.view()), &mut x)?;
        Ok(x)
    }

    /// Turns the gradient of the layer's output into that of its input, in place, and adds the parameters' gradients.
    pub fn backward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        saved: Saved<D>,
        balance: Option<BalanceLoss<'_, D>>,
        dy: &mut Tensor<D>,
    ) -> Result<(), D::Error> {
        let Saved { input, input_norm, attention, middle, middle_norm, feed_forward } = saved;
        let mut dx = pass.activation(dy.shape().rows(), dy.shape().cols())?;
        self.feed_forward_backward(pass, gradients, &feed_forward, (&middle, &middle_norm), balance, dy, &mut dx)?;
        drop(feed_forward);
        let norm = &self.post_attention_layernorm;
        norm.backward(pass, gradients, middle.view(), &middle_norm, dx.view(), dy.view_mut(), Out::Add)?;
        drop((middle, middle_norm));

        let dy_operand = Operand::of(dy.view()).both();
        let pending = self.attention.backward_input(pass, gradients, &attention, &dy_operand, dx.view_mut())?;
        let read = Read::weight(self.attention.reads_codes(pass)?);
        let x = self.input_layernorm.output(pass, &input_norm, input.view(), read)?;
        self.attention.backward_weight(pass, gradients, &pending, &x, &dy_operand)?;
        drop((pending, dy_operand, x));
        drop(attention);
        self.input_layernorm.backward(pass, gradients, input.view(), &input_norm, dx.view(), dy.view_mut(), Out::Add)
    }

    /// `dx = …`, the gradient of the feed-forward part's normed input, and the gradients of its parameters.
    #[allow(clippy::too_many_arguments)]
    fn feed_forward_backward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        kept: &SavedFeedForward<D>,
        (middle, norm): (&Tensor<D>, &rmsnorm::Saved<D>),
        balance: Option<BalanceLoss<'_, D>>,
        dy: &Tensor<D>,
        dx: &mut Tensor<D>,
    ) -> Result<(), D::Error> {
        let read = Read::weight(self.feed_forward.reads_codes(pass)?);
        let x = self.post_attention_layernorm.output(pass, norm, middle.view(), read)?;
        let dy_operand = Operand::of(dy.view()).both();
        match (&self.feed_forward, kept) {
            (FeedForward::Dense(f), SavedFeedForward::Dense(kept)) => {
                let pending = f.backward_input(pass, kept, &dy_operand, dx.view_mut(), Out::Replace)?;
                f.backward_weight(pass, gradients, &pending, &x, &dy_operand)
            }
            (FeedForward::Experts(m), SavedFeedForward::Experts(kept)) => {
                let mut pending = m.backward_input(pass, kept, balance, dy.view(), dx.view_mut())?;
                m.backward_shared(pass, kept, &mut pending, &dy_operand, dx.view_mut())?;
                m.backward_weight(pass, gradients, kept, &pending, &x, &dy_operand)
            }
            _ => unreachable!("a block keeps what its own kind of feed-forward part needs"),
        }
    }
}

impl FeedForward {
    /// Whether this pass reads its input as codes alone. A router reads numbers.
    fn reads_codes<D: Kernels>(&self, pass: &Pass<'_, D>) -> Result<bool, D::Error> {
        match self {
            Self::Dense(f) => f.reads_codes(pass),
            Self::Experts(_) => Ok(false),
        }
    }

    /// `output += ffn(normed)`.
    fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        routers: &mut Routers<'_, D>,
        normed: &Operand<'_, D>,
        output: &mut Tensor<D>,
    ) -> Result<SavedFeedForward<D>, D::Error> {
        Ok(match self {
            Self::Dense(f) => SavedFeedForward::Dense(f.forward(pass, normed, output.view_mut())?),
            Self::Experts(m) => SavedFeedForward::Experts(m.forward(pass, routers, normed, output.view_mut())?),
        })
    }
}

pub(super) fn copy<D: Kernels>(pass: &Pass<'_, D>, x: &Tensor<D>) -> Result<Tensor<D>, D::Error> {
    let mut y = pass.activation(x.shape().rows(), x.shape().cols())?;
    pass.device.cast(Cast::new(x.view(), y.view_mut())?)?;
    Ok(y)
}

impl<D: Kernels> Saved<D> {
    /// The experts each token of this layer went to, `[t, K]` u32, if it has experts.
    pub fn experts(&self) -> Option<View<'_, D>> {
        match &self.feed_forward {
            SavedFeedForward::Dense(_) => None,
            SavedFeedForward::Experts(kept) => Some(kept.experts.view()),
        }
    }
}
