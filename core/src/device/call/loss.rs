//! The call of softmax cross entropy.

use super::{Call, Cost, bytes_of_mut, is_float, is_index, same_shape};
use crate::device::view::{MatMut, MatRef};
use crate::error::{InvalidOp, same};

/// A target that is not scored: its loss and gradient are zero.
pub const IGNORE: u32 = u32::MAX;

/// Softmax cross entropy of a chunk of logits, in place: the loss of every row and, where wanted, the logits replaced
/// by their gradient `scale·(softmax(x) − onehot(target))`.
#[non_exhaustive]
pub struct CrossEntropy<'a, B> {
    /// `[t, v]`: logits in; gradient out where `gradient` is some, else unchanged.
    pub logits: MatMut<'a, B>,
    /// `[t, 1]` u32, each below `v` or [`IGNORE`].
    pub targets: MatRef<'a, B>,
    /// What the gradient is multiplied by: one over the number of targets of the whole batch.
    pub gradient: Option<f64>,
    /// `−ln softmax(x)[target]`, `[t, 1]`; 0 for ignored targets.
    pub nll: MatMut<'a, B>,
}

impl<'a, B> CrossEntropy<'a, B> {
    /// Losses, and the gradient if `gradient` gives its scale.
    pub fn new(
        logits: MatMut<'a, B>,
        targets: MatRef<'a, B>,
        gradient: Option<f64>,
        nll: MatMut<'a, B>,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "cross_entropy";
        is_float(OP, &logits.as_ref())?;
        is_index(OP, &targets)?;
        same(OP, "rows of the targets", logits.rows(), targets.rows())?;
        same(OP, "columns of the targets", 1, targets.cols())?;
        same_shape(OP, &targets, &nll.as_ref())?;
        Ok(Self { logits, targets, gradient, nll })
    }
}

impl<B> Call for CrossEntropy<'_, B> {
    const NAME: &'static str = "cross_entropy";
    fn cost(&self) -> Cost {
        let passes = if self.gradient.is_some() { 2 } else { 1 };
        Cost::new(6 * self.logits.as_ref().elements() as u64, passes * bytes_of_mut(&self.logits))
    }
}
