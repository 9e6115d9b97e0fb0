//! The gate of an update: one number on the device, 0 where the update is applied, else NaN.
//!
//! Everything that a step computes with or from is added up and multiplied by zero, which gives 0 where all of it is
//! finite and NaN otherwise. Added to the clip factor it makes NaN of it, and AdamW then leaves weights and moments as
//! they are; added to the loads, the expert biases. Nothing is read back for it. Losses, loads and the squared norm are
//! the same bits on every rank, so all ranks decide alike.

use super::optimizer::Optimizer;
use crate::device::{Binary, BinaryOp, Cast, Fill, Kernels, Unary, UnaryOp};
use crate::layer::finite;
use crate::model::Model;
use crate::tensor::{Tensor, View, ViewMut};
use crate::weights::Parameters;

/// Bounds of a step: an update whose gradient or loss is above one is not applied. They are known before the step, and
/// the same on all ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// L2 norm of all gradients before clipping; infinite for none.
    pub grad_norm: f64,
    /// Mean cross entropy of the next token, nats; infinite for none.
    pub loss: f64,
}

impl Limits {
    /// No bounds. What is not finite is still not applied.
    pub const NONE: Self = Self { grad_norm: f64::INFINITY, loss: f64::INFINITY };
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

/// Why an update was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Withheld {
    /// A weight, a moment or an expert bias was not finite before the step.
    State,
    /// The loss, a router logit, or another number of the forward pass is not finite.
    Loss,
    /// The gradient is not finite.
    Gradient,
    /// A number went wrong in the update itself, or the ranks decided differently: the state is between two steps, and
    /// not to be used.
    Update,
    /// The gradient's norm is above [`Limits::grad_norm`].
    NormLimit,
    /// The loss is above [`Limits::loss`].
    LossLimit,
}

impl Withheld {
    /// Whether something is NaN or infinite, rather than above a limit.
    pub const fn non_finite(self) -> bool {
        !matches!(self, Self::NormLimit | Self::LossLimit)
    }

    /// Whether weights, moments or biases are not to be used any more.
    pub const fn breaks_state(self) -> bool {
        matches!(self, Self::State | Self::Update)
    }

    /// What is wrong, as the end of a sentence that begins with the operation.
    pub const fn problem(self) -> &'static str {
        match self {
            Self::State => "a weight, a moment or an expert bias was not finite before the step",
            Self::Update => {
                "a number of the update is not finite, or not the same on all ranks; go back to the last checkpoint"
            }
            Self::Loss => "the loss, or a router logit, is not finite",
            Self::Gradient => "the gradient is not finite",
            Self::NormLimit => "the norm of the gradient is above its limit",
            Self::LossLimit => "the loss is above its limit",
        }
    }
}

/// The gate of a trainer.
pub(super) struct Gate<D: Kernels> {
    /// `[1, 1]`: 0 where the update is applied, else NaN.
    closed: Tensor<D>,
    /// `[1, 1]`: what gradients are multiplied by; NaN where the update is not applied.
    pub clip: Tensor<D>,
}

impl<D: Kernels> Gate<D> {
    pub fn new(device: &D, dtype: crate::DType) -> Result<Self, D::Error> {
        let one = || Tensor::<D>::zeros(device, &[1, 1], dtype);
        Ok(Self { closed: one()?, clip: one()? })
    }

    /// Decides on a step, from its squared gradient norm `[1, 1]`, the sum of its losses `[1, 1]` and its whole
    /// `report [1, n]`, all of which are the same on every rank. `count` is how many losses were added up.
    pub fn decide(
        &mut self,
        device: &D,
        (squared, loss, report): (View<'_, D>, View<'_, D>, View<'_, D>),
        count: f64,
        clip_norm: f64,
        limits: &Limits,
    ) -> Result<(), D::Error> {
        let Self { closed, clip } = self;
        device.cast(Cast::new(squared, clip.view_mut())?)?;
        device.unary(Unary::new(UnaryOp::ClipFactor(clip_norm), clip.view_mut())?)?;
        device.fill(Fill::new(closed.view_mut(), 0.0))?;
        finite::add(device, report, closed.view_mut())?;
        device.unary(Unary::new(UnaryOp::Affine(0.0, 0.0), closed.view_mut())?)?;
        for (value, limit) in [(squared, limits.grad_norm * limits.grad_norm), (loss, limits.loss * count)] {
            close_above(device, value, limit, closed)?;
        }
        device.binary(Binary::new(BinaryOp::Add, closed.view(), clip.view_mut())?)?;
        // From now on 0 or NaN for all causes.
        device.cast(Cast::new(clip.view(), closed.view_mut())?)?;
        device.unary(Unary::new(UnaryOp::Affine(0.0, 0.0), closed.view_mut())?)?;
        device.binary(Binary::new(BinaryOp::Add, closed.view(), clip.view_mut())?)
    }

    /// Makes `x` NaN where the update is not applied.
    pub fn guard(&self, device: &D, x: ViewMut<'_, D>) -> Result<(), D::Error> {
        device.binary(Binary::new(BinaryOp::Add, self.closed.view(), x)?)
    }
}

/// Adds NaN to `closed [1, 1]` where `value [1, 1]` is above `limit`, and 0 otherwise.
fn close_above<D: Kernels>(device: &D, value: View<'_, D>, limit: f64, closed: &mut Tensor<D>) -> Result<(), D::Error> {
    // What f32 has no room for is no limit.
    if limit.is_nan() || limit >= f64::from(f32::MAX) {
        return Ok(());
    }
    // The root of a negative number is NaN.
    let mut excess = Tensor::<D>::empty(device, &[1, 1], closed.dtype())?;
    device.cast(Cast::new(value, excess.view_mut())?)?;
    for f in [UnaryOp::Affine(-1.0, limit), UnaryOp::Sqrt, UnaryOp::Affine(0.0, 0.0)] {
        device.unary(Unary::new(f, excess.view_mut())?)?;
    }
    device.binary(Binary::new(BinaryOp::Add, excess.view(), closed.view_mut())?)
}

/// `[1, 1]`: 0 where all of a rank's weights, moments and biases are finite, else NaN.
pub(super) fn state<D: Kernels>(
    device: &D,
    model: &Model<D>,
    optimizer: &Optimizer<D>,
    dtype: crate::DType,
) -> Result<Tensor<D>, D::Error> {
    let mut sum = Tensor::<D>::zeros(device, &[1, 1], dtype)?;
    for parameters in [model.weights(), &optimizer.m, &optimizer.v] {
        add_parameters(device, parameters, &mut sum)?;
    }
    for router in &model.routers {
        finite::add(device, router.bias.view(), sum.view_mut())?;
    }
    device.unary(Unary::new(UnaryOp::Affine(0.0, 0.0), sum.view_mut())?)?;
    Ok(sum)
}

fn add_parameters<D: Kernels>(device: &D, x: &Parameters<D>, sum: &mut Tensor<D>) -> Result<(), D::Error> {
    for (group, held) in x.held().iter().enumerate() {
        if !held.is_empty() {
            finite::add(device, x.range(group, held.clone())?, sum.view_mut())?;
        }
    }
    Ok(())
}
