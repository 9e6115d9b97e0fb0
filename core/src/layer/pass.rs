//! Arguments of every layer: the device, the weights, the batch's positions, and the precision policy.

use crate::DType;
use crate::device::{Device, Kernels};
use crate::precision::Precision;
use crate::tensor::Tensor;
use crate::weights::{Copies, Parameters, Slot, Weight};

/// The rows of a micro-batch: `rows` tokens in sequences of `length`.
pub struct Sequences<D: Device> {
    /// Tokens of a sequence.
    pub length: usize,
    /// `[t, 1]` u32: each token's position in its sequence.
    pub positions: Tensor<D>,
    /// `[t, 1]` u32: the first row that each row sees.
    pub starts: Tensor<D>,
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

    /// A weight as its products read it.
    pub fn weight(&self, slot: &Slot) -> Result<Weight<'_, D>, D::Error> {
        self.copies.weight(self.weights, slot)
    }
}
