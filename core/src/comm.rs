//! Collectives: the operations that the ranks of a training run do together.

use crate::device::Device;
use crate::tensor::ViewMut;

/// A group of ranks that train one model, each on its part of the batch.
///
/// Calls are queued like kernels and behave as if sequential with them.
pub trait Comm<D: Device> {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world(&self) -> usize;

    /// Replaces `x` on every rank by the sum over ranks, added in the order of ranks: the same bits everywhere.
    fn all_reduce(&self, device: &D, x: ViewMut<'_, D>) -> Result<(), D::Error>;
}

/// One rank alone: nothing to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl<D: Device> Comm<D> for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&self, _device: &D, _x: ViewMut<'_, D>) -> Result<(), D::Error> {
        Ok(())
    }
}
