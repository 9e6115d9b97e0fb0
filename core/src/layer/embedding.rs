//! The token embedding: row `t` of the residual stream is row `token[t]` of the weight.

use alloc::string::String;

use super::Pass;
use crate::DType;
use crate::device::{Cast, GatherRows, Kernels, ScatterAddRows};
use crate::tensor::{Tensor, View};
use crate::weights::{Layout, Lowest, Parameters, Slot};

/// A weight `[vocabulary, hidden]`.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    weight: Slot,
}

impl Embedding {
    /// Declares the embedding under its full name; `lowest` is for the head that shares it, if one does.
    pub fn declare(layout: &mut Layout, name: String, vocabulary: usize, hidden: usize, lowest: Lowest) -> Self {
        Self { weight: layout.matrix(name, vocabulary, hidden, lowest) }
    }

    /// The weight, which a tied head shares.
    pub fn weight(&self) -> &Slot {
        &self.weight
    }

    /// `[t, hidden]` from `tokens [t, 1]`.
    pub fn forward<D: Kernels>(&self, pass: &Pass<'_, D>, tokens: View<'_, D>) -> Result<Tensor<D>, D::Error> {
        let mut x = pass.activation(tokens.rows(), self.weight.cols())?;
        let table = pass.table(&self.weight)?;
        if table.dtype() != DType::BF16 || x.dtype() == DType::BF16 {
            pass.device.gather_rows(GatherRows::new(table, tokens, 1, x.view_mut())?)?;
            return Ok(x);
        }
        let mut rows = Tensor::<D>::empty(pass.device, &[tokens.rows(), table.cols()], DType::BF16)?;
        pass.device.gather_rows(GatherRows::new(table, tokens, 1, rows.view_mut())?)?;
        pass.device.cast(Cast::new(rows.view(), x.view_mut())?)?;
        Ok(x)
    }

    /// `dW[token[t]] += dx[t]`.
    pub fn backward_weight<D: Kernels>(
        &self,
        device: &D,
        gradients: &mut Parameters<D>,
        tokens: View<'_, D>,
        dx: View<'_, D>,
    ) -> Result<(), D::Error> {
        device.scatter_add_rows(ScatterAddRows::new(dx, tokens, gradients.added_to(device, &self.weight)?)?)
    }
}
