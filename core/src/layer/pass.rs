//! What every layer is handed: the device, the weights, the batch's positions, and the precision policy.

use crate::DType;
use crate::device::{Device, Kernels};
use crate::model::Parameters;
use crate::tensor::Tensor;

/// Which type each kind of tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// Everything in f32.
    F32,
    /// Everything in f64, for finite differences on the reference device.
    F64,
}

impl Precision {
    /// Master weights, gradients and moments.
    pub fn master(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        }
    }

    /// Activations and their gradients.
    pub fn activation(self) -> DType {
        self.master()
    }

    /// Norm statistics, router logits and scores, softmax denominators, losses.
    pub fn statistics(self) -> DType {
        self.master()
    }
}

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
pub struct Pass<'a, D: Device> {
    /// Where it runs.
    pub device: &'a D,
    /// The weights.
    pub weights: &'a Parameters<D>,
    /// The rows.
    pub sequences: &'a Sequences<D>,
    /// `[positions, rope]`: cosines and sines, see [`Rope`](crate::device::Rope).
    pub rope: &'a Tensor<D>,
    /// The policy.
    pub precision: Precision,
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
}
