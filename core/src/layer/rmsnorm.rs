//! Root mean square normalisation, `y = x / √(mean(x²) + eps) · w` (Zhang and Sennrich, 2019).
//!
//! `1/rms` of every row is kept; the output is computed again where the backward pass needs it, as the V3 report does
//! (§3.2.3), unless the policy keeps it.

use alloc::string::String;

use super::Pass;
use super::operand::Restored;
use crate::device::{Kernels, Out, RmsNorm as Call, RmsNormGrad};
use crate::tensor::{Tensor, View, ViewMut};
use crate::weights::{Layout, Parameters, Slot};

/// A weight `[n]` and the constant in the root.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    weight: Slot,
    eps: f64,
}

/// What the backward pass needs beside the input.
pub struct Saved<D: Kernels> {
    /// `1 / rms(x)`, `[t, 1]`.
    pub rstd: Tensor<D>,
    /// The output, `[t, n]`, where the policy keeps it.
    pub output: Option<Tensor<D>>,
}

impl<D: Kernels> Saved<D> {
    /// Keeps the output `y` if the policy does.
    pub fn keep(&mut self, pass: &Pass<'_, D>, y: Tensor<D>) {
        self.output = (pass.training && !pass.precision.recompute_norms).then_some(y);
    }
}

impl RmsNorm {
    /// Declares a norm over `n` columns under its full name.
    pub fn declare(layout: &mut Layout, name: String, n: usize, eps: f64) -> Self {
        Self { weight: layout.vector(name, n), eps }
    }

    /// The weight, which starts at one.
    pub fn weight(&self) -> &Slot {
        &self.weight
    }

    /// Normalises `x [t, n]` into `y [t, n]`.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: View<'_, D>,
        y: ViewMut<'_, D>,
    ) -> Result<Saved<D>, D::Error> {
        let mut rstd = pass.statistics(x.rows(), 1)?;
        pass.device.rmsnorm(Call::new(x, pass.weights.view(&self.weight)?, self.eps, y, rstd.view_mut())?)?;
        Ok(Saved { rstd, output: None })
    }

    /// Normalises `x [t, n]` into a new tensor.
    pub fn normed<D: Kernels>(&self, pass: &Pass<'_, D>, x: View<'_, D>) -> Result<(Tensor<D>, Saved<D>), D::Error> {
        let mut y = pass.activation(x.rows(), x.cols())?;
        let saved = self.forward(pass, x, y.view_mut())?;
        Ok((y, saved))
    }

    /// The output, kept or computed again.
    pub fn output<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        saved: &'a Saved<D>,
        x: View<'_, D>,
    ) -> Result<Restored<'a, D>, D::Error> {
        match &saved.output {
            Some(y) => Ok(Restored::Kept(y)),
            None => Ok(Restored::Again(self.normed(pass, x)?.0)),
        }
    }

    /// `dx = …`, or `dx += …`; the weight's gradient is added in the same pass over the data, since
    /// it needs the same two rows.
    #[allow(clippy::too_many_arguments)]
    pub fn backward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        x: View<'_, D>,
        saved: &Saved<D>,
        dy: View<'_, D>,
        dx: ViewMut<'_, D>,
        out: Out,
    ) -> Result<(), D::Error> {
        let weight = pass.weights.view(&self.weight)?;
        let dweight = gradients.view_mut(&self.weight)?;
        pass.device.rmsnorm_grad(RmsNormGrad::new(x, weight, saved.rstd.view(), dy, dx, out, dweight)?)
    }
}
