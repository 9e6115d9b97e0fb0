//! AdamW over whole parameter groups, with gradient clipping.

use crate::device::{AdamRates, AdamW, Kernels, Out, ReduceRows, Reduction, Unary, UnaryOp};
use crate::tensor::{Tensor, View};
use crate::weights::{Layout, Parameters};

/// Hyperparameters of AdamW and of gradient clipping, which stay the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// Added to the denominator of the update.
    pub eps: f64,
    /// Decay of matrices; vectors have none.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it; infinite for no clipping.
    pub clip_norm: f64,
}

impl Default for Hyperparameters {
    /// The V3 report's (§4.2); `eps`, which it does not give, is PyTorch's.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip_norm: 1.0 }
    }
}

/// The moments of AdamW.
pub struct Optimizer<D: Kernels> {
    /// First moments.
    pub m: Parameters<D>,
    /// Second moments.
    pub v: Parameters<D>,
    /// Steps taken.
    pub step: u64,
}

impl<D: Kernels> Optimizer<D> {
    /// Moments of zero.
    pub fn new(device: &D, layout: &Layout, dtype: crate::DType) -> Result<Self, D::Error> {
        let m = Parameters::zeros(device, layout, dtype)?;
        Ok(Self { m, v: Parameters::zeros(device, layout, dtype)?, step: 0 })
    }

    /// One update of all weights with gradients scaled by `clip [1, 1]`. Vectors are not decayed.
    pub fn update(
        &mut self,
        device: &D,
        weights: &mut Parameters<D>,
        gradients: &Parameters<D>,
        clip: View<'_, D>,
        lr: f64,
        hyper: &Hyperparameters,
    ) -> Result<(), D::Error> {
        self.step += 1;
        for (i, group) in weights.layout().clone().groups().iter().enumerate() {
            for (start, len, decay) in [(0, group.vectors, 0.0), (group.vectors, group.matrices, hyper.weight_decay)] {
                if len == 0 {
                    continue;
                }
                let (beta1, beta2, eps) = (hyper.beta1, hyper.beta2, hyper.eps);
                let rates = AdamRates { lr, beta1, beta2, eps, decay, step: self.step };
                device.adamw(AdamW::new(
                    weights.groups_mut()[i].part_mut(start, 1, len)?,
                    gradients.groups()[i].part(start, 1, len)?,
                    self.m.groups_mut()[i].part_mut(start, 1, len)?,
                    self.v.groups_mut()[i].part_mut(start, 1, len)?,
                    clip,
                    rates,
                )?)?;
            }
        }
        Ok(())
    }
}

/// The squared norm of all gradients, `squared [1, 1]`, and what they are to be multiplied by, `clip [1, 1]`.
pub(super) fn clip<D: Kernels>(
    device: &D,
    gradients: &Parameters<D>,
    clip_norm: f64,
    squared: &mut Tensor<D>,
    clip: &mut Tensor<D>,
) -> Result<(), D::Error> {
    for (i, group) in gradients.groups().iter().enumerate() {
        let row = group.view().reshape(1, group.shape().elements())?;
        device.reduce_rows(ReduceRows::new(Reduction::SumSquares, row, squared.view_mut(), Out::add_if(i > 0))?)?;
    }
    device.cast(crate::device::Cast::new(squared.view(), clip.view_mut())?)?;
    device.unary(Unary::new(UnaryOp::ClipFactor(clip_norm), clip.view_mut())?)
}
