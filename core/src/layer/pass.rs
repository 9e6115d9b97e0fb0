//! Arguments of every layer: the device, the weights, the batch's positions, and the precision policy.

use alloc::sync::Arc;

use crate::DType;
use crate::device::{Device, Factor, Form, Kernels};
use crate::error::InvalidOp;
use crate::precision::{Precision, Products};
use crate::tensor::{Tensor, View};
use crate::weights::{Copies, Parameters, Slot};

/// The rows of a micro-batch: `rows` tokens in sequences of `length`.
pub struct Sequences<D: Device> {
    /// Tokens of a sequence.
    pub length: usize,
    /// `[t, 1]` u32: each token's position in its sequence. Batches of one shape share them.
    pub positions: Arc<Tensor<D>>,
    /// `[t, 1]` u32: the first row that each row sees.
    pub starts: Arc<Tensor<D>>,
}

/// Which products a pass runs: a token's phase is a rule of its position, never of the batch it comes in.
///
/// Prompt tokens are prefilled and generated tokens are decoded, also where they are computed again. The phases add up
/// sums in different orders, so a token that changed its phase would change its last bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Many tokens at once, in training and over a prompt: GEMMs, and attention with the keys and values of all heads.
    #[default]
    Prefill,
    /// A few tokens of each sequence: products that read each weight once, and attention over the latent itself.
    Decode,
}

/// A pass over a micro-batch.
pub struct Pass<'a, D: Kernels> {
    /// Where it runs.
    pub device: &'a D,
    /// The master weights.
    pub weights: &'a Parameters<D>,
    /// The weights as products read them, where that is not as they are.
    pub copies: &'a Copies<D>,
    /// The rows.
    pub sequences: &'a Sequences<D>,
    /// `[positions, rope]`: cosines and sines, see [`Rope`](crate::device::Rope).
    pub rope: &'a Tensor<D>,
    /// The policy.
    pub precision: Precision,
    /// A backward pass will follow: keep what it needs as the policy says.
    pub training: bool,
    /// Which products run.
    pub phase: Phase,
}

impl<D: Kernels> Pass<'_, D> {
    /// A new activation `[rows, cols]`.
    pub fn activation(&self, rows: usize, cols: usize) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::empty(self.device, &[rows, cols], self.precision.activation())
    }

    /// A new tensor of statistics `[rows, cols]`.
    pub fn statistics(&self, rows: usize, cols: usize) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::empty(self.device, &[rows, cols], self.precision.statistics())
    }

    /// A new tensor of indices `[rows, cols]`.
    pub fn indices(&self, rows: usize, cols: usize) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::empty(self.device, &[rows, cols], DType::U32)
    }

    /// A weight whose rows are looked up: the master weight, or that of a model for inference as it is stored.
    pub fn table(&self, slot: &Slot) -> Result<View<'_, D>, D::Error> {
        if !self.copies.is_stored() {
            return Ok(self.weights.view(slot)?);
        }
        match self.weight(slot)? {
            Factor::Float(table) => Ok(table),
            Factor::Fp8(_) => Err(InvalidOp::plain("embedding", "must not be stored in FP8").into()),
        }
    }

    /// Whether a product with a weight of codes leaves its activations as numbers: where the policy is not FP8.
    pub(super) fn weights_alone_are_codes(&self, form: Form) -> bool {
        form == Form::Nt && self.precision.products != Products::Fp8
    }

    /// Whether the products of a weight read activations as codes alone: all of training's, and those of a prompt.
    pub(super) fn reads_codes(&self, slot: &Slot) -> Result<bool, D::Error> {
        let codes = self.precision.products == Products::Fp8 && self.phase == Phase::Prefill;
        Ok(codes && matches!(self.weight(slot)?, Factor::Fp8(_)))
    }

    /// A weight as its products read it.
    pub fn weight(&self, slot: &Slot) -> Result<Factor<'_, D::Buffer>, D::Error> {
        self.copies.weight(self.weights, slot)
    }
}
