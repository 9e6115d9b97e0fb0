//! The borders of groups in a pass: where weights come from before it computes with them, and where gradients go.
//!
//! The groups are those of the [layout](crate::weights::Layout): the embedding, each layer, the head, each MTP
//! module. One rank has all weights in place and all gradients too; several ranks fetch a group's weights when they are
//! needed, and send a group's gradient on when a micro-batch has contributed all it has to it.

use alloc::sync::Arc;

use crate::device::Kernels;
use crate::weights::{Copies, Parameters};

/// Where a pass finds the weights of a group.
pub trait Store<D: Kernels> {
    /// Makes the weights of a group whole, until it is [released](Self::release).
    fn fetch(&mut self, device: &D, group: usize) -> Result<(), D::Error>;

    /// Lets go of a group that was fetched.
    fn release(&mut self, device: &D, group: usize) -> Result<(), D::Error>;

    /// The master weights, of the groups that were fetched.
    fn weights(&self) -> &Parameters<D>;

    /// What low-precision products read of them.
    fn copies(&self) -> &Copies<D>;
}

/// All weights in place.
pub(super) struct Whole<'a, D: Kernels> {
    pub weights: &'a Parameters<D>,
    pub copies: Arc<Copies<D>>,
}

impl<D: Kernels> Store<D> for Whole<'_, D> {
    fn fetch(&mut self, _device: &D, _group: usize) -> Result<(), D::Error> {
        Ok(())
    }

    fn release(&mut self, _device: &D, _group: usize) -> Result<(), D::Error> {
        Ok(())
    }

    fn weights(&self) -> &Parameters<D> {
        self.weights
    }

    fn copies(&self) -> &Copies<D> {
        &self.copies
    }
}

/// Where a backward pass adds the gradients of a micro-batch.
pub trait Sink<D: Kernels> {
    /// Contributions to the group begin.
    fn open(&mut self, device: &D, group: usize) -> Result<(), D::Error>;

    /// The gradients of all groups that are open.
    fn gradients(&mut self) -> &mut Parameters<D>;

    /// All of the micro-batch's contributions to the group are in.
    fn close(&mut self, device: &D, group: usize) -> Result<(), D::Error>;
}

/// Gradients of all groups, to which every micro-batch adds in place, or which it replaces where they are
/// [cleared](Parameters::clear).
impl<D: Kernels> Sink<D> for Parameters<D> {
    fn open(&mut self, _device: &D, _group: usize) -> Result<(), D::Error> {
        Ok(())
    }

    fn gradients(&mut self) -> &mut Parameters<D> {
        self
    }

    fn close(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        self.settle(device, group)
    }
}
