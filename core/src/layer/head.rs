//! The output head: hidden states to logits, and to the loss.
//!
//! Logits of a whole batch would be the largest tensor of all (tokens × vocabulary), so loss and gradient are computed
//! a chunk of rows at a time: logits, cross entropy in place, and both products of the gradient, before the next chunk.
//! How many logits that is, the device says (but at least 64 rows of them).

use alloc::string::String;

use super::Pass;
use super::linear::Linear;
use super::operand::Operand;
use crate::device::{Cast, CrossEntropy, Kernels, Out, TopK};
use crate::tensor::{Tensor, View};
use crate::weights::{Layout, Lowest, Parameters, Slot};

/// The projection `[vocabulary, hidden]`: its own, or the embedding where the model ties them.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    projection: Linear,
}

impl Head {
    /// Declares a head under its full name.
    pub fn declare(layout: &mut Layout, name: String, vocabulary: usize, hidden: usize) -> Self {
        Self::tied(layout.matrix(name, vocabulary, hidden, Lowest::Bf16))
    }

    /// A head over a weight that is declared elsewhere.
    pub fn tied(weight: Slot) -> Self {
        Self { projection: Linear::over(weight) }
    }

    /// Logits `[t, vocabulary]` of hidden states `x [t, d]`, all at once.
    pub fn logits<D: Kernels>(&self, pass: &Pass<'_, D>, x: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut logits = pass.statistics(x.rows(), self.projection.outputs())?;
        self.projection.forward(pass, &Operand::of(x), logits.view_mut(), Out::Replace)?;
        Ok(logits)
    }

    /// The loss of every row, `nll [t, 1]`, from `x [t, d]` and `targets [t, 1]`, and where `greedy [t, 1]` is given,
    /// the token with the largest logit.
    pub fn losses<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        x: View<'_, D>,
        targets: View<'_, D>,
        nll: &mut Tensor<D>,
        mut greedy: Option<&mut Tensor<D>>,
    ) -> Result<(), D::Error> {
        for rows in self.chunks(pass, x.rows()) {
            let mut logits = pass.statistics(rows.len(), self.projection.outputs())?;
            let x = Operand::of(x.row_range(rows.clone())?);
            self.projection.forward(pass, &x, logits.view_mut(), Out::Replace)?;
            if let Some(greedy) = greedy.as_deref_mut() {
                pass.device.top_k(TopK::new(logits.view(), greedy.view_mut().row_range(rows.clone())?)?)?;
            }
            let (targets, nll) = (targets.row_range(rows.clone())?, nll.view_mut().row_range(rows)?);
            pass.device.cross_entropy(CrossEntropy::new(logits.view_mut(), targets, None, nll)?)?;
        }
        Ok(())
    }

    /// The loss of every row and the gradients of `scale · Σ nll`: of the input, `dx [t, d]`, and of the projection.
    #[allow(clippy::too_many_arguments)]
    pub fn backward<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut Parameters<D>,
        x: View<'_, D>,
        targets: View<'_, D>,
        scale: f64,
        nll: &mut Tensor<D>,
        dx: &mut Tensor<D>,
    ) -> Result<(), D::Error> {
        for rows in self.chunks(pass, x.rows()) {
            let x = Operand::of(x.row_range(rows.clone())?);
            let mut logits = pass.statistics(rows.len(), self.projection.outputs())?;
            self.projection.forward(pass, &x, logits.view_mut(), Out::Replace)?;
            let (targets, nll) = (targets.row_range(rows.clone())?, nll.view_mut().row_range(rows.clone())?);
            pass.device.cross_entropy(CrossEntropy::new(logits.view_mut(), targets, Some(scale), nll)?)?;
            let narrow = narrowed(pass, &logits)?;
            let dlogits = Operand::of(narrow.as_ref().unwrap_or(&logits).view());
            self.projection.backward_input(pass, &dlogits, dx.view_mut().row_range(rows)?, Out::Replace)?;
            self.projection.backward_weight(pass, gradients, &x, &dlogits)?;
        }
        Ok(())
    }

    fn chunks<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        rows: usize,
    ) -> impl Iterator<Item = core::ops::Range<usize>> + use<D> {
        let chunk = (pass.device.capabilities().chunk / self.projection.outputs()).max(64);
        (0..rows).step_by(chunk).map(move |start| start..rows.min(start + chunk))
    }
}

/// The logits' gradient in the type of activations, where that is another: a product in BF16 wants both factors so.
fn narrowed<D: Kernels>(pass: &Pass<'_, D>, logits: &Tensor<D>) -> Result<Option<Tensor<D>>, D::Error> {
    if pass.precision.activation() == logits.dtype() {
        return Ok(None);
    }
    let mut narrow = pass.activation(logits.shape().rows(), logits.shape().cols())?;
    pass.device.cast(Cast::new(logits.view(), narrow.view_mut())?)?;
    Ok(Some(narrow))
}
