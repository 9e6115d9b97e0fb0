//! AdamW over whole parameter groups, or over one rank's part of them.

use alloc::vec::Vec;
use core::ops::Range;

use crate::device::{AdamRates, AdamW, Kernels};
use crate::tensor::View;
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
    /// Moments of zero for the elements `held` of each group.
    pub fn new(device: &D, layout: &Layout, dtype: crate::DType, held: Vec<Range<usize>>) -> Result<Self, D::Error> {
        let m = Parameters::part(device, layout, dtype, held.clone())?;
        Ok(Self { m, v: Parameters::part(device, layout, dtype, held)?, step: 0 })
    }

    /// One update of the weights whose moments are here, with gradients scaled by `clip [1, 1]`. Vectors are not
    /// decayed.
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
            let held = self.m.held()[i].clone();
            let border = group.vectors.clamp(held.start, held.end);
            for (part, decay) in [(held.start..border, 0.0), (border..held.end, hyper.weight_decay)] {
                if part.is_empty() {
                    continue;
                }
                let (beta1, beta2, eps) = (hyper.beta1, hyper.beta2, hyper.eps);
                let rates = AdamRates { lr, beta1, beta2, eps, decay, step: self.step };
                device.adamw(AdamW::new(
                    weights.range_mut(i, part.clone())?,
                    gradients.range(i, part.clone())?,
                    self.m.range_mut(i, part.clone())?,
                    self.v.range_mut(i, part)?,
                    clip,
                    rates,
                )?)?;
            }
        }
        Ok(())
    }
}
