//! Sums of gradients over micro-batches and ranks, in the order of micro-batches.
//!
//! Floating-point sums depend on their order, and an engine's reduction has another one for each number of ranks. So
//! gradients are moved as they are and added here. The unit is the whole gradient of one micro-batch, made from
//! zero. With `W` ranks, rank `r` computes micro-batches `r, r + W, r + 2W, …`: each round brings `W` consecutive ones,
//! whose pieces the owner of a part adds at once, in rising order. One rank does the same additions in the same order.

use crate::comm::{AllGather, AllToAll, Comm};
use crate::device::{Binary, BinaryOp, Cast, Kernels};
use crate::model::Sink;
use crate::tensor::{Tensor, View, ViewMut};
use crate::weights::{Layout, Parameters};

use super::parallel::{Parallel, Sum, Zero};
use super::shard::Shards;

/// The gradients of a batch, as far as they are this rank's to keep.
pub(super) struct Sums<D: Kernels> {
    /// The sums so far. Of every group this rank's part, or all of it where gradients are not divided.
    pub total: Parameters<D>,
    /// The gradient of one micro-batch, of the groups that are open.
    leaf: Parameters<D>,
    /// Whole gradients that this rank's micro-batches add to, where ranks exchange once a step and `total` is a part.
    local: Option<Parameters<D>>,
    parallel: Parallel,
}

impl<D: Kernels> Sums<D> {
    /// Room for the sums of `shards`' rank.
    pub fn new(
        device: &D,
        layout: &Layout,
        dtype: crate::DType,
        shards: &Shards,
        parallel: Parallel,
    ) -> Result<Self, D::Error> {
        let divided = parallel.zero >= Zero::Moments;
        let total = match divided {
            true => Parameters::part(device, layout, dtype, shards.all_own())?,
            false => Parameters::zeros(device, layout, dtype)?,
        };
        // Whole gradients would undo what dividing them saves.
        let once = parallel.sum == Sum::Fast && parallel.zero < Zero::Gradients && shards.world() > 1;
        let local = (once && divided).then(|| Parameters::zeros(device, layout, dtype)).transpose()?;
        Ok(Self { total, leaf: Parameters::closed(device, layout, dtype)?, local, parallel })
    }

    /// Bytes that are kept between steps.
    pub fn bytes(&self) -> usize {
        self.total.bytes() + self.local.as_ref().map_or(0, Parameters::bytes)
    }

    /// Begins a batch on `world` ranks: sums of zero, where micro-batches add to them in place. What ranks exchange
    /// replaces the sums of the batch before.
    pub fn clear(&mut self, device: &D, world: usize) -> Result<(), D::Error> {
        if !self.is_once() && world > 1 {
            return Ok(());
        }
        let sums = self.local.as_mut().unwrap_or(&mut self.total);
        (0..sums.groups().len()).try_for_each(|group| sums.clear(device, group))
    }

    /// Whether ranks exchange once a step, when they have added up their own micro-batches.
    fn is_once(&self) -> bool {
        self.parallel.sum == Sum::Fast && self.parallel.zero < Zero::Gradients
    }

    /// Where the backward pass of this rank's micro-batch number `round` of `rounds` adds its gradients.
    pub fn round<'a, C: Comm<D>>(
        &'a mut self,
        comm: &'a C,
        shards: &'a Shards,
        round: usize,
        rounds: usize,
    ) -> Round<'a, D, C> {
        let once = self.is_once();
        let alone = shards.world() == 1;
        let how = match (once, alone) {
            // What follows would be added to zeros.
            (_, true) if once || round == 0 => How::InPlace,
            (_, true) => How::Add,
            (true, false) if round + 1 < rounds => How::InPlace,
            (true, false) => How::InPlaceAndExchange,
            (false, false) => How::Exchange,
        };
        Round { sums: self, comm, shards, how, first: once || round == 0 }
    }

    /// Gives every rank all sums, where they are not divided.
    pub fn complete(&mut self, device: &D, comm: &impl Comm<D>, shards: &Shards) -> Result<(), D::Error> {
        match self.parallel.zero {
            Zero::Nothing => gather(device, comm, shards, &mut self.total),
            _ => Ok(()),
        }
    }
}

