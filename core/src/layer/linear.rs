//! A linear layer, `y = x·Wᵀ + b`: where every matrix product of a layer goes through, and so the one place that will
//! know in which precision it runs.

use alloc::format;

use super::Pass;
use crate::device::{Binary, BinaryOp, Form, Gemm, Kernels, SumColumns};
use crate::model::{Layout, Parameters, Slot};
use crate::tensor::{View, ViewMut};

/// A weight `[outputs, inputs]` and, where the model has one, a bias `[outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    weight: Slot,
    bias: Option<Slot>,
}

impl Linear {
    /// Declares `NAME.weight` and, where asked for, `NAME.bias`.
    pub fn declare(layout: &mut Layout, name: &str, inputs: usize, outputs: usize, bias: bool) -> Self {
        let weight = layout.matrix(format!("{name}.weight"), outputs, inputs);
        Self { weight, bias: bias.then(|| layout.vector(format!("{name}.bias"), outputs)) }
    }

    /// A layer without bias over a weight that is declared elsewhere: stacked projections, or a tied head.
    pub fn over(weight: Slot) -> Self {
        Self { weight, bias: None }
    }

    /// Columns of the output.
    pub fn outputs(&self) -> usize {
        self.weight.rows()
    }

    /// Columns of the input.
    pub fn inputs(&self) -> usize {
        self.weight.cols()
    }

    /// `y = x·Wᵀ + b`, or `y += …` with `accumulate`. `x [t, inputs]`, `y [t, outputs]`.
    pub fn forward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: View<'_, D>,
        mut y: ViewMut<'_, D>,
        accumulate: bool,
    ) -> Result<(), D::Error> {
        let mut call = Gemm::new(Form::Nt, x, pass.weights.view(&self.weight)?, y.reborrow())?;
        call.accumulate = accumulate;
        pass.device.gemm(call)?;
        if let Some(bias) = &self.bias {
            pass.device.binary(Binary::new(BinaryOp::Add, pass.weights.view(bias)?, y)?)?;
        }
        Ok(())
    }

    /// `dx = dy·W`, or `dx += …`. `dy [t, outputs]`, `dx [t, inputs]`.
    pub fn backward_input<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        dy: View<'_, D>,
        dx: ViewMut<'_, D>,
        accumulate: bool,
    ) -> Result<(), D::Error> {
        let mut call = Gemm::new(Form::Nn, dy, pass.weights.view(&self.weight)?, dx)?;
        call.accumulate = accumulate;
        pass.device.gemm(call)
    }

    /// `dW += dyᵀ·x`, `db += Σ_t dy`.
    pub fn backward_weight<D: Kernels>(
        &self,
        device: &D,
        gradients: &mut Parameters<D>,
        x: View<'_, D>,
        dy: View<'_, D>,
    ) -> Result<(), D::Error> {
        device.gemm(Gemm::new(Form::Tn, dy, x, gradients.view_mut(&self.weight)?)?.accumulating())?;
        if let Some(bias) = &self.bias {
            device.sum_columns(SumColumns::new(dy, gradients.view_mut(bias)?)?)?;
        }
        Ok(())
    }
}
