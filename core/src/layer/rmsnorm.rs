//! Root mean square normalisation, `y = x / √(mean(x²) + eps) · w` (Zhang and Sennrich, 2019).
//!
//! `1/rms` of every row is kept; the output is computed again where the backward pass needs it, as the V3 report does
//! (§3.2.3), unless the policy keeps it.

use alloc::string::String;

use super::Pass;
use super::operand::Operand;
use crate::device::{Kernels, Out, RmsNorm as Call, RmsNormGrad, RmsNormQuantize};
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
    pub fn keep(&mut self, pass: &Pass<'_, D>, y: Operand<'_, D>) {
        self.output = if keeps(pass) { y.into_owned() } else { None };
    }
}

/// Whether outputs are kept for the backward pass.
fn keeps<D: Kernels>(pass: &Pass<'_, D>) -> bool {
    pass.training && !pass.precision.recompute_norms
}

/// What reads the output of a norm.
#[derive(Clone, Copy)]
pub struct Read {
    /// Products along its columns.
    pub along: bool,
    /// A weight's gradient.
    pub across: bool,
    /// Nothing but those, and they read codes.
    pub codes: bool,
}

impl Read {
    /// A forward pass reads it.
    pub fn forward(codes: bool) -> Self {
        Self { along: true, across: false, codes }
    }

    /// A weight's gradient reads it.
    pub fn weight(codes: bool) -> Self {
        Self { along: false, across: true, codes }
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

    /// Normalises `x [t, n]` for what reads it: into codes where those suffice.
    pub fn factor<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: View<'_, D>,
        read: Read,
    ) -> Result<(Operand<'a, D>, Saved<D>), D::Error> {
        if !read.codes || keeps(pass) {
            let (y, saved) = self.normed(pass, x)?;
            let y = Operand::owned(y);
            return Ok((if read.along && read.across { y.both() } else { y }, saved));
        }
        let mut rstd = pass.statistics(x.rows(), 1)?;
        let (weight, part) = (pass.weights.view(&self.weight)?, read.along.then_some(x.cols()));
        let y = Operand::encoded(pass, (x.rows(), x.cols()), part, read.across, |y| {
            pass.device.rmsnorm_quantize(RmsNormQuantize::new(x, weight, self.eps, y, rstd.view_mut())?)
        })?;
        Ok((y, Saved { rstd, output: None }))
    }

    /// The output for what reads it in a backward pass, kept or computed again.
    pub fn output<'a, D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        saved: &'a Saved<D>,
        x: View<'_, D>,
        read: Read,
    ) -> Result<Operand<'a, D>, D::Error> {
        match &saved.output {
            Some(y) if read.along && read.across => Ok(Operand::of(y.view()).both()),
            Some(y) => Ok(Operand::of(y.view())),
            None => Ok(self.factor(pass, x, read)?.0),
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
        let dweight = gradients.added_to(pass.device, &self.weight)?;
        pass.device.rmsnorm_grad(RmsNormGrad::new(x, weight, saved.rstd.view(), dy, dx, out, dweight)?)
    }
}