/// Completes every group from the parts of all ranks.
pub(super) fn gather<D: Kernels>(
    device: &D,
    comm: &impl Comm<D>,
    shards: &Shards,
    whole: &mut Parameters<D>,
) -> Result<(), D::Error> {
    if shards.world() == 1 {
        return Ok(());
    }
    for (number, group) in whole.groups_mut().iter_mut().enumerate() {
        comm.all_gather(device, AllGather::new(group.view_mut(), &shards.lengths(number))?)?;
    }
    Ok(())
}

/// What is done with a group's gradient when the micro-batch has contributed all it has to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Nothing: it was added where the sums are.
    InPlace,
    /// It is added to the sums.
    Add,
    /// Its pieces go to their owners, who add them.
    Exchange,
    /// It was added to this rank's own sum, whose pieces go to their owners now.
    InPlaceAndExchange,
}

/// A micro-batch on every rank.
pub(super) struct Round<'a, D: Kernels, C: Comm<D>> {
    sums: &'a mut Sums<D>,
    comm: &'a C,
    shards: &'a Shards,
    how: How,
    /// Nothing was added to the sums yet.
    first: bool,
}

impl<D: Kernels, C: Comm<D>> Round<'_, D, C> {
    /// Sends each rank its piece of a group's gradient and adds up what comes, in the order of ranks.
    fn exchange(&mut self, device: &D, group: usize, own: Option<&Tensor<D>>) -> Result<(), D::Error> {
        let mine = self.shards.own(group);
        let (sent, world) = (self.shards.lengths(group), self.shards.world());
        let received = alloc::vec![mine.len(); world];
        let sums = &mut *self.sums;
        let from = match (own, &sums.local) {
            (Some(leaf), _) => leaf,
            (None, Some(local)) => &local.groups()[group],
            (None, None) => &sums.total.groups()[group],
        };
        let mut pieces = Tensor::<D>::empty(device, &[world, mine.len()], from.dtype())?;
        let row = from.view().reshape(1, from.shape().elements())?;
        self.comm.all_to_all(device, AllToAll::new(row, &sent, pieces.view_mut(), &received)?)?;
        for rank in 0..world {
            let piece = pieces.view().row_range(rank..rank + 1)?;
            add(device, piece, sums.total.range_mut(group, mine.clone())?, self.first && rank == 0)?;
        }
        Ok(())
    }
}

impl<D: Kernels, C: Comm<D>> Sink<D> for Round<'_, D, C> {
    fn open(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        match self.how {
            How::InPlace | How::InPlaceAndExchange => Ok(()),
            How::Add | How::Exchange => self.sums.leaf.open(device, group),
        }
    }

    fn gradients(&mut self) -> &mut Parameters<D> {
        match self.how {
            How::InPlace | How::InPlaceAndExchange => self.sums.local.as_mut().unwrap_or(&mut self.sums.total),
            How::Add | How::Exchange => &mut self.sums.leaf,
        }
    }

    fn close(&mut self, device: &D, group: usize) -> Result<(), D::Error> {
        match self.how {
            How::InPlace => self.gradients().settle(device, group),
            How::InPlaceAndExchange => {
                self.gradients().settle(device, group)?;
                self.exchange(device, group, None)
            }
            How::Exchange => {
                let leaf = self.sums.leaf.close(device, group)?;
                self.exchange(device, group, Some(&leaf))
            }
            How::Add => {
                let leaf = self.sums.leaf.close(device, group)?;
                let (whole, elements) = (&mut self.sums.total, leaf.shape().elements());
                add(device, leaf.view().reshape(1, elements)?, whole.range_mut(group, 0..elements)?, false)
            }
        }
    }
}

/// `to += x`, or `to = x` where it is the first.
fn add<D: Kernels>(device: &D, x: View<'_, D>, to: ViewMut<'_, D>, first: bool) -> Result<(), D::Error> {
    match first {
        true => device.cast(Cast::new(x, to)?),
        false => device.binary(Binary::new(BinaryOp::Add, x, to)?),
    }
}
