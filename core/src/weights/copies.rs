//! The weights as low-precision products read them.
//!
//! Master weights are f32. Under the BF16 and FP8 policies every product reads a copy, made once after each update and
//! used by all products of a step: BF16, or E4M3 codes in 128×128 blocks, which serve the forward product and the
//! input's gradient alike.

use alloc::vec::Vec;

use super::parameters::{Layout, Lowest, Parameters, Slot};
use crate::DType;
use crate::device::{Cast, Factor, Kernels, Quantize};
use crate::precision::{Precision, Products};
use crate::quantized::Quantized;
use crate::tensor::Tensor;

/// One entry for each of the layout's [weights](Layout::weights).
pub struct Copies<D: Kernels> {
    copies: Vec<Copy<D>>,
    power_of_two: bool,
}

enum Copy<D: Kernels> {
    /// Read the master weight.
    None,
    Bf16(Tensor<D>),
    Fp8(Quantized<D>),
}

impl<D: Kernels> Copies<D> {
    /// Room for the copies that `precision` asks for. They hold nothing until they are [made](Self::make).
    pub fn new(device: &D, layout: &Layout, precision: &Precision) -> Result<Self, D::Error> {
        let copy = |slot: &Slot| -> Result<Copy<D>, D::Error> {
            Ok(match (precision.products, slot.lowest()) {
                (Products::F64 | Products::F32, _) | (_, Lowest::Master) => Copy::None,
                (Products::Fp8, Lowest::Fp8) => {
                    Copy::Fp8(Quantized::blocks(device, slot.rows(), slot.cols(), slot.part())?)
                }
                _ => Copy::Bf16(Tensor::<D>::empty(device, &[slot.rows(), slot.cols()], DType::BF16)?),
            })
        };
        let copies = layout.weights().iter().map(copy).collect::<Result<_, _>>()?;
        Ok(Self { copies, power_of_two: precision.recipe.power_of_two })
    }

    /// Makes all copies again.
    ///
    /// # Errors
    /// Of kind [`NonFinite`](crate::error::ErrorKind::NonFinite) where a weight that is to be encoded is not a number.
    pub fn make(&mut self, device: &D, weights: &Parameters<D>) -> Result<(), D::Error> {
        for (slot, copy) in weights.layout().weights().iter().zip(&mut self.copies) {
            let master = weights.view(slot)?;
            match copy {
                Copy::None => {}
                Copy::Bf16(to) => device.cast(Cast::new(master, to.view_mut())?)?,
                Copy::Fp8(to) => device.quantize(Quantize::new(master, to.view_mut(None)?, self.power_of_two)?)?,
            }
        }
        Ok(())
    }

    /// The weight in `slot`.
    pub fn weight<'a>(&'a self, weights: &'a Parameters<D>, slot: &Slot) -> Result<Factor<'a, D::Buffer>, D::Error> {
        Ok(match &self.copies[slot.index()] {
            Copy::None => Factor::Float(weights.view(slot)?),
            Copy::Bf16(copy) => Factor::Float(copy.view()),
            Copy::Fp8(copy) => Factor::Fp8(copy.view(None)?),
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let bytes = |copy: &Copy<D>| match copy {
            Copy::None => 0,
            Copy::Bf16(copy) => copy.bytes(),
            Copy::Fp8(copy) => copy.bytes(),
        };
        self.copies.iter().map(bytes).sum()
    }
}
